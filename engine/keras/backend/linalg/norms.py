"""Norms of vectors and of matrices."""

from __future__ import annotations

import math
from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.linalg.decompositions import svd
from tilegrad.keras.backend.operands import axes_of, floating
from tilegrad.ops.operands import normalize_axes
from tilegrad.tensor import Tensor

_OF_SINGULAR_VALUES = {2: tg.amax, -2: tg.amin, "nuc": tg.sum}
_OF_SUMS = {1: (-2, tg.amax), -1: (-2, tg.amin), math.inf: (-1, tg.amax), -math.inf: (-1, tg.amin)}


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The norm along one axis, of vectors, or along two, of matrices; without an axis and an ord, of all elements.

    Vectors: (sum |x|^ord)^(1 / ord), 2 by default; the number that is not 0 of ord 0; extremes of infinite ones.
    Matrices: "fro" by default; "nuc", 2 and -2 of the singular values; 1, -1 and infinite ones of the sums of |x|.
    """
    x = floating(x)
    if axis is None and ord is None:
        return _shaped(tg.norm(x.reshape(-1), 2), x, tuple(range(x.ndim)), keepdims)
    try:
        axes = normalize_axes("norm", axes_of(axis), x.ndim)
    except IndexError as error:
        raise ValueError(str(error)) from None
    if len(axes) == 1:
        return _of_vectors(x, 2 if ord is None else ord, axes[0], keepdims)
    if len(axes) != 2:
        raise ValueError(f"Improper number of dimensions to norm. Received: ord={ord} and axis={axis} of {x.ndim}")
    rows = x.permute(*[d for d in range(x.ndim) if d not in axes], *axes)
    return _shaped(_of_matrices(rows, "fro" if ord is None else ord), x, axes, keepdims)


def _of_vectors(x: Tensor, ord: Any, axis: int, keepdims: bool) -> Tensor:
    if isinstance(ord, str):
        raise ValueError(f"Invalid `ord` argument for vector norm. Received: ord={ord}")
    if ord == 0:
        return tg.sum(x != 0, axis, keepdims).to(x.dtype)
    if abs(ord) == math.inf:
        return (tg.amax if ord > 0 else tg.amin)(tg.abs(x), axis, keepdims)
    return tg.norm(x, ord, axis, keepdims)


def _of_matrices(x: Tensor, ord: Any) -> Tensor:
    if ord == "fro":
        return tg.norm(x, 2, (-2, -1))
    if ord in _OF_SUMS:
        axis, extreme = _OF_SUMS[ord]
        return extreme(tg.sum(tg.abs(x), axis), -1)
    if ord in _OF_SINGULAR_VALUES:
        return _OF_SINGULAR_VALUES[ord](svd(x, compute_uv=False), -1)
    raise ValueError(f"Invalid `ord` argument for matrix norm. Received: ord={ord}")


def _shaped(y: Tensor, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    return y.reshape([1 if d in axes else n for d, n in enumerate(x.shape)]) if keepdims else y
