"""Two-dimensional convolution on NumPy: the specification.

A convolution is a matrix product once every window is laid out as a row of *columns* (im2col; Chellapilla,
Puri & Simard 2006). The columns are KH * KW times as large as the image, so they are made, used and
overwritten tile by tile, in memory that stays in the cache. Here images are channels-last: a row of the
window is then one run of memory.

Shapes, per group: M windows in a tile, K = KH * KW * C / groups taps of a window.

    y  = columns @ weight         (M, K) @ (K, O / groups)
    dw = columns.T @ dy           summed over the tiles
    dx = col2im(dy @ weight.T)    each tap's (M, C / groups) added where the tap read
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tilegrad.kernels.activations.reference import ACTIVATIONS, apply_activation, relu_grad
from tilegrad.kernels.checks import PRECISIONS, accumulator, float_dtype, is_int, one_of, remembered, require
from tilegrad.kernels.windows import Pair, Windows, channels_first, channels_last, image_shape, taps, windows

TILE_BYTES = 1 << 20  # columns and output of one tile: half of a 2 MB cache


class Conv(NamedTuple):
    """The sizes of one convolution, checked."""

    images: int
    groups: int
    in_channels: int  # of one group
    out_channels: int  # of one group
    windows: Windows

    @property
    def taps(self) -> int:
        return self.windows.tap_count

    @property
    def window_size(self) -> int:
        return self.taps * self.in_channels

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return self.groups * self.out_channels, self.in_channels, *self.windows.kernel

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.images, self.groups * self.out_channels, *self.windows.count


@np.errstate(over="ignore", invalid="ignore")  # infinity and NaN are results like any other
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
    channels_last: bool = True,
) -> np.ndarray:
    """2-D cross-correlation, with bias and activation in the epilogue.

        y[n, o, i, j] = activation(bias[o] + sum over (c, kh, kw) of
                                   w[o, c, kh, kw] * x[n, c, i * sh + kh * dh - ph, j * sw + kw * dw - pw])

    x           (N, C, H, W) float16 | bfloat16 | float32 | float64, any strides; zero outside the image
    w           (O, C / groups, KH, KW) of x's dtype; group g of the outputs sees group g of the inputs only
    bias        (O,) of x's dtype, or None
    stride      (sh, sw); likewise padding (ph, pw) and dilation (dh, dw)
    activation  a name of ACTIVATIONS, or None
    precision   "ieee" | "tf32" | "tf32x3": what float32 products may be rounded to on tensor cores; NumPy
                always computes "ieee"
    channels_last  how y lies in memory: else in C order, for who flattens its images
    ->          y (N, O, OH, OW) of x's dtype; 16-bit types are accumulated in float32

    Traffic: reads x and w at least once, writes N O OH OW * itemsize; the columns, KH KW times the image,
    pass through the cache in tiles.
    Raises ValueError for shapes, geometry, activation and precision, TypeError for dtypes.
    """
    dtype, s = check_conv2d(x, w, bias, stride, padding, dilation, groups, activation, precision)
    accumulate = accumulator(dtype)
    images, channels, height, width = s.y_shape
    y = np.empty((images, height, width, channels), accumulate)
    weight = _taps_first(w, s, accumulate).reshape(s.groups, s.window_size, s.out_channels)
    bias_row = None if bias is None else np.tile(bias.astype(accumulate), width)  # for long inner loops
    for tile, columns in _im2col(x, s, accumulate):
        np.matmul(columns, weight, out=_group_matrices(y[tile], s))
        if bias is not None:
            rows = y[tile].reshape(-1, width * channels)
            rows += bias_row
        apply_activation(y[tile], activation)
    y = channels_first(y, dtype)
    return y if channels_last else np.ascontiguousarray(y)


@np.errstate(over="ignore", invalid="ignore")
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
    """Gradient of conv2d with respect to its input: a transposed convolution.

        dx[n, c, i * sh + kh * dh - ph, j * sw + kw * dw - pw] += sum over o of
                                                                  w[o, c, kh, kw] * dy[n, o, i, j]

    dy       (N, O, OH, OW) float16 | bfloat16 | float32 | float64, any strides
    w        (O, C / groups, KH, KW) of dy's dtype
    x_shape  (N, C, H, W); the other arguments are those of the forward
    ->       dx (N, C, H, W) of dy's dtype, channels-last in memory; 16-bit types are accumulated in float32

    Traffic: reads dy and w at least once, writes N C H W * itemsize; the gradient of the columns, KH KW times
    the image, passes through the cache in tiles.
    Raises ValueError for shapes, geometry and precision, TypeError for dtypes.
    """
    dtype, s = check_grad_input(dy, w, x_shape, stride, padding, dilation, groups, precision)
    accumulate = accumulator(dtype)
    dy = channels_last(dy, accumulate)
    dx = np.zeros((s.images, *s.windows.image, s.groups * s.in_channels), accumulate)
    weight = np.ascontiguousarray(_taps_first(w, s, accumulate).swapaxes(2, 3))
    memory = None
    for tile in _tiles(s, accumulate):
        dy_tile = _group_matrices(dy[tile], s)[:, None]
        shape = s.groups, s.taps, dy_tile.shape[2], s.in_channels
        size = math.prod(shape)
        memory = np.empty(size, accumulate) if memory is None else memory  # the first tile is the largest
        columns = np.matmul(dy_tile, weight, out=memory[:size].reshape(shape))
        _col2im(columns, dx, tile, s)
    return channels_first(dx, dtype)


@np.errstate(over="ignore", invalid="ignore")
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
    """Gradient of conv2d with respect to its weight.

        dw[o, c, kh, kw] = sum over (n, i, j) of
                           dy[n, o, i, j] * x[n, c, i * sh + kh * dh - ph, j * sw + kw * dw - pw]

    dy       (N, O, OH, OW) float16 | bfloat16 | float32 | float64, any strides
    x        (N, C, H, W) of dy's dtype
    w_shape  (O, C / groups, KH, KW); the other arguments are those of the forward
    ->       dw (O, C / groups, KH, KW) of dy's dtype; 16-bit types are accumulated in float32

    Traffic: reads dy and x at least once, writes O C/groups KH KW * itemsize; the columns, KH KW times the
    image, pass through the cache in tiles.
    Raises ValueError for shapes, geometry and precision, TypeError for dtypes.
    """
    dtype, s = check_grad_weight(dy, x, w_shape, stride, padding, dilation, groups, precision)
    accumulate = accumulator(dtype)
    dy = channels_last(dy, accumulate)
    dw = np.zeros((s.groups, s.window_size, s.out_channels), accumulate)
    for tile, columns in _im2col(x, s, accumulate):
        dw += columns.swapaxes(1, 2) @ _group_matrices(dy[tile], s)
    dw = dw.reshape(s.groups, *s.windows.kernel, s.in_channels, s.out_channels)
    return np.ascontiguousarray(dw.transpose(0, 4, 3, 1, 2), dtype).reshape(s.w_shape)


@np.errstate(over="ignore", invalid="ignore")
def conv2d_grad_bias(dy: np.ndarray) -> np.ndarray:
    """Gradient of conv2d with respect to its bias: db[o] = sum over (n, i, j) of dy[n, o, i, j].

    dy  (N, O, OH, OW) float16 | bfloat16 | float32 | float64, any strides
    ->  db (O,) of dy's dtype; 16-bit types are accumulated in float32

    Traffic: reads N O OH OW * itemsize, writes O * itemsize.
    Raises ValueError if dy has not 4 dimensions, TypeError for dtypes.
    """
    op = "conv2d_grad_bias"
    dtype = float_dtype(op, dy=dy)
    images, channels, height, width = image_shape(op, "dy", dy.shape)

    accumulate = accumulator(dtype)
    # Over the images first: long inner loops, and two short sums lose less to rounding than one long one.
    over_images = channels_last(dy, accumulate).reshape(images, height * width * channels).sum(axis=0)
    return over_images.reshape(height * width, channels).sum(axis=0).astype(dtype, copy=False)


def conv2d_grad(
    dy: np.ndarray,
    y: np.ndarray | None,
    x: np.ndarray | None,
    w: np.ndarray | None,
    x_shape: tuple[int, int, int, int],
    w_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    bias: bool = False,
    like: np.ndarray | None = None,
    precision: str = "ieee",
) -> tuple[np.ndarray, ...]:
    """The gradients of y = conv2d(x, w, b), or of its relu, in one call: what they share is computed once.

        dz = dy where y > 0, as relu_grad has it, or dy
        dx = conv2d_grad_input(dz, w)     if w is given
        dw = conv2d_grad_weight(dz, x)    if x is given
        db = conv2d_grad_bias(dz)         if bias is true

    dy    (N, O, OH, OW) float16 | bfloat16 | float32 | float64, any strides
    y     of dy's shape and dtype: the result of conv2d with activation "relu"; None: it had no activation
    x, w  the operands of the forward, or None
    like  an array of w's shape in whose memory order dw is to lie, mostly the weight; None: in C order
    ->    those of dx, dw, db that are asked for, in this order

    Traffic: at least that of the gradients one by one, of which dy (and y) count once.
    Raises what the gradients raise one by one.
    """
    parts = Parts(relu_grad, conv2d_grad_input, conv2d_grad_weight, conv2d_grad_bias, copied_like)
    geometry = stride, padding, dilation, groups
    return one_by_one(parts, dy, y, x, w, x_shape, w_shape, geometry, bias, like, precision)


def copied_like(a: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A copy of a in the memory order of an array of its shape."""
    copy = np.empty_like(like, a.dtype)
    copy[...] = a
    return copy


class Parts(NamedTuple):
    """The primitives of a backend that conv2d_grad is made of, and copied(a, like): a in the memory order of `like`."""

    relu_grad: Callable[..., Any]
    grad_input: Callable[..., Any]
    grad_weight: Callable[..., Any]
    grad_bias: Callable[..., Any]
    copied: Callable[[Any, Any], Any]


def one_by_one(
    parts: Parts,
    dy: Any,
    y: Any,
    x: Any,
    w: Any,
    x_shape: tuple[int, int, int, int],
    w_shape: tuple[int, int, int, int],
    geometry: tuple[Pair, Pair, Pair, int],
    bias: bool,
    like: Any,
    precision: str,
) -> tuple[Any, ...]:
    """conv2d_grad by the backend's other primitives, for backends without a kernel that does more."""
    dz = dy if y is None else parts.relu_grad(dy, y)
    found = []
    if w is not None:
        found.append(parts.grad_input(dz, w, x_shape, *geometry, precision))
    if x is not None:
        dw = parts.grad_weight(dz, x, w_shape, *geometry, precision)
        found.append(dw if like is None else parts.copied(dw, like))
    if bias:
        found.append(parts.grad_bias(dz))
    return tuple(found)


def check_conv2d(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    activation: str | None,
    precision: str,
) -> tuple[np.dtype, Conv]:
    """Raise as conv2d does; the dtype and the sizes."""
    op = "conv2d"
    dtype = float_dtype(op, x=x, w=w, bias=bias)
    s = _sizes(op, "x", x.shape, "w", w.shape, stride, padding, dilation, groups)
    bias_fits = bias is None or bias.shape == s.w_shape[:1]
    require(bias_fits, op, f"bias is {None if bias is None else bias.shape}; expected {s.w_shape[:1]}")
    one_of(op, "activation", activation, (None, *ACTIVATIONS))
    one_of(op, "precision", precision, PRECISIONS)
    return dtype, s


def check_grad_input(
    dy: np.ndarray,
    w: np.ndarray,
    x_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    precision: str,
) -> tuple[np.dtype, Conv]:
    """Raise as conv2d_grad_input does; the dtype and the sizes."""
    op = "conv2d_grad_input"
    dtype = float_dtype(op, dy=dy, w=w)
    s = _sizes(op, "x_shape", x_shape, "w", w.shape, stride, padding, dilation, groups)
    if dy.shape != s.y_shape:
        raise ValueError(f"{op}: dy is {dy.shape}; expected {s.y_shape}")
    one_of(op, "precision", precision, PRECISIONS)
    return dtype, s


def check_grad_weight(
    dy: np.ndarray,
    x: np.ndarray,
    w_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    precision: str,
) -> tuple[np.dtype, Conv]:
    """Raise as conv2d_grad_weight does; the dtype and the sizes."""
    op = "conv2d_grad_weight"
    dtype = float_dtype(op, dy=dy, x=x)
    s = _sizes(op, "x", x.shape, "w_shape", w_shape, stride, padding, dilation, groups)
    if dy.shape != s.y_shape:
        raise ValueError(f"{op}: dy is {dy.shape}; expected {s.y_shape}")
    one_of(op, "precision", precision, PRECISIONS)
    return dtype, s


@remembered
def _sizes(
    op: str,
    x_name: str,
    x_shape: Any,
    w_name: str,
    w_shape: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> Conv:
    images, channels, height, width = image_shape(op, x_name, x_shape)
    out_channels, in_channels, kernel_h, kernel_w = image_shape(op, w_name, w_shape, axes="(O, C / groups, KH, KW)")
    if not is_int(groups):
        raise TypeError(f"{op}: groups is {groups!r}; expected an int")
    require(groups >= 1, op, f"groups is {groups}; expected >= 1")
    shapes = f"{x_name} is {tuple(x_shape)} and {w_name} is {tuple(w_shape)} with groups={groups}"
    require(channels == groups * in_channels, op, f"{shapes}; expected {w_name}[1] * groups == {channels}")
    divides = out_channels > 0 and out_channels % groups == 0
    require(divides, op, f"{shapes}; expected {w_name}[0] to be a positive multiple of groups")
    geometry = windows(op, (height, width), (kernel_h, kernel_w), stride, padding, dilation)
    return Conv(images, groups, in_channels, out_channels // groups, geometry)


def _taps_first(w: np.ndarray, s: Conv, dtype: np.dtype) -> np.ndarray:
    """w (O, C / groups, KH, KW) as (groups, taps, C / groups, O / groups)."""
    grouped = w.reshape(s.groups, s.out_channels, s.in_channels, s.taps)
    return grouped.transpose(0, 3, 2, 1).astype(dtype, order="C")


def _group_matrices(y: np.ndarray, s: Conv) -> np.ndarray:
    """y (n, rows, OW, O), dense, as one matrix a group: a view (groups, n * rows * OW, O / groups)."""
    windows_of_tile = math.prod(y.shape[:3])
    return y.reshape(windows_of_tile, s.groups, s.out_channels).swapaxes(0, 1)


def _tiles(s: Conv, dtype: np.dtype) -> Iterator[tuple[slice, slice]]:
    """Cut the output into tiles (images, rows): a few whole images or, if they are large, rows of one."""
    height, width = s.windows.count
    row_bytes = width * s.groups * (s.window_size + s.out_channels) * dtype.itemsize
    rows_that_fit = max(1, TILE_BYTES // row_bytes)
    images, rows = max(1, rows_that_fit // height), min(rows_that_fit, height)
    for n in range(0, s.images, images):
        for row in range(0, height, rows):
            yield slice(n, min(n + images, s.images)), slice(row, min(row + rows, height))


def _im2col(x: np.ndarray, s: Conv, dtype: np.dtype) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield (tile, columns (groups, M, K)) for every tile; the next columns overwrite these."""
    view = _window_view(channels_last(x, dtype), s)
    memory = None
    for tile in _tiles(s, dtype):
        part = view[:, *tile]
        memory = np.empty(part.size, dtype) if memory is None else memory  # the first tile is the largest
        yield tile, _columns(part, memory)


def _window_view(x: np.ndarray, s: Conv) -> np.ndarray:
    """All windows of x (N, H, W, C): a view (groups, N, OH, OW, KH, KW, C / groups) of the padded images."""
    (height, width), (ph, pw) = s.windows.image, s.windows.padding
    if ph or pw:
        padded = np.zeros((s.images, *s.windows.padded, x.shape[3]), x.dtype)
        padded[:, ph : ph + height, pw : pw + width] = x
        x = padded
    (sh, sw), (dh, dw) = s.windows.stride, s.windows.dilation
    view = sliding_window_view(x.reshape(*x.shape[:3], s.groups, s.in_channels), s.windows.span, axis=(1, 2))
    return view[:, ::sh, ::sw, :, :, ::dh, ::dw].transpose(3, 0, 1, 2, 5, 6, 4)


def _columns(view: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """Windows (groups, n, rows, OW, KH, KW, C / groups) as (groups, n * rows * OW, KH * KW * C / groups)."""
    groups, n, rows, width, kh, kw, channels = view.shape
    shape = groups, n * rows * width, kh * kw * channels
    if kh == kw == 1:  # the window is the pixel: nothing to lay out
        return view.reshape(shape)
    memory = memory[: view.size]
    if channels == 1:  # runs of OW, not of KW: tap by tap, the columns in memory are (K, M)
        columns = memory.reshape(groups, kh, kw, 1, n, rows, width).transpose(0, 4, 5, 6, 1, 2, 3)
    else:
        columns = memory.reshape(view.shape)
    np.copyto(columns, view)
    return columns.reshape(shape)


def _col2im(columns: np.ndarray, dx: np.ndarray, tile: tuple[slice, slice], s: Conv) -> None:
    """Add columns (groups, taps, M, C / groups) of a tile to dx (N, H, W, C) at the pixels the taps read."""
    images, rows = tile
    dx = dx[images].reshape(images.stop - images.start, *s.windows.image, s.groups, s.in_channels)
    windows_of_tile = len(dx), rows.stop - rows.start, s.windows.count[1]
    columns = columns.reshape(s.groups, s.taps, *windows_of_tile, s.in_channels).transpose(1, 2, 3, 4, 0, 5)
    for of_tap, t in zip(columns, taps(s.windows, rows), strict=True):
        pixels = dx[:, t.rows, t.cols]
        pixels += of_tap[:, t.window_rows, t.window_cols]
