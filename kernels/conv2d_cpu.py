"""Two-dimensional convolution on the CPU, compiled: the register tile run straight over the image, without im2col.

Inside, images are channels-last, so that the taps of one row of a window are one run of memory. With K = KH KW C:

    y   a tile is `rows` pixels of y times `vectors` vectors of its channels; its K terms are KH runs of KW * C
    dx  for each tap, a tile is `rows` pixels of dy, whose O channels are one run; the sums start from dx itself
    dw  a tile is `rows` of the K taps times `vectors` vectors of O; a row of pixels is one run. Every thread sums its
        part of the images, and the parts are added in their order

Served here are float32, groups = 1 and channel counts that whole vectors hold; all else is the reference's. Threads
share out the images. FLOP: 2 N OH OW K O each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from kernels import buffers, threads
from kernels import conv2d_reference as reference
from kernels.activations_reference import apply_activation
from kernels.tile_cpu import BIAS, HELD, LANES, NO_BIAS, ONE_RUN, ROWS, ZERO, tile, tile_shape
from kernels.windows import Pair, channels_last


class _Tables(NamedTuple):
    """Where things lie in one padded image of x and one of y, in elements; the last entries repeat to fill a tile."""

    pixels_x: np.ndarray  # the first tap of each pixel of y, in x
    pixels_y: np.ndarray  # each pixel, in y
    runs: np.ndarray  # the runs of taps that are contiguous in x, from the first tap
    run: int  # elements a run
    taps: np.ndarray  # each tap, from the first
    window: np.ndarray  # each of the K elements of a window, from the first
    window_dw: np.ndarray  # the row of dw that belongs to it
    rows: np.ndarray  # the first tap of each row of pixels, in x


@lru_cache(maxsize=256)
def _tables(
    width: int, channels: int, out_channels: int, kernel: Pair, stride: Pair, dilation: Pair, count: Pair
) -> _Tables:
    """The tables of one geometry; `width` is that of the padded image."""
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    row, column = np.arange(count[0])[:, None], np.arange(count[1])
    pixels_x = (row * sh * width + column * sw).ravel() * channels
    pixels_y = np.arange(count[0] * count[1]) * out_channels
    taps = ((np.arange(kh)[:, None] * dh * width + np.arange(kw) * dw) * channels).ravel()
    window = (taps[:, None] + np.arange(channels)).ravel()
    joined = dw == 1
    return _Tables(
        _filled(pixels_x),
        _filled(pixels_y),
        (taps.reshape(kh, kw)[:, 0] if joined else taps).astype(np.intp),
        kw * channels if joined else channels,
        taps.astype(np.intp),
        _filled(window),
        _filled(np.arange(len(window)) * out_channels),
        (row.ravel() * sh * width * channels).astype(np.intp),
    )


def _filled(table: np.ndarray) -> np.ndarray:
    """The table with its last entry repeated, so that a tile of any height may begin at any entry."""
    return np.pad(table, (0, max(ROWS.values())), mode="edge").astype(np.intp)


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    activation: str | None = None,
    precision: str = "ieee",
) -> np.ndarray:
    """conv2d_reference.conv2d; bias and ReLU are applied while the sums are in registers.

    Traffic: reads x and w once (w again from the cache for every tile), writes 4 N O OH OW bytes.
    """
    _, s = reference.check_conv2d(x, w, bias, stride, padding, dilation, groups, activation, precision)
    if not _served(x, s, s.out_channels):
        return reference.conv2d(x, w, bias, stride, padding, dilation, groups, activation, precision)
    rows, vectors = tile_shape(s.out_channels)
    width = vectors * LANES
    x_padded, t = _padded(channels_last(x, x.dtype), s), _tables_of(s)
    # (O, C, KH, KW) as panels of `width` outputs, each (K, width)
    panels = w.transpose(2, 3, 1, 0).reshape(s.window_size, -1, width).transpose(1, 0, 2)
    y = buffers.empty((s.images, *s.windows.count, s.out_channels), np.float32)
    threads.parallel(
        _forward,
        *(s.images, s.images),
        *(x_padded, np.ascontiguousarray(panels), NO_BIAS if bias is None else np.ascontiguousarray(bias), y),
        *(t.pixels_x, t.pixels_y, t.runs, t.run),
        *(rows, vectors, ZERO if bias is None else BIAS, int(activation == "relu")),
    )
    if activation not in (None, "relu"):
        apply_activation(y, activation)
    return y.transpose(0, 3, 1, 2)


@njit(nogil=True, cache=True)
def _forward(x, w, bias, y, pixels_x, pixels_y, runs, run, rows, vectors, start, relu, begin, stop, part):
    image_x, image_y = x[0].size, y[0].size
    pixels = y.shape[1] * y.shape[2]
    panels, terms, width = w.shape
    for n in range(begin, stop):
        for p in range(0, pixels, rows):
            for i in range(panels):
                tile(
                    vectors,
                    y, pixels_y, n * image_y + i * width, p,
                    x, pixels_x, n * image_x, runs, run, 1,
                    w, i * terms * width, width,
                    bias, i * width, start, relu,
                )  # fmt: skip


def conv2d_grad_input(
    dy: np.ndarray,
    w: np.ndarray,
    x_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    precision: str = "ieee",
) -> np.ndarray:
    """conv2d_reference.conv2d_grad_input, without the gradient of the columns.

    Traffic: reads dy and w once (again from the cache for every tap), writes 4 N C H W bytes.
    """
    _, s = reference.check_grad_input(dy, w, x_shape, stride, padding, dilation, groups, precision)
    if not _served(dy, s, s.in_channels):
        return reference.conv2d_grad_input(dy, w, x_shape, stride, padding, dilation, groups, precision)
    rows, vectors = tile_shape(s.in_channels)
    width = vectors * LANES
    t = _tables_of(s)
    (height, image_width), (ph, pw) = s.windows.image, s.windows.padding
    # (O, C, KH, KW) as a panel (O, width) for each tap and each `width` inputs
    panels = w.transpose(2, 3, 0, 1).reshape(s.taps, s.out_channels, -1, width).transpose(0, 2, 1, 3)
    dx = buffers.empty((s.images, height + 2 * ph, image_width + 2 * pw, s.in_channels), np.float32)
    threads.parallel(
        _grad_input,
        *(s.images, s.images),
        *(channels_last(dy, dy.dtype), np.ascontiguousarray(panels), dx),
        *(t.pixels_x, t.pixels_y, t.taps, rows, vectors),
    )
    if ph or pw:
        inner = buffers.empty((s.images, height, image_width, s.in_channels), np.float32)
        np.copyto(inner, dx[:, ph : ph + height, pw : pw + image_width])
        dx = inner
    return dx.transpose(0, 3, 1, 2)


@njit(nogil=True, cache=True)
def _grad_input(dy, w, dx, pixels_x, pixels_y, taps, rows, vectors, begin, stop, part):
    image_x, image_y = dx[0].size, dy[0].size
    pixels = dy.shape[1] * dy.shape[2]
    panels, terms, width = w.shape[1:]
    for n in range(begin, stop):
        dx[n] = 0
        for k in range(taps.size):
            for p in range(0, pixels, rows):
                for i in range(panels):
                    tile(
                        vectors,
                        dx, pixels_x, n * image_x + taps[k] + i * width, p,
                        dy, pixels_y, n * image_y, ONE_RUN, terms, 1,
                        w, (k * panels + i) * terms * width, width,
                        NO_BIAS, 0, HELD, 0,
                    )  # fmt: skip


def conv2d_grad_weight(
    dy: np.ndarray,
    x: np.ndarray,
    w_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    precision: str = "ieee",
) -> np.ndarray:
    """conv2d_reference.conv2d_grad_weight, without the columns.

    Traffic: reads dy and x once (again from the cache for every tile), writes 4 K O bytes a thread.
    """
    _, s = reference.check_grad_weight(dy, x, w_shape, stride, padding, dilation, groups, precision)
    if not _served(x, s, s.out_channels):
        return reference.conv2d_grad_weight(dy, x, w_shape, stride, padding, dilation, groups, precision)
    rows, vectors = tile_shape(s.out_channels)
    x_padded, t = _padded(channels_last(x, x.dtype), s), _tables_of(s)
    parts = np.zeros((min(threads.num_threads(), s.images), s.window_size, s.out_channels), np.float32)
    threads.parallel(
        _grad_weight,
        *(s.images, s.images),
        *(channels_last(dy, dy.dtype), x_padded, parts),
        *(t.window, t.window_dw, t.rows, s.windows.stride[1] * s.in_channels, rows, vectors),
    )
    dw = parts[0] if len(parts) == 1 else parts.sum(0)
    dw = dw.reshape(*s.windows.kernel, s.in_channels, s.out_channels)
    return np.ascontiguousarray(dw.transpose(3, 2, 0, 1))


@njit(nogil=True, cache=True)
def _grad_weight(dy, x, dw, window, window_dw, row_at, x_step, rows, vectors, begin, stop, part):
    image_x, image_y = x[0].size, dy[0].size
    terms, channels = dw.shape[1:]
    columns, width = dy.shape[2], vectors * LANES
    for n in range(begin, stop):
        for k in range(0, terms, rows):
            for i in range(0, channels, width):
                tile(
                    vectors,
                    dw, window_dw, part * terms * channels + i, k,
                    x, window, n * image_x, row_at, columns, x_step,
                    dy, n * image_y + i, channels,
                    NO_BIAS, 0, HELD, 0,
                )  # fmt: skip


def conv2d_grad_bias(dy: np.ndarray) -> np.ndarray:
    """conv2d_reference.conv2d_grad_bias, an image at a time.

    Traffic: reads 4 N O OH OW bytes once.
    """
    if dy.ndim != 4 or dy.dtype != np.float32 or not dy.size:
        return reference.conv2d_grad_bias(dy)
    n, channels, height, width = dy.shape
    sums = np.empty((n, channels), np.float32)
    threads.parallel(
        _sum_pixels,
        n if dy.nbytes > threads.WORTH_SHARING else 1,
        n,
        channels_last(dy, dy.dtype).reshape(n, height * width, channels),
        sums,
    )
    return sums.sum(0)


@njit(nogil=True, cache=True, fastmath={"reassoc"})
def _sum_pixels(dy, sums, begin, stop, part):
    for n in range(begin, stop):
        total, image = sums[n], dy[n]
        total[:] = 0
        for p in range(image.shape[0]):
            pixel = image[p]
            for c in range(total.size):
                total[c] += pixel[c]


def _served(x: np.ndarray, s: Any, channels: int) -> bool:
    return x.dtype == np.float32 and s.groups == 1 and channels % LANES == 0 and s.images > 0 and s.window_size > 0


def _tables_of(s: Any) -> _Tables:
    w = s.windows
    padded_width = w.image[1] + 2 * w.padding[1]
    return _tables(padded_width, s.in_channels, s.out_channels, w.kernel, w.stride, w.dilation, w.count)


def _padded(x: np.ndarray, s: Any) -> np.ndarray:
    """x (N, H, W, C) with its zeros around it: itself where there are none."""
    ph, pw = s.windows.padding
    if not (ph or pw):
        return x
    n, height, width, channels = x.shape
    padded = buffers.empty((n, height + 2 * ph, width + 2 * pw, channels), x.dtype)
    padded[:, :ph] = padded[:, ph + height :] = 0
    padded[:, :, :pw] = padded[:, :, pw + width :] = 0
    padded[:, ph : ph + height, pw : pw + width] = x
    return padded
