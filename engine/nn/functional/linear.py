"""Affine maps."""

from __future__ import annotations

from engine import ops

linear = ops.linear
