"""Reductions and scans: sum, mean, variance, extrema, products, norms, cumulative sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from tilegrad import dtypes, kernels
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.ops.arithmetic import abs as abs_
from tilegrad.ops.arithmetic import add, div, mul, square, sub
from tilegrad.ops.elementwise import elementwise, extreme
from tilegrad.ops.exponential import exp, log, pow, sqrt
from tilegrad.ops.index import _grid, pick
from tilegrad.ops.operands import (
    as_tensor,
    cast,
    float_operand,
    normalize_axes,
    normalize_axis,
    ordered,
    quiet,
    rounded_once,
)
from tilegrad.ops.selection import maximum, minimum, where
from tilegrad.ops.shape import expand, flip, movedim, pad, reshape
from tilegrad.tensor import Tensor, wrap

Dim = int | Sequence[int] | None


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with the reduced dimensions as 1."""
    return tuple(1 if d in axes else s for d, s in enumerate(shape))


_accumulator = dtypes.accumulator  # always passed: without it NumPy widens small integers


def _has_kernel(x: Any) -> bool:
    """Whether `sum` of the contract takes this array: floats, on a GPU no float64."""
    return x.dtype in dtypes.FLOATS and (x.dtype != dtypes.float64 or isinstance(x, np.ndarray))


def sum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over `dim` (None: all). Integers and bools are summed as int64; float16 and bfloat16 in float32."""
    x = as_tensor("sum", input)
    if dtype is not None:
        x = cast(x, dtypes.as_dtype(dtype))
    elif x.data.dtype not in dtypes.FLOATS:
        x = cast(x, dtypes.int64)
    axes = normalize_axes("sum", dim, x.ndim)
    before = x.shape
    if _has_kernel(x.data):
        y = kernels.of(x.data).sum(x.data, axes, keepdim)
    else:
        with quiet():
            y = x.data.sum(axis=axes, keepdims=keepdim, dtype=x.data.dtype)
    return record("sum", y, (x,), lambda dy: (expand(reshape(dy, _kept(before, axes)), before),))


def mean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over `dim` (None: all); nan over nothing. Raises TypeError for integers, as PyTorch does."""
    x = as_tensor("mean", input)
    if dtype is not None:
        x = cast(x, dtypes.as_dtype(dtype))
    if x.data.dtype not in dtypes.FLOATS:
        raise TypeError(f"mean: the tensor is {x.dtype}; expected a floating-point tensor (or dtype=)")
    axes = normalize_axes("mean", dim, x.ndim)
    n = math.prod(x.shape[d] for d in axes)
    if x.data.dtype in dtypes.HALVES:  # the sum could overflow where the mean does not
        return cast(mean(cast(x, dtypes.float32), axes if x.ndim else None, keepdim), x.data.dtype)
    return div(sum(x, axes if x.ndim else None, keepdim), float(n)) if n else sum(x, axes, keepdim) * math.nan


def var(
    input: Tensor, dim: Any = None, correction: float | None = 1, keepdim: bool = False, unbiased: bool | None = None
) -> Tensor:
    """sum (x - mean)^2 / (n - correction) over `dim`, in two passes; unbiased=False means correction=0.

    correction None is 1, and var(x, False) is var(x, unbiased=False), as in PyTorch. Where n <= correction, the sum is
    divided by 0, but the gradient by n - correction.
    """
    x = float_operand("var", input)
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None:
        correction = int(unbiased)
    elif correction is None:
        correction = 1
    if x.data.dtype in dtypes.HALVES:  # the squares could overflow
        return cast(var(cast(x, dtypes.float32), dim, correction, keepdim), x.data.dtype)
    axes = normalize_axes("var", dim, x.ndim)
    n = math.prod(x.shape[d] for d in axes)
    centred = sub(x, mean(x, axes if x.ndim else None, keepdim=True))
    if n and n > correction:
        return div(sum(square(centred), axes if x.ndim else None, keepdim), float(n - correction))
    y = div(sum(square(centred.detach()), axes if x.ndim else None, keepdim), 0.0)
    kept, slope = _kept(x.shape, axes), div(mul(centred.detach(), 2.0), float(n - correction))
    return record("var", y.data, (x,), lambda dy: (mul(reshape(dy, kept), slope),))


@rounded_once
def std(
    input: Tensor, dim: Any = None, correction: float | None = 1, keepdim: bool = False, unbiased: bool | None = None
) -> Tensor:
    """The square root of var; where that is 0, so is the gradient."""
    return _root(var(input, dim, correction, keepdim, unbiased), 2)


@rounded_once
def norm(input: Tensor, p: float | str = 2, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """(sum |x|^p)^(1/p) over `dim`; p = inf is the largest |x|, -inf the smallest, p = 0 how many are not 0.

    The gradient at the zero vector is 0; p = 0 has none. p "fro" is 2, and "nuc" the sum of the singular values of
    matrices, whose gradient has no gradient of its own.
    """
    x = float_operand("norm", input)
    if p == "nuc":
        return _nuclear_norm(x, dim, keepdim)
    p = 2 if p == "fro" else p
    if not isinstance(p, (int, float)):
        raise TypeError(f"norm: p is {p!r}; expected a number, 'fro' or 'nuc'")
    if abs(p) == math.inf:
        return (amax if p > 0 else amin)(abs_(x), dim, keepdim)
    if p == 0:
        y = sum(cast(wrap(x.data != 0), x.dtype), dim, keepdim)
        return record("norm", y.data, (x,), lambda dy: (None,))
    if p == 1:
        return sum(abs_(x), dim, keepdim)
    if p == 2:
        return _root(sum(square(x), dim, keepdim), 2)
    zero = wrap(x.data == 0)
    powers = where(zero, 0.0 if p > 0 else math.inf, pow(abs_(where(zero, 1.0, x)), p))
    return _root(sum(powers, dim, keepdim), p)


def _nuclear_norm(x: Tensor, dim: Dim, keepdim: bool) -> Tensor:
    """The sum of the singular values s of x = U diag(s) V^T, the matrices being in two dimensions;  dx = dy U V^T."""
    axes = normalize_axes("norm", dim, x.ndim)
    if len(axes) != 2:
        raise ValueError(f"norm: p is 'nuc', the tensor {x.shape} and dim {dim}; expected two dimensions for matrices")
    kept = _kept(x.shape, axes)
    u, s, vt = array_module(x.data).linalg.svd(movedim(x, axes, (-2, -1)).data, full_matrices=False)

    def rule(dy: Tensor) -> tuple:
        if is_grad_enabled():
            raise RuntimeError("norm: the gradient of p='nuc' has no gradient; expected create_graph=False")
        return (mul(reshape(dy, kept), movedim(wrap(u @ vt), (-2, -1), axes)),)

    y = s.sum(axis=-1)
    return record("norm", y.reshape(kept) if keepdim else y, (x,), rule)


def _root(y: Tensor, p: float) -> Tensor:
    """y^(1/p), with gradient 0 at 0."""
    zero = wrap(y.data == 0)
    safe = where(zero, 1.0, y)
    return where(zero, 0.0, sqrt(safe) if p == 2 else pow(safe, 1.0 / p))


# --- extrema ---------------------------------------------------------------------------------------------------------


def _extremum(name: str, input: Tensor, dim: Any, keepdim: bool) -> Any:
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}: expected a tensor; got {type(input).__name__}")
    if isinstance(dim, Tensor):
        return (maximum if name == "max" else minimum)(input, dim)
    if dim is None:
        return amax(input) if name == "max" else amin(input)
    at = _arg(name, "arg" + name, input, dim, keepdim=True)
    d = normalize_axis(name, dim, input.ndim)
    if input.ndim == 0:
        return input.clone(), wrap(at.reshape(()))
    values = pick(input, _grid(array_module(input.data), at, d))
    if keepdim:
        return values, wrap(at)
    shape = input.shape[:d] + input.shape[d + 1 :]
    return reshape(values, shape), wrap(at.reshape(shape))


@overload
def max(input: Tensor, dim: None = None, keepdim: bool = False) -> Tensor: ...
@overload
def max(input: Tensor, dim: Tensor) -> Tensor: ...
@overload
def max(input: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]: ...
def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; with an int `dim` (values, indices) along it; with a tensor, the elementwise maximum.

    The gradient goes to the index returned; over all elements, evenly to the largest ones.
    """
    return _extremum("max", input, dim, keepdim)


@overload
def min(input: Tensor, dim: None = None, keepdim: bool = False) -> Tensor: ...
@overload
def min(input: Tensor, dim: Tensor) -> Tensor: ...
@overload
def min(input: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]: ...
def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element; as max otherwise."""
    return _extremum("min", input, dim, keepdim)


def amax(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The largest elements over `dim` (None: all), nan if there is one; the gradient is shared evenly by equals."""
    return _amax("amax", "max", input, dim, keepdim)


def amin(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The smallest elements over `dim`; as amax otherwise."""
    return _amax("amin", "min", input, dim, keepdim)


def _amax(name: str, reduction: str, x: Tensor, dim: Dim, keepdim: bool) -> Tensor:
    x = as_tensor(name, x)
    axes = normalize_axes(name, dim, x.ndim)
    if 0 in (x.shape[d] for d in axes):
        raise ValueError(f"{name}: the tensor is {x.shape}; expected at least one element along dim {axes}")
    kept = _kept(x.shape, axes)
    y = extreme(reduction, ordered(x.data), axes, keepdim).astype(x.data.dtype, copy=False)

    def rule(dy: Tensor, y: Tensor) -> tuple:
        best = cast(wrap(elementwise(np.equal, x.data, y.data.reshape(kept))), dy.dtype)
        share = div(best, sum(best, axes if x.ndim else None, keepdim=True))
        return (mul(reshape(dy, kept), share),)

    return record(name, y, (x,), rule, output=True)


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the (first) largest element along `dim`, or in the flattened tensor; int64."""
    return wrap(_arg("argmax", "argmax", input, dim, keepdim))


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the (first) smallest element along `dim`, or in the flattened tensor; int64."""
    return wrap(_arg("argmin", "argmin", input, dim, keepdim))


def _arg(op: str, reduction: str, x: Tensor, dim: int | None, keepdim: bool) -> Any:
    x = as_tensor(op, x)
    axis = None if dim is None else normalize_axis(op, dim, x.ndim)
    if (x.data.size if axis is None else (x.shape[axis] if x.ndim else 1)) == 0:
        raise ValueError(f"{op}: the tensor is {x.shape}; expected at least one element along dim {dim}")
    if x.ndim == 0:
        return array_module(x.data).zeros((), np.int64)
    return getattr(ordered(x.data), reduction)(axis=axis, keepdims=keepdim).astype(np.int64, copy=False)


# --- logic -----------------------------------------------------------------------------------------------------------


def any(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Whether any element along `dim` (None: of all) is not zero; bool, of a uint8 tensor uint8."""
    input = as_tensor("any", input)
    return _truth(input, input.data.any(axis=normalize_axes("any", dim, input.ndim), keepdims=keepdim))


def all(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Whether every element along `dim` (None: of all) is not zero; bool, of a uint8 tensor uint8."""
    input = as_tensor("all", input)
    return _truth(input, input.data.all(axis=normalize_axes("all", dim, input.ndim), keepdims=keepdim))


def _truth(input: Tensor, y: Any) -> Tensor:
    return wrap(y.astype(dtypes.uint8) if input.data.dtype == dtypes.uint8 else y)


# --- products, scans -------------------------------------------------------------------------------------------------


def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The product over `dim` (None: all); integers as int64.

    dx_i = dy * prod_{j != i} x_j, from products of what comes before and after i: zeros need no special case.
    """
    x = as_tensor("prod", input)
    if dtype is not None:
        x = cast(x, dtypes.as_dtype(dtype))
    elif x.data.dtype not in dtypes.FLOATS:
        x = cast(x, dtypes.int64)
    if x.data.dtype in dtypes.HALVES:  # every product of the gradient would round
        return cast(prod(cast(x, dtypes.float32), dim, keepdim), x.data.dtype)
    if dim is None:
        y = prod(reshape(x, -1), 0, dtype=x.data.dtype)
        return reshape(y, (1,) * x.ndim) if keepdim else y
    axis = normalize_axis("prod", dim, x.ndim)
    if x.ndim == 0:
        return x.clone()
    kept = _kept(x.shape, (axis,))

    def rule(dy: Tensor) -> tuple:
        return (mul(reshape(dy, kept), _product_of_others(x, axis)),)

    with quiet():
        y = x.data.prod(axis=axis, keepdims=keepdim, dtype=_accumulator(x.data.dtype)).astype(x.data.dtype, copy=False)
    return record("prod", y, (x,), rule)


def _product_of_others(x: Tensor, axis: int) -> Tensor:
    """prod_{j != i} x_j along the axis, by doubling: log2(n) steps of exclusive products from both ends."""
    rows = movedim(x, axis, -1)
    before, after = _exclusive_product(rows), flip(_exclusive_product(flip(rows, -1)), -1)
    return movedim(mul(before, after), -1, axis)


def _exclusive_product(rows: Tensor) -> Tensor:
    """out_i = prod_{j < i} x_j along the last dimension (Hillis and Steele's scan)."""
    n = rows.shape[-1]
    out = pad(rows, (1, -1), value=1.0) if n else rows
    step = 1
    while step < n:
        out = mul(out, pad(out, (step, -step), value=1.0))
        step *= 2
    return out


def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Sums of the elements up to each one along `dim`; integers as int64."""
    x = as_tensor("cumsum", input)
    if dtype is not None:
        x = cast(x, dtypes.as_dtype(dtype))
    elif x.data.dtype not in dtypes.FLOATS:
        x = cast(x, dtypes.int64)
    axis = normalize_axis("cumsum", dim, x.ndim)
    if x.ndim == 0:
        return x.clone()
    with quiet():
        y = x.data.cumsum(axis=axis, dtype=_accumulator(x.data.dtype)).astype(x.data.dtype, copy=False)
    return record("cumsum", y, (x,), lambda dy: (flip(cumsum(flip(dy, axis), axis), axis),))


@rounded_once
def _cumprod(input: Tensor, dim: int) -> Tensor:
    x = input
    axis = normalize_axis("cumprod", dim, x.ndim)
    if x.ndim == 0:
        return x.clone()
    if x.data.dtype not in dtypes.FLOATS:
        return wrap(x.data.cumprod(axis=axis, dtype=x.data.dtype))
    rows = movedim(x, axis, -1)
    return movedim(mul(rows, _exclusive_product(rows)), -1, axis)


def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Products of the elements up to each one along `dim`; integers as int64."""
    x = as_tensor("cumprod", input)
    if dtype is not None:
        x = cast(x, dtypes.as_dtype(dtype))
    elif x.data.dtype not in dtypes.FLOATS:
        x = cast(x, dtypes.int64)
    return _cumprod(x, dim)


@rounded_once
def logsumexp(input: Tensor, dim: Dim, keepdim: bool = False) -> Tensor:
    """log sum exp x over `dim`, shifted by the largest element."""
    x = float_operand("logsumexp", input)
    axes = normalize_axes("logsumexp", dim, x.ndim)
    xp, kept = array_module(x.data), _kept(x.shape, axes)
    m = xp.zeros(kept, x.dtype) if 0 in x.shape else x.data.max(axis=axes, keepdims=True)
    m = wrap(xp.where(xp.isfinite(m), m, 0).astype(m.dtype))
    y = add(log(sum(exp(sub(x, m)), axes if x.ndim else None, keepdim=True)), m)
    return y if keepdim else reshape(y, tuple(s for d, s in enumerate(x.shape) if d not in axes))
