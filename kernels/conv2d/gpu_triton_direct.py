"""Convolution over few channels on a GPU, in Triton: no matrix product, a multiply-add for each tap.

Where a group has at most FEW channels to sum over, a tensor core would spend its work on padding: it takes 16 channels
a step. One channel of a 3 x 3 window (the first layer of a net, a depthwise layer) is 9 multiply-adds for each element
of y: memory bounds it, even on the float32 pipes. At 4 channels what the pipes lose is what the padding would.

    y   a program holds a tile of pixels by channels and adds, tap by tap, the pixels that the tap reads times its
        weights. All groups at once: neighbouring channels of y may belong to different groups, and read theirs
    dx  the same over the phases of conv2d/gpu_triton_windows.py, where a group has few output channels
    dw  of groups of few channels: a program holds one tap for a block of channels and sums its share of the pixels.
        (Of a single group it is a matrix product, whose columns are the taps: conv2d/gpu_triton_grad_weight.py)

Images of a single group are read through their strides, so that images of a few planes (N, 3, H, W) are taken as they
are; the weight, always.

The channel of each n is no more than n // channels a group * DEPTH, without a bound: of a depthwise layer it is n, and
the compiler sees that neighbours are neighbours. Loads are then 16 bytes wide, and what was 240 to 255 registers under
Triton 3.6 (64 loads of 4 bytes, each with an address) is 96 to 141.

Traffic: the source, which the taps find in the L1 cache after the first, and the result, once each. A thread holds 32
sums, 4 pixels by 8 channels, and reads 4 + 8 values for each tap's 32 multiply-adds.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tilegrad.kernels.activations.gpu_triton import activate
from tilegrad.kernels.conv2d.gpu_triton_windows import (
    advance,
    block,
    channels_last,
    phase_constants,
    phase_size,
    phase_taps,
    pixel,
    steps,
    tile_index,
    wide,
    window_constants,
)
from tilegrad.kernels.conv2d.reference import Conv
from tilegrad.kernels.device.addresses import are_wide
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv

BLOCK_M, BLOCK_N, WARPS = 128, 32, 4
BLOCK_P, WARPS_P = 128, 4  # pixels of a step of the gradient to the weight


@triton.jit
def _few_product(
    source_ptr, w_ptr, image, row, col, live, channel, w_base, inside, height, width, at_n, at_c, at_h, at_w,
    taps_h, taps_w, step_h, step_w, w_tap_h, w_tap_w, w_k,
    DEPTH: tl.constexpr, GROUPED: tl.constexpr, PADDED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The (BLOCK_M, BLOCK_N) tile of sums over taps (u, v) and k < DEPTH, in float32.

        tile[m, n] = sum of source[image[m], channel[n] + k, row[m] + u * step_h, col[m] + v * step_w]
                            * w[w_base[n] + u * w_tap_h + v * w_tap_w + k * w_k]

    source (N, C, height, width) with strides at_*; channel is (1, BLOCK_N) if GROUPED, else one for all n. Outside the
    image it is zero where PADDED; else there is no term: a zero times a weight that is NaN or infinite would be one.
    """
    base = image * at_n + row * at_h + col * at_w
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for tap in range(taps_h * taps_w):
        u, v = tap // taps_w, tap % taps_w
        y, x = row + u * step_h, col + v * step_w
        seen = (live & (y >= 0) & (y < height) & (x >= 0) & (x < width))[:, None]
        read = seen
        if GROUPED:  # one channel for each n; beyond the last n there is none
            read = seen & inside[None, :]
        offset = (base + u * step_h * at_h + v * step_w * at_w)[:, None]
        for k in tl.static_range(DEPTH):
            a = tl.load(source_ptr + offset + (channel + k) * at_c, mask=read, other=0.0)
            b = tl.load(w_ptr + w_base + u * w_tap_h + v * w_tap_w + k * w_k, mask=inside, other=0.0)
            term = a.to(tl.float32) * b.to(tl.float32)[None, :]
            if PADDED:
                acc += term
            else:
                acc = tl.where(seen, acc + term, acc)  # compiled to a multiply-add under a predicate
    return acc


@kernel
def _conv2d_few_kernel(
    x_ptr, w_ptr, bias_ptr, y_ptr, pixels, height, width, out_height, out_width, channels, group_channels,
    padding_h, padding_w, x_n, x_c, x_h, x_w, w_o, w_c, w_h, w_w, bias_step, slope,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, DEPTH: tl.constexpr, GROUPED: tl.constexpr,
    ACTIVATION: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """x (N, groups * DEPTH, height, width), w (channels, DEPTH, KERNEL_H, KERNEL_W) and bias (channels,) or None, any
    strides; y (pixels, channels) dense. group_channels: of y, a group.
    """
    tile_m, tile_n, _ = tile_index(tl.cdiv(channels, BLOCK_N), 1, WIDE)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < channels
    image, i, j = pixel(m, out_height, out_width)
    channel = 0
    if GROUPED:
        channel = (n // group_channels * DEPTH)[None, :]
    acc = _few_product(
        x_ptr,
        w_ptr,
        image,
        i * STRIDE_H - padding_h,
        j * STRIDE_W - padding_w,
        m < pixels,
        channel,
        n * w_o,
        inside,
        height,
        width,
        wide(x_n, WIDE),
        wide(x_c, WIDE),
        wide(x_h, WIDE),
        wide(x_w, WIDE),
        KERNEL_H,
        KERNEL_W,
        DILATION_H,
        DILATION_W,
        wide(w_h, WIDE),
        wide(w_w, WIDE),
        wide(w_c, WIDE),
        DEPTH,
        GROUPED,
        True,
        BLOCK_M,
        BLOCK_N,
    )
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + n * bias_step, mask=inside, other=0.0).to(tl.float32)[None, :]
    y = activate(acc, slope, ACTIVATION).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + m[:, None] * channels + n[None, :], y, mask=(m < pixels)[:, None] & inside[None, :])


@kernel
def _grad_input_few_kernel(
    dy_ptr, w_ptr, dx_ptr, images, height, width, out_height, out_width, channels, group_channels, padding_h,
    padding_w, dy_n, dy_o, dy_h, dy_w, w_o, w_c, w_h, w_w,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, EVERY_H: tl.constexpr, EVERY_W: tl.constexpr,
    STEP_H: tl.constexpr, STEP_W: tl.constexpr, DEPTH: tl.constexpr, GROUPED: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dy (N, groups * DEPTH, out_height, out_width) and w (groups * DEPTH, group_channels, KERNEL_H, KERNEL_W), any
    strides; dx (N, height, width, channels) dense. group_channels: of dx, a group.
    """
    tile_m, tile_n, phase = tile_index(tl.cdiv(channels, BLOCK_N), STRIDE_H * STRIDE_W, WIDE)
    phase = phase.to(tl.int32)
    phase_h, phase_w = phase // STRIDE_W, phase % STRIDE_W
    images, rows, cols = phase_size(images, height, width, phase_h, phase_w, STRIDE_H, STRIDE_W)
    first_h, taps_h, start_h = phase_taps(phase_h, padding_h, KERNEL_H, STRIDE_H, DILATION_H, EVERY_H)
    first_w, taps_w, start_w = phase_taps(phase_w, padding_w, KERNEL_W, STRIDE_W, DILATION_W, EVERY_W)

    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    image, i, j = pixel(m, rows, cols)
    live = image < images
    inside = n < channels
    channel = 0
    w_o, w_h, w_w = wide(w_o, WIDE), wide(w_h, WIDE), wide(w_w, WIDE)
    w_base = n * w_c + first_h * w_h + first_w * w_w
    if GROUPED:
        channel = n // group_channels * DEPTH
        w_base += channel * w_o - n // group_channels * group_channels * w_c
        channel = channel[None, :]
    acc = _few_product(
        dy_ptr,
        w_ptr,
        image,
        i + start_h,
        j + start_w,
        live,
        channel,
        w_base,
        inside,
        out_height,
        out_width,
        wide(dy_n, WIDE),
        wide(dy_o, WIDE),
        wide(dy_h, WIDE),
        wide(dy_w, WIDE),
        taps_h,
        taps_w,
        STEP_H,
        STEP_W,
        w_h * EVERY_H,
        w_w * EVERY_W,
        w_o,
        DEPTH,
        GROUPED,
        False,
        BLOCK_M,
        BLOCK_N,
    )
    at = ((image * height + i * STRIDE_H + phase_h) * width + j * STRIDE_W + phase_w) * channels
    dx = acc.to(dx_ptr.dtype.element_ty)
    tl.store(dx_ptr + at[:, None] + n[None, :], dx, mask=live[:, None] & inside[None, :])


@kernel
def _grad_weight_few_kernel(
    dy_ptr, x_ptr, out_ptr, pixels, share, height, width, out_height, out_width, channels, group_channels,
    in_channels, padding_h, padding_w, out_share, out_o, out_c, out_tap,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, DEPTH: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dy (pixels, channels), x (N, height, width, in_channels), dense; out (shares, channels, DEPTH, taps) with strides
    out_*, the sums over `share` pixels each. group_channels: of dy, a group. Axis 1 of the grid: the share.
    """
    column, tile_n, _ = tile_index(tl.cdiv(channels, BLOCK_N), 1, WIDE)
    tap, k = column // DEPTH, column % DEPTH
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < channels
    channel = n // group_channels * DEPTH + k
    shift_h = tap // KERNEL_W * DILATION_H - padding_h
    shift_w = tap % KERNEL_W * DILATION_W - padding_w

    part = wide(tl.program_id(1), WIDE)
    start = part * share
    stop = tl.minimum(start + share, pixels)
    m = start + tl.arange(0, BLOCK_P)
    image, i, j = pixel(m, out_height, out_width)
    acc = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    for _ in range(start, stop, BLOCK_P):
        y, x = i * STRIDE_H + shift_h, j * STRIDE_W + shift_w
        live = m < stop
        seen = live & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        at = ((image * height + y) * width + x) * in_channels
        a = tl.load(x_ptr + at[:, None] + channel[None, :], mask=seen[:, None] & inside[None, :], other=0.0)
        b = tl.load(dy_ptr + m[:, None] * channels + n[None, :], mask=live[:, None] & inside[None, :], other=0.0)
        acc += a.to(tl.float32) * b.to(tl.float32)
        m += BLOCK_P
        image, i, j = advance(image, i, j, BLOCK_P, out_height, out_width)
    dw = tl.sum(acc, axis=0).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + part * out_share + n * out_o + k * out_c + tap * out_tap, dw, mask=inside)


def conv2d(x: Any, w: Any, bias: Any, y: Any, s: Conv, activation: str | None, slope: float) -> None:
    """conv2d into y (N, OH, OW, O), which is dense."""
    grouped = s.groups > 1
    x = channels_last(x) if grouped else x
    channels = s.w_shape[0]
    pixels = y.size // channels
    block_n = block(channels, BLOCK_N)
    _conv2d_few_kernel(
        (cdiv(pixels, BLOCK_M) * cdiv(channels, block_n),),
        x,
        w,
        bias,
        y,
        pixels,
        *s.windows.image,
        *s.windows.count,
        channels,
        s.out_channels,
        *s.windows.padding,
        *steps(x),
        *steps(w),
        1 if bias is None else steps(bias)[0],
        slope,
        **window_constants(s.windows),
        DEPTH=s.in_channels,
        GROUPED=grouped,
        ACTIVATION=activation,
        WIDE=are_wide(x, w, bias, y),
        BLOCK_M=BLOCK_M,
        BLOCK_N=block_n,
        num_warps=WARPS,
    )


def grad_input(dy: Any, w: Any, dx: Any, s: Conv) -> None:
    """conv2d_grad_input into dx (N, H, W, C), which is dense."""
    grouped = s.groups > 1
    dy = channels_last(dy) if grouped else dy
    images, height, width, channels = dx.shape
    (sh, sw), block_n = s.windows.stride, block(channels, BLOCK_N)
    pixels = images * cdiv(height, sh) * cdiv(width, sw)  # of phase 0, the largest
    _grad_input_few_kernel(
        (cdiv(pixels, BLOCK_M) * cdiv(channels, block_n) * sh * sw,),
        dy,
        w,
        dx,
        images,
        height,
        width,
        *s.windows.count,
        channels,
        s.in_channels,
        *s.windows.padding,
        *steps(dy),
        *steps(w),
        **window_constants(s.windows),
        **phase_constants(s.windows),
        DEPTH=s.out_channels,
        GROUPED=grouped,
        WIDE=are_wide(dy, w, dx),
        BLOCK_M=BLOCK_M,
        BLOCK_N=block_n,
        num_warps=WARPS,
    )


def grad_weight(dy: Any, x: Any, out: Any, s: Conv, share: int, out_steps: tuple[int, ...]) -> None:
    """Sums over `share` pixels each, of dy and x with channels last, into out; its strides are (share, O, C, tap)."""
    channels = s.w_shape[0]
    pixels = dy.size // channels
    block_n = block(channels, BLOCK_N)
    _grad_weight_few_kernel(
        (s.window_size * cdiv(channels, block_n), max(1, cdiv(pixels, share))),
        dy,
        x,
        out,
        pixels,
        share,
        *s.windows.image,
        *s.windows.count,
        channels,
        s.out_channels,
        s.groups * s.in_channels,
        *s.windows.padding,
        *out_steps,
        **window_constants(s.windows),
        DEPTH=s.in_channels,
        WIDE=are_wide(dy, x, out),
        BLOCK_P=BLOCK_P,
        BLOCK_N=block_n,
        num_warps=WARPS_P,
    )
