"""Two-dimensional convolution on a GPU, in Triton: an implicit matrix product over channels-last memory.

        y = columns @ weight         (M, K) @ (K, O / groups) a group

M = N OH OW pixels, K = KH KW C / groups. The columns, KH KW times as large as the image, exist nowhere: each tile of
them is gathered from the image, a row of the tile being one run of channels (cuDNN's precomputed implicit GEMM:
Chetlur et al. 2014, section 3). The sum runs over blocks of channels outside and taps inside: the KH KW tiles of one
block read nearly the same pixels, which are then in the L2 cache, and what a tap needs is arithmetic on compile-time
constants. Bias and activation are applied to the float32 sums before the only rounding.

The weight is read with its channels last too, (O, KH, KW, C / groups), as nn.Conv2d keeps it on a GPU: both operands
are then dense along the sum, the one order in which TF32 takes them, and in which loads are 16 bytes wide. The float32
pipes read shared memory along the result's channels, so where tiles are small, each tile of such a weight is turned on
its way there: one store and one barrier a step, some 50 clocks beside the 320 that the step of a 64 x 32 tile takes.
Large tiles, and weights of another order, have a copy made in each call, a launch of 2 us: read in place, an
(O, C, 3, 3) weight would cost a memory sector for each element of each tile.

Up to FEW channels a group the direct kernel serves (kernels/conv2d/gpu_triton_direct.py).

Floor: 2 M K O FLOP; reads x and w once from memory, writes y once. From the L2 cache a tile reads
(BLOCK_M + BLOCK_N) K * itemsize for 2 BLOCK_M BLOCK_N K FLOP: at 128 x 128 in halves 64 FLOP a byte, which 5.5 TB/s of
an H100's L2 turn into a bound of 350 TFLOP/s; at 128 x 256, 85 and 470. The 3 x 3 layer of 64 channels cannot have
more than 128 x 64: 43 and 235, of which the overlap of the taps in the L1 cache is to win back some.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tilegrad.kernels.activations.gpu_triton import activate
from tilegrad.kernels.conv2d import gpu_triton_direct as direct
from tilegrad.kernels.conv2d.gpu_triton_configs import rounded, tuned_products
from tilegrad.kernels.conv2d.gpu_triton_windows import (
    FEW,
    block,
    inputs_last,
    kind,
    outputs_last,
    pixel,
    steps,
    tile_index,
    wide,
    window_constants,
)
from tilegrad.kernels.conv2d.gpu_triton_windows import channels_last as in_order
from tilegrad.kernels.conv2d.reference import Conv, check_conv2d
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.addresses import are_wide
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.launch.tuning import Config
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.windows import Pair

TURNED = 16  # sums a thread, at most, beside which there are registers to turn the weight: for 32 it takes 210 to 253
LEAKY_SLOPE = 0.01  # of the activation "leaky_relu", as in the reference


@triton.jit
def window_product(
    source_ptr, w_ptr, image, row, col, live, n, count, height, width, depth, channels, taps_h, taps_w, step_h,
    step_w, w_tap_h, w_tap_w, w_k, w_n,
    PRECISION: tl.constexpr, TURNED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The (BLOCK_M, BLOCK_N) tile of windows @ weight, in float32.

        tile[m, n] = sum over taps (u, v) and k < depth of
                     source[image[m], row[m] + u * step_h, col[m] + v * step_w, k] * w[u, v, k, n]

    source (N, height, width, channels) dense, zero outside the image; its pointer is at the first channel of the group.
    w is read at u * w_tap_h + v * w_tap_w + k * w_k + n * w_n. Rows that are not live, and n from count on, are not
    meant. width, channels and the strides of w are as wide as offsets need to be.

    TURNED: w is dense along k, and turned in registers, four k at a time, on its way to the float32 pipes. These read
    it along n: as it lies, the rows of eight threads would be in the same banks of shared memory.
    """
    base = ((image * height + row) * width + col) * channels
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    taps = taps_h * taps_w
    for step in range(taps * tl.cdiv(depth, BLOCK_K)):
        tap = step % taps
        u, v = tap // taps_w, tap % taps_w
        k = step // taps * BLOCK_K + tl.arange(0, BLOCK_K)
        y, x = row + u * step_h, col + v * step_w
        seen = live & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        offset = base + (width * u * step_h + v * step_w) * channels
        a = tl.load(source_ptr + offset[:, None] + k[None, :], mask=seen[:, None] & (k < depth)[None, :], other=0.0)
        if TURNED:
            fours = step // taps * BLOCK_K + tl.arange(0, BLOCK_K // 4)[:, None, None] * 4
            k3, n3 = fours + tl.arange(0, 4)[None, None, :], n[None, :, None]
            w_offset = u * w_tap_h + v * w_tap_w + k3 * w_k + n3 * w_n
            b = tl.load(w_ptr + w_offset, mask=(k3 < depth) & (n3 < count), other=0.0)
            b = tl.reshape(tl.permute(b, (0, 2, 1)), (BLOCK_K, BLOCK_N))
        else:
            w_offset = u * w_tap_h + v * w_tap_w + (k * w_k)[:, None] + (n * w_n)[None, :]
            b = tl.load(w_ptr + w_offset, mask=(k < depth)[:, None] & (n < count)[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def terms_inside(
    source_ptr, w_ptr, image, row, col, live, n, count, height, width, depth, channels, taps_h, taps_w, step_h,
    step_w, w_tap_h, w_tap_w, w_k, w_n,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """What window_product sums, without the terms outside the image: they are left out, not multiplied by zero.

    One product at a time, on the float32 pipes: for tiles with a weight, or a source, that is NaN or infinite.
    """
    base = ((image * height + row) * width + col) * channels
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for tap in range(taps_h * taps_w):
        u, v = tap // taps_w, tap % taps_w
        y, x = row + u * step_h, col + v * step_w
        seen = live & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        a_ptrs = source_ptr + base + (width * u * step_h + v * step_w) * channels
        b_ptrs = w_ptr + u * w_tap_h + v * w_tap_w + n * w_n
        for _ in range(depth):
            a = tl.load(a_ptrs, mask=seen, other=0.0).to(tl.float32)
            b = tl.load(b_ptrs, mask=n < count, other=0.0).to(tl.float32)
            acc = tl.where(seen[:, None], acc + a[:, None] * b[None, :], acc)
            a_ptrs += 1
            b_ptrs += w_k
    return acc


@kernel
def _conv2d_kernel(
    x_ptr, w_ptr, bias_ptr, y_ptr, pixels, height, width, out_height, out_width, in_channels, out_channels, groups,
    padding_h, padding_w, w_tap, w_o, w_c, bias_step, slope,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    TURNED: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """x (N, height, width, groups * in_channels) and y (pixels, groups * out_channels), dense, pixels = N OH OW; w of
    `groups` dense blocks, within which its strides are w_tap, w_o and w_c; bias (groups * out_channels,) or None.

    LAST: y is as said; else (N, groups * out_channels, OH OW). Then the lanes of a store lie OH OW apart; their sectors
    are filled by the tile's other stores, in the L2 cache.
    """
    tile_m, tile_n, group = tile_index(tl.cdiv(out_channels, BLOCK_N), groups, WIDE)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    image, i, j = pixel(m, out_height, out_width)
    acc = window_product(
        x_ptr + group * in_channels,
        w_ptr + group * wide(out_channels, WIDE) * (in_channels * KERNEL_H * KERNEL_W),
        image,
        i * STRIDE_H - padding_h,
        j * STRIDE_W - padding_w,
        m < pixels,
        n,
        out_channels,
        height,
        wide(width, WIDE),
        in_channels,
        wide(groups, WIDE) * in_channels,
        KERNEL_H,
        KERNEL_W,
        DILATION_H,
        DILATION_W,
        wide(w_tap, WIDE) * KERNEL_W,
        wide(w_tap, WIDE),
        wide(w_c, WIDE),
        w_o,
        PRECISION,
        TURNED,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    o = group * out_channels + n
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + o * bias_step, mask=n < out_channels, other=0.0).to(tl.float32)[None, :]
    y = activate(acc, slope, ACTIVATION).to(y_ptr.dtype.element_ty)
    if LAST:
        at = m[:, None] * (groups * out_channels) + o[None, :]
    else:
        of_image = out_height * out_width
        at = (m // of_image * (groups * out_channels) * of_image + m % of_image)[:, None] + (o * of_image)[None, :]
    tl.store(y_ptr + at, y, mask=(m < pixels)[:, None] & (n < out_channels)[None, :])


_TUNED = tuned_products("conv2d", _conv2d_kernel)


def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    activation: str | None = None,
    precision: str = "ieee",
    channels_last: bool = True,
) -> Any:
    """As conv2d.reference.conv2d, for float16, bfloat16 and float32.

    Traffic: reads x at least once and w from the L2 cache, writes y once; x and w in another order than channels-last
    are read and written once more.
    """
    dtype, s = check_conv2d(x, w, bias, stride, padding, dilation, groups, activation, precision)
    no_float64("conv2d", dtype)
    few = s.in_channels <= FEW
    last = channels_last or few
    y = gpu.xp().empty((s.images, *s.windows.count, s.w_shape[0]) if last else s.y_shape, dtype)
    if few:
        direct.conv2d(x, w, bias, y, s, activation, LEAKY_SLOPE)
    else:
        _implicit_product(x, w, bias, y, s, activation, precision, last)
    y = y.transpose(0, 3, 1, 2) if last else y
    return y if channels_last else gpu.xp().ascontiguousarray(y)


def _implicit_product(
    x: Any, w: Any, bias: Any, y: Any, s: Conv, activation: str | None, precision: str, last: bool
) -> None:
    """conv2d into y, which is (N, OH, OW, O) if `last`, else (N, O, OH, OW)."""
    units = kind(x.dtype, precision)
    x = in_order(x)
    # Dense along the sum for tensor cores, along the result for the float32 pipes; or turned on its way to these.
    may_turn = units == "ieee" and w.transpose(0, 2, 3, 1).flags.c_contiguous
    lay = outputs_last if units == "ieee" else inputs_last
    bias_step = 1 if bias is None else steps(bias)[0]
    pixels = y.size // s.w_shape[0]
    sizes = *s.windows.image, *s.windows.count, s.in_channels, s.out_channels, s.groups, *s.windows.padding
    constants = window_constants(s.windows) | {"ACTIVATION": activation, "PRECISION": precision}
    constants |= {"LAST": last, "WIDE": are_wide(x, w, bias, y)}

    def run(config: Config) -> None:
        most = dict(config)
        block_m = most["BLOCK_M"]
        most["BLOCK_N"] = block_n = block(s.out_channels, most["BLOCK_N"])
        most["BLOCK_K"] = block(s.in_channels, most["BLOCK_K"])
        grid = cdiv(pixels, block_m) * cdiv(s.out_channels, block_n) * s.groups
        turned = may_turn and block_m * block_n <= TURNED * 32 * most["num_warps"]
        weight, w_steps = inputs_last(w, s) if turned else lay(w, s)
        numbers = pixels, *sizes, *w_steps, bias_step, LEAKY_SLOPE
        _conv2d_kernel((grid,), x, weight, bias, y, *numbers, TURNED=turned, **constants, **most)

    bucket = rounded(pixels), s.out_channels, s.in_channels, s.groups, s.taps
    run(_TUNED[units].choose(bucket, x.dtype, run))
