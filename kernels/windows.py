"""Sliding windows over images: the geometry that convolution and pooling share.

A window is a grid of *taps*. Along one axis, tap k of window o reads the image at

    index = o * stride + k * dilation - padding

The padding around the image holds what does not change the result: zero for a sum, minus infinity for a maximum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.checks import int_pair, is_int, require
from tilegrad.kernels.sizes import cdiv

Pair = tuple[int, int]


class Windows(NamedTuple):
    """The windows over one image: every field is a pair (height, width)."""

    image: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    count: Pair  # how many windows there are: the size of the output

    @property
    def span(self) -> Pair:
        """The size of what a window covers, from its first tap to its last."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return dh * (kh - 1) + 1, dw * (kw - 1) + 1

    @property
    def tap_count(self) -> int:
        """How many taps a window has."""
        return self.kernel[0] * self.kernel[1]

    @property
    def padded(self) -> Pair:
        """The size of the image with the padding around it."""
        (height, width), (ph, pw) = self.image, self.padding
        return height + 2 * ph, width + 2 * pw

    @property
    def disjoint(self) -> bool:
        """Whether no two windows cover the same pixel."""
        return self.stride[0] >= self.span[0] and self.stride[1] >= self.span[1]

    @property
    def over_a_pixel(self) -> Pair:
        """How many windows cover one pixel at most, along each axis; 1 where windows are disjoint."""
        return cdiv(self.span[0], self.stride[0]), cdiv(self.span[1], self.stride[1])

    @property
    def has_edges(self) -> bool:
        """Whether any window reaches beyond the image: into the padding, or, as ceil_mode's last may, further."""
        rows, cols = ((n - 1) * stride + span for n, stride, span in zip(self.count, self.stride, self.span))
        return self.padding != (0, 0) or rows > self.image[0] or cols > self.image[1]

    @property
    def side_by_side(self) -> bool:
        """Whether the windows tile the image: no two overlap, none has gaps and none reaches beyond the image."""
        return self.kernel == self.stride and self.dilation == (1, 1) and not self.has_edges


class Tap(NamedTuple):
    """One tap, of all windows in which it lies inside the image.

    Pixel `image[:, rows, cols]` is what this tap reads for window `output[:, window_rows, window_cols]`.
    """

    rows: slice
    cols: slice
    window_rows: slice
    window_cols: slice


def windows(
    op: str,
    image: Pair,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    *,
    ceil_mode: bool = False,
) -> Windows:
    """Check the geometry of an op and count its windows.

        count = floor((image + 2 * padding - span) / stride) + 1,    span = dilation * (kernel - 1) + 1

    ceil_mode rounds up, but no window may start beyond the image and the padding before it, as in PyTorch.
    Raises TypeError for an argument that is not a pair of ints, ValueError for values out of range and where no
    window fits.
    """
    kernel = int_pair(op, "kernel_size", kernel, least=1)
    stride = int_pair(op, "stride", stride, least=1)
    padding = int_pair(op, "padding", padding, least=0)
    dilation = int_pair(op, "dilation", dilation, least=1)
    w = Windows(image, kernel, stride, padding, dilation, count=(0, 0))
    count = tuple(_count(op, w, axis, ceil_mode) for axis in (0, 1))
    return w._replace(count=count)


def _count(op: str, w: Windows, axis: int, ceil_mode: bool) -> int:
    padded = w.image[axis] + 2 * w.padding[axis]
    what = f"a {w.kernel} window with dilation {w.dilation} over {w.image} images with padding {w.padding}"
    side = ("height", "width")[axis]
    require(padded >= w.span[axis], op, f"{what}; expected a padded {side} >= {w.span[axis]}, got {padded}")
    room, stride = padded - w.span[axis], w.stride[axis]
    last = cdiv(room, stride) if ceil_mode else room // stride
    starts_beyond = last * stride >= w.image[axis] + w.padding[axis]
    return last if ceil_mode and starts_beyond else last + 1


def taps(w: Windows, window_rows: slice | None = None) -> Iterator[Tap]:
    """The taps in row-major order. With a slice of window rows: the taps of these rows, counted from its start."""
    begin, end = (0, w.count[0]) if window_rows is None else (window_rows.start, window_rows.stop)
    columns = [_inside(w, 1, k, 0, w.count[1]) for k in range(w.kernel[1])]
    for k in range(w.kernel[0]):
        rows, of_windows = _inside(w, 0, k, begin, end)
        for cols, of_columns in columns:
            yield Tap(rows, cols, of_windows, of_columns)


def _inside(w: Windows, axis: int, k: int, begin: int, end: int) -> tuple[slice, slice]:
    """Where tap k of windows [begin, end) is inside the image: (slice of the image, slice of the windows)."""
    stride = w.stride[axis]
    shift = k * w.dilation[axis] - w.padding[axis]
    first = max(begin, -(shift // stride))
    stop = min(end, (w.image[axis] - 1 - shift) // stride + 1)
    if stop <= first:
        return slice(0, 0), slice(0, 0)
    pixels = slice(first * stride + shift, (stop - 1) * stride + shift + 1, stride)
    return pixels, slice(first - begin, stop - begin)


def image_shape(op: str, name: str, shape: Any, axes: str = "(N, C, H, W)") -> tuple[int, int, int, int]:
    """The shape as four ints; `axes` names them in errors.

    Raises TypeError if it is not a sequence of ints, ValueError if there are not four or one is negative.
    """
    if not isinstance(shape, (tuple, list)) or not all(map(is_int, shape)):
        raise TypeError(f"{op}: {name} is {shape!r}; expected a tuple of ints {axes}")
    valid = len(shape) == 4 and min(shape) >= 0
    require(valid, op, f"{name} is {tuple(shape)}; expected 4 dimensions {axes}")
    n, c, h, w = map(int, shape)
    return n, c, h, w


def channels_last(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """x (N, C, H, W) as a dense (N, H, W, C) array of this dtype: a view if x is that already."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1), dtype=dtype)


def channels_first(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """y (N, H, W, C) as an array of this dtype that is logically (N, C, H, W); its memory order stays."""
    return y.astype(dtype, copy=False).transpose(0, 3, 1, 2)
