"""The Triton backend: kernels for NVIDIA GPUs, from each family's gpu_triton.py."""

from __future__ import annotations

import typing

from tilegrad.kernels.backends import functions as _functions

globals().update(_functions("triton"))

if typing.TYPE_CHECKING:

    def __getattr__(name: str) -> typing.Any: ...
