"""Pooling on the CPU, compiled: one pass over the image, channels innermost so that they fill vectors.

Served here is float32, maxima with at most 255 taps. All else is left to the reference. Each thread takes a share of
the images.

relu(maximum) is the larger of 0 and the pixels. So with relu the search begins at 0 instead of -inf, and at the tap
number that stands for no tap.

Offsets are unsigned: for an index that could be negative Numba adds a test to every element, and LLVM then does not
vectorise the loop. One thread, 2 x 2 windows over (128, 32, 26, 26), 14.5 MB moved (a plain copy of the input takes
1.0 to 1.2 ms):

    | form of the maximum                                 | ms  |
    | loops over slices x[n, row, column]                 | 5.5 |
    | the same over flat arrays with unsigned offsets     | 2.5 |
    | four taps at once, result and tap in registers      | 0.9 |

The mean of such windows takes 1.2 ms tap by tap, and 0.43 with four taps at once. Its gradient in that form is slower,
1.5 instead of 0.9: LLVM makes no vectors of a loop that stores to four places.
"""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.apart import load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import contiguous, whole
from tilegrad.kernels.cpu.rows import row as borrowed
from tilegrad.kernels.cpu.scalar_math import larger, smaller
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.pool import reference
from tilegrad.kernels.windows import Pair

_ZERO = np.float32(0)


def max_pool2d(
    x: np.ndarray,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    activation: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """pool.reference.max_pool2d.

    Traffic: reads 4 N C H W bytes once if the windows tile the image, writes 5 N C OH OW.
    """
    _, w = reference.check_max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, activation)
    if x.dtype != np.float32 or reference.tap_dtype(w) != np.uint8 or not x.size:
        return whole(reference.max_pool2d, x, kernel_size, stride, padding, dilation, ceil_mode, activation)
    shape = (len(x), *w.count, x.shape[1])
    y, tap = buffers.empty(shape, np.float32), buffers.empty(shape, np.uint8)
    arrays = _flat(x.transpose(0, 2, 3, 1)), y.reshape(-1), tap.reshape(-1)
    sizes = *x.shape[2:], *w.count, x.shape[1]
    most = len(x) if x.nbytes > threads.WORTH_SHARING else 1
    if w.kernel == (2, 2) and w.side_by_side:
        threads.share(_max_2x2, most, len(x), *arrays, *sizes, int(activation == "relu"))
    else:
        geometry = *w.kernel, *w.stride, *w.padding, *w.dilation
        threads.share(_max, most, len(x), *arrays, *sizes, int(activation == "relu"), *geometry)
    return y.transpose(0, 3, 1, 2), tap.transpose(0, 3, 1, 2)


def _flat(x: np.ndarray) -> np.ndarray:
    """Its elements in C order, copied if they do not lie so: shapes and slices take long to compile."""
    return contiguous(x).reshape(-1)


@njit(nogil=True, cache=True)
def _max(
    x, y, tap, height, width, rows, columns, channels, relu, kh, kw, sh, sw, ph, pw, dh, dw, begin, stop, part, team,
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    least = np.float32(0) if relu else np.float32(-np.inf)
    for n in range(begin, stop):
        for i in range(rows):
            for j in range(columns):
                out = np.uintp(((n * rows + i) * columns + j) * channels)
                for c in range(np.uintp(channels)):
                    y[out + c], tap[out + c] = least, np.uint8(kh * kw)
                first = not relu
                for a in range(kh):
                    row = i * sh + a * dh - ph
                    if row < 0 or row >= height:
                        continue
                    for b in range(kw):
                        column = j * sw + b * dw - pw
                        if column < 0 or column >= width:
                            continue
                        pixel = np.uintp(((n * height + row) * width + column) * channels)
                        index = np.uint8(a * kw + b)
                        for c in range(np.uintp(channels)):
                            if first:  # whatever it is: even -inf beats the padding
                                y[out + c], tap[out + c] = x[pixel + c], index
                            else:
                                y[out + c], tap[out + c] = _larger(y[out + c], tap[out + c], x[pixel + c], index)
                        first = False


@njit(nogil=True, cache=True)
def _max_2x2(x, y, tap, height, width, rows, columns, channels, relu, begin, stop, part, team):
    """Windows of 2 x 2 pixels that tile the image."""
    if team:
        share(begin, stop, part, team)
        return
    least = np.float32(0) if relu else np.float32(-np.inf)
    nobody = np.int32(4) if relu else np.int32(0)  # if no pixel is larger than -inf, the first tap wins
    for n in range(begin, stop):
        for i in range(rows):
            for j in range(columns):
                out = np.uintp(((n * rows + i) * columns + j) * channels)
                p0 = np.uintp(((n * height + 2 * i) * width + 2 * j) * channels)
                p1, p2 = p0 + np.uintp(channels), p0 + np.uintp(width * channels)
                p3 = p2 + np.uintp(channels)
                for c in range(np.uintp(channels)):
                    best, which = _larger(least, nobody, x[p0 + c], np.int32(0))
                    best, which = _larger(best, which, x[p1 + c], np.int32(1))
                    best, which = _larger(best, which, x[p2 + c], np.int32(2))
                    best, which = _larger(best, which, x[p3 + c], np.int32(3))
                    y[out + c], tap[out + c] = best, which


@njit(nogil=True)
def _larger(best, which, value, index):
    """The larger value and its index: the first of equals, and the first NaN."""
    wins = (value > best) | ((value != value) & (best == best))
    return value if wins else best, index if wins else which


def max_pool2d_grad(
    dy: np.ndarray,
    tap: np.ndarray,
    x_shape: tuple[int, int, int, int],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> np.ndarray:
    """pool.reference.max_pool2d_grad.

    Traffic: reads 5 N C OH OW bytes, writes 4 N C H W once if the windows tile the image.
    """
    _, w = reference.check_max_pool2d_grad(dy, tap, x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    if dy.dtype != np.float32 or tap.dtype != np.uint8 or not dy.size:
        return whole(reference.max_pool2d_grad, dy, tap, x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    n, c, height, width = x_shape
    dx = buffers.empty((n, height, width, c), np.float32)
    arrays = _flat(dy.transpose(0, 2, 3, 1)), _flat(tap.transpose(0, 2, 3, 1)), dx.reshape(-1)
    sizes = height, width, *w.count, c
    most = n if dx.nbytes > threads.WORTH_SHARING else 1
    if w.kernel == (2, 2) and w.side_by_side:
        threads.share(_max_grad_2x2, most, n, *arrays, *sizes)
    else:
        geometry = *w.kernel, *w.stride, *w.padding, *w.dilation, int(w.disjoint), int(w.side_by_side)
        threads.share(_max_grad, most, n, *arrays, *sizes, *geometry)
    return dx.transpose(0, 3, 1, 2)


@njit(nogil=True, cache=True)
def _max_grad_2x2(dy, tap, dx, height, width, rows, columns, channels, begin, stop, part, team):
    """Windows of 2 x 2 pixels that tile the image."""
    if team:
        share(begin, stop, part, team)
        return
    _clear(dx, begin, stop, height, width, channels, 2 * rows, 2 * columns)
    for n in range(begin, stop):
        for i in range(rows):
            for j in range(columns):
                window = np.uintp(((n * rows + i) * columns + j) * channels)
                p0 = np.uintp(((n * height + 2 * i) * width + 2 * j) * channels)
                p1, p2 = p0 + np.uintp(channels), p0 + np.uintp(width * channels)
                p3 = p2 + np.uintp(channels)
                for c in range(np.uintp(channels)):
                    value, which = load(dy, window + c), load(tap, window + c)
                    store(dx, p0 + c, value if which == 0 else _ZERO)
                    store(dx, p1 + c, value if which == 1 else _ZERO)
                    store(dx, p2 + c, value if which == 2 else _ZERO)
                    store(dx, p3 + c, value if which == 3 else _ZERO)


@njit(nogil=True, cache=True)
def _max_grad(
    dy, tap, dx, height, width, rows, columns, channels, kh, kw, sh, sw, ph, pw, dh, dw, disjoint, side_by_side,
    begin, stop, part, team,
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    covered = (rows * sh, columns * sw) if side_by_side else (0, 0)
    _clear(dx, begin, stop, height, width, channels, covered[0], covered[1])
    for n in range(begin, stop):
        for i in range(rows):
            for j in range(columns):
                window = np.uintp(((n * rows + i) * columns + j) * channels)
                for a in range(kh):
                    row = i * sh + a * dh - ph
                    if row < 0 or row >= height:
                        continue
                    for b in range(kw):
                        column = j * sw + b * dw - pw
                        if column < 0 or column >= width:
                            continue
                        pixel = np.uintp(((n * height + row) * width + column) * channels)
                        index = np.uint8(a * kw + b)
                        if disjoint:
                            for c in range(np.uintp(channels)):
                                dx[pixel + c] = dy[window + c] if tap[window + c] == index else np.float32(0)
                        else:
                            for c in range(np.uintp(channels)):
                                dx[pixel + c] += dy[window + c] if tap[window + c] == index else np.float32(0)


@njit(nogil=True)
def _clear(dx, begin, stop, height, width, channels, below, right):
    """dx = 0 from row `below` and from column `right` on: what windows that lie side by side leave over."""
    for n in range(begin, stop):
        for i in range(height):
            first = right if i < below else 0
            line = (n * height + i) * width * channels
            for j in range(line + first * channels, line + width * channels):
                store(dx, j, _ZERO)


def avg_pool2d(
    x: np.ndarray,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    """pool.reference.avg_pool2d, with the same bits.

    Traffic: reads 4 N C H W bytes once if the windows tile the image, writes 4 N C OH OW.
    """
    _, w = reference.check_avg_pool2d(x, kernel_size, stride, padding, ceil_mode, divisor_override)
    if x.dtype != np.float32 or not x.size:
        options = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        return whole(reference.avg_pool2d, x, *options)
    y = buffers.empty((len(x), *w.count, x.shape[1]), np.float32)
    arrays = _flat(x.transpose(0, 2, 3, 1)), y.reshape(-1)
    sizes = *x.shape[2:], *w.count, x.shape[1]
    most = len(x) if x.nbytes > threads.WORTH_SHARING else 1
    include_pad, override = _divisor(count_include_pad, divisor_override)
    if w.kernel == (2, 2) and w.side_by_side:
        threads.share(_avg_2x2, most, len(x), *arrays, *sizes, override or 4.0)
    else:
        geometry = *w.kernel, *w.stride, *w.padding
        threads.share(_avg, most, len(x), *arrays, *sizes, *geometry, include_pad, override)
    return y.transpose(0, 3, 1, 2)


def _divisor(count_include_pad: bool, override: int | None) -> tuple[int, float]:
    """Whether taps in the padding count, and what divides instead of a count; 0 for nothing."""
    return int(bool(count_include_pad)), 0.0 if override is None else float(np.float32(override))


@njit(nogil=True, cache=True)
def _avg(
    x, y, height, width, rows, columns, channels, kh, kw, sh, sw, ph, pw, include_pad, override,
    begin, stop, part, team,
):  # fmt: skip
    if team:
        share(begin, stop, part, team)
        return
    for n in range(begin, stop):
        for i in range(rows):
            top, bottom, tall = _within(i * sh - ph, kh, height, ph, include_pad)
            for j in range(columns):
                left, right, wide = _within(j * sw - pw, kw, width, pw, include_pad)
                out = np.uintp(((n * rows + i) * columns + j) * channels)
                for c in range(np.uintp(channels)):
                    y[out + c] = np.float32(0)
                for row in range(top, bottom):
                    for column in range(left, right):
                        pixel = np.uintp(((n * height + row) * width + column) * channels)
                        for c in range(np.uintp(channels)):
                            store(y, out + c, y[out + c] + load(x, pixel + c))
                divisor = np.float32(override if override else tall * wide)
                for c in range(np.uintp(channels)):
                    y[out + c] /= divisor


@njit(nogil=True, cache=True)
def _avg_2x2(x, y, height, width, rows, columns, channels, divisor, begin, stop, part, team):
    """Windows of 2 x 2 pixels that tile the image."""
    if team:
        share(begin, stop, part, team)
        return
    divisor = np.float32(divisor)
    for n in range(begin, stop):
        for i in range(rows):
            for j in range(columns):
                out = np.uintp(((n * rows + i) * columns + j) * channels)
                p0 = np.uintp(((n * height + 2 * i) * width + 2 * j) * channels)
                p1, p2 = p0 + np.uintp(channels), p0 + np.uintp(width * channels)
                p3 = p2 + np.uintp(channels)
                for c in range(np.uintp(channels)):
                    first = np.float32(0) + load(x, p0 + c)  # -0 becomes 0, as in the sum of any window
                    total = ((first + load(x, p1 + c)) + load(x, p2 + c)) + load(x, p3 + c)
                    store(y, out + c, total / divisor)


@njit(nogil=True)
def _within(first, kernel, size, padding, include_pad):
    """(begin, stop, how many taps count) of a window that begins at `first`, along one axis of the image."""
    begin, stop = larger(first, 0), smaller(first + kernel, size)
    return begin, stop, (smaller(first + kernel, size + padding) - first) if include_pad else stop - begin


def avg_pool2d_grad(
    dy: np.ndarray,
    x_shape: tuple[int, int, int, int],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    """pool.reference.avg_pool2d_grad; where windows overlap, a pixel's sum is in the order of the windows.

    Traffic: reads 4 N C OH OW bytes, writes 4 N C H W once if the windows tile the image.
    """
    options = kernel_size, stride, padding, ceil_mode
    _, w = reference.check_avg_pool2d_grad(dy, x_shape, *options, divisor_override)
    if dy.dtype != np.float32 or not dy.size:
        return whole(reference.avg_pool2d_grad, dy, x_shape, *options, count_include_pad, divisor_override)
    n, c, height, width = x_shape
    dx = buffers.empty((n, height, width, c), np.float32)
    most = min(n, threads.num_threads()) if dx.nbytes > threads.WORTH_SHARING else 1
    arrays = _flat(dy.transpose(0, 2, 3, 1)), dx.reshape(-1), np.empty(most * c, np.float32)
    sizes = height, width, *w.count, c
    geometry = *w.kernel, *w.stride, *w.padding, int(w.disjoint), int(w.side_by_side)
    threads.share(_avg_grad, most, n, *arrays, *sizes, *geometry, *_divisor(count_include_pad, divisor_override))
    return dx.transpose(0, 3, 1, 2)


@njit(nogil=True, cache=True)
def _avg_grad(
    dy, dx, shares, height, width, rows, columns, channels, kh, kw, sh, sw, ph, pw, disjoint, side_by_side,
    include_pad, override, begin, stop, part, team,
):  # fmt: skip
    """shares: memory for what each pixel of a window gets, a row for each piece."""
    if team:
        share(begin, stop, part, team)
        return
    covered = (rows * sh, columns * sw) if side_by_side else (0, 0)
    _clear(dx, begin, stop, height, width, channels, covered[0], covered[1])
    each = borrowed(shares, part * channels, channels)
    for n in range(begin, stop):
        for i in range(rows):
            top, bottom, tall = _within(i * sh - ph, kh, height, ph, include_pad)
            for j in range(columns):
                left, right, wide = _within(j * sw - pw, kw, width, pw, include_pad)
                window = np.uintp(((n * rows + i) * columns + j) * channels)
                divisor = np.float32(override if override else tall * wide)
                for c in range(np.uintp(channels)):
                    store(each, c, load(dy, window + c) / divisor)
                for row in range(top, bottom):
                    for column in range(left, right):
                        pixel = np.uintp(((n * height + row) * width + column) * channels)
                        if disjoint:
                            for c in range(np.uintp(channels)):
                                store(dx, pixel + c, load(each, c))
                        else:
                            for c in range(np.uintp(channels)):
                                store(dx, pixel + c, dx[pixel + c] + load(each, c))
