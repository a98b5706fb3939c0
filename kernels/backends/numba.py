"""The Numba backend: Numba-CUDA kernels for NVIDIA GPUs, from each family's gpu_numba.py."""

from __future__ import annotations

import typing

from tilegrad.kernels.backends import functions as _functions

globals().update(_functions("numba"))

if typing.TYPE_CHECKING:

    def __getattr__(name: str) -> typing.Any: ...
