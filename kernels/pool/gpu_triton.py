"""Pooling on a GPU, in Triton: the formulas of pool/reference.py, on channels-last memory.

A program computes a block of (pixels x neighbouring channels) of the result, and visits what is read for each pixel:
the taps of a window forward, the windows over a pixel backward. The gradients therefore *gather*: every pixel
of dx is written once, by one thread, without atomics, also where windows overlap. The order of the terms is that of
the reference, in float32, so that two runs agree to the bit.

float16, bfloat16 and float32. An array that is not channels-last is copied once.

Traffic: the floor, for windows that tile the image, is
    max_pool2d       N C H W * itemsize read, N C OH OW * (itemsize + 1) written
    max_pool2d_grad  N C OH OW * (itemsize + 1) read, N C H W * itemsize written
    avg_pool2d       N C H W * itemsize read, N C OH OW * itemsize written; its gradient the reverse
What windows share (forward: overlapping windows; backward: every dy) is read again, mostly from the caches: pixels that
share it are neighbours in one block or lie a row of the image apart. At 2 to 6 operations a byte memory is the limit.

A block is 1024 elements on 4 warps, 8 a thread: one 16-byte load of halves or two of floats for each tap, and up to 4
taps of a 2 x 2 window in flight. Of floats with taps beside them it is 512: the compiler gives a thread as many
neighbours as bytes of taps are one store, and two loads of 8 floats in a row would each use half of every sector. The
geometry is constexpr: a network has few of them, and divisions by them become multiplications. Up to 16 taps are
unrolled. relu moves no more bytes: the search for the maximum begins at 0, with a number that is no tap's, and the
gradient finds no pixel with this number.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tilegrad.kernels.device.addresses import fits
from tilegrad.kernels.device.images import channels_first, channels_last, empty_images
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import Kernel, kernel
from tilegrad.kernels.pool.reference import (
    check_avg_pool2d,
    check_avg_pool2d_grad,
    check_max_pool2d,
    check_max_pool2d_grad,
    tap_dtype,
)
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.windows import Pair, Windows

BLOCK = 1024  # elements of a program
ONE_LOAD = 16 * 128  # bytes of a program: a load of each thread
CHANNELS = 128  # at most, of a block: 256 bytes of halves are two cache lines
UNROLLED = 16  # taps or windows at most


@triton.jit
def _block(pixels, channels, blocks, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WIDE: tl.constexpr):
    """This program's pixels, as a column, its channels, as a row, and which of both exist.

    blocks: how many blocks of channels there are. All blocks lie along one axis of the grid: CUDA counts the other axes
    in 16 bits.
    """
    block = tl.program_id(0)
    if WIDE:  # else they are counted in 32 bits: what follows divides them
        block = block.to(tl.int64)
    p = (block // blocks * BLOCK_P + tl.arange(0, BLOCK_P))[:, None]
    c = (block % blocks * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    return p, c, (p < pixels) & (c < channels)


@triton.jit
def _larger(best, which, x, k, inside):
    """The larger value and its tap: the first of equals, the first NaN. `which` is -1 before the first pixel."""
    wins = inside & ((which < 0) | ((best == best) & ~(x <= best)))
    return tl.where(wins, x, best), tl.where(wins, k, which)


@triton.jit
def _is_tap(window, away, windows, K: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, OVER: tl.constexpr):
    """Along one axis, whether the window exists and has a tap at the distance `away` from its start."""
    found = (window >= 0) & (window < windows)
    if OVER * STRIDE > DILATION * (K - 1) + 1:  # else no distance that occurs is beyond the last tap
        found = found & (away <= DILATION * (K - 1))
    if DILATION > 1:
        found = found & (away % DILATION == 0)
    return found


@triton.jit
def _counted(first, size, K: tl.constexpr, PAD: tl.constexpr, DIVISOR: tl.constexpr):
    """Along one axis, how many taps of the window that begins there count."""
    stop = tl.minimum(first + K, size + PAD)
    if DIVISOR == "pixels":
        first = tl.maximum(first, 0)
        stop = tl.minimum(stop, size)
    return stop - first


@triton.jit
def _divisor(row, column, height, width, given, K: tl.constexpr, PAD: tl.constexpr, DIVISOR: tl.constexpr):
    """What the sum over the window that begins at (row, column) is divided by; DIVISOR is as _counting names it."""
    if DIVISOR == "given":
        divisor = given
    elif DIVISOR == "taps":
        divisor = K[0] * K[1] * 1.0
    else:
        rows = _counted(row, height, K[0], PAD[0], DIVISOR)
        divisor = (rows * _counted(column, width, K[1], PAD[1], DIVISOR)).to(tl.float32)
    return divisor


@kernel
def _max_pool2d_kernel(
    x_ptr, y_ptr, tap_ptr, pixels, channels, blocks, height, width, rows, columns,
    K: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DILATION: tl.constexpr, RELU: tl.constexpr,
    EDGES: tl.constexpr, UNROLL: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """x: (images, height, width, channels). y, tap: (images, rows, columns, channels), pixels * channels elements."""
    p, c, exists = _block(pixels, channels, blocks, BLOCK_P, BLOCK_C, WIDE)
    row, column = p // columns % rows * STRIDE[0] - PAD[0], p % columns * STRIDE[1] - PAD[1]
    first = x_ptr + ((p // columns // rows * height + row).to(tl.int64) * width + column) * channels + c
    column_stride = tl.cast(channels, tl.int64)
    row_stride = width * column_stride

    # relu(maximum) is the larger of 0 and the pixels; where 0 wins, no tap does.
    best = tl.full((BLOCK_P, BLOCK_C), 0.0 if RELU else float("-inf"), tl.float32)
    which = tl.full((BLOCK_P, BLOCK_C), K[0] * K[1] if RELU else -1, tl.int32)
    for k in tl.range(K[0] * K[1], loop_unroll_factor=UNROLL):
        down, right = k // K[1] * DILATION[0], k % K[1] * DILATION[1]
        inside = exists
        if EDGES:
            inside &= (row >= -down) & (row < height - down) & (column >= -right) & (column < width - right)
        x = tl.load(first + (down * row_stride + right * column_stride), mask=inside).to(tl.float32)
        best, which = _larger(best, which, x, k, inside)
    if EDGES:
        which = tl.where(which < 0, K[0] * K[1], which)  # a window of padding alone

    out = p.to(tl.int64) * channels + c
    tl.store(y_ptr + out, best.to(y_ptr.dtype.element_ty), mask=exists)
    tl.store(tap_ptr + out, which.to(tap_ptr.dtype.element_ty), mask=exists)


@kernel
def _max_pool2d_grad_kernel(
    dy_ptr, tap_ptr, dx_ptr, pixels, channels, blocks, height, width, rows, columns,
    K: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DILATION: tl.constexpr, OVER: tl.constexpr,
    EDGES: tl.constexpr, UNROLL: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """dy, tap: (images, rows, columns, channels). dx: (images, height, width, channels), pixels * channels elements."""
    p, c, exists = _block(pixels, channels, blocks, BLOCK_P, BLOCK_C, WIDE)
    row, column = p // width % height + PAD[0], p % width + PAD[1]
    i, j = row // STRIDE[0], column // STRIDE[1]  # of the last window over the pixel, if there is one
    last = ((p // width // height * rows + i).to(tl.int64) * columns + j) * channels + c
    column_stride = tl.cast(channels, tl.int64)
    row_stride = columns * column_stride

    dx = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for t in tl.range(OVER[0] * OVER[1], loop_unroll_factor=UNROLL):
        up, left = t // OVER[1], t % OVER[1]
        down, right = row % STRIDE[0] + up * STRIDE[0], column % STRIDE[1] + left * STRIDE[1]
        found = exists & _is_tap(i - up, down, rows, K[0], STRIDE[0], DILATION[0], OVER[0])
        found = found & _is_tap(j - left, right, columns, K[1], STRIDE[1], DILATION[1], OVER[1])
        window = last - (up * row_stride + left * column_stride)
        dy = tl.load(dy_ptr + window, mask=found, other=0.0).to(tl.float32)
        tap = tl.load(tap_ptr + window, mask=found, other=0).to(tl.int32)
        here = down // DILATION[0] * K[1] + right // DILATION[1]
        dx += tl.where(tap == here, dy, 0.0)  # selected, not multiplied: 0 * inf does not arise
    tl.store(dx_ptr + p.to(tl.int64) * channels + c, dx.to(dx_ptr.dtype.element_ty), mask=exists)


@kernel
def _avg_pool2d_kernel(
    x_ptr, y_ptr, pixels, channels, blocks, height, width, rows, columns, given,
    K: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DILATION: tl.constexpr, DIVISOR: tl.constexpr,
    EDGES: tl.constexpr, UNROLL: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """x: (images, height, width, channels). y: (images, rows, columns, channels), pixels * channels elements."""
    p, c, exists = _block(pixels, channels, blocks, BLOCK_P, BLOCK_C, WIDE)
    row, column = p // columns % rows * STRIDE[0] - PAD[0], p % columns * STRIDE[1] - PAD[1]
    first = x_ptr + ((p // columns // rows * height + row).to(tl.int64) * width + column) * channels + c
    column_stride = tl.cast(channels, tl.int64)
    row_stride = width * column_stride

    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for k in tl.range(K[0] * K[1], loop_unroll_factor=UNROLL):
        down, right = k // K[1], k % K[1]
        inside = exists
        if EDGES:
            inside &= (row >= -down) & (row < height - down) & (column >= -right) & (column < width - right)
        x = tl.load(first + (down * row_stride + right * column_stride), mask=inside, other=0.0)
        total += x.to(tl.float32)
    y = tl.div_rn(total, _divisor(row, column, height, width, given, K, PAD, DIVISOR))
    tl.store(y_ptr + p.to(tl.int64) * channels + c, y.to(y_ptr.dtype.element_ty), mask=exists)


@kernel
def _avg_pool2d_grad_kernel(
    dy_ptr, dx_ptr, pixels, channels, blocks, height, width, rows, columns, given,
    K: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DILATION: tl.constexpr, OVER: tl.constexpr,
    DIVISOR: tl.constexpr, EDGES: tl.constexpr, UNROLL: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """dy: (images, rows, columns, channels). dx: (images, height, width, channels), pixels * channels elements."""
    p, c, exists = _block(pixels, channels, blocks, BLOCK_P, BLOCK_C, WIDE)
    row, column = p // width % height + PAD[0], p % width + PAD[1]
    i, j = row // STRIDE[0], column // STRIDE[1]  # of the last window over the pixel, if there is one
    last = ((p // width // height * rows + i).to(tl.int64) * columns + j) * channels + c
    column_stride = tl.cast(channels, tl.int64)
    row_stride = columns * column_stride

    dx = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for t in tl.range(OVER[0] * OVER[1], loop_unroll_factor=UNROLL):
        up, left = t // OVER[1], t % OVER[1]
        down, right = row % STRIDE[0] + up * STRIDE[0], column % STRIDE[1] + left * STRIDE[1]
        found = _is_tap(i - up, down, rows, K[0], STRIDE[0], DILATION[0], OVER[0])
        found = found & _is_tap(j - left, right, columns, K[1], STRIDE[1], DILATION[1], OVER[1])
        window = last - (up * row_stride + left * column_stride)
        dy = tl.load(dy_ptr + window, mask=exists & found, other=0.0).to(tl.float32)
        divisor = _divisor(row - PAD[0] - down, column - PAD[1] - right, height, width, given, K, PAD, DIVISOR)
        dx += tl.where(found, tl.div_rn(dy, divisor), 0.0)  # where there is no window, the divisor may be 0
    tl.store(dx_ptr + p.to(tl.int64) * channels + c, dx.to(dx_ptr.dtype.element_ty), mask=exists)


def max_pool2d(
    x: Any,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    activation: str | None = None,
) -> tuple[Any, Any]:
    """pool.reference.max_pool2d."""
    dtype, w = check_max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, activation)
    no_float64("max_pool2d", dtype)
    images, channels = x.shape[:2]
    y, tap = empty_images(images, w.count, channels, dtype), empty_images(images, w.count, channels, tap_dtype(w))
    _launch(_max_pool2d_kernel, (channels_last(x), y, tap), y.shape, w, w.tap_count, RELU=activation == "relu")
    return channels_first(y), channels_first(tap)


def max_pool2d_grad(
    dy: Any,
    tap: Any,
    x_shape: tuple[int, int, int, int],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> Any:
    """pool.reference.max_pool2d_grad."""
    dtype, w = check_max_pool2d_grad(dy, tap, x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    no_float64("max_pool2d_grad", dtype)
    dx = empty_images(x_shape[0], w.image, x_shape[1], dtype)
    over = w.over_a_pixel
    arrays = channels_last(dy), channels_last(tap), dx
    _launch(_max_pool2d_grad_kernel, arrays, dx.shape, w, over[0] * over[1], OVER=over)
    return channels_first(dx)


def avg_pool2d(
    x: Any,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """pool.reference.avg_pool2d."""
    dtype, w = check_avg_pool2d(x, kernel_size, stride, padding, ceil_mode, divisor_override)
    no_float64("avg_pool2d", dtype)
    y = empty_images(x.shape[0], w.count, x.shape[1], dtype)
    given, counting = _counting(w, count_include_pad, divisor_override)
    _launch(_avg_pool2d_kernel, (channels_last(x), y), y.shape, w, w.tap_count, given, DIVISOR=counting)
    return channels_first(y)


def avg_pool2d_grad(
    dy: Any,
    x_shape: tuple[int, int, int, int],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """pool.reference.avg_pool2d_grad."""
    dtype, w = check_avg_pool2d_grad(dy, x_shape, kernel_size, stride, padding, ceil_mode, divisor_override)
    no_float64("avg_pool2d_grad", dtype)
    dx = empty_images(x_shape[0], w.image, x_shape[1], dtype)
    over = w.over_a_pixel
    given, counting = _counting(w, count_include_pad, divisor_override)
    arrays = channels_last(dy), dx
    _launch(_avg_pool2d_grad_kernel, arrays, dx.shape, w, over[0] * over[1], given, OVER=over, DIVISOR=counting)
    return channels_first(dx)


def _launch(kernel: Kernel, arrays: tuple, written: tuple[int, ...], w: Windows, visits: int, *rest: Any, **more: Any):
    """Launch over blocks of the result, of shape `written`; visits: taps or windows that a pixel visits."""
    images, rows, columns, channels = written
    pixels = images * rows * columns
    if pixels * channels == 0:
        return
    block_c = min(CHANNELS, next_power_of_2(channels))
    sizes = [array.itemsize for array in arrays]
    block_p = (BLOCK if min(sizes) == max(sizes) else ONE_LOAD // max(sizes)) // block_c
    blocks = cdiv(channels, block_c)
    most = images * max(w.image[0] * w.image[1], w.count[0] * w.count[1])
    kernel(
        (cdiv(pixels, block_p) * blocks,), *arrays, pixels, channels, blocks, *w.image, *w.count, *rest,
        K=w.kernel, STRIDE=w.stride, PAD=w.padding, DILATION=w.dilation, **more,
        EDGES=w.has_edges, UNROLL=visits if visits <= UNROLLED else 1,
        BLOCK_P=block_p, BLOCK_C=block_c, WIDE=not fits(most) or not fits(channels),
    )  # fmt: skip


def _counting(w: Windows, count_include_pad: bool, override: int | None) -> tuple[float, str]:
    """(the divisor if it is given, what counts as divisor): "given", "taps" (all of the window), "padded" (those in the
    padded image) or "pixels" (those in the image).
    """
    if override is not None:
        return float(override), "given"
    if not w.has_edges:
        return 0.0, "taps"
    return 0.0, "padded" if count_include_pad else "pixels"
