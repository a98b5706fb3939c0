"""Max pooling on the CPU, compiled: one pass over the image, channels innermost so that they fill vectors.

Served here is float32 with at most 256 taps; all else, and average pooling, is the reference's. Threads share out the
images.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels import buffers, threads
from kernels import pool_reference as reference
from kernels.windows import Pair, channels_last


def max_pool2d(
    x: np.ndarray,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """pool_reference.max_pool2d.

    Traffic: reads 4 N C H W bytes once if the windows tile the image, writes 5 N C OH OW.
    """
    _, w = reference.check_max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
    if x.dtype != np.float32 or w.kernel[0] * w.kernel[1] > 256 or not x.size:
        return reference.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
    shape = (len(x), *w.count, x.shape[1])
    y, tap = buffers.empty(shape, np.float32), buffers.empty(shape, np.uint8)
    threads.parallel(
        _max, len(x), len(x), channels_last(x, x.dtype), y, tap, *w.kernel, *w.stride, *w.padding, *w.dilation
    )
    return y.transpose(0, 3, 1, 2), tap.transpose(0, 3, 1, 2)


@njit(nogil=True, cache=True)
def _max(x, y, tap, kh, kw, sh, sw, ph, pw, dh, dw, begin, stop, part):
    height, width, channels = x.shape[1:]
    for n in range(begin, stop):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                best, which = y[n, i, j], tap[n, i, j]
                best[:] = -np.inf
                which[:] = 0
                first = True
                for a in range(kh):
                    row = i * sh + a * dh - ph
                    if row < 0 or row >= height:
                        continue
                    for b in range(kw):
                        column = j * sw + b * dw - pw
                        if column < 0 or column >= width:
                            continue
                        pixel, index = x[n, row, column], np.uint8(a * kw + b)
                        if first:  # even -inf beats the padding
                            best[:] = pixel
                            which[:] = index
                            first = False
                            continue
                        for c in range(channels):
                            value, have = pixel[c], best[c]
                            # The first maximum wins, and so does the first NaN.
                            wins = (value > have) | ((value != value) & (have == have))
                            best[c] = value if wins else have
                            which[c] = index if wins else which[c]


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
    """pool_reference.max_pool2d_grad.

    Traffic: reads 5 N C OH OW bytes, writes 4 N C H W once if the windows tile the image.
    """
    _, w = reference.check_max_pool2d_grad(dy, tap, x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    if dy.dtype != np.float32 or tap.dtype != np.uint8 or not dy.size:
        return reference.max_pool2d_grad(dy, tap, x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    n, c, height, width = x_shape
    dx = buffers.empty((n, height, width, c), np.float32)
    threads.parallel(
        _max_grad,
        *(n, n),
        *(channels_last(dy, dy.dtype), channels_last(tap, tap.dtype), dx),
        *(*w.kernel, *w.stride, *w.padding, *w.dilation, w.disjoint),
    )
    return dx.transpose(0, 3, 1, 2)


@njit(nogil=True, cache=True)
def _max_grad(dy, tap, dx, kh, kw, sh, sw, ph, pw, dh, dw, disjoint, begin, stop, part):
    height, width, channels = dx.shape[1:]
    dense = disjoint and kh == sh and kw == sw and ph == 0 and pw == 0 and dh == 1 and dw == 1
    for n in range(begin, stop):
        if dense:  # the windows lie side by side: only the rest of the image is not written below
            dx[n, dy.shape[1] * sh :] = 0
            dx[n, :, dy.shape[2] * sw :] = 0
        else:
            dx[n] = 0
        for i in range(dy.shape[1]):
            for j in range(dy.shape[2]):
                gradient, which = dy[n, i, j], tap[n, i, j]
                for a in range(kh):
                    row = i * sh + a * dh - ph
                    if row < 0 or row >= height:
                        continue
                    for b in range(kw):
                        column = j * sw + b * dw - pw
                        if column < 0 or column >= width:
                            continue
                        pixel, index = dx[n, row, column], np.uint8(a * kw + b)
                        if disjoint:
                            for c in range(channels):
                                pixel[c] = gradient[c] if which[c] == index else np.float32(0)
                        else:
                            for c in range(channels):
                                pixel[c] += gradient[c] if which[c] == index else np.float32(0)
