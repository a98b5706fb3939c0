"""Two-dimensional convolution on the CPU, compiled: the register tile run straight over the image, without im2col.

Here images are channels-last, so that the taps of one row of a window are one run of memory. With K = KH KW C:

    y   a tile is `rows` pixels of y times `vectors` vectors of its channels; its K terms are KH runs of KW * C
    dx  a tile is `rows` pixels of dx; its terms are a run of dy's O channels for each tap. That takes strides of 1 and
        a frame of zeros around dy. Where strides are longer, or dx has more pixels than dy, each tap has tiles of its
        own instead: `rows` pixels of dy, whose O channels are one run; the sums start from dx itself. Either way an
        element's terms are added in one order
    dw  a tile is `rows` of the K taps times `vectors` vectors of O; a row of pixels is one run. Every thread sums over
        its part of the images, and the parts are added in their order. Where dx has put dy in a frame, x needs none:
        a tile is then `rows` of the KH KW O terms times `vectors` vectors of C

Served here is float32 with groups = 1 and channels that are a multiple of a vector's length. All else is left to the
reference. Each thread takes a share of the images. FLOP: 2 N OH OW K O for each of the three.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.activations.cpu import activated, relu_grad
from tilegrad.kernels.conv2d import reference
from tilegrad.kernels.conv2d.cpu_arrange import arranged
from tilegrad.kernels.conv2d.cpu_frame import Tiles, over_images
from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.effects import contiguous, do, whole
from tilegrad.kernels.cpu.tile import (
    BIAS,
    HELD,
    LANES,
    NO_BIAS,
    ONE_RUN,
    ZERO,
    Walk,
    row_table,
    tile_shape,
    tiles,
    walk_array,
)
from tilegrad.kernels.sum.cpu import sum_rows
from tilegrad.kernels.windows import Pair, Windows

_TERMS = 128  # of dw's sums, up to which images are taken together: 9 pixels each go from 166 to 223 GFLOP/s


class _Plan(NamedTuple):
    """Where things lie in one padded image of x and one of y, in elements, and how the tiles walk through them."""

    pixels_x: np.ndarray  # the first tap of each pixel of y, in x
    pixels_y: np.ndarray  # each pixel, in y
    runs: np.ndarray  # the runs of taps that are contiguous in x, from the first tap
    taps: np.ndarray  # each tap, from the first
    window: np.ndarray  # each of the K elements of a window, from the first
    window_dw: np.ndarray  # the row of dw for each of them
    rows: np.ndarray  # the first tap of each row of pixels, in x; of `together` images
    forward: dict[tuple[int, int], np.ndarray]  # by (start, relu)
    grad_input: np.ndarray | None  # None where the channels of dx are not whole vectors
    grad_weight: np.ndarray


@lru_cache(maxsize=256)
def _plan(windows: Windows, channels: int, out_channels: int, together: int = 1) -> _Plan:
    """The plan for one geometry; together: images that dw's tiles sum before they write."""
    (height, width), (kh, kw) = windows.padded, windows.kernel
    (sh, sw), (dh, dw), count = windows.stride, windows.dilation, windows.count
    row, column = np.arange(count[0])[:, None], np.arange(count[1])
    pixels_x = (row * sh * width + column * sw).ravel() * channels
    pixels = count[0] * count[1]
    taps = ((np.arange(kh)[:, None] * dh * width + np.arange(kw) * dw) * channels).ravel()
    window = (taps[:, None] + np.arange(channels)).ravel()
    joined = dw == 1
    terms, image_x, image_y = len(window), height * width * channels, pixels * out_channels

    lanes = {n: LANES * tile_shape(n)[1] for n in (channels, out_channels) if n % LANES == 0}
    forward = grad_weight = grad_input = None
    x_item = 0 if any(windows.padding) else image_x
    if out_channels in lanes:
        panel = lanes[out_channels]
        across = {"vectors": panel // LANES, "panels": out_channels // panel, "y_panel": panel}
        over_pixels = Walk(
            rows=pixels, run=kw * channels if joined else channels, w_step=panel, **across,
            y_item=image_y, x_item=x_item, w_panel=terms * panel, bias_panel=panel,
        )  # fmt: skip
        forward = {
            (start, relu): walk_array(over_pixels._replace(start=start, relu=relu))
            for start in (BIAS, ZERO)
            for relu in (0, 1)
        }
        grad_weight = walk_array(Walk(
            rows=terms, run=count[1], w_step=out_channels, x_step=sw * channels, **across,
            y_part=terms * out_channels, x_item=together * x_item, w_item=together * image_y, w_panel=panel,
            start=HELD,
        ))  # fmt: skip
    if channels in lanes:
        panel = lanes[channels]
        grad_input = walk_array(Walk(
            vectors=panel // LANES, panels=channels // panel, rows=pixels, run=out_channels, w_step=panel,
            clear=image_x, y_item=image_x, y_panel=panel, x_item=image_y,
            w_shift=out_channels * channels, w_panel=out_channels * panel, start=HELD,
        ))  # fmt: skip
    return _Plan(
        row_table(pixels_x),
        row_table(np.arange(pixels) * out_channels),
        (taps.reshape(kh, kw)[:, 0] if joined else taps).astype(np.intp),
        taps.astype(np.intp),
        row_table(window),
        row_table(np.arange(terms) * out_channels),
        (np.arange(together)[:, None] * image_x + row.ravel() * sh * width * channels).ravel().astype(np.intp),
        forward,
        grad_input,
        grad_weight,
    )


class _Gathering(NamedTuple):
    """How the tiles of dx walk through dy."""

    frame: Pair  # of zeros around dy
    pixels_x: np.ndarray  # each pixel, in dx
    pixels_y: np.ndarray  # the first pixel of dy, with its frame, that each of them reads
    taps: np.ndarray  # from there, the pixel that was multiplied by each tap of the window
    walks: np.ndarray
    window: np.ndarray  # each channel of those pixels: a row of dw
    window_dw: np.ndarray  # where that row begins
    rows: np.ndarray  # what each row of pixels of x reads first
    grad_weight: np.ndarray | None  # None where dw is better summed over a framed x


@lru_cache(maxsize=256)
def _gathering_plan(image: Pair, channels: int, out_channels: int, kernel: Pair, dilation: Pair, frame: Pair):
    """The plan for images of that size."""
    (height, width), (kh, kw), (dh, dw) = image, kernel, dilation
    wide = width + (kw - 1) * dw  # dy with its frame has as many columns as x has places for a tap
    row, column = np.arange(height)[:, None], np.arange(width)
    up, left = np.arange(kh)[::-1, None] * dh, np.arange(kw)[::-1] * dw
    panel, taps = LANES * tile_shape(channels)[1], kh * kw
    across = {"vectors": panel // LANES, "panels": channels // panel, "y_panel": panel}
    image_x, image_y = height * width * channels, (height + (kh - 1) * dh) * wide * out_channels
    y_item = 0 if any(frame) else image_y
    walk = Walk(
        rows=height * width, run=out_channels, w_step=panel, **across,
        y_item=image_x, x_item=y_item, w_panel=taps * out_channels * panel,
    )  # fmt: skip
    over_rows = Walk(
        rows=taps * out_channels, run=width, w_step=channels, x_step=out_channels, **across,
        y_part=taps * out_channels * channels, x_item=y_item, w_item=image_x, w_panel=panel, start=HELD,
    )  # fmt: skip
    is_as_wide = out_channels % LANES == 0 and panel >= LANES * tile_shape(out_channels)[1]
    places = ((up * wide + left).ravel() * out_channels).astype(np.intp)
    return _Gathering(
        frame,
        row_table(np.arange(height * width) * channels),
        row_table((row * wide + column).ravel() * out_channels),
        places,
        walk_array(walk),
        row_table((places[:, None] + np.arange(out_channels)).ravel()),
        row_table(np.arange(taps * out_channels) * channels),
        (np.arange(height) * wide * out_channels).astype(np.intp),
        walk_array(over_rows) if is_as_wide else None,
    )


def _gathering(s: Any) -> _Gathering | None:
    """The plan for dx, if its tiles walk through dy: that pays where dx has no more pixels than dy."""
    w = s.windows
    frame = tuple([(k - 1) * d - p for k, d, p in zip(w.kernel, w.dilation, w.padding, strict=True)])
    pays = w.stride == (1, 1) and min(frame) >= 0 and math.prod(w.image) <= math.prod(w.count)
    return _gathering_plan(w.image, s.in_channels, s.out_channels, w.kernel, w.dilation, frame) if pays else None


def _gathering_both(dy: np.ndarray, w: np.ndarray, *rest: Any) -> tuple[Any, _Gathering] | None:
    """What check_grad_input says of its arguments, and the plan, if dx and dw both walk through dy."""
    _, s = reference.check_grad_input(dy, w, *rest)
    t = _gathering(s) if _served(dy, s, s.in_channels) else None
    return None if t is None or t.grad_weight is None else (s, t)


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
    """conv2d.reference.conv2d; bias and ReLU are applied while the sums are in registers.

    Traffic: reads x and w once (w again from the cache for every tile), writes 4 N O OH OW bytes.
    """
    _, s = reference.check_conv2d(x, w, bias, stride, padding, dilation, groups, activation, precision)
    if not _served(x, s, s.out_channels):
        options = stride, padding, dilation, groups
        if x.dtype != np.float32:
            return whole(reference.conv2d, x, w, bias, *options, activation, precision, channels_last)
        return activated(whole(reference.conv2d, x, w, bias, *options, None, precision, channels_last), activation)
    width = tile_shape(s.out_channels)[1] * LANES
    t = _plan_of(s)
    # (O, C, KH, KW) as panels of `width` outputs, each (K, width)
    panels = arranged(w, (s.out_channels // width, width, *w.shape[1:]), (0, 3, 4, 2, 1))
    y = buffers.empty((s.images, *s.windows.count, s.out_channels), np.float32)
    start, above = (ZERO, NO_BIAS) if bias is None else (BIAS, contiguous(bias))
    walks = t.forward[start, int(activation == "relu")]
    over_images(
        x.transpose(0, 2, 3, 1),
        s.windows.padding,
        Tiles(walks, y.reshape(-1), t.pixels_y, t.pixels_x, t.runs, panels.reshape(-1), above),
    )
    y = y.transpose(0, 3, 1, 2)
    y = y if activation == "relu" else activated(y, activation)
    return y if channels_last else contiguous(y)


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
    """conv2d.reference.conv2d_grad_input, without the gradient of the columns.

    Traffic: reads dy and w once (again from the cache for every tap), writes 4 N C H W bytes.
    """
    _, s = reference.check_grad_input(dy, w, x_shape, stride, padding, dilation, groups, precision)
    if not _served(dy, s, s.in_channels):
        return whole(reference.conv2d_grad_input, dy, w, x_shape, stride, padding, dilation, groups, precision)
    width = tile_shape(s.in_channels)[1] * LANES
    gathered = _gathering(s)
    if gathered is not None:
        dx, over_dy = _gathered_input(w, s, gathered)
        over_images(dy.transpose(0, 2, 3, 1), gathered.frame, over_dy)
        return dx
    t = _plan_of(s)
    (height, image_width), (ph, pw) = s.windows.image, s.windows.padding
    # (O, C, KH, KW) as a panel (O, width) for each tap and each `width` inputs
    panels = arranged(w, _by_inputs(w, width), (3, 4, 1, 0, 2))
    dx = buffers.empty((s.images, *s.windows.padded, s.in_channels), np.float32)
    threads.share(
        tiles, s.images, s.images, t.grad_input,
        dx.reshape(-1), t.pixels_x, t.taps,
        contiguous(dy.transpose(0, 2, 3, 1)).reshape(-1), t.pixels_y, ONE_RUN,
        panels.reshape(-1), NO_BIAS,
    )  # fmt: skip
    if ph or pw:
        inner = buffers.empty((s.images, height, image_width, s.in_channels), np.float32)
        do(np.copyto, inner, dx[:, ph : ph + height, pw : pw + image_width])
        dx = inner
    return dx.transpose(0, 3, 1, 2)


def _gathered_input(w: np.ndarray, s: Any, t: _Gathering) -> tuple[np.ndarray, Tiles]:
    """dx, and the tiles over dy in its frame that compute it."""
    width = tile_shape(s.in_channels)[1] * LANES
    # (O, C, KH, KW) as panels of `width` inputs, each (KH KW O, width)
    panels = arranged(w, _by_inputs(w, width), (1, 3, 4, 0, 2))
    dx = buffers.empty((s.images, *s.windows.image, s.in_channels), np.float32)
    over_dy = Tiles(t.walks, dx.reshape(-1), t.pixels_x, t.pixels_y, t.taps, panels.reshape(-1))
    return dx.transpose(0, 3, 1, 2), over_dy


def _gathered_both(dy: np.ndarray, x: np.ndarray, w: np.ndarray, s: Any, t: _Gathering) -> tuple[np.ndarray, ...]:
    """dx and dw, of dy in its frame: x needs none."""
    dx, over_dy = _gathered_input(w, s, t)
    parts = _zeros(s.images, len(t.taps) * s.out_channels, s.in_channels)
    x = contiguous(x.transpose(0, 2, 3, 1)).reshape(-1)
    over_images(
        dy.transpose(0, 2, 3, 1),
        t.frame,
        over_dy,
        Tiles(t.grad_weight, parts.reshape(-1), t.window_dw, t.window, t.rows, x),
    )
    return dx, arranged(_summed(parts), (*s.windows.kernel, s.out_channels, s.in_channels), (2, 3, 0, 1))


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
    """conv2d.reference.conv2d_grad_weight, without the columns.

    Traffic: reads dy and x once (again from the cache for every tile), writes 4 K O bytes a thread.
    """
    _, s = reference.check_grad_weight(dy, x, w_shape, stride, padding, dilation, groups, precision)
    if not _served(x, s, s.out_channels):
        return whole(reference.conv2d_grad_weight, dy, x, w_shape, stride, padding, dilation, groups, precision)
    together = _together(s)
    t = _plan(s.windows, s.in_channels, s.out_channels, together)
    items, (height, width) = s.images // together, s.windows.image
    parts = _zeros(items, s.window_size, s.out_channels)
    dy = contiguous(dy.transpose(0, 2, 3, 1)).reshape(-1)
    over_images(
        contiguous(x.transpose(0, 2, 3, 1)).reshape(items, together * height, width, s.in_channels),
        s.windows.padding,
        Tiles(t.grad_weight, parts.reshape(-1), t.window_dw, t.window, t.rows, dy),
    )
    return arranged(_summed(parts), (*s.windows.kernel, s.in_channels, s.out_channels), (3, 2, 0, 1))


def conv2d_grad_bias(dy: np.ndarray) -> np.ndarray:
    """conv2d.reference.conv2d_grad_bias, an image at a time.

    Traffic: reads 4 N O OH OW bytes once.
    """
    if dy.ndim != 4 or dy.dtype != np.float32 or not dy.size:
        return whole(reference.conv2d_grad_bias, dy)
    n, channels, height, width = dy.shape
    sums = np.empty((n, channels), np.float32)
    threads.share(
        sum_rows,
        n if dy.nbytes > threads.WORTH_SHARING else 1,
        n,
        contiguous(dy.transpose(0, 2, 3, 1)).reshape(n, height * width, channels),
        sums,
    )
    return _summed(sums)


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
    """conv2d.reference.conv2d_grad, one gradient after the other. dx and dw share a dy in its frame where they can.

    Traffic: that of the gradients.
    """
    geometry = stride, padding, dilation, groups
    kept: list[np.ndarray] = []  # dw, where it is computed with dx

    def grad_input(dy: np.ndarray, w: np.ndarray, *rest: Any) -> np.ndarray:
        both = None if x is None else _gathering_both(dy, w, *rest)
        if both is None:
            return conv2d_grad_input(dy, w, *rest)
        reference.check_grad_weight(dy, x, w_shape, *geometry, precision)
        dx, dw = _gathered_both(dy, x, w, *both)
        kept.append(dw)
        return dx

    def grad_weight(dy: np.ndarray, x: np.ndarray, *rest: Any) -> np.ndarray:
        return kept[0] if kept else conv2d_grad_weight(dy, x, *rest)

    parts = reference.Parts(relu_grad, grad_input, grad_weight, conv2d_grad_bias, _copied_like)
    return reference.one_by_one(parts, dy, y, x, w, x_shape, w_shape, geometry, bias, like, precision)


def _by_inputs(w: np.ndarray, width: int) -> tuple[int, ...]:
    """The sizes of w (O, C, KH, KW) with C cut into panels of `width`."""
    return w.shape[0], w.shape[1] // width, width, *w.shape[2:]


def _copied_like(a: np.ndarray, like: np.ndarray) -> np.ndarray:
    return whole(reference.copied_like, a, like)


def _zeros(images: int, *shape: int) -> np.ndarray:
    """What each thread adds its images to: (threads, *shape)."""
    parts = np.empty((min(threads.num_threads(), images), *shape), np.float32)
    do(np.ndarray.fill, parts, 0)
    return parts


def _summed(parts: np.ndarray) -> np.ndarray:
    """The sum over the first dimension, in its order."""
    if len(parts) == 1:
        return parts[0]
    total = np.empty(parts.shape[1:], parts.dtype)
    do(np.add.reduce, parts, 0, None, total)
    return total


def _served(x: np.ndarray, s: Any, channels: int) -> bool:
    return x.dtype == np.float32 and s.groups == 1 and channels % LANES == 0 and s.images > 0 and s.window_size > 0


def _together(s: Any) -> int:
    """Images that dw's tiles sum before they write: several small ones. Eight threads or fewer have shares alike."""
    if any(s.windows.padding):
        return 1  # they are framed one by one
    most = _TERMS // max(1, math.prod(s.windows.count))
    return next((n for n in (8, 4, 2) if n <= most and s.images % (8 * n) == 0), 1)


def _plan_of(s: Any) -> _Plan:
    return _plan(s.windows, s.in_channels, s.out_channels)
