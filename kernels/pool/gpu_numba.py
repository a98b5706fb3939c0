"""Pooling on a GPU, in Numba-CUDA: the formulas of pool/reference.py.

    row i of what is written:   c0 c1 c2 | c0 c1 c2 | c0 c1 c2 | ...
                                column 0   column 1   column 2
    threadIdx.x                  0  1  2    3  4  5    6  7  8   ...     neighbours write neighbours
    threadIdx.y                 rows i, i + 1, ... of an image; blockIdx.z: images

All arrays are channels-last in memory; an array that is not is copied once. A thread computes one element of the
result, and visits what is read for it: the taps of a window forward, the windows over a pixel backward. The gradients
therefore *gather*: every pixel of dx is written once, by one thread, without atomics, also where windows overlap. Terms
are added in float32, in the order of pool/gpu_triton.py, so that two runs agree to the bit.

Traffic: the floor, for windows that tile the image, is
    max_pool2d       N C H W * itemsize read, N C OH OW * (itemsize + 1) written
    max_pool2d_grad  N C OH OW * (itemsize + 1) read, N C H W * itemsize written
    avg_pool2d       N C H W * itemsize read, N C OH OW * itemsize written; its gradient the reverse
What windows share is read again, mostly from the caches. The ceiling is memory bandwidth. How near a kernel comes to it
depends on its instructions, since a thread does all the index arithmetic of its one element: an H200 can issue about 7
instructions for each byte of float32 that it moves. A 2 x 2 maximum moves 21 bytes an element, which leaves room
enough; its gradient moves about 5, and the instructions are the limit, as they are everywhere in float16. To keep them
few, kernel size, stride and dilation are compiled in (taps are unrolled, divisions become multiplications), loops count
without dividing, and an element's column and channel cost one division of 32 bits. relu moves no more bytes: the search
for the maximum begins at 0, with a number that is no tap's, and the gradient finds no pixel with this number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from numpy import float32, int64, uint32

from tilegrad.kernels.device.images import channels_first, channels_last, empty_images
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_images import threads_over
from tilegrad.kernels.launch.numba_kernel import Axes, Kernel, kernel
from tilegrad.kernels.launch.numba_target import cuda, device
from tilegrad.kernels.pool.reference import (
    check_avg_pool2d,
    check_avg_pool2d_grad,
    check_max_pool2d,
    check_max_pool2d_grad,
    tap_dtype,
)
from tilegrad.kernels.windows import Pair, Windows

_ZERO = float32(0)
_LEAST = float32(-math.inf)


@device
def _column(along, channels):
    """(column, channel) of an element of a row. The division is of 32 bits: one of 64 would take most of the time."""
    column = int64(uint32(along) // uint32(channels))
    return column, along - column * channels


@device
def _wins(v, best, which):
    """Whether v is larger: the first of equals and the first NaN win; before the first pixel `which` is -1."""
    return which < 0 or (best == best and not v <= best)


@device
def _given(row, column, height, width, pad_down, pad_right, given):
    """The divisor of the window that begins at (row, column)."""
    return given


@functools.cache
def _counting(down: int, right: int, in_padding: bool) -> Callable:
    """As _given, but it counts the taps in the image, and with in_padding also those in the padding around it."""

    @device
    def _counted(first, taps, size, pad):
        stop = min(first + taps, size + pad)
        return stop - first if in_padding else min(stop, size) - max(first, 0)

    @device
    def _divisor(row, column, height, width, pad_down, pad_right, given):
        rows = _counted(row, down, height, pad_down)
        return float32(rows * _counted(column, right, width, pad_right))

    return _divisor


@functools.cache
def _max_kernel(size: Pair, stride: Pair, dilation: Pair, edges: bool, relu: bool) -> Kernel:
    """edges: windows reach beyond the image."""
    (down, right), (stride_down, stride_right), (apart_down, apart_right) = size, stride, dilation
    # relu(maximum) is the larger of 0 and the pixels; where 0 wins, no tap does.
    least, nobody = (_ZERO, down * right) if relu else (_LEAST, -1)

    @kernel
    def _max_pool2d_kernel(x, y, tap, pad_down, pad_right):
        """x: (images, height, width, channels). y, tap: (images, rows, columns, channels)."""
        images, rows, columns, channels = y.shape
        height, width = x.shape[1], x.shape[2]
        along, first_row, first_image = cuda.grid(3)
        _, row_step, image_step = cuda.gridsize(3)
        if along >= columns * channels:
            return
        j, c = _column(along, channels)
        column = j * stride_right - pad_right
        n = first_image
        while n < images:  # a range with a step would divide to count its iterations
            i = first_row
            while i < rows:
                row = i * stride_down - pad_down
                best, which = least, nobody
                for kh in range(down):
                    h = row + kh * apart_down
                    for kw in range(right):
                        w = column + kw * apart_right
                        if not edges or (0 <= h < height and 0 <= w < width):
                            v = float32(x[n, h, w, c])
                            if _wins(v, best, which):
                                best, which = v, kh * right + kw
                y[n, i, j, c] = best
                tap[n, i, j, c] = which if which >= 0 else down * right  # a window of padding alone
                i += row_step
            n += image_step

    return _max_pool2d_kernel


@functools.cache
def _max_grad_kernel(size: Pair, stride: Pair, dilation: Pair, over: Pair) -> Kernel:
    """over: windows over a pixel, at most."""
    (down, right), (stride_down, stride_right), (apart_down, apart_right) = size, stride, dilation
    over_down, over_right = over

    @kernel
    def _max_pool2d_grad_kernel(dy, tap, dx, pad_down, pad_right):
        """dy, tap: (images, rows, columns, channels). dx: (images, height, width, channels)."""
        rows, columns = dy.shape[1], dy.shape[2]
        images, height, width, channels = dx.shape
        along, first_row, first_image = cuda.grid(3)
        _, row_step, image_step = cuda.gridsize(3)
        if along >= width * channels:
            return
        w, c = _column(along, channels)
        last_j = (w + pad_right) // stride_right  # of the last window over the pixel, if there is one
        n = first_image
        while n < images:
            h = first_row
            while h < height:
                last_i = (h + pad_down) // stride_down
                total = _ZERO
                for up in range(over_down):
                    i = last_i - up
                    away_down = h + pad_down - i * stride_down  # from the start of the window
                    for left in range(over_right):
                        j = last_j - left
                        away_right = w + pad_right - j * stride_right
                        if 0 <= i < rows and 0 <= j < columns:
                            here = away_down // apart_down * right + away_right // apart_right
                            is_tap = away_down % apart_down == 0 and away_right % apart_right == 0
                            # A distance beyond the window is no tap, though `here` may name one of the next row.
                            is_tap = is_tap and away_down < down * apart_down and away_right < right * apart_right
                            d = float32(dy[n, i, j, c])  # loaded at the same time as the tap
                            total += d if is_tap and tap[n, i, j, c] == here else _ZERO
                dx[n, h, w, c] = total
                h += row_step
            n += image_step

    return _max_pool2d_grad_kernel


@functools.cache
def _avg_kernel(size: Pair, stride: Pair, edges: bool, divisor: Callable) -> Kernel:
    (down, right), (stride_down, stride_right) = size, stride

    @kernel
    def _avg_pool2d_kernel(x, y, pad_down, pad_right, given):
        """x: (images, height, width, channels). y: (images, rows, columns, channels)."""
        images, rows, columns, channels = y.shape
        height, width = x.shape[1], x.shape[2]
        along, first_row, first_image = cuda.grid(3)
        _, row_step, image_step = cuda.gridsize(3)
        if along >= columns * channels:
            return
        j, c = _column(along, channels)
        column = j * stride_right - pad_right
        n = first_image
        while n < images:
            i = first_row
            while i < rows:
                row = i * stride_down - pad_down
                total = _ZERO
                for kh in range(down):
                    h = row + kh
                    for kw in range(right):
                        w = column + kw
                        if not edges or (0 <= h < height and 0 <= w < width):
                            total += float32(x[n, h, w, c])
                y[n, i, j, c] = total / divisor(row, column, height, width, pad_down, pad_right, given)
                i += row_step
            n += image_step

    return _avg_pool2d_kernel


@functools.cache
def _avg_grad_kernel(size: Pair, stride: Pair, over: Pair, divisor: Callable) -> Kernel:
    """over: windows over a pixel, at most."""
    (down, right), (stride_down, stride_right) = size, stride
    over_down, over_right = over

    @kernel
    def _avg_pool2d_grad_kernel(dy, dx, pad_down, pad_right, given):
        """dy: (images, rows, columns, channels). dx: (images, height, width, channels)."""
        rows, columns = dy.shape[1], dy.shape[2]
        images, height, width, channels = dx.shape
        along, first_row, first_image = cuda.grid(3)
        _, row_step, image_step = cuda.gridsize(3)
        if along >= width * channels:
            return
        w, c = _column(along, channels)
        last_j = (w + pad_right) // stride_right  # of the last window over the pixel, if there is one
        n = first_image
        while n < images:
            h = first_row
            while h < height:
                last_i = (h + pad_down) // stride_down
                total = _ZERO
                for up in range(over_down):
                    i = last_i - up
                    row = i * stride_down - pad_down
                    for left in range(over_right):
                        j = last_j - left
                        column = j * stride_right - pad_right
                        if 0 <= i < rows and 0 <= j < columns and h - row < down and w - column < right:
                            d = float32(dy[n, i, j, c])
                            total += d / divisor(row, column, height, width, pad_down, pad_right, given)
                dx[n, h, w, c] = total
                h += row_step
            n += image_step

    return _avg_pool2d_grad_kernel


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
    only_served("max_pool2d", dtype)
    images, channels = x.shape[:2]
    y, tap = empty_images(images, w.count, channels, dtype), empty_images(images, w.count, channels, tap_dtype(w))
    launch = _max_kernel(w.kernel, w.stride, w.dilation, w.has_edges, activation == "relu")
    launch(*_threads_over(y), channels_last(x), y, tap, *w.padding)
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
    only_served("max_pool2d_grad", dtype)
    dx = empty_images(x_shape[0], w.image, x_shape[1], dtype)
    launch = _max_grad_kernel(w.kernel, w.stride, w.dilation, w.over_a_pixel)
    launch(*_threads_over(dx), channels_last(dy), channels_last(tap), dx, *w.padding)
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
    only_served("avg_pool2d", dtype)
    y = empty_images(x.shape[0], w.count, x.shape[1], dtype)
    divisor, given = _divisor(w, count_include_pad, divisor_override)
    launch = _avg_kernel(w.kernel, w.stride, w.has_edges, divisor)
    launch(*_threads_over(y), channels_last(x), y, *w.padding, given)
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
    only_served("avg_pool2d_grad", dtype)
    dx = empty_images(x_shape[0], w.image, x_shape[1], dtype)
    divisor, given = _divisor(w, count_include_pad, divisor_override)
    launch = _avg_grad_kernel(w.kernel, w.stride, w.over_a_pixel, divisor)
    launch(*_threads_over(dx), channels_last(dy), dx, *w.padding, given)
    return channels_first(dx)


def _threads_over(written: Any) -> tuple[Axes, Axes]:
    """launch.numba_images.threads_over. Raises ValueError for rows that are too long to be counted in 32 bits."""
    _, _, columns, channels = written.shape
    if columns * channels >= 1 << 32:
        raise ValueError(f"pooling: a row of {columns} x {channels} elements; the backend 'numba' takes up to 2^32 - 1")
    return threads_over(written)


def _divisor(w: Windows, count_include_pad: bool, override: int | None) -> tuple[Callable, float]:
    """(the device function that gives the divisor of a window, and its argument `given`)."""
    if override is not None:
        return _given, float(override)
    if not w.has_edges:
        return _given, float(w.tap_count)
    return _counting(*w.kernel, bool(count_include_pad)), 0.0
