"""Normalisation: the primitives, and gradients of gradients composed of ordinary ops.

    xhat = (x - mean) rstd,   dx = rstd (g - mean(g) - xhat mean(g xhat)),   g = dy weight

The moments of x over some axes are functions of x. Where a gradient needs a gradient itself, xhat is therefore computed
again from x by ops, whose rules are differentiated in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from tilegrad import capture_hooks, dtypes, kernels
from tilegrad.autograd.grad_mode import is_grad_enabled, no_grad
from tilegrad.autograd.pieces import piece
from tilegrad.autograd.record import record
from tilegrad.ops.activations import relu_grad
from tilegrad.ops.arithmetic import add, mul, square, sub
from tilegrad.ops.exponential import rsqrt
from tilegrad.ops.inplace import copy_
from tilegrad.ops.operands import cast, made_together, require_float, widened
from tilegrad.ops.reduce import mean, sum
from tilegrad.ops.shape import reshape
from tilegrad.ops.writes import require_writable, written
from tilegrad.tensor import Tensor

Axes = tuple[int, ...]
Moments = tuple[Tensor, Tensor]  # mean and biased variance


def layer_norm(x: Tensor, ndim: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) rstd weight + bias over the last `ndim` axes, of whose shape weight and bias are."""
    require_float("layer_norm", x, weight, bias)
    arrays = [None if p is None else p.data for p in (x, weight, bias)]
    y, mean, rstd = kernels.of(*arrays).layer_norm(arrays[0], ndim, *arrays[1:], eps)
    affine, asked = (weight, bias), _asked(weight, bias)

    def rule(dy: Tensor) -> tuple:
        if is_grad_enabled():
            rows, last = _split(x.ndim, ndim)
            return _of_parents(_gradients(dy, x, weight, _own(last, eps), last, rows, *asked), affine)
        arrays = dy.data, x.data, mean, rstd, None if weight is None else weight.data
        found = kernels.of(*arrays).layer_norm_grad(*arrays, *asked)
        return _of_parents(_made("layer_norm_grad", (dy, x, weight), found, *asked), affine)

    return record("layer_norm", y, _parents(x, weight, bias), rule)


def rms_norm(x: Tensor, ndim: int, weight: Tensor | None, eps: float) -> Tensor:
    """x weight / sqrt(mean(x^2) + eps) over the last `ndim` axes, of whose shape weight is."""
    require_float("rms_norm", x, weight)
    arrays = [x.data, None if weight is None else weight.data]
    y, rstd = kernels.of(*arrays).rms_norm(arrays[0], ndim, arrays[1], eps)
    affine, (to_weight, _) = (weight, None), _asked(weight, None)

    def rule(dy: Tensor) -> tuple:
        if is_grad_enabled():
            rows, last = _split(x.ndim, ndim)
            standardized = _by_square(last, eps)
            return _of_parents(_gradients(dy, x, weight, standardized, last, rows, to_weight, False, False), affine)
        arrays = dy.data, x.data, rstd, None if weight is None else weight.data
        found = kernels.of(*arrays).rms_norm_grad(*arrays, to_weight)
        return _of_parents(_made("rms_norm_grad", (dy, x, weight), found, to_weight, False), affine)

    return record("rms_norm", y, _parents(x, weight), rule)


def layer_norm_residual(
    x: Tensor, residual: Tensor, ndim: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """(layer_norm(s), s), s = x + residual, in one primitive; residual of x's shape."""
    require_float("layer_norm", x, residual, weight, bias)
    arrays = [None if p is None else p.data for p in (x, residual, weight, bias)]
    y, mean, rstd, joined = kernels.of(*arrays).layer_norm(arrays[0], ndim, *arrays[2:], eps, arrays[1])
    affine, asked = (weight, bias), _asked(weight, bias)

    def rule(dy: Tensor, ds: Tensor | None, s: Tensor) -> list[Tensor | None]:
        if is_grad_enabled():
            rows, last = _split(s.ndim, ndim)
            return _gradients(dy, s, weight, _own(last, eps), last, rows, *asked)
        arrays = dy.data, s.data, mean, rstd, None if weight is None else weight.data
        found = kernels.of(*arrays).layer_norm_grad(*arrays, *asked, None if ds is None else ds.data)
        return _made("layer_norm_grad", (dy, s, weight, ds), found, *asked)

    return _normed_and_sum("layer_norm", y, joined, (x, residual), affine, rule)


def rms_norm_residual(
    x: Tensor, residual: Tensor, ndim: int, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """(rms_norm(s), s), s = x + residual, in one primitive; residual of x's shape."""
    require_float("rms_norm", x, residual, weight)
    arrays = [None if p is None else p.data for p in (x, residual, weight)]
    y, rstd, joined = kernels.of(*arrays).rms_norm(arrays[0], ndim, arrays[2], eps, arrays[1])
    affine, (to_weight, _) = (weight, None), _asked(weight, None)

    def rule(dy: Tensor, ds: Tensor | None, s: Tensor) -> list[Tensor | None]:
        if is_grad_enabled():
            rows, last = _split(s.ndim, ndim)
            return _gradients(dy, s, weight, _by_square(last, eps), last, rows, to_weight, False, False)
        arrays = dy.data, s.data, rstd, None if weight is None else weight.data
        found = kernels.of(*arrays).rms_norm_grad(*arrays, to_weight, None if ds is None else ds.data)
        return _made("rms_norm_grad", (dy, s, weight, ds), found, to_weight, False)

    return _normed_and_sum("rms_norm", y, joined, (x, residual), affine, rule)


def batch_moments(x: Tensor, groups: int | None = None) -> Moments:
    """Mean and biased variance of each channel of x (N, C, ...), (C,), or of each of `groups` groups of an image's
    channels, (N, groups): constants, float32 for the 16-bit types.
    """
    made = made_together("batch_moments", (x,), kernels.of(x.data).batch_moments(x.data, groups), (True, True))
    return made[0], made[1]


def batch_norm(
    x: Tensor,
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    groups: int | None = None,
    activation: str | None = None,
    frozen: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """act((x - mean) / sqrt(var + eps) weight + bias + residual) by channel of x (N, C, ...); weight and bias (C,).

    moments     of batch_moments, x's own, or frozen ones: constants of their shape
    activation  None or "relu". For the gradient its mask is computed again, or with a residual taken from the result
    residual    of x's shape, or None. The gradient does not keep it
    """
    require_float("batch_norm", x, weight, bias, residual)
    capture_hooks.reads(*moments)
    arrays = [None if p is None else p.data for p in (x, *moments, weight, bias)]
    added = None if residual is None else residual.data
    y = kernels.of(*arrays, added).batch_norm(*arrays, eps, groups, activation, added)
    affine, asked, joins = (weight, bias), _asked(weight, bias), residual is not None

    def rule(dy: Tensor, y: Tensor | None = None) -> tuple:
        """y: the result, whose sign is relu's mask."""
        arrays = [None if p is None else p.data for p in (x, *moments, weight, bias)]
        backend = kernels.of(dy.data, *arrays)
        if not is_grad_enabled():
            used, sign = (dy, x, *moments, *affine, y), None if y is None else y.data
            found = backend.batch_norm_grad(dy.data, *arrays, eps, groups, activation, frozen, *asked, sign)
            *grads, dz = _made("batch_norm_grad", used, found, *asked, None if y is None else True)
            dz = dy if y is None else dz
            return *_of_parents(grads, affine), *([dz] if joins else [])
        if y is not None:
            dy = relu_grad(dy, y)
        elif activation == "relu":
            (z,) = made_together("batch_norm", (x,), (backend.batch_norm(*arrays, eps, groups),), (True,))
            dy = relu_grad(dy, z)
        n, channels = x.shape[:2]
        each = channels if groups is None else groups
        shape = n, each, channels // max(each, 1), -1 if x.numel() else 0
        axes = (0, 2, 3) if groups is None else (2, 3)
        standardized = _with(moments, shape[1:3], eps) if frozen else _own(axes, eps)
        w = None if weight is None else reshape(weight, (1, *shape[1:3], 1))
        grads = _gradients(reshape(dy, shape), reshape(x, shape), w, standardized, axes, (0, 3), *asked, frozen=frozen)
        shapes = x.shape, (channels,), (channels,)
        grads = [None if g is None else reshape(g, s) for g, s in zip(grads, shapes)]
        return *_of_parents(grads, affine), *([dy] if joins else [])

    return record("batch_norm", y, _parents(x, weight, bias, residual), rule, output=joins and activation == "relu")


def move_towards(op: str, running: Moments, moments: Moments, count: int, momentum: float | Tensor) -> None:
    """running = (1 - momentum) running + momentum moments, in place; the variance unbiased, of so many elements.

    momentum  as a tensor (), float64, it is what each launch of a captured step finds there
    """
    if isinstance(momentum, Tensor):
        _move_by_ops(running, moments, count, momentum)
        return
    for each in running:
        require_writable(op, each, tracking=False)
    capture_hooks.reads(*running, *moments)
    arrays = [each.data for each in running]
    mean, var = (each.data for each in moments)
    kernels.of(*arrays, mean, var).batch_moments_step(arrays, mean, var, count, momentum)
    account = capture_hooks.on_device(arrays[0])
    for each in running:
        written(each, None)
        if account is not None:
            _count_again(account, each)


def _move_by_ops(running: Moments, moments: Moments, count: int, momentum: Tensor) -> None:
    """What batch_moments_step computes, with its roundings."""
    with no_grad():
        for each, batch, factor in zip(running, moments, (1.0, count / (count - 1))):
            wide = dtypes.accumulator(each.dtype)
            kept, taken = cast(sub(1.0, momentum), wide), cast(mul(momentum, factor), wide)
            copy_(each, add(mul(cast(each, wide), kept), mul(cast(batch, wide), taken)))


def _count_again(account: capture_hooks.Account, x: Tensor) -> None:
    """Each launch writes to x, and not the capture."""
    storage = x._storage
    account.undo(lambda: setattr(storage, "version", storage.version - 1))
    account.again(lambda: setattr(storage, "version", storage.version + 1))


# --- gradients for each parent


def _parents(*tensors: Tensor | None) -> list[Tensor]:
    return [p for p in tensors if p is not None]


def _asked(weight: Tensor | None, bias: Tensor | None) -> tuple[bool, bool]:
    """Whether these need gradients."""
    return weight is not None and weight.requires_grad, bias is not None and bias.requires_grad


def _made(
    name: str, used: tuple, found: tuple, to_weight: bool, to_bias: bool, *others: bool | None
) -> list[Tensor | None]:
    return made_together(name, used, found, (True, to_weight or None, to_bias or None, *others))


_NORMED = 0  # the piece that the gradient of what was normalised is; those of the sum have other numbers
_sums = itertools.count(1)
GradientOfNorm = Callable[[Tensor, "Tensor | None", Tensor], "list[Tensor | None]"]


def _normed_and_sum(
    op: str, y: Any, joined: Any, terms: tuple[Tensor, Tensor], affine: tuple[Tensor | None, ...], rule: GradientOfNorm
) -> tuple[Tensor, Tensor]:
    """A norm's two results as tensors: y, and the sum of the terms that it was taken of.

    rule  (dy, ds, s) -> (ds + the gradient of s by dy, dweight, dbias); ds is left out where gradients are recorded

    One node stands behind both, to which their gradients come as pieces. It has the sum and not the terms: nothing else
    keeps these.
    """

    def both(grads: Any, s: Tensor) -> tuple:
        dy, ds = grads.parts.get(_NORMED), None
        for number, part in grads.parts.items():
            if number != _NORMED:
                ds = part if ds is None else add(ds, part)
        if dy is None:
            return ds, ds, *[None for p in affine if p is not None]
        if is_grad_enabled():
            dx, *others = rule(dy, None, _sum_of(op, s))
            dx = dx if ds is None else add(dx, ds)
        else:
            dx, *others = rule(dy, ds, s)
        return dx, *_of_parents([dx, *others], affine)

    shape, parents = joined.shape, _parents(*terms, *affine)
    together = record(op, joined, parents, both, output=True)
    return record(op, y, (together,), lambda dy: (piece(_NORMED, dy, shape),)), _sum_of(op, together)


def _sum_of(op: str, together: Tensor) -> Tensor:
    """The sum as a tensor of its own, whose gradient is a piece of its own."""
    number, shape = next(_sums), together.shape
    return record(op, together.data, (together,), lambda ds: (piece(number, ds, shape),), view_of=together)


def _of_parents(grads: list[Tensor | None], affine: tuple[Tensor | None, ...]) -> tuple:
    """(dx, dweight, dbias), without those of what was not given."""
    return tuple([grads[0], *[g for g, p in zip(grads[1:], affine) if p is not None]])


# --- gradients by ops


Standardized = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> (xhat, rstd)


def _gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    standardized: Standardized,
    axes: Axes,
    over: Axes,
    to_weight: bool,
    to_bias: bool,
    centred: bool = True,
    frozen: bool = False,
) -> list[Tensor | None]:
    """(dx, dweight, dbias) by ops, in float32 for the 16-bit types; None for what is not asked for.

    axes   that share moments. weight broadcasts to x; its gradient is the sum `over` these axes
    """
    dtype = x.dtype
    dy, x, weight = widened(dy), widened(x), widened(weight)
    xhat, rstd = standardized(x)
    g = dy if weight is None else mul(dy, weight)
    dx = g if frozen else sub(g, mul(xhat, _mean(mul(g, xhat), axes)))
    if centred and not frozen:
        dx = sub(dx, _mean(g, axes))
    dw = _sum(mul(dy, xhat), over) if to_weight else None
    db = _sum(dy, over) if to_bias else None
    return [None if each is None else cast(each, dtype) for each in (mul(dx, rstd), dw, db)]


def _own(axes: Axes, eps: float) -> Standardized:
    """By x's own mean and variance over the axes."""

    def standardized(x: Tensor) -> tuple[Tensor, Tensor]:
        d = sub(x, _mean(x, axes))
        rstd = rsqrt(add(_mean(square(d), axes), eps))
        return mul(d, rstd), rstd

    return standardized


def _by_square(axes: Axes, eps: float) -> Standardized:
    """By the mean of x^2 over the axes."""

    def standardized(x: Tensor) -> tuple[Tensor, Tensor]:
        rstd = rsqrt(add(_mean(square(x), axes), eps))
        return mul(x, rstd), rstd

    return standardized


def _with(moments: Moments, channels: tuple[int, ...], eps: float) -> Standardized:
    """By constants."""

    def standardized(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = (reshape(widened(each), (1, *channels, 1)) for each in moments)
        rstd = rsqrt(add(var, eps))
        return mul(sub(x, mean), rstd), rstd

    return standardized


def _split(ndim: int, last: int) -> tuple[Axes, Axes]:
    """All axes but the last ones, and these."""
    axes = tuple(range(ndim))
    return axes[: ndim - last], axes[ndim - last :]


def _mean(x: Tensor, axes: Axes) -> Tensor:
    """The mean over the axes, which are kept as 1. One axis after the other, as short sums lose less to rounding."""
    for axis in axes:
        x = mean(x, axis, keepdim=True)
    return x


def _sum(x: Tensor, axes: Axes) -> Tensor:
    for axis in reversed(axes):
        x = sum(x, axis)
    return x
