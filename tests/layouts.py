"""Equal arrays, different memory: what a kernel must not be able to tell apart.

Each function returns a new array equal to the one it is given. `inside_frame` and `assert_border` show what a
kernel reads or writes beyond its array: NaN that was read spoils the result, a written border is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from ml_dtypes import bfloat16


def contiguous(x: np.ndarray) -> np.ndarray:
    """Row-major: the last axis is dense."""
    return np.array(x, order="C")


def transposed(x: np.ndarray) -> np.ndarray:
    """Column-major: the first axis is dense, as in a view made by .T."""
    return np.array(x, order="F")


def channels_last(x: np.ndarray) -> np.ndarray:
    """Logically (N, C, ...), in memory (N, ..., C)."""
    if x.ndim < 2:
        return contiguous(x)
    return np.moveaxis(contiguous(np.moveaxis(x, 1, -1)), -1, 1)


def backwards(x: np.ndarray) -> np.ndarray:
    """Negative strides along every axis."""
    flip = (slice(None, None, -1),) * x.ndim
    return contiguous(x[flip])[flip]


def framed(x: np.ndarray) -> np.ndarray:
    """A slice of a larger array that holds NaN (for integers: the largest value) around it."""
    return inside_frame(x)[1]


LAYOUTS = {f.__name__: f for f in (contiguous, transposed, channels_last, backwards, framed)}


def inside_frame(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(whole, inside): whole is poison but for inside, a view that equals x, two elements from each edge."""
    whole = np.full([n + 4 for n in x.shape], _poison(x.dtype))
    inside = whole[(..., *(slice(2, -2),) * x.ndim)]
    inside[...] = x
    return whole, inside


def assert_border(whole: np.ndarray, inside: np.ndarray) -> None:
    """The poison around inside is still there."""
    border = np.ones(whole.shape, bool)
    border[(slice(2, -2),) * whole.ndim] = False
    found, poison = whole[border], np.array(_poison(inside.dtype))
    assert (found.view(np.uint8) == np.tile(poison[None].view(np.uint8), found.size)).all(), "the border was written to"


@contextmanager
def untouched(*arrays: np.ndarray | None) -> Iterator[None]:
    """Each array, and the memory it is a view of, holds the same bits after the block as before."""
    owners = [_owner(a) for a in arrays if a is not None]
    before = [owner.tobytes() for owner in owners]
    yield
    for owner, bits in zip(owners, before, strict=True):
        assert owner.tobytes() == bits, f"an input of shape {owner.shape} was written to"


def _owner(x: np.ndarray) -> np.ndarray:
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


def _poison(dtype: np.dtype) -> np.generic:
    kind = np.dtype(dtype)
    return kind.type(np.nan) if kind.kind == "f" or kind == bfloat16 else kind.type(np.iinfo(kind).max)
