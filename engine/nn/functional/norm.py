"""Normalisation over batches, layers, groups and instances; and vectors scaled to unit length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilegrad import dtypes, ops
from tilegrad.autograd.grad_mode import is_grad_enabled, no_grad
from tilegrad.device import array_module
from tilegrad.nn.functional.arguments import require_tensor, size, sizes
from tilegrad.ops.normalization import Moments, batch_moments, move_towards
from tilegrad.ops.normalization import batch_norm as batch_norm_op
from tilegrad.ops.normalization import layer_norm as layer_norm_op
from tilegrad.ops.normalization import layer_norm_residual as layer_norm_residual_op
from tilegrad.ops.normalization import rms_norm as rms_norm_op
from tilegrad.ops.normalization import rms_norm_residual as rms_norm_residual_op
from tilegrad.ops.operands import require_float, require_one_device
from tilegrad.tensor import Tensor, wrap


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
    return batch_norm_activated(input, running_mean, running_var, weight, bias, training, momentum, eps, None)


def batch_norm_activated(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
    activation: str | None,
    residual: Tensor | None = None,
) -> Tensor:
    """act(batch_norm(input) + residual) in one primitive; momentum as move_towards takes it.

    activation  None or "relu"
    residual    of input's shape and dtype: nothing is broadcast. None is 0
    """
    op = "batch_norm"
    require_tensor(op, input=input)
    if input.ndim < 2 and input.shape != (0,):
        raise ValueError(f"{op}: input is {input.shape}; expected (N, C) or (N, C, ...)")
    channels = input.shape[min(input.ndim - 1, 1)]  # of an input (0,), which PyTorch takes, it is the only one
    _require_affine(op, input, (channels,), weight, bias)
    _require_shapes(op, input, (channels,), running_mean=running_mean, running_var=running_var)
    _require_shapes(op, input, input.shape, residual=residual)
    if input.ndim < 2:
        return input
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError(f"{op}: training=False needs running_mean and running_var; got None")
        return _by_constants(input, (running_mean, running_var), weight, bias, eps, activation, residual)
    running = _running(op, running_mean, running_var)
    if not input.numel():
        unseen = wrap(array_module(input.data).ones(channels, input.dtype))
        return batch_norm_op(input, (unseen, unseen), weight, bias, eps, None, activation, True, residual)
    n = input.numel() // channels
    if n < 2:
        raise ValueError(f"{op}: input is {input.shape}; expected more than 1 value a channel in training")
    moments = batch_moments(input)
    y = batch_norm_op(input, moments, weight, bias, eps, None, activation, residual=residual)
    if running is not None:
        move_towards(op, running, moments, n, momentum)
    return y


def _by_constants(
    x: Tensor, moments: Moments, weight: Tensor | None, bias: Tensor | None, eps: float, activation: str | None,
    residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    if is_grad_enabled() and any(p is not None and p.requires_grad for p in (x, weight, bias, residual)):
        with no_grad():  # the next batch may move them before the gradient is asked for
            moments = ops.clone(moments[0]), ops.clone(moments[1])
    return batch_norm_op(x, moments, weight, bias, eps, None, activation, True, residual)


def _running(op: str, running_mean: Tensor | None, running_var: Tensor | None) -> Moments | None:
    """Both, or None where neither is given."""
    if running_mean is not None and running_var is not None:
        return running_mean, running_var
    if running_mean is running_var:
        return None
    missing, other = ("mean", "var") if running_mean is None else ("var", "mean")
    raise ValueError(f"{op}: running_{missing} is None but running_{other} is not; expected both or neither")


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


def layer_norm_residual(
    input: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """(layer_norm(s), s), s = input + residual: a layer that is normalised first goes on from both.

    One primitive, whose gradient adds that of s; the results are those of the sum and the norm. It is not PyTorch's.

    input, residual  (..., *normalized_shape), of one shape: nothing is broadcast
    Raises ValueError for shapes, TypeError for dtypes.
    """
    shape = _require_last("layer_norm", input, normalized_shape)
    _require_shapes("layer_norm", input, input.shape, residual=residual)
    _require_affine("layer_norm", input, shape, weight, bias)
    return layer_norm_residual_op(input, residual, len(shape), weight, bias, eps)


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
    return rms_norm_op(input, len(shape), weight, _spacing(input) if eps is None else eps)


def rms_norm_residual(
    input: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(rms_norm(s), s), s = input + residual, as layer_norm_residual."""
    shape = _require_last("rms_norm", input, normalized_shape)
    _require_shapes("rms_norm", input, input.shape, residual=residual)
    _require_affine("rms_norm", input, shape, weight, None)
    return rms_norm_residual_op(input, residual, len(shape), weight, _spacing(input) if eps is None else eps)


def _spacing(x: Tensor) -> float:
    return float(np.finfo(dtypes.accumulator(x.dtype)).eps)


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
    _require_affine(op, input, (input.shape[1],), weight, bias)
    return _of_groups(input, groups, weight, bias, eps)


def _of_groups(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return batch_norm_op(x, batch_moments(x, groups), weight, bias, eps, groups)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over each channel of each image (Ulyanov, Vedaldi & Lempitsky 2016).

    input            (N, C, ...); the other tensors (C,), of input's dtype
    use_input_stats  takes the moments from the input, and moves the running ones, which may be None, towards their mean
                     over the images. Otherwise the running ones are used, as in evaluation of batch_norm

    Raises ValueError for shapes and for a single value per channel of an image, TypeError for dtypes.
    """
    op = "instance_norm"
    require_tensor(op, input=input)
    if input.ndim < 2:
        raise ValueError(f"{op}: input is {input.shape}; expected (N, C, ...)")
    channels = input.shape[1]
    _require_affine(op, input, (channels,), weight, bias)
    _require_shapes(op, input, (channels,), running_mean=running_mean, running_var=running_var)
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ValueError(f"{op}: use_input_stats=False needs running_mean and running_var; got None")
        return _by_constants(input, (running_mean, running_var), weight, bias, eps, None)
    running, n = _running(op, running_mean, running_var), math.prod(input.shape[2:])
    if n == 1:
        raise ValueError(f"{op}: input is {input.shape}; expected more than 1 value for each channel of an image")
    if not input.numel():
        unseen = wrap(array_module(input.data).ones((channels,), input.dtype))
        return batch_norm_op(input, (unseen, unseen), weight, bias, eps, frozen=True)
    moments = batch_moments(input, channels)
    y = batch_norm_op(input, moments, weight, bias, eps, channels)
    if running is not None:
        move_towards(op, running, (ops.mean(moments[0], 0), ops.mean(moments[1], 0)), n, momentum)
    return y


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(||x||_p, eps), the p-norm taken along `dim`."""
    return input / ops.clamp(ops.norm(input, p, dim, keepdim=True), min=eps)


def _require_affine(op: str, x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None) -> None:
    require_float(op, x)
    _require_shapes(op, x, shape, weight=weight, bias=bias)


def _require_shapes(op: str, x: Tensor, shape: tuple[int, ...], **tensors: Tensor | None) -> None:
    """Raise unless each tensor that is given has this shape and x's dtype."""
    for name, t in tensors.items():
        if t is None:
            continue
        if isinstance(t, Tensor):  # a short way for what fits
            a, b = t._data, x._data
            if a.shape == shape and a.dtype is b.dtype and type(a) is type(b):
                continue
        require_tensor(op, **{name: t})
        if t.shape != shape:
            raise ValueError(f"{op}: input is {x.shape} but {name} is {t.shape}; expected {shape}")
        if t.dtype != x.dtype:
            raise TypeError(f"{op}: input is {x.dtype} but {name} is {t.dtype}; expected one dtype")
        require_one_device(op, x, t)
