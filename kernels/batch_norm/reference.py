"""Batch and group normalisation, with their gradients and running statistics: the NumPy specification.

    y = act(xhat weight + bias + residual),   xhat = (x - mean) rstd,   rstd = 1 / sqrt(var + eps)

x is (N, C) or (N, C, ...). What lies behind the channels counts as one axis, so that x is (N, C, S). Mean and biased
variance are those of

    groups None   a channel, over N and S: batch normalisation             (Ioffe & Szegedy 2015)     mean is (C,)
    groups G      C / G channels of an image: group normalisation          (Wu & He 2018)             mean is (N, G)
                  with G = C instance normalisation                        (Ulyanov et al. 2016)

Training is batch_moments, batch_norm with them, and batch_moments_step for the running ones; evaluation is batch_norm
with the running ones. The moments are taken of parts, each about a mean of its own, and joined (Chan, Golub & LeVeque
1983): a mean much larger than the deviation costs no digits beyond those of x, and x is read once.

The residual is what a block of a residual net adds before its relu (He et al. 2016).

For all of them: x, residual, y and dy are float16, bfloat16, float32 or float64 arrays of one shape, with any strides;
weight and bias are (C,). All are of one dtype. The 16-bit types are computed in float32, and their moments are float32;
moments that are given may also be of x's dtype. y, dx and dz lie channels last in memory where the channels of x lie
nearer to each other than its pixels, otherwise in C order. NaN and infinity make what shares their moments NaN; moments
of no elements are NaN.

Each raises TypeError for dtypes, ValueError for shapes, groups, eps and the activation.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, is_int, one_of, require

_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")

Array = np.ndarray


@_quiet
def batch_moments(x: Array, groups: int | None = None) -> tuple[Array, Array]:
    """(mean, biased variance) of each channel, or of each group of channels of each image.

    groups  None, or a divisor >= 1 of C
    ->      (C,) or (N, groups), float32, or float64 for float64 x

    Traffic: reads x once.
    """
    s = check_moments("batch_moments", x, groups)
    wide = _grouped(s, x)
    rough = 0
    if s.count:
        rough = wide.mean(s.axes, keepdims=True)
        wide = wide - rough
    rest = wide.sum(s.axes, keepdims=True) / s.count
    wide = wide - rest
    mean, var = rough + rest, (wide * wide).sum(s.axes) / s.count
    return np.asarray(mean).reshape(s.moments), var.reshape(s.moments)


@_quiet
def batch_norm(
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    groups: int | None = None,
    activation: str | None = None,
    residual: Array | None = None,
) -> Array:
    """y = act((x - mean) / sqrt(var + eps) weight + bias + residual), with moments of batch_moments or others.

    mean, var     (C,), or (N, groups) with groups, of x's dtype or the one of its moments
    weight, bias  (C,) or None, which is 1 or 0
    activation    None or "relu"
    residual      of x's shape, or None, which is 0

    Traffic: reads x and the residual once, writes y.
    """
    s = check_norm("batch_norm", x, mean, var, weight, bias, eps, groups, activation, residual=residual)
    rstd = 1 / np.sqrt(_moment(s, var) + eps)
    y = (_grouped(s, x) - _moment(s, mean)) * rstd
    y = _affine(s, y, weight, bias)
    if residual is not None:
        y = y + _grouped(s, residual)
    if activation == "relu":
        y = np.maximum(y, 0)
    return _laid_out(s, x, y)


@_quiet
def batch_norm_grad(
    dy: Array,
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    groups: int | None = None,
    activation: str | None = None,
    frozen: bool = False,
    to_weight: bool = False,
    to_bias: bool = False,
    y: Array | None = None,
) -> tuple[Array, ...]:
    """The gradients of batch_norm, together.

        dz = dy where xhat weight + bias > 0 with relu, otherwise dy;   g = dz weight
        dz = dy where y > 0,                              with relu of a sum with a residual
        dx = rstd (g - mean(g) - xhat mean(g xhat)),   of moments that are x's own
        dx = rstd g,                                   of frozen ones
        dweight = sum dz xhat,   dbias = sum dz,       over N and S

    x to activation     as batch_norm took them: relu's mask is computed again, for less than to read y
    frozen              whether the moments do not depend on x
    to_weight, to_bias  which of the two are asked for
    y                   batch_norm's result, where it added a residual under relu; otherwise None. Without relu the
                        residual takes no part in these gradients, and dy is its own
    ->                  (dx, dweight, dbias, dz), without what was not asked for. dz, the residual's gradient, is there
                        with y

    The order of additions depends on the shape and the memory order alone.
    Traffic: reads dy and x twice, writes dx. Where nothing is summed (frozen, dx alone), reads them once. With y: reads
    dy, y and x once and writes dz, then reads dz and x and writes dx.
    """
    s = check_norm_grad("batch_norm_grad", dy, x, mean, var, weight, bias, eps, groups, activation, y)
    rstd = 1 / np.sqrt(_moment(s, var) + eps)
    dz = _grouped(s, dy)
    xhat = (_grouped(s, x) - _moment(s, mean)) * rstd
    if y is not None:
        dz = np.where(_grouped(s, y) <= 0, np.zeros((), dz.dtype), dz)
    elif activation == "relu":
        dz = np.where(_affine(s, xhat, weight, bias) <= 0, np.zeros((), dz.dtype), dz)
    dx = _affine(s, dz, weight, None)
    if not frozen:
        c1, c2 = (each.sum(s.axes, np.float64, keepdims=True) / s.count for each in (dx, dx * xhat))
        dx = dx - c1.astype(dx.dtype) - xhat * c2.astype(dx.dtype)
    found = [_laid_out(s, x, dx * rstd)]
    over = (0, 3)
    found += [np.asarray((dz * xhat).sum(over, np.float64), s.dtype).reshape(s.channels)] if to_weight else []
    found += [np.asarray(dz.sum(over, np.float64), s.dtype).reshape(s.channels)] if to_bias else []
    found += [] if y is None else [_laid_out(s, x, dz)]
    return tuple(found)


@_quiet
def batch_moments_step(running: list[Array], mean: Array, var: Array, count: int, momentum: float) -> None:
    """running = (1 - momentum) running + momentum batch, in place, the variance unbiased: times count / (count - 1).

    running    [mean, var], (C,) float arrays of one dtype
    mean, var  of batch_moments, (C,)
    count      elements that they are of, > 1

    Traffic: reads 16 C bytes and writes 8 C, in float32.
    Raises ValueError for shapes and the count.
    """
    check_step("batch_moments_step", running, mean, var, count, momentum)
    for mine, batch, factor in zip(running, (mean, var), (1.0, count / (count - 1)), strict=True):
        wide = accumulator(mine.dtype)
        kept = mine.astype(wide) * wide.type(1 - momentum)
        mine[...] = kept + batch.astype(wide) * wide.type(momentum * factor)


class Channels(NamedTuple):
    """x as (N, C, S), and what its moments are of."""

    dtype: np.dtype
    images: int
    channels: int
    size: int  # S
    groups: int | None

    @property
    def moments(self) -> tuple[int, ...]:
        """The shape of mean and var."""
        return (self.channels,) if self.groups is None else (self.images, self.groups)

    @property
    def count(self) -> int:
        """Elements that one mean is of."""
        return self.size * (self.images if self.groups is None else self.channels // self.groups)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of (N, G, C / G, S) that are one."""
        return (0, 2, 3) if self.groups is None else (2, 3)

    @property
    def grouped(self) -> tuple[int, int, int, int]:
        """(N, G, C / G, S); without groups each channel is one."""
        if self.groups is None:
            return self.images, self.channels, 1, self.size
        return self.images, self.groups, self.channels // self.groups, self.size


def _grouped(s: Channels, x: Array) -> Array:
    return np.ascontiguousarray(x, accumulator(x.dtype)).reshape(s.grouped)


def _moment(s: Channels, a: Array) -> Array:
    """mean or var beside (N, G, C / G, S)."""
    return a.astype(accumulator(s.dtype), copy=False).reshape((*s.moments, 1, 1))


def _affine(s: Channels, x: Array, weight: Array | None, bias: Array | None) -> Array:
    weight, bias = (None if a is None else a.reshape(1, *s.grouped[1:3], 1) for a in (weight, bias))
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _laid_out(s: Channels, x: Array, y: Array) -> Array:
    """y with the shape and dtype of x, in its memory order."""
    y = y.astype(s.dtype, copy=False).reshape(x.shape)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(y, 1, -1)), -1, 1) if is_channels_last(x) else y


def is_channels_last(x: Any) -> bool:
    """Whether neighbours in memory are neighbouring channels of (N, C, ...)."""
    if x.ndim < 3 or x.shape[1] == 1:
        return False
    step, is_image = abs(x.strides[1]), False
    for other, n in zip(x.strides[2:], x.shape[2:], strict=True):
        if n > 1:
            if abs(other) <= step:
                return False
            is_image = True
    return is_image


def check_moments(op: str, x: Any, groups: Any) -> Channels:
    """Raise as batch_moments does."""
    dtype = float_dtype(op, x=x)
    if x.ndim < 2:
        raise ValueError(f"{op}: x is {x.shape}; expected (N, C) or (N, C, ...)")
    images, channels = x.shape[:2]
    if groups is not None:
        if not is_int(groups):
            raise TypeError(f"{op}: groups is {groups!r}; expected an int or None")
        fits = groups >= 1 and channels % groups == 0
        require(fits, op, f"groups is {groups} but x is {x.shape}; expected a divisor of {channels}")
    return Channels(dtype, images, channels, math.prod(x.shape[2:]), groups)


def check_norm(
    op: str, x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float, groups: Any, activation: Any,
    **beside: Any,
) -> Channels:  # fmt: skip
    """Raise as batch_norm does; `beside` are arrays of x's shape and dtype, or None."""
    s = check_moments(op, x, groups)
    for name, a in beside.items():
        if a is not None:
            float_dtype(op, **{"x": x, name: a})
            if a.shape != x.shape:
                raise ValueError(f"{op}: x is {x.shape} but {name} is {a.shape}; expected {x.shape}")
    _check_moments_of(op, s, x, mean, var, eps)
    _check_affine(op, s, x, weight, bias)
    one_of(op, "activation", activation, (None, "relu"))
    return s


def check_norm_grad(
    op: str, dy: Any, x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float, groups: Any, activation: Any,
    y: Any,
) -> Channels:  # fmt: skip
    """Raise as batch_norm_grad does."""
    float_dtype(op, dy=dy, x=x)
    s = check_norm(op, x, mean, var, weight, bias, eps, groups, activation, y=y)
    if dy.shape != x.shape:
        raise ValueError(f"{op}: x is {x.shape} but dy is {dy.shape}; expected {x.shape}")
    require(y is None or activation == "relu", op, f"y is given but activation is {activation!r}; expected 'relu'")
    return s


def check_step(op: str, running: Any, mean: Any, var: Any, count: Any, momentum: float) -> None:
    """Raise as batch_moments_step does."""
    float_dtype(op, running_mean=running[0], running_var=running[1])
    float_dtype(op, mean=mean, var=var)
    for a in (*running, mean, var):
        require(
            a.ndim == 1 and a.shape == running[0].shape, op, f"an array is {a.shape}; expected (C,) of one C for all"
        )
    if not is_int(count):
        raise TypeError(f"{op}: count is {count!r}; expected an int")
    require(count > 1, op, f"count is {count}; expected more than 1")
    if type(momentum) is not float and not isinstance(momentum, Real):  # asking an abstract class is slow
        raise TypeError(f"{op}: momentum is {momentum!r}; expected a real number")


def _check_moments_of(op: str, s: Channels, x: Any, mean: Any, var: Any, eps: float) -> None:
    found = float_dtype(op, mean=mean, var=var)
    if found not in (s.dtype, accumulator(s.dtype)):
        raise TypeError(f"{op}: mean and var are {found} but x is {s.dtype}; expected {accumulator(s.dtype)}")
    for name, a in (("mean", mean), ("var", var)):
        if a.shape != s.moments:
            raise ValueError(f"{op}: x is {x.shape} but {name} is {a.shape}; expected {s.moments}")
    if type(eps) is not float and not isinstance(eps, Real):  # asking an abstract class is slow
        raise TypeError(f"{op}: eps is {eps!r}; expected a real number")


def _check_affine(op: str, s: Channels, x: Any, weight: Any, bias: Any) -> None:
    float_dtype(op, x=x, weight=weight, bias=bias)
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and a.shape != (s.channels,):
            raise ValueError(f"{op}: x is {x.shape} but {name} is {a.shape}; expected ({s.channels},)")
