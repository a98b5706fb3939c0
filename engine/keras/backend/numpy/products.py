"""Products of matrices and of tensors."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor, of_one_dtype
from tilegrad.keras.backend.operands import promoted
from tilegrad.ops.operands import cast, normalize_axis
from tilegrad.tensor import Tensor


def _pair(x1: Any, x2: Any) -> list[Tensor]:
    """Two tensors of their common dtype."""
    return [convert_to_tensor(x) for x in promoted(convert_to_tensor(x1), convert_to_tensor(x2))]


def matmul(x1: Any, x2: Any) -> Tensor:
    """x1 @ x2, batched; of bools as in int32, given back as bool."""
    a, b = _pair(x1, x2)
    if a.dtype == dtypes.bool_:
        return cast(tg.matmul(a.int(), b.int()), dtypes.bool_)
    return tg.matmul(*_summed_in_int32([a, b], x1, x2))


def _summed_in_int32(tensors: list[Tensor], *given: Any) -> list[Tensor]:
    """The tensors; where int8 alone was given, as int32, in which its products are added."""
    narrow = all(convert_to_tensor(x).dtype == dtypes.int8 for x in given)
    return [x.int() for x in tensors] if narrow else tensors


def dot(x1: Any, x2: Any) -> Tensor:
    """Sums of products over the last axis of x1 and the last but one of x2."""
    a, b = _pair(x1, x2)
    if not a.ndim or not b.ndim:
        return tg.mul(a, b)
    return matmul(x1, x2) if b.ndim <= 2 else tensordot(x1, x2, ([-1], [-2]))


def vdot(x1: Any, x2: Any) -> Tensor:
    """The sum of all products."""
    return dot(convert_to_tensor(x1).reshape(-1), convert_to_tensor(x2).reshape(-1))


def inner(x1: Any, x2: Any) -> Tensor:
    """Sums of products over the last axes."""
    a, b = _pair(x1, x2)
    return tensordot(x1, x2, ([-1], [-1])) if a.ndim and b.ndim else tg.mul(a, b)


def outer(x1: Any, x2: Any) -> Tensor:
    """All products of elements of two flattened tensors."""
    a, b = _pair(x1, x2)
    return tg.mul(a.reshape(-1, 1), b.reshape(1, -1))


def tensordot(x1: Any, x2: Any, axes: Any = 2) -> Tensor:
    """Sums of products over axes of x1 and of x2: the last and the first so many, or those that are named."""
    a, b = convert_to_tensor(x1), convert_to_tensor(x2)
    if isinstance(axes, int):
        axes = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    over_a, over_b = [x if isinstance(x, (list, tuple)) else [x] for x in axes]
    over_a = [normalize_axis("tensordot", x, a.ndim) for x in over_a]
    over_b = [normalize_axis("tensordot", x, b.ndim) for x in over_b]
    free_a = [d for d in range(a.ndim) if d not in over_a]
    free_b = [d for d in range(b.ndim) if d not in over_b]
    n = 1
    for d in over_a:
        n *= a.shape[d]
    rows = a.permute(*free_a, *over_a).reshape(-1, n) if a.ndim else a.reshape(1, 1)
    columns = b.permute(*over_b, *free_b).reshape(n, -1) if b.ndim else b.reshape(1, 1)
    return matmul(rows, columns).reshape([a.shape[d] for d in free_a] + [b.shape[d] for d in free_b])


def einsum(subscripts: str, *operands: Any, **kwargs: Any) -> Tensor:
    """Sums of products by Einstein's convention."""
    tensors = of_one_dtype([convert_to_tensor(x) for x in operands])
    return tg.einsum(subscripts, *_summed_in_int32(tensors, *operands))
