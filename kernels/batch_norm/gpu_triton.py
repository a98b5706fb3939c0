"""Batch and group normalisation on a GPU, in Triton: batch_norm/reference.py's formulas.

x is seen as (N, C, S). Where images share their moments and pixels lie at one stride, as channels last, it is
(1, C, N S).

    moments    a program takes BLOCK_C channels of a *part* of an image's pixels, tile by tile, and keeps the sums of
               x - m and of its square in registers. m is the mean of its first tile: the variance is then not much
               smaller than the mean of (x - m)^2. A second launch joins the parts about the mean of them all (Chan,
               Golub & LeVeque 1983)
    result     every element by itself
    gradient   the sums of dz and of dz xhat by parts; a launch that joins them; and dx, every element by itself. For
               weight and bias the same parts are added (sum/gpu_triton.py)

The parts depend on the shape alone and are joined in order: no atomics, the same bits in every run. Lanes run along the
axis with the smaller stride: over pixels in C order, over channels where those are last. relu's mask is computed again
from x, with the same fused operation as in the forward, and so with its bits. Of a sum with a residual it is taken from
y: the launch of the sums writes dz, which dx is then computed from.

Arrays of any strides are read in place where their pixels lie at one stride; others are copied first. float16, bfloat16
and float32, computed in float32.

Traffic: moments read x once, the result reads x (and a residual) and writes y, the gradient reads dy and x twice and
writes dx. With y it reads dy, y and x, writes dz, reads dz and x, and writes dx. A part adds 24 bytes a channel, for at
least 4 tiles of 2048 elements where an image is split.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.batch_norm.gpu_views import empty_like, seen, together
from tilegrad.kernels.batch_norm.reference import (
    Channels,
    check_moments,
    check_norm,
    check_norm_grad,
    check_step,
    is_channels_last,
)
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.triton_dtypes import float_dtype, no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.sum.gpu_triton import sum as sum_over

TILE = 2048  # elements
LINE = 128  # bytes
PROGRAMS = 512  # that sum over pixels, at least, if there are so many tiles
LEAST_TILES = 4  # of a part: fewer are not worth a split
_JOINED = 1024  # parts that a program joins at once


@triton.jit
def _place(channels, splits, BLOCK_C: tl.constexpr):
    """(image, split of its pixels, channels) of this program."""
    blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    c = (program % blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    part = (program // blocks).to(tl.int64)
    return part // splits, part % splits, c


@triton.jit
def _load(ptr, s, s_step, inside):
    """(BLOCK_C, BLOCK_S) in float32 of the channels that ptr points to; 0 where not inside."""
    return tl.load(ptr[:, None] + (s * s_step)[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _along(ptr, c, step, inside, otherwise: tl.constexpr):
    """Weight or bias of these channels in float32; `otherwise` where there is none."""
    if ptr is not None:
        return tl.load(ptr + c * step, mask=inside, other=0.0).to(tl.float32)
    return tl.full(c.shape, otherwise, tl.float32)


@triton.jit
def _sum_of(terms, inside):
    """The sum over a tile's second axis.

    Each thread adds what others send it to its own term. If that were a product, the two would be one fused operation,
    and the sum another number in each thread: what is selected is no product.
    """
    return tl.sum(tl.where(inside, terms, 0.0), 1)


@kernel
def _batch_moments_kernel(
    x_ptr, shift_ptr, total_ptr, square_ptr, channels, size, splits, span, x_n, x_c, x_s,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LOOPED: tl.constexpr,
):  # fmt: skip
    """x: (N, channels, size), strides in elements. shift, total, square: (N, channels, splits), of `span` pixels each:
    m, the sum of x - m, and the sum of its square.
    """
    n, k, c = _place(channels, splits, BLOCK_C)
    is_channel = c < channels
    begin = k * span
    end = tl.minimum(begin + span, size)
    x_at = x_ptr + n * x_n + c * x_c
    s = begin + tl.arange(0, BLOCK_S)
    inside = is_channel[:, None] & (s < end)[None, :]
    x = _load(x_at, s, x_s, inside)
    m = tl.sum(x, 1) / tl.minimum(end - begin, BLOCK_S).to(tl.float32)
    d = tl.where(inside, x - m[:, None], 0.0)
    total = d
    square = d * d
    if LOOPED:
        for start in range(begin + BLOCK_S, end, BLOCK_S):
            s = tl.cast(start, tl.int64) + tl.arange(0, BLOCK_S)
            inside = is_channel[:, None] & (s < end)[None, :]
            d = tl.where(inside, _load(x_at, s, x_s, inside) - m[:, None], 0.0)
            total += d
            square += d * d
    at = (n * channels + c) * splits + k
    tl.store(shift_ptr + at, m, mask=is_channel)
    tl.store(total_ptr + at, _sum_of(total, is_channel[:, None]), mask=is_channel)
    tl.store(square_ptr + at, _sum_of(square, is_channel[:, None]), mask=is_channel)


@triton.jit
def _entries(start, item, entries, item_step, inner, outer_step, BLOCK_E: tl.constexpr):
    """Where the parts of each item are, from one on, and which of them exist."""
    e = start + tl.arange(0, BLOCK_E).to(tl.int64)
    return (item * item_step)[:, None] + (e // inner * outer_step + e % inner)[None, :], (e < entries)[None, :]


@triton.jit
def _about(m, at, inside, shift_ptr, total_ptr, size, splits, span):
    """Of parts: their distance from m, their sum of x - shift, and how many pixels they have."""
    apart = tl.where(inside, tl.load(shift_ptr + at, mask=inside, other=0.0) - m[:, None], 0.0)
    return apart, tl.load(total_ptr + at, mask=inside, other=0.0), tl.minimum(size - at % splits * span, span)


@kernel
def _batch_join_kernel(
    shift_ptr, total_ptr, square_ptr, mean_ptr, var_ptr,
    items, entries, item_step, inner, outer_step, splits, span, size, count,
    BLOCK_I: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """shift, total, square: the parts of _batch_moments_kernel. mean, var: (items,), each of so many entries.

    count: the elements of an item, as a float.
    """
    item = tl.program_id(0).to(tl.int64) * BLOCK_I + tl.arange(0, BLOCK_I)
    is_item = item < items
    m = tl.load(shift_ptr + item * item_step, mask=is_item, other=0.0)
    total = tl.zeros([BLOCK_I, BLOCK_E], tl.float32)
    for start in range(0, entries, BLOCK_E):
        at, exists = _entries(start, item, entries, item_step, inner, outer_step, BLOCK_E)
        inside = is_item[:, None] & exists
        apart, part, n = _about(m, at, inside, shift_ptr, total_ptr, size, splits, span)
        total += part + n.to(tl.float32) * apart
    m = m + _sum_of(total, is_item[:, None]) / count
    total = tl.zeros([BLOCK_I, BLOCK_E], tl.float32)
    square = tl.zeros([BLOCK_I, BLOCK_E], tl.float32)
    for start in range(0, entries, BLOCK_E):
        at, exists = _entries(start, item, entries, item_step, inner, outer_step, BLOCK_E)
        inside = is_item[:, None] & exists
        apart, part, n = _about(m, at, inside, shift_ptr, total_ptr, size, splits, span)
        total += part + n.to(tl.float32) * apart
        square += tl.load(square_ptr + at, mask=inside, other=0.0) + apart * (2 * part + n.to(tl.float32) * apart)
    rest = _sum_of(total, is_item[:, None]) / count
    var = _sum_of(square, is_item[:, None]) / count - rest * rest
    tl.store(mean_ptr + item, m + rest, mask=is_item)
    tl.store(var_ptr + item, tl.where(var < 0, 0.0, var), mask=is_item)


@triton.jit
def _factors(mean_ptr, var_ptr, weight_ptr, bias_ptr, n, c, is_channel, moment_n, each, weight_step, bias_step, eps):
    """(m, rstd, weight, bias) of each channel."""
    at = n * moment_n + c // each
    m = tl.load(mean_ptr + at, mask=is_channel, other=0.0).to(tl.float32)
    var = tl.load(var_ptr + at, mask=is_channel, other=1.0).to(tl.float32)
    rstd = tl.div_rn(1.0, tl.sqrt_rn(var + eps))
    weight = _along(weight_ptr, c, weight_step, is_channel, 1.0)
    return m, rstd, weight, _along(bias_ptr, c, bias_step, is_channel, 0.0)


@triton.jit
def _affine(d, scale, bias):
    """d scale + bias: one fused operation, in the forward as in the gradient."""
    zero = tl.zeros(d.shape, tl.float32)
    return tl.fma(d, zero + scale[:, None], zero + bias[:, None])


@triton.jit
def _masked(dy, d, scale, bias, RELU: tl.constexpr):
    """dy where the forward's result was above 0."""
    if RELU:
        return tl.where(_affine(d, scale, bias) <= 0, 0.0, dy)
    return dy


@kernel
def _batch_norm_kernel(
    x_ptr, residual_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, y_ptr,
    channels, size, moment_n, each, weight_step, bias_step, blocks, x_n, x_c, x_s, residual_n, residual_c, residual_s,
    y_n, y_c, y_s, eps,
    RELU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """x, residual, y: (N, channels, size), strides in elements. mean, var: dense, those of channel c of image n at
    n moment_n + c / each.

    weight, bias: (channels,) or None; residual may be None too. blocks: of BLOCK_S pixels in an image.
    """
    n, k, c = _place(channels, blocks, BLOCK_C)
    is_channel = c < channels
    m, rstd, weight, bias = _factors(
        mean_ptr, var_ptr, weight_ptr, bias_ptr, n, c, is_channel, moment_n, each, weight_step, bias_step, eps
    )
    s = k * BLOCK_S + tl.arange(0, BLOCK_S)
    inside = is_channel[:, None] & (s < size)[None, :]
    x = _load(x_ptr + n * x_n + c * x_c, s, x_s, inside)
    y = _affine(x - m[:, None], rstd * weight, bias)
    if residual_ptr is not None:
        y += _load(residual_ptr + n * residual_n + c * residual_c, s, residual_s, inside)
    if RELU:
        y = tl.where(y <= 0, 0.0, y)
    y_at = (y_ptr + n * y_n + c * y_c)[:, None] + (s * y_s)[None, :]
    tl.store(y_at, y.to(y_ptr.dtype.element_ty), mask=inside)


@kernel
def _batch_sums_kernel(
    dy_ptr, x_ptr, y_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, dz_ptr, total_ptr, product_ptr,
    channels, size, moment_n, each, weight_step, bias_step, splits, span, dy_n, dy_c, dy_s, x_n, x_c, x_s,
    y_n, y_c, y_s, dz_n, dz_c, dz_s, eps,
    RELU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """total, product: (N, channels, splits), the sums of dz and of dz xhat over `span` pixels. The others are as
    _batch_norm_kernel takes them.

    y: whose sign is the mask, or None. dz is written where there is one.
    """
    n, k, c = _place(channels, splits, BLOCK_C)
    is_channel = c < channels
    m, rstd, weight, bias = _factors(
        mean_ptr, var_ptr, weight_ptr, bias_ptr, n, c, is_channel, moment_n, each, weight_step, bias_step, eps
    )
    begin = k * span
    end = tl.minimum(begin + span, size)
    total = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    product = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    for start in range(begin, end, BLOCK_S):
        s = tl.cast(start, tl.int64) + tl.arange(0, BLOCK_S)
        inside = is_channel[:, None] & (s < end)[None, :]
        d = _load(x_ptr + n * x_n + c * x_c, s, x_s, inside) - m[:, None]
        dy = _load(dy_ptr + n * dy_n + c * dy_c, s, dy_s, inside)
        if y_ptr is not None:
            y = _load(y_ptr + n * y_n + c * y_c, s, y_s, inside)
            dz = tl.where(y <= 0, 0.0, dy)
            dz_at = (dz_ptr + n * dz_n + c * dz_c)[:, None] + (s * dz_s)[None, :]
            tl.store(dz_at, dz.to(dz_ptr.dtype.element_ty), mask=inside)
        else:
            dz = _masked(dy, d, rstd * weight, bias, RELU)
        total += dz
        product += tl.where(inside, dz * (d * rstd[:, None]), 0.0)
    at = (n * channels + c) * splits + k
    tl.store(total_ptr + at, _sum_of(total, is_channel[:, None]), mask=is_channel)
    tl.store(product_ptr + at, _sum_of(product, is_channel[:, None]), mask=is_channel)


@kernel
def _batch_join_grad_kernel(
    total_ptr, product_ptr, weight_ptr, c1_ptr, c2_ptr,
    items, entries, item_step, inner, outer_step, splits, channels, weight_step, count,
    BLOCK_I: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """c1, c2: (items,), the means of g and of g xhat, of _batch_sums_kernel's parts. Else as _batch_join_kernel."""
    item = tl.program_id(0).to(tl.int64) * BLOCK_I + tl.arange(0, BLOCK_I)
    is_item = item < items
    total = tl.zeros([BLOCK_I, BLOCK_E], tl.float32)
    product = tl.zeros([BLOCK_I, BLOCK_E], tl.float32)
    for start in range(0, entries, BLOCK_E):
        at, exists = _entries(start, item, entries, item_step, inner, outer_step, BLOCK_E)
        inside = is_item[:, None] & exists
        w = tl.full([BLOCK_I, BLOCK_E], 1.0, tl.float32)
        if weight_ptr is not None:
            w = tl.load(weight_ptr + at // splits % channels * weight_step, mask=inside, other=0.0).to(tl.float32)
        total += w * tl.load(total_ptr + at, mask=inside, other=0.0)
        product += w * tl.load(product_ptr + at, mask=inside, other=0.0)
    tl.store(c1_ptr + item, _sum_of(total, is_item[:, None]) / count, mask=is_item)
    tl.store(c2_ptr + item, _sum_of(product, is_item[:, None]) / count, mask=is_item)


@kernel
def _batch_norm_grad_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, c1_ptr, c2_ptr, dx_ptr,
    channels, size, moment_n, each, weight_step, bias_step, blocks, dy_n, dy_c, dy_s, x_n, x_c, x_s, dx_n, dx_c, dx_s,
    eps, RELU: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """dx: (N, channels, size), strides in elements. c1, c2: as mean and var; None where these are frozen."""
    n, k, c = _place(channels, blocks, BLOCK_C)
    is_channel = c < channels
    m, rstd, weight, bias = _factors(
        mean_ptr, var_ptr, weight_ptr, bias_ptr, n, c, is_channel, moment_n, each, weight_step, bias_step, eps
    )
    s = k * BLOCK_S + tl.arange(0, BLOCK_S)
    inside = is_channel[:, None] & (s < size)[None, :]
    d = _load(x_ptr + n * x_n + c * x_c, s, x_s, inside) - m[:, None]
    dy = _load(dy_ptr + n * dy_n + c * dy_c, s, dy_s, inside)
    dx = _masked(dy, d, rstd * weight, bias, RELU) * weight[:, None]
    if c1_ptr is not None:
        at = n * moment_n + c // each
        c1 = tl.load(c1_ptr + at, mask=is_channel, other=0.0)
        c2 = tl.load(c2_ptr + at, mask=is_channel, other=0.0)
        dx = dx - c1[:, None] - d * rstd[:, None] * c2[:, None]
    dx = dx * rstd[:, None]
    dx_at = (dx_ptr + n * dx_n + c * dx_c)[:, None] + (s * dx_s)[None, :]
    tl.store(dx_at, dx.to(dx_ptr.dtype.element_ty), mask=inside)


@kernel
def _batch_step_kernel(
    running_mean_ptr, running_var_ptr, mean_ptr, var_ptr,
    channels, running_mean_step, running_var_step, mean_step, var_step, kept, taken, taken_of_var,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """All (channels,), strides in elements."""
    c = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    mean = tl.load(running_mean_ptr + c * running_mean_step, mask=inside).to(tl.float32) * kept
    mean += tl.load(mean_ptr + c * mean_step, mask=inside).to(tl.float32) * taken
    tl.store(running_mean_ptr + c * running_mean_step, mean.to(running_mean_ptr.dtype.element_ty), mask=inside)
    var = tl.load(running_var_ptr + c * running_var_step, mask=inside).to(tl.float32) * kept
    var += tl.load(var_ptr + c * var_step, mask=inside).to(tl.float32) * taken_of_var
    tl.store(running_var_ptr + c * running_var_step, var.to(running_var_ptr.dtype.element_ty), mask=inside)


def batch_moments(x: Any, groups: int | None = None) -> tuple[Any, Any]:
    """batch_norm.reference.batch_moments."""
    s = check_moments("batch_moments", x, groups)
    no_float64("batch_moments", s.dtype)
    xp = gpu.xp()
    if not s.count:
        return xp.full(s.moments, np.nan, np.float32), xp.full(s.moments, np.nan, np.float32)
    (x,) = together(s, seen(s, x, is_channels_last(x)))
    p = _parts(x)
    parts = [_empty(p) for _ in range(3)]
    _batch_moments_kernel(
        p.grid, x, *parts, p.channels, p.size, p.splits, p.span, *_steps(x),
        BLOCK_C=p.block_c, BLOCK_S=p.block_s, LOOPED=p.block_s < p.span, num_warps=p.num_warps,
    )  # fmt: skip
    mean, var = xp.empty(s.moments, np.float32), xp.empty(s.moments, np.float32)
    grid, numbers, config = _joined(s, p)
    _batch_join_kernel(grid, *parts, mean, var, *numbers, p.splits, p.span, p.size, float(s.count), **config)
    return mean, var


def batch_norm(
    x: Any,
    mean: Any,
    var: Any,
    weight: Any | None = None,
    bias: Any | None = None,
    eps: float = 1e-5,
    groups: int | None = None,
    activation: str | None = None,
    residual: Any | None = None,
) -> Any:
    """batch_norm.reference.batch_norm."""
    s = check_norm("batch_norm", x, mean, var, weight, bias, eps, groups, activation, residual=residual)
    no_float64("batch_norm", s.dtype)
    y, y_view = empty_like(s, x)
    given = [seen(s, a, is_channels_last(a)) for a in (x, residual) if a is not None]
    y_view, x, residual = (*together(s, y_view, *given), None)[:3]
    p = _parts(y_view)
    _batch_norm_kernel(
        p.all_tiles, x, residual, *map(gpu.xp().ascontiguousarray, (mean, var)), weight, bias, y_view,
        p.channels, p.size, *_moment_steps(s), _step(weight), _step(bias), p.blocks,
        *_steps(x), *_steps(residual), *_steps(y_view), float(eps),
        RELU=activation == "relu", BLOCK_C=p.block_c, BLOCK_S=p.block_s, num_warps=p.num_warps,
    )  # fmt: skip
    return y


def batch_norm_grad(
    dy: Any,
    x: Any,
    mean: Any,
    var: Any,
    weight: Any | None = None,
    bias: Any | None = None,
    eps: float = 1e-5,
    groups: int | None = None,
    activation: str | None = None,
    frozen: bool = False,
    to_weight: bool = False,
    to_bias: bool = False,
    y: Any | None = None,
) -> tuple[Any, ...]:
    """batch_norm.reference.batch_norm_grad."""
    s = check_norm_grad("batch_norm_grad", dy, x, mean, var, weight, bias, eps, groups, activation, y)
    no_float64("batch_norm_grad", s.dtype)
    xp = gpu.xp()
    (dx, dx_view), (dz, *dz_view) = empty_like(s, x), (None,) if y is None else empty_like(s, x)
    views = [seen(s, a, is_channels_last(a)) for a in (dy, x, y) if a is not None]
    dx_view, dy, x, y, dz_view = (*together(s, dx_view, *views, *dz_view), None, None)[:5]
    p = _parts(dx_view)
    given = *map(xp.ascontiguousarray, (mean, var)), weight, bias
    numbers = p.channels, p.size, *_moment_steps(s), _step(weight), _step(bias)
    config = {"BLOCK_C": p.block_c, "BLOCK_S": p.block_s, "num_warps": p.num_warps, "RELU": activation == "relu"}
    grads, means = [], [None, None]
    if s.count and (to_weight or to_bias or not frozen or y is not None):
        totals, products = _empty(p), _empty(p)
        _batch_sums_kernel(
            p.grid, dy, x, y, *given, dz_view, totals, products,
            *numbers, p.splits, p.span, *_steps(dy), *_steps(x), *_steps(y), *_steps(dz_view), float(eps), **config,
        )  # fmt: skip
        if y is not None:
            dy, config["RELU"] = dz_view, False
        if not frozen:
            means = [xp.empty(s.moments, np.float32) for _ in range(2)]
            grid, places, joining = _joined(s, p)
            _batch_join_grad_kernel(
                grid, totals, products, weight, *means, *places, p.splits, p.channels, _step(weight), float(s.count),
                **joining,
            )  # fmt: skip
        asked = [part for part, wanted in ((products, to_weight), (totals, to_bias)) if wanted]
        grads = [sum_over(part, (0, 2)).astype(s.dtype, copy=False) for part in asked]
    else:
        grads = [xp.zeros(s.channels, s.dtype) for wanted in (to_weight, to_bias) if wanted]
    _batch_norm_grad_kernel(
        p.all_tiles, dy, x, *given, *means, dx_view,
        *numbers, p.blocks, *_steps(dy), *_steps(x), *_steps(dx_view), float(eps), **config,
    )  # fmt: skip
    return dx, *grads, *([] if dz is None else [dz])


def batch_moments_step(running: list[Any], mean: Any, var: Any, count: int, momentum: float) -> None:
    """batch_norm.reference.batch_moments_step."""
    check_step("batch_moments_step", running, mean, var, count, momentum)
    float_dtype("batch_moments_step", running_mean=running[0], running_var=running[1])
    channels, arrays = mean.shape[0], (*running, mean, var)
    factors = 1.0 - momentum, float(momentum), momentum * count / (count - 1)
    _batch_step_kernel(
        (cdiv(channels, 1024),), *arrays, channels, *map(_step, arrays), *factors, BLOCK=1024, num_warps=4
    )


class _Parts(NamedTuple):
    """How (images, channels, size) is cut: into tiles, and along the pixels into `splits` parts of `span`."""

    images: int
    channels: int
    size: int
    splits: int
    span: int
    block_c: int
    block_s: int

    @property
    def blocks(self) -> int:
        """Tiles along the pixels."""
        return cdiv(self.size, self.block_s)

    @property
    def grid(self) -> tuple[int]:
        """Programs that take a part each."""
        return (self.images * self.splits * cdiv(self.channels, self.block_c),)

    @property
    def all_tiles(self) -> tuple[int]:
        """Programs that take a tile each."""
        return (self.images * self.blocks * cdiv(self.channels, self.block_c),)

    @property
    def num_warps(self) -> int:
        return min(8, max(1, self.block_c * self.block_s // 256))


def _parts(x: Any) -> _Parts:
    images, channels, size = x.shape
    wide_c, wide_s = next_power_of_2(channels), next_power_of_2(size)
    if abs(x.strides[1]) < abs(x.strides[2]):  # lanes run along the channels
        block_c = min(LINE // x.itemsize, wide_c)
        block_s = min(TILE // block_c, wide_s)
    else:
        block_s = min(TILE, wide_s)
        block_c = min(TILE // block_s, wide_c)
    tiles, programs = cdiv(size, block_s), images * cdiv(channels, block_c)
    splits = max(1, min(cdiv(PROGRAMS, max(programs, 1)), tiles // LEAST_TILES))
    span = max(1, cdiv(tiles, splits)) * block_s
    return _Parts(images, channels, size, max(1, cdiv(size, span)), span, block_c, block_s)


def _empty(p: _Parts) -> Any:
    return gpu.xp().empty((p.images, p.channels, p.splits), np.float32)


def _joined(s: Channels, p: _Parts) -> tuple[tuple[int], tuple[int, ...], dict[str, int]]:
    """(grid, numbers, tile) of a kernel that joins parts (images, channels, splits).

    numbers: items, entries of an item, from item to item, entries side by side, and from those to the next ones
    """
    if s.groups is None:
        items, entries = p.channels, p.images * p.splits
        steps = p.splits, p.splits, p.channels * p.splits
    else:
        items, entries = s.images * s.groups, p.channels // s.groups * p.splits
        steps = entries, entries, 0
    block_e = min(next_power_of_2(entries), _JOINED)
    block_i = min(next_power_of_2(items), max(1, _JOINED // block_e // 8))
    return (cdiv(items, block_i),), (items, entries, *steps), {"BLOCK_I": block_i, "BLOCK_E": block_e, "num_warps": 2}


def _moment_steps(s: Channels) -> tuple[int, int]:
    """From image to image, and channels that share a moment."""
    return (0, 1) if s.groups is None else (s.groups, s.channels // s.groups)


def _step(a: Any | None) -> int:
    return 0 if a is None else a.strides[0] // a.itemsize


def _steps(x: Any | None) -> tuple[int, ...]:
    """The strides of x (N, C, S) in elements."""
    return (0, 0, 0) if x is None else tuple([stride // x.itemsize for stride in x.strides])
