"""Vectors by a rule, differences and integrals along an axis, and products that make larger tensors."""

from __future__ import annotations

import math
from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor, np_dtype, result_dtype
from tilegrad.keras.backend.numpy.making import diag, linspace
from tilegrad.keras.backend.operands import floating, promoted
from tilegrad.ops.operands import normalize_axis
from tilegrad.tensor import Tensor


def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10, dtype: Any = None, axis: int = 0
) -> Tensor:
    """Powers of base, their exponents evenly from start to stop."""
    found = _dtype_of(start, stop) if dtype is None else np_dtype(dtype)
    return tg.pow(base, linspace(start, stop, num, endpoint, axis=axis)).to(found)


def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0) -> Tensor:
    """Numbers from start to stop whose ratio is the same everywhere."""
    found = _dtype_of(start, stop) if dtype is None else np_dtype(dtype)
    first, last = floating(start), floating(stop)
    sign = tg.sign(first)
    return tg.mul(sign, tg.exp(linspace(tg.log(tg.abs(first)), tg.log(tg.abs(last)), num, endpoint, axis=axis))).to(
        found
    )


def _dtype_of(*xs: Any) -> Any:
    return result_dtype(*[type(x) if isinstance(x, (int, float)) else convert_to_tensor(x) for x in xs], float)


def diff(a: Any, n: int = 1, axis: int = -1) -> Tensor:
    """Each element minus the one before, n times."""
    a = convert_to_tensor(a)
    d = normalize_axis("diff", axis, a.ndim)
    for _ in range(n):
        after, before = a.narrow(d, 1, a.shape[d] - 1), a.narrow(d, 0, a.shape[d] - 1)
        a = after != before if a.dtype == dtypes.bool_ else tg.sub(after, before)
    return a


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Tensor:
    """The integral by the trapezoidal rule, over places x or dx apart."""
    y = floating(y).movedim(axis, -1)
    steps = dx
    if x is not None:
        x = floating(x)
        steps = diff(x if x.ndim == 1 else x.movedim(axis, -1))
    y, steps = promoted(y, steps)
    return tg.mul(tg.sum(tg.mul(tg.add(y[..., 1:], y[..., :-1]), steps), -1), 0.5)


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Tensor:
    """Columns of powers, the highest first unless `increasing`."""
    x = convert_to_tensor(x)
    count = x.shape[-1] if N is None else N
    powers = [tg.pow(x, k) for k in range(count)]
    if not powers:
        return tg.zeros(*x.shape, 0, dtype=x.dtype, device=x.device)
    return tg.stack(powers if increasing else powers[::-1], -1)


def cross(x1: Any, x2: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None) -> Tensor:
    """The cross product of vectors of two or three numbers; of two of two numbers, its third alone."""
    axisa, axisb, axisc = (axisa, axisb, axisc) if axis is None else (axis, axis, axis)
    a, b = [convert_to_tensor(x) for x in promoted(x1, x2)]
    a, b = a.movedim(axisa, -1), b.movedim(axisb, -1)
    if not {a.shape[-1], b.shape[-1]} <= {2, 3}:
        raise ValueError(f"cross: vectors of {a.shape[-1]} and {b.shape[-1]} numbers; expected two or three")

    def parts(x: Tensor) -> list[Tensor]:
        return [x[..., 0], x[..., 1], x[..., 2] if x.shape[-1] == 3 else tg.zeros_like(x[..., 0])]

    (a0, a1, a2), (b0, b1, b2) = parts(a), parts(b)
    third = tg.sub(tg.mul(a0, b1), tg.mul(a1, b0))
    if a.shape[-1] == b.shape[-1] == 2:
        return third
    first, second = tg.sub(tg.mul(a1, b2), tg.mul(a2, b1)), tg.sub(tg.mul(a2, b0), tg.mul(a0, b2))
    return tg.stack([first, second, third], -1).movedim(-1, axisc)


def kron(x1: Any, x2: Any) -> Tensor:
    """The Kronecker product: a block x1[i] x2 for each element of x1."""
    a, b = [convert_to_tensor(x) for x in promoted(x1, x2)]
    ndim = max(a.ndim, b.ndim)
    a, b = a.reshape(*[1] * (ndim - a.ndim), *a.shape), b.reshape(*[1] * (ndim - b.ndim), *b.shape)
    wide_a = a.reshape(*[n for size in a.shape for n in (size, 1)])
    wide_b = b.reshape(*[n for size in b.shape for n in (1, size)])
    return tg.mul(wide_a, wide_b).reshape(*[n * m for n, m in zip(a.shape, b.shape)])


def diagflat(x: Any, k: int = 0) -> Tensor:
    """A matrix with the flattened tensor on a diagonal."""
    return diag(convert_to_tensor(x).reshape(-1), k)


def unravel_index(indices: Any, shape: Any) -> tuple[Tensor, ...]:
    """The places in a shape of places in its flattened tensor; from the end if negative."""
    at = convert_to_tensor(indices)
    dtype = at.dtype
    at = at.to(dtypes.int64)
    at = tg.where(at < 0, at + math.prod(shape), at)
    places = []
    for n in reversed(shape):
        places.append(tg.remainder(at, n).to(dtype))
        at = tg.floor_divide(at, n)
    return tuple(reversed(places))
