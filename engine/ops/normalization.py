"""Normalisation: the primitives, and gradients of gradients composed of ordinary ops.

    xhat = (x - mean) rstd,   dx = rstd (g - mean(g) - xhat mean(g xhat)),   g = dy weight

The moments of x over some axes are functions of x. Where a gradient needs a gradient itself, xhat is therefore computed
again from x by ops, whose rules are differentiated in turn.
"""

from __future__ import annotations

from tilegrad import dtypes, kernels
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.record import record
from tilegrad.ops.arithmetic import add, mul, square, sub
from tilegrad.ops.exponential import rsqrt
from tilegrad.ops.operands import cast, made_together, require_float
from tilegrad.ops.reduce import mean, sum
from tilegrad.tensor import Tensor

Axes = tuple[int, ...]


def layer_norm(x: Tensor, ndim: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) rstd weight + bias over the last `ndim` axes, of whose shape weight and bias are."""
    require_float("layer_norm", x, weight, bias)
    parents = [p for p in (x, weight, bias) if p is not None]
    arrays = [None if p is None else p.data for p in (x, weight, bias)]
    y, mean, rstd = kernels.of(*arrays).layer_norm(arrays[0], ndim, *arrays[1:], eps)
    to_weight, to_bias = (p is not None and p.requires_grad for p in (weight, bias))
    has_weight, has_bias = weight is not None, bias is not None

    def rule(dy: Tensor) -> tuple:
        if is_grad_enabled():
            grads = _gradients(dy, x, weight, _last(ndim, x), eps, True, to_weight, to_bias)
        else:
            arrays = dy.data, x.data, mean, rstd, None if weight is None else weight.data
            found = kernels.of(*arrays).layer_norm_grad(*arrays, to_weight, to_bias)
            asked = True, to_weight or None, to_bias or None
            grads = made_together("layer_norm_grad", (dy, x, weight), found, asked)
        return tuple([grads[0], *(grads[1:2] if has_weight else []), *(grads[2:] if has_bias else [])])

    return record("layer_norm", y, parents, rule)


def rms_norm(x: Tensor, ndim: int, weight: Tensor | None, eps: float) -> Tensor:
    """x weight / sqrt(mean(x^2) + eps) over the last `ndim` axes, of whose shape weight is."""
    require_float("rms_norm", x, weight)
    parents = [x] if weight is None else [x, weight]
    arrays = [x.data, None if weight is None else weight.data]
    y, rstd = kernels.of(*arrays).rms_norm(arrays[0], ndim, arrays[1], eps)
    to_weight, has_weight = weight is not None and weight.requires_grad, weight is not None

    def rule(dy: Tensor) -> tuple:
        if is_grad_enabled():
            grads = _gradients(dy, x, weight, _last(ndim, x), eps, False, to_weight, False)
        else:
            arrays = dy.data, x.data, rstd, None if weight is None else weight.data
            found = kernels.of(*arrays).rms_norm_grad(*arrays, to_weight)
            grads = made_together("rms_norm_grad", (dy, x, weight), found, (True, to_weight or None))
        return tuple(grads[: 1 + has_weight])

    return record("rms_norm", y, parents, rule)


def _last(ndim: int, x: Tensor) -> Axes:
    return tuple(range(x.ndim - ndim, x.ndim))


def _gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    axes: Axes,
    eps: float,
    centred: bool,
    to_weight: bool,
    to_bias: bool,
) -> list[Tensor | None]:
    """(dx, dweight, dbias) by ops, in float32 for the 16-bit types; None for what is not asked for.

    weight has the last dimensions of x.
    """
    dtype = x.dtype
    dy, x, weight = _wide(dy), _wide(x), None if weight is None else _wide(weight)
    middle = _mean(x, axes) if centred else None
    d = x if middle is None else sub(x, middle)
    rstd = rsqrt(add(_mean(square(d), axes), eps))
    xhat = mul(d, rstd)
    g = dy if weight is None else mul(dy, weight)
    dx = sub(g, mul(xhat, _mean(mul(g, xhat), axes)))
    if centred:
        dx = sub(dx, _mean(g, axes))
    dx = mul(dx, rstd)
    rows = tuple(axis for axis in range(x.ndim) if axis not in axes)
    dw = _sum(mul(dy, xhat), rows) if to_weight else None
    db = _sum(dy, rows) if to_bias else None
    return [None if each is None else cast(each, dtype) for each in (dx, dw, db)]


def _wide(x: Tensor) -> Tensor:
    return cast(x, dtypes.float32) if x.dtype in dtypes.HALVES else x


def _mean(x: Tensor, axes: Axes) -> Tensor:
    """The mean over the axes, which are kept as 1. One axis after the other, as short sums lose less to rounding."""
    for axis in axes:
        x = mean(x, axis, keepdim=True)
    return x


def _sum(x: Tensor, axes: Axes) -> Tensor:
    for axis in reversed(axes):
        x = sum(x, axis)
    return x
