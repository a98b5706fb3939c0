"""Memory that was used before, as the kernels find it.

What a kernel does not write shows what lay there. In a test that is mostly zeros, or the right answer of the call
before, and a forgotten border passes. So here all that is taken within a block holds what no right result does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tilegrad.kernels.cpu import buffers

LARGE = b"\x5a"  # in every byte: 1.5e16 as float32, no such tap and no such row as an integer


def soil(array: np.ndarray, byte: bytes = b"") -> np.ndarray:
    """The array with NaN in it, where its dtype has one; with LARGE, or with the byte that is given."""
    if array.dtype.kind == "f" and not byte:
        array.fill(np.nan)
    else:
        array.fill(np.frombuffer((byte or LARGE) * array.itemsize, array.dtype)[0])
    return array


@contextlib.contextmanager
def pool(byte: bytes = b"") -> Iterator[None]:
    """Within the block every array of kernels/cpu/buffers.py is dirty, as if one of its size had been used and
    released."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "empty", _soiled(buffers.empty, byte))
        yield


@contextlib.contextmanager
def memory(byte: bytes = b"") -> Iterator[None]:
    """And every numpy.empty and empty_like too. What is compiled by Numba must be compiled before."""
    with pool(byte), pytest.MonkeyPatch.context() as patch:
        for name in ("empty", "empty_like"):
            patch.setattr(np, name, _soiled(getattr(np, name), byte))
        yield


def _soiled(make: Callable[..., np.ndarray], byte: bytes) -> Callable[..., np.ndarray]:
    def dirty(*args: Any, **kwargs: Any) -> np.ndarray:
        return soil(make(*args, **kwargs), byte)

    return dirty
