"""Moments, and batch normalisation by them."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.autograd.record import record
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import axes_of, floating
from tilegrad.keras.backend.origins import origin, remember
from tilegrad.ops.normalization import batch_moments, batch_norm
from tilegrad.ops.operands import cast, normalize_axes, normalize_axis
from tilegrad.tensor import Tensor


def moments(x: Any, axes: Any, keepdims: bool = False, synchronized: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the axes; of 16-bit types computed in float32."""
    if synchronized:
        raise NotImplementedError("nn.moments: synchronized=True is not implemented in the tilegrad backend")
    x = floating(x)
    if x.data.dtype in dtypes.HALVES:
        mean, variance = moments(cast(x, dtypes.float32), axes, keepdims)
        return _cut(mean, x), _cut(variance, x)
    over = normalize_axes("moments", axes_of(axes), x.ndim)
    kept = [d for d in range(x.ndim) if d not in over]
    if len(kept) != 1 or x.ndim < 2 or not x.numel():
        return tg.mean(x, over, keepdims), tg.var(x, over, 0, keepdims)
    mean, variance = _of_channels(x, kept[0])
    if keepdims:
        shape = [x.shape[d] if d in kept else 1 for d in range(x.ndim)]
        mean, variance = mean.reshape(shape), variance.reshape(shape)
    return mean, variance


def _cut(y: Tensor, like: Tensor) -> Tensor:
    """y in a 16-bit dtype, its infinities as the largest numbers there are."""
    from ml_dtypes import finfo

    most = float(finfo(like.dtype).max)
    return cast(tg.clamp(y, -most, most), like.data.dtype)


def _of_channels(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Of each entry along the axis: by the primitive, dx = (dmean + 2 (x - mean) dvariance) / n."""
    n = x.numel() // x.shape[axis]
    shape = [-1 if d == axis else 1 for d in range(x.ndim)]
    found = batch_moments(x.movedim(axis, 1).detach())
    means = found[0].reshape(shape)

    def of_mean(dy: Tensor) -> tuple:
        return (tg.div(dy.reshape(shape), float(n)).expand(x.shape),)

    def of_variance(dy: Tensor) -> tuple:
        return (tg.mul(tg.sub(x, means), tg.mul(dy.reshape(shape), 2.0 / n)),)

    mean = record("mean", found[0].data, (x,), of_mean)
    variance = record("var", found[1].data, (x,), of_variance)
    return remember(mean, "moments", (x, axis)), remember(variance, "moments", (x, axis))


def batch_normalization(
    x: Any, mean: Any, variance: Any, axis: int, offset: Any = None, scale: Any = None, epsilon: float = 1e-3
) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) scale + offset, for each entry along an axis.

    By the primitive where mean and variance are x's own moments, or constants.
    """
    x, mean, variance = floating(x), convert_to_tensor(mean), convert_to_tensor(variance)
    d = normalize_axis("batch_normalization", axis, x.ndim)
    weight, bias = [None if p is None else convert_to_tensor(p, dtype=x.dtype) for p in (scale, offset)]
    is_own = all(_is_of(m, x, d) for m in (mean, variance))
    if x.ndim >= 2 and (is_own or not (mean.requires_grad or variance.requires_grad)):
        statistics = mean.detach(), variance.detach()
        y = batch_norm(x.movedim(d, 1), statistics, weight, bias, epsilon, frozen=not is_own)
        return y.movedim(1, d)
    shape = [-1 if k == d else 1 for k in range(x.ndim)]
    factor = tg.rsqrt(tg.add(variance, epsilon))
    factor = factor if weight is None else tg.mul(factor, weight)
    y = tg.mul(tg.sub(x, mean.reshape(shape)), factor.reshape(shape))
    return y if bias is None else tg.add(y, bias.reshape(shape))


def _is_of(moment: Tensor, x: Tensor, axis: int) -> bool:
    """Whether this is one of x's own moments along the axis."""
    found = origin(moment, "moments")
    return found is not None and found[0] is x and found[1] == axis
