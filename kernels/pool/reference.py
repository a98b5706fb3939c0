"""Pooling on NumPy: the specification.

Everything is computed tap by tap: for tap (kh, kw) of the window, a strided slice of the image holds what that
tap reads for all windows at once. Only taps inside the image are visited, so padding can neither win a maximum
nor receive a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, is_int, one_of, remembered, require
from tilegrad.kernels.windows import Pair, Windows, channels_first, channels_last, image_shape, taps, windows

BATCH_BYTES = 1 << 20  # of images visited together: half of a 2 MB cache, the rest is for temporaries


def max_pool2d(
    x: np.ndarray,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    activation: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Maximum over windows, and which tap of the window it was.

        m[n, c, i, j] = max over (kh, kw) of x[n, c, i * sh + kh * dh - ph, j * sw + kw * dw - pw]
        y = m, or relu(m)

    x            (N, C, H, W) float16 | bfloat16 | float32 | float64, any strides
    kernel_size  (KH, KW); likewise stride (sh, sw), padding (ph, pw) and dilation (dh, dw)
    ceil_mode    also the windows that reach beyond the padded image, if they start inside it
    activation   None or "relu"
    ->           y (N, C, OH, OW) of x's dtype; tap (N, C, OH, OW) uint8 (int32 if KH * KW > 255), the index
                 kh * KW + kw of the maximum, or KH * KW where no pixel may have a gradient: where relu cuts, m <= 0,
                 and in a window of padding alone; both channels-last in memory

    Padding never wins, the first of equal maxima does, and NaN counts as larger than any number: as in
    PyTorch, but of several NaN the first is taken. A window of padding alone, which dilation makes possible,
    has m = -inf.

    relu(m) equals the maximum of relu(x), but relu is applied to a quarter of the elements where windows are 2 x 2. As
    tap says where relu cut, max_pool2d_grad is the gradient through both, and moves no more bytes.

    Traffic: reads N C H W * itemsize once if the windows tile the image, writes N C OH OW * (itemsize + 1).
    Raises ValueError if a window does not fit, the padding exceeds half the kernel or the activation is another,
    TypeError for dtypes.
    """
    dtype, w = check_max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, activation)
    x = channels_last(x, accumulator(dtype))  # NumPy compares halves by way of float32, one at a time
    y = np.full((len(x), *w.count, x.shape[3]), -np.inf, x.dtype)
    tap = np.zeros(y.shape, tap_dtype(w))
    for batch in _batches(x):
        _max_and_tap(x[batch], y[batch], tap[batch], w)
        if activation == "relu":
            np.copyto(tap[batch], w.tap_count, where=y[batch] <= 0)
            np.maximum(y[batch], 0, out=y[batch])
    return channels_first(y, dtype), channels_first(tap, tap.dtype)


@np.errstate(over="ignore", invalid="ignore")  # infinity and NaN are results like any other
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
    """Gradient of max_pool2d: dy goes to the pixel that won its window, and adds up where windows overlap.

    A window whose tap is KH * KW has no such pixel: this is also how the gradient of relu is taken. The dy of such a
    window is left out, not multiplied by 0, because it may be infinite or NaN.

    dy       (N, C, OH, OW) float16 | bfloat16 | float32 | float64, any strides
    tap      (N, C, OH, OW) as max_pool2d returned it
    x_shape  (N, C, H, W); the other arguments are those of the forward
    ->       dx (N, C, H, W) of dy's dtype, channels-last in memory; 16-bit types are accumulated in float32

    Traffic: reads N C OH OW * (itemsize + 1), writes N C H W * itemsize once if the windows tile the image.
    Raises ValueError for shapes, TypeError for dtypes.
    """
    dtype, w = check_max_pool2d_grad(dy, tap, x_shape, kernel_size, stride, padding, dilation, ceil_mode)
    n, c, height, width = x_shape
    accumulate = accumulator(dtype)
    dy, tap = channels_last(dy, accumulate), channels_last(tap, tap.dtype)
    dx = np.zeros((n, height, width, c), accumulate)
    for batch in _batches(dx):
        _scatter(dy[batch], tap[batch], dx[batch], w)
    return channels_first(dx, dtype)


@np.errstate(over="ignore", invalid="ignore")
def avg_pool2d(
    x: np.ndarray,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    """Mean over windows.

        y[n, c, i, j] = sum over (kh, kw) of x[n, c, i * sh + kh - ph, j * sw + kw - pw] / divisor[i, j]

    x                  (N, C, H, W) float16 | bfloat16 | float32 | float64, any strides
    kernel_size        (KH, KW); likewise stride (sh, sw) and padding (ph, pw)
    ceil_mode          also the windows that reach beyond the padded image, if they start inside it
    count_include_pad  the divisor counts the taps in the padding too (never those beyond it)
    divisor_override   the divisor itself, not 0
    ->                 y (N, C, OH, OW) of x's dtype, channels-last in memory; 16-bit types are summed in float32

    Traffic: reads N C H W * itemsize once if the windows tile the image, writes N C OH OW * itemsize.
    Raises ValueError if a window does not fit or the padding exceeds half the kernel, TypeError for dtypes.
    """
    dtype, w = check_avg_pool2d(x, kernel_size, stride, padding, ceil_mode, divisor_override)
    divisor = _divisor(w, count_include_pad, divisor_override)
    accumulate = accumulator(dtype)
    x = channels_last(x, accumulate)
    y = np.zeros((x.shape[0], *w.count, x.shape[3]), accumulate)
    for t in taps(w):
        y[:, t.window_rows, t.window_cols] += x[:, t.rows, t.cols]
    y /= divisor.astype(accumulate)
    return channels_first(y, dtype)


@np.errstate(over="ignore", invalid="ignore")
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
    """Gradient of avg_pool2d: every pixel of a window receives dy / divisor.

    dy       (N, C, OH, OW) float16 | bfloat16 | float32 | float64, any strides
    x_shape  (N, C, H, W); the other arguments are those of the forward
    ->       dx (N, C, H, W) of dy's dtype, channels-last in memory; 16-bit types are accumulated in float32

    Traffic: reads N C OH OW * itemsize and writes N C H W * itemsize once if the windows tile the image.
    Raises ValueError for shapes, TypeError for dtypes.
    """
    dtype, w = check_avg_pool2d_grad(dy, x_shape, kernel_size, stride, padding, ceil_mode, divisor_override)
    n, c, height, width = x_shape
    divisor = _divisor(w, count_include_pad, divisor_override)
    accumulate = accumulator(dtype)
    share = channels_last(dy, accumulate) / divisor.astype(accumulate)
    dx = np.zeros((n, height, width, c), accumulate)
    for t in taps(w):
        dx[:, t.rows, t.cols] += share[:, t.window_rows, t.window_cols]
    return channels_first(dx, dtype)


def check_max_pool2d(
    x: Any, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool, activation: str | None
) -> tuple[np.dtype, Windows]:
    """Raise as max_pool2d does; the dtype and the windows."""
    op = "max_pool2d"
    dtype = float_dtype(op, x=x)
    one_of(op, "activation", activation, (None, "relu"))
    return dtype, _pool_windows(op, x.shape, kernel_size, stride, padding, dilation, ceil_mode)


def check_max_pool2d_grad(
    dy: Any,
    tap: Any,
    x_shape: tuple[int, int, int, int],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> tuple[np.dtype, Windows]:
    """Raise as max_pool2d_grad does; the dtype and the windows."""
    op = "max_pool2d_grad"
    dtype = float_dtype(op, dy=dy)
    n, c, height, width = image_shape(op, "x_shape", x_shape)
    w = _pool_windows(op, (n, c, height, width), kernel_size, stride, padding, dilation, ceil_mode)
    if getattr(tap, "dtype", None) != tap_dtype(w):
        found = getattr(tap, "dtype", type(tap).__name__)
        raise TypeError(f"{op}: tap is {found}; expected {tap_dtype(w)} for kernel_size {w.kernel}")
    _require_output_shape(op, "dy", dy, (n, c, *w.count))
    _require_output_shape(op, "tap", tap, (n, c, *w.count))
    return dtype, w


def check_avg_pool2d(
    x: Any, kernel_size: Pair, stride: Pair, padding: Pair, ceil_mode: bool, divisor_override: int | None
) -> tuple[np.dtype, Windows]:
    """Raise as avg_pool2d does; the dtype and the windows."""
    op = "avg_pool2d"
    dtype = float_dtype(op, x=x)
    w = _pool_windows(op, x.shape, kernel_size, stride, padding, (1, 1), ceil_mode)
    _check_override(op, divisor_override)
    return dtype, w


def check_avg_pool2d_grad(
    dy: Any,
    x_shape: tuple[int, int, int, int],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    divisor_override: int | None,
) -> tuple[np.dtype, Windows]:
    """Raise as avg_pool2d_grad does; the dtype and the windows."""
    op = "avg_pool2d_grad"
    dtype = float_dtype(op, dy=dy)
    n, c, height, width = image_shape(op, "x_shape", x_shape)
    w = _pool_windows(op, (n, c, height, width), kernel_size, stride, padding, (1, 1), ceil_mode)
    _require_output_shape(op, "dy", dy, (n, c, *w.count))
    _check_override(op, divisor_override)
    return dtype, w


def tap_dtype(w: Windows) -> np.dtype:
    """The dtype of max_pool2d's tap: it must hold the number of taps, which stands for "no tap"."""
    return np.dtype(np.uint8 if w.tap_count <= 255 else np.int32)


@remembered
def _pool_windows(
    op: str, x_shape: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Windows:
    _, _, height, width = image_shape(op, "x", x_shape)
    require(height > 0 and width > 0, op, f"x is {x_shape}; expected images of at least one pixel")
    w = windows(op, (height, width), kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    require(
        all(2 * p <= k for p, k in zip(w.padding, w.kernel, strict=True)),
        op,
        f"padding is {w.padding}; expected at most half of kernel_size {w.kernel}",
    )
    return w


def _check_override(op: str, override: int | None) -> None:
    if override is None:
        return
    if not is_int(override):
        raise TypeError(f"{op}: divisor_override is {override!r}; expected an int or None")
    require(override != 0, op, "divisor_override is 0; expected another int")


def _require_output_shape(op: str, name: str, x: Any, expected: tuple[int, ...]) -> None:
    if x.shape != expected:
        raise ValueError(f"{op}: {name} is {x.shape}; expected the output's shape {expected}")


def _batches(x: np.ndarray) -> Iterator[slice]:
    """Slices of the images x that stay in the cache while all taps are visited."""
    size = max(1, BATCH_BYTES * len(x) // max(1, x.nbytes))
    return (slice(n, n + size) for n in range(0, len(x), size))


def _max_and_tap(x: np.ndarray, y: np.ndarray, tap: np.ndarray, w: Windows) -> None:
    """Raise y, minus infinity at first, to the maxima; count in tap the taps before the first that has the maximum."""
    for t in taps(w):
        best = y[:, t.window_rows, t.window_cols]
        np.maximum(best, x[:, t.rows, t.cols], out=best)

    missing = np.ones(y.shape, np.uint8)
    has_nan = bool(np.isnan(y).any())
    visited = list(taps(w))
    if w.dilation == (1, 1):
        visited.pop()  # no window is of padding alone: if no other tap has won, the last one has
    for t in visited:
        best, pixel = y[:, t.window_rows, t.window_cols], x[:, t.rows, t.cols]
        differs = pixel != best
        if has_nan:
            differs &= ~np.isnan(pixel)
        missing[:, t.window_rows, t.window_cols] &= differs.view(np.uint8)
        tap += missing


def _scatter(dy: np.ndarray, tap: np.ndarray, dx: np.ndarray, w: Windows) -> None:
    """Add each dy to the pixel of dx, zero at first, that its tap reads."""
    for index, t in enumerate(taps(w)):
        won = tap[:, t.window_rows, t.window_cols] == index
        share = _where(won, dy[:, t.window_rows, t.window_cols])
        if w.disjoint:
            dx[:, t.rows, t.cols] = share
        else:
            dx[:, t.rows, t.cols] += share


def _where(mask: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x where the mask holds, else 0: without a branch for each value, and without 0 * inf = NaN."""
    integer = np.dtype(f"i{x.itemsize}")
    bits = mask.astype(integer)
    np.negative(bits, out=bits)  # all ones where the mask holds
    np.bitwise_and(bits, x.view(integer), out=bits)
    return bits.view(x.dtype)


def _divisor(w: Windows, count_include_pad: bool, override: int | None) -> np.ndarray:
    """The number of taps that count in each window, as an array that broadcasts over (N, OH, OW, C)."""
    if override is not None:
        return np.array(override)
    counts = []
    for axis in (0, 1):
        image, padding = w.image[axis], w.padding[axis]
        first = np.arange(w.count[axis]) * w.stride[axis] - padding
        stop = np.minimum(first + w.kernel[axis], image + padding)
        if not count_include_pad:
            first, stop = np.maximum(first, 0), np.minimum(stop, image)
        counts.append(stop - first)
    return (counts[0][:, None] * counts[1])[:, :, None]
