"""Normalisation: batch, layer and group norm are one op over different axes; and vectors scaled to unit length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tilegrad import dtypes, ops
from tilegrad.autograd.grad_mode import is_grad_enabled, no_grad
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.nn.functional.arguments import require_tensor, size, sizes
from tilegrad.ops.normalization import layer_norm as layer_norm_op
from tilegrad.ops.normalization import rms_norm as rms_norm_op
from tilegrad.ops.operands import cast, require_float, require_one_device, rounded_once
from tilegrad.tensor import Tensor, wrap

Axes = tuple[int, ...]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, for each channel (dim 1) (Ioffe & Szegedy 2015).

    input    (N, C) or (N, C, ...); the other tensors (C,), of input's dtype
    training takes mean and (biased) variance from the batch and moves the running ones, in place, towards them:
             running = (1 - momentum) running + momentum batch, with the unbiased variance. Otherwise the running ones
             are used; they may be None in training only

    An empty batch is returned as it is, and the running statistics stay.
    Raises ValueError for shapes, and for one value per channel in training; TypeError for dtypes.
    """
    op = "batch_norm"
    require_tensor(op, input=input)
    if input.ndim < 2 and input.shape != (0,):
        raise ValueError(f"{op}: input is {input.shape}; expected (N, C) or (N, C, ...)")
    channel_dim = min(input.ndim - 1, 1)  # of an input (0,), which PyTorch takes, it is the only one
    channels = input.shape[channel_dim]
    _require_affine(op, input, (channels,), weight, bias)
    _require_shapes(op, input, (channels,), running_mean=running_mean, running_var=running_var)
    along = tuple(channels if d == channel_dim else 1 for d in range(input.ndim))
    weight, bias = (None if p is None else ops.reshape(p, along) for p in (weight, bias))
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError(f"{op}: training=False needs running_mean and running_var; got None")
        moments = ops.reshape(running_mean, along), ops.reshape(running_var, along)
        return _rescaled(input, *moments, weight, bias, eps)

    if not input.numel():
        unseen = wrap(array_module(input.data).ones(along, input.dtype))
        return _rescaled(input, unseen, unseen, weight, bias, eps)
    n = input.numel() // channels
    if n < 2:
        raise ValueError(f"{op}: input is {input.shape}; expected more than 1 value a channel in training")
    axes = (0, *range(2, input.ndim))
    y, mean, variance = _normalize(op, input, axes, eps, weight, bias)
    with no_grad():
        _move(running_mean, mean, momentum)
        _move(running_var, variance * (n / (n - 1)), momentum)
    return y


@rounded_once
def _rescaled(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    scale = ops.rsqrt(variance + eps)
    y = (x - mean) * (scale if weight is None else scale * weight)
    return y if bias is None else y + bias


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimensions (Ba, Kiros & Hinton 2016).

    input  (..., *normalized_shape); weight and bias of normalized_shape and input's dtype
    Raises ValueError for shapes, TypeError for dtypes.
    """
    shape = _require_last("layer_norm", input, normalized_shape)
    _require_affine("layer_norm", input, shape, weight, bias)
    return layer_norm_op(input, len(shape), weight, bias, eps)


def rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimensions (Zhang & Sennrich 2019).

    input  (..., *normalized_shape); weight of normalized_shape and input's dtype
    eps    None is the spacing of numbers at 1 in input's dtype, in float32 for the 16-bit types
    Raises ValueError for shapes, TypeError for dtypes.
    """
    shape = _require_last("rms_norm", input, normalized_shape)
    _require_affine("rms_norm", input, shape, weight, None)
    eps = float(np.finfo(dtypes.accumulator(input.dtype)).eps) if eps is None else eps
    return rms_norm_op(input, len(shape), weight, eps)


def _require_last(op: str, input: Any, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """normalized_shape, which must be input's last dimensions."""
    require_tensor(op, input=input)
    shape = sizes(normalized_shape)
    if not shape or input.shape[-len(shape) :] != shape:
        raise ValueError(f"{op}: input is {input.shape}; expected its last dimensions to be {shape}")
    require_float(op, input)
    return shape


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over each of num_groups groups of channels (Wu & He 2018).

    input  (N, C, ...), num_groups a divisor of C; weight and bias (C,) of input's dtype
    Raises ValueError for shapes, TypeError for dtypes.
    """
    op = "group_norm"
    require_tensor(op, input=input)
    groups = size(op, "num_groups", num_groups, 1)
    if input.ndim < 2 or input.shape[1] % groups:
        raise ValueError(f"{op}: input is {input.shape}; expected (N, C, ...) with C a multiple of {groups} groups")
    batch, channels = input.shape[:2]
    _require_affine(op, input, (channels,), weight, bias)
    grouped = (batch, groups, channels // groups, math.prod(input.shape[2:]))
    weight, bias = (None if p is None else ops.reshape(p, (1, *grouped[1:3], 1)) for p in (weight, bias))
    y, *_ = _normalize(op, ops.reshape(input, grouped), (2, 3), eps, weight, bias)
    return ops.reshape(y, input.shape)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(||x||_p, eps), the p-norm taken along `dim`."""
    return input / ops.clamp(ops.norm(input, p, dim, keepdim=True), min=eps)


class _Moments(NamedTuple):
    """Of x over some axes, which are kept as 1."""

    mean: Tensor
    variance: Tensor  # biased
    rstd: Tensor  # 1 / sqrt(variance + eps)


def _mean(x: Tensor, axes: Axes) -> Tensor:
    """The mean over the axes, which are kept as 1. One axis after the other, as short sums lose less to rounding."""
    for axis in axes:
        x = ops.mean(x, axis, keepdim=True)
    return x


def _sum_to(shape: tuple[int, ...], g: Tensor) -> Tensor:
    """g summed, one axis after the other, to a shape that was broadcast to its own."""
    for axis, s in enumerate(shape):
        if s != g.shape[axis]:
            g = ops.sum(g, axis, keepdim=True)
    return g


def _standardize(x: Tensor, axes: Axes, eps: float) -> tuple[Tensor, _Moments]:
    """(x - mean) / sqrt(variance + eps), in two passes, and the moments."""
    mean = _mean(x, axes)
    centred = x - mean
    variance = _mean(ops.square(centred), axes)
    rstd = ops.rsqrt(variance + eps)
    return centred * rstd, _Moments(mean, variance, rstd)


def _normalize(
    op: str, x: Tensor, axes: Axes, eps: float, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """xhat * weight + bias, xhat x standardized over the axes; also its mean and biased variance.

        dx = rstd (g - mean(g) - xhat mean(g xhat)),   g = dy weight

    weight and bias have x's dimensions, 1 where they are constant. xhat is computed again for the gradient, so that
    x is the only array of its size that is kept.
    """
    if x.dtype in dtypes.HALVES:  # their sums are kept in float32
        weight, bias = (None if t is None else cast(t, dtypes.float32) for t in (weight, bias))
        y, mean, variance = _normalize(op, cast(x, dtypes.float32), axes, eps, weight, bias)
        return cast(y, x.dtype), mean, variance
    with no_grad():
        xhat, moments = _standardize(x, axes, eps)
        y = xhat if weight is None else xhat * weight
        y = y if bias is None else y + bias
    del xhat
    weight_shape, bias_shape = (None if p is None else p.shape for p in (weight, bias))

    def rule(dy: Tensor) -> tuple:
        if is_grad_enabled():  # a gradient of this gradient must see how the moments depend on x
            xhat, (_, _, rstd) = _standardize(x, axes, eps)
        else:
            rstd = moments.rstd
            xhat = (x - moments.mean) * rstd
        g = dy if weight is None else dy * weight
        dx = None
        if x.requires_grad:
            dx = (g - _mean(g, axes) - xhat * _mean(g * xhat, axes)) * rstd
        grads = [dx]
        if weight_shape is not None:
            grads.append(_sum_to(weight_shape, dy * xhat))
        if bias_shape is not None:
            grads.append(_sum_to(bias_shape, dy))
        return tuple(grads)

    parents = [p for p in (x, weight, bias) if p is not None]
    return record(op, y.data, parents, rule), moments.mean, moments.variance


def _move(running: Tensor | None, batch: Tensor, momentum: float) -> None:
    """running = (1 - momentum) running + momentum batch, in place."""
    if running is None:
        return
    batch = ops.reshape(batch, running.shape)
    if running.dtype in dtypes.HALVES:
        running.copy_(running.to(batch.dtype) * (1 - momentum) + batch * momentum)
    else:
        running.mul_(1 - momentum).add_(batch.to(running.dtype) * momentum)


def _require_affine(op: str, x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None) -> None:
    require_float(op, x)
    _require_shapes(op, x, shape, weight=weight, bias=bias)


def _require_shapes(op: str, x: Tensor, shape: tuple[int, ...], **tensors: Tensor | None) -> None:
    """Raise unless each tensor that is given has this shape and x's dtype."""
    for name, t in tensors.items():
        if t is None:
            continue
        require_tensor(op, **{name: t})
        if t.shape != shape:
            raise ValueError(f"{op}: input is {x.shape} but {name} is {t.shape}; expected {shape}")
        if t.dtype != x.dtype:
            raise TypeError(f"{op}: input is {x.dtype} but {name} is {t.dtype}; expected one dtype")
        require_one_device(op, x, t)
