"""Affine maps."""

from __future__ import annotations

from tilegrad import ops

linear = ops.linear
