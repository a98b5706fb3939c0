"""Gradient of conv2d with respect to its input on a GPU, in Triton: the implicit matrix product of
conv2d/gpu_triton.py.

Every pixel of dx gathers from the windows that read it, so that each element is written once, by one program, and no
atomic is needed. A strided convolution is taken phase by phase (conv2d/gpu_triton_windows.py), all of them in one
launch.

        dx = gathered dy @ weight.T         (M, K) @ (K, C / groups) a group and phase

M = N H W / (stride_h stride_w) pixels, K = O / groups times the taps of the phase. The sum runs over output channels.
Half precision takes the weight in the order of the forward, (O, KH, KW, C / groups): where that is the weight's own,
nothing is copied. TF32 tensor cores take operands that are dense along the sum only: for them the weight is copied to
(groups, C / groups, KH, KW, O / groups).

Up to FEW output channels a group the direct kernel serves (kernels/conv2d/gpu_triton_direct.py).

Floor: the FLOP of the forward; reads dy and w once from memory, writes dx once.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tilegrad.kernels.conv2d import gpu_triton_direct as direct
from tilegrad.kernels.conv2d.gpu_triton import terms_inside, window_product
from tilegrad.kernels.conv2d.gpu_triton_configs import GRAD_INPUT_PRODUCTS, rounded, tuned_products
from tilegrad.kernels.conv2d.gpu_triton_windows import (
    FEW,
    block,
    channels_last,
    inputs_last,
    kind,
    outputs_last,
    phase_constants,
    phase_size,
    phase_taps,
    pixel,
    tile_index,
    wide,
    window_constants,
)
from tilegrad.kernels.conv2d.reference import Conv, check_grad_input
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.addresses import are_wide
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.launch.tuning import Config
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.windows import Pair


@triton.jit
def _write(
    dx_ptr, sums, image, i, j, n, images, height, width, channels, count, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr
):  # fmt: skip
    """The sums of pixels (image, i, j) of a phase and channels n < count; dx is at the phase's first pixel."""
    at = ((image * height + i * STRIDE_H) * width + j * STRIDE_W) * channels
    mask = (image < images)[:, None] & (n < count)[None, :]
    tl.store(dx_ptr + at[:, None] + n[None, :], sums.to(dx_ptr.dtype.element_ty), mask=mask)


@kernel
def _conv2d_grad_input_kernel(
    dy_ptr, w_ptr, dx_ptr, images, height, width, out_height, out_width, in_channels, out_channels, groups,
    padding_h, padding_w, w_tap, w_o, w_c,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, EVERY_H: tl.constexpr, EVERY_W: tl.constexpr,
    STEP_H: tl.constexpr, STEP_W: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dy (N, out_height, out_width, groups * out_channels), dx (N, height, width, groups * in_channels), dense; w of
    `groups` dense blocks, within which its strides are w_tap, w_o and w_c.
    """
    across = tl.cdiv(in_channels, BLOCK_N)
    tile_m, tile_n, other = tile_index(across, groups * (STRIDE_H * STRIDE_W), WIDE)
    group, phase = other // (STRIDE_H * STRIDE_W), (other % (STRIDE_H * STRIDE_W)).to(tl.int32)
    phase_h, phase_w = phase // STRIDE_W, phase % STRIDE_W
    images, rows, cols = phase_size(images, height, width, phase_h, phase_w, STRIDE_H, STRIDE_W)
    first_h, taps_h, start_h = phase_taps(phase_h, padding_h, KERNEL_H, STRIDE_H, DILATION_H, EVERY_H)
    first_w, taps_w, start_w = phase_taps(phase_w, padding_w, KERNEL_W, STRIDE_W, DILATION_W, EVERY_W)

    w_tap, w_o = wide(w_tap, WIDE), wide(w_o, WIDE)
    dy_ptr += group * out_channels
    w_ptr += group * wide(out_channels, WIDE) * (in_channels * KERNEL_H * KERNEL_W)
    w_ptr += (first_h * KERNEL_W + first_w) * w_tap
    dx_ptr += ((phase_h * wide(width, WIDE) + phase_w) * groups + group) * in_channels
    source = out_height, wide(out_width, WIDE), out_channels, wide(groups, WIDE) * out_channels
    walk = taps_h, taps_w, STEP_H, STEP_W, w_tap * (EVERY_H * KERNEL_W), w_tap * EVERY_W, w_o, w_c
    written = images, height, width, groups * in_channels, in_channels, STRIDE_H, STRIDE_W

    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    image, i, j = pixel(m, rows, cols)
    acc = window_product(
        dy_ptr, w_ptr, image, i + start_h, j + start_w, image < images, n, in_channels, *source, *walk,
        PRECISION, False, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    if tl.max((acc != acc).to(tl.int32)) == 0:
        _write(dx_ptr, acc, image, i, j, n, *written)
    else:  # perhaps because a zero outside the image met a weight that is NaN or infinite
        SIDE: tl.constexpr = 16  # of its parts, of few registers each
        # Where the tile begins, from what was to be stored: else it would be kept in registers all through the sum.
        first_m, first_n = tl.min((image * rows + i) * cols + j), tl.min(n)
        for part in range((BLOCK_M // SIDE) * (BLOCK_N // SIDE)):
            part_m = first_m + part // (BLOCK_N // SIDE) * SIDE + tl.arange(0, SIDE)
            part_n = first_n + part % (BLOCK_N // SIDE) * SIDE + tl.arange(0, SIDE)
            part_image, part_i, part_j = pixel(part_m, rows, cols)
            sums = terms_inside(
                dy_ptr, w_ptr, part_image, part_i + start_h, part_j + start_w, part_image < images, part_n,
                in_channels, *source, *walk, SIDE, SIDE,
            )  # fmt: skip
            _write(dx_ptr, sums, part_image, part_i, part_j, part_n, *written)


_TUNED = tuned_products("conv2d_grad_input", _conv2d_grad_input_kernel, products=GRAD_INPUT_PRODUCTS)


def conv2d_grad_input(
    dy: Any,
    w: Any,
    x_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    precision: str = "ieee",
) -> Any:
    """As conv2d.reference.conv2d_grad_input, for float16, bfloat16 and float32.

    Traffic: reads dy at least once and w from the L2 cache, writes dx once; dy and w in another order than
    channels-last are read and written once more.
    """
    dtype, s = check_grad_input(dy, w, x_shape, stride, padding, dilation, groups, precision)
    no_float64("conv2d_grad_input", dtype)
    dx = gpu.xp().empty((s.images, *s.windows.image, s.groups * s.in_channels), dtype)
    if dx.size:
        if s.out_channels <= FEW:
            direct.grad_input(dy, w, dx, s)
        else:
            _implicit_product(dy, w, dx, s, precision)
    return dx.transpose(0, 3, 1, 2)


def _implicit_product(dy: Any, w: Any, dx: Any, s: Conv, precision: str) -> None:
    units = kind(dy.dtype, precision)
    dy = channels_last(dy)
    # Dense along the sum for TF32, along the result for the float32 pipes; half precision takes either.
    w, w_steps = outputs_last(w, s) if units in ("tf32", "tf32x3") else inputs_last(w, s)
    sizes = s.images, *s.windows.image, *s.windows.count, s.in_channels, s.out_channels, s.groups, *s.windows.padding
    constants = window_constants(s.windows) | phase_constants(s.windows)
    constants |= {"PRECISION": precision, "WIDE": are_wide(dy, w, dx)}
    (height, width), (sh, sw) = s.windows.image, s.windows.stride
    pixels = s.images * cdiv(height, sh) * cdiv(width, sw)  # of phase 0, the largest

    def run(config: Config) -> None:
        most = dict(config)
        most["BLOCK_N"] = block_n = block(s.in_channels, most["BLOCK_N"])
        most["BLOCK_K"] = block(s.out_channels, most["BLOCK_K"])
        grid = cdiv(pixels, most["BLOCK_M"]) * cdiv(s.in_channels, block_n) * s.groups * sh * sw
        _conv2d_grad_input_kernel((grid,), dy, w, dx, *sizes, *w_steps, **constants, **most)

    bucket = rounded(pixels), s.in_channels, s.out_channels, s.groups * sh * sw, s.taps
    run(_TUNED[units].choose(bucket, dy.dtype, run))
