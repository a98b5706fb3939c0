"""Convolutions of volumes, as sums over the layers of the kernel of convolutions of images."""

from __future__ import annotations

from typing import Any

from keras.src.backend.common.backend_utils import compute_conv_transpose_padding_args_for_jax
from keras.src.backend.config import standardize_data_format

import tilegrad as tg
from tilegrad import ops
from tilegrad.tensor import Tensor


def conv(
    of_images: Any, x: Tensor, kernel: Tensor, strides: Any, padding: str, data_format: str | None, dilation_rate: Any
) -> Tensor:
    """A cross-correlation. kernel (KD, KH, KW, C / groups, O)."""
    stride, dilation = three(strides), three(dilation_rate)
    last = standardize_data_format(data_format) == "channels_last"
    x = x if last else x.movedim(1, -1)
    depth, taps, s, d = x.shape[1], kernel.shape[0], stride[0], dilation[0]
    span = (taps - 1) * d + 1
    if padding == "same":
        total = max((-(-depth // s) - 1) * s + span - depth, 0)
        x = ops.pad(x, (0, 0, 0, 0, 0, 0, total // 2, total - total // 2))
        depth += total
    layers = (depth - span) // s + 1
    y: Tensor | None = None
    for tap in range(taps):
        part = x[:, tap * d : tap * d + (layers - 1) * s + 1 : s]
        part = of_images(_merged(part), kernel[tap], stride[1:], padding, "channels_last", dilation[1:])
        y = part if y is None else tg.add(y, part)
    assert y is not None
    y = y.reshape(x.shape[0], layers, *y.shape[1:])
    return y if last else y.movedim(-1, 1)


def conv_transpose(
    of_images: Any,
    x: Tensor,
    kernel: Tensor,
    strides: Any,
    padding: str,
    output_padding: Any,
    data_format: str | None,
    dilation_rate: Any,
) -> Tensor:
    """The transposed convolution. kernel (KD, KH, KW, O, C)."""
    stride, dilation = three(strides), three(dilation_rate)
    more = None if output_padding is None else three(output_padding)
    last = standardize_data_format(data_format) == "channels_last"
    x = x if last else x.movedim(1, -1)
    before, behind = compute_conv_transpose_padding_args_for_jax(
        x.shape, kernel.shape, stride, padding, more, dilation
    )[0]
    n, depth, taps, s, d = x.shape[0], x.shape[1], kernel.shape[0], stride[0], dilation[0]
    span = (taps - 1) * d + 1
    y: Tensor | None = None
    for tap in range(taps):
        images = of_images(
            _merged(x),
            kernel[tap],
            stride[1:],
            padding,
            None if more is None else more[1:],
            "channels_last",
            dilation[1:],
        )
        size = images.shape[1:]
        spread = ops.pad(images.reshape(n, depth, 1, -1), (0, 0, 0, s - 1)).reshape(n, depth * s, -1)
        spread = spread[:, : (depth - 1) * s + 1]
        part = ops.pad(spread, (0, 0, tap * d, span - 1 - tap * d)).reshape(n, -1, *size)
        y = part if y is None else tg.add(y, part)
    assert y is not None
    cut = before - span + 1, behind - span + 1
    y = ops.pad(y, (0, 0, 0, 0, 0, 0, *cut)) if any(cut) else y
    return y if last else y.movedim(-1, 1)


def _merged(x: Tensor) -> Tensor:
    """(N, D, H, W, C) as N D images."""
    return x.reshape(-1, *x.shape[2:])


def three(sizes: Any) -> tuple[int, ...]:
    """A size, or one a dimension."""
    return (int(sizes),) * 3 if isinstance(sizes, int) else tuple(int(n) for n in sizes)
