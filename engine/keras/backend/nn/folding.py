"""Images as columns of windows, as blocks of pixels, and back."""

from __future__ import annotations

from typing import Any

from keras.src.backend.config import standardize_data_format

import tilegrad as tg
from tilegrad import dtypes, ops
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor


def _pair(n: Any) -> tuple[int, int]:
    return (n, n) if isinstance(n, int) else tuple(n)


def _places(size: tuple[int, int], kernel: Any, dilation: Any, padding: Any, stride: Any) -> tuple[list[int], int]:
    """For each tap and window, in this order, the place in the flattened padded image; and the number of windows."""
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = map(_pair, (kernel, dilation, padding, stride))
    height, width = size[0] + 2 * ph, size[1] + 2 * pw
    rows, columns = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    places = [
        (i * sh + a * dh) * width + j * sw + b * dw
        for a in range(kh)
        for b in range(kw)
        for i in range(rows)
        for j in range(columns)
    ]
    return places, rows * columns


def unfold(input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """(N, C, H, W) -> (N, C taps, windows): the pixels of each window as a column."""
    x = convert_to_tensor(input)
    n, c, h, w = x.shape
    places, windows = _places((h, w), kernel_size, dilation, padding, stride)
    ph, pw = _pair(padding)
    flat = ops.pad(x, (pw, pw, ph, ph)).reshape(n, c, -1)
    columns = flat[:, :, tg.tensor(places, dtype=dtypes.int64, device=x.device)]
    return columns.reshape(n, -1, windows)


def fold(x: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """(N, C taps, windows) -> (N, C, *output_size): each pixel the sum of what windows have for it."""
    x = floating(x)
    (h, w), (kh, kw), (ph, pw) = map(_pair, (output_size, kernel_size, padding))
    places, windows = _places((h, w), kernel_size, dilation, padding, stride)
    n, channels = x.shape[0], x.shape[1] // (kh * kw)
    at = tg.tensor(places, dtype=dtypes.int64, device=x.device).broadcast_to((n, channels, len(places)))
    sums = tg.zeros(n, channels, (h + 2 * ph) * (w + 2 * pw), dtype=x.dtype, device=x.device)
    y = tg.scatter_add(sums, 2, at, x.reshape(n, channels, -1)).reshape(n, channels, h + 2 * ph, w + 2 * pw)
    return y[:, :, ph : ph + h, pw : pw + w]


def depth_to_space(x: Any, block_size: int, data_format: str = "channels_last") -> Tensor:
    """Channels as blocks of pixels: (H, W, C b b) -> (H b, W b, C)."""
    x, b = convert_to_tensor(x), block_size
    if standardize_data_format(data_format) == "channels_last":
        n, h, w, c = x.shape
        y = x.reshape(n, h, w, b, b, c // (b * b)).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(n, h * b, w * b, c // (b * b))
    n, c, h, w = x.shape
    y = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // (b * b), h * b, w * b)


def space_to_depth(x: Any, block_size: int, data_format: str = "channels_last") -> Tensor:
    """Blocks of pixels as channels: (H, W, C) -> (H / b, W / b, C b b)."""
    x, b = convert_to_tensor(x), block_size
    if standardize_data_format(data_format) == "channels_last":
        n, h, w, c = x.shape
        y = x.reshape(n, h // b, b, w // b, b, c).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(n, h // b, w // b, b * b * c)
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, b * b * c, h // b, w // b)
