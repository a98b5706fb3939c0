"""Convolutions, plain, by channel, separable and transposed, over sequences and images."""

from __future__ import annotations

from typing import Any

from keras.src.backend.common.backend_utils import compute_conv_transpose_padding_args_for_jax

from tilegrad import ops
from tilegrad.keras.backend.nn import volumes
from tilegrad.keras.backend.nn.windows import as_given, as_images, over_images, padding_of
from tilegrad.keras.backend.operands import promoted
from tilegrad.ops.conv import conv2d, conv2d_grad_input
from tilegrad.tensor import Tensor


def conv(
    inputs: Any,
    kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = 1,
) -> Tensor:
    """A cross-correlation. kernel (*sizes, C / groups, O), of inputs with C channels."""
    x, kernel = promoted(inputs, kernel)
    if x.ndim == 5:
        return volumes.conv(conv, x, kernel, strides, padding, data_format, dilation_rate)
    return conv_activated(x, kernel, None, None, strides, padding, data_format, dilation_rate)


def conv_activated(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    activation: str | None,
    strides: Any,
    padding: str,
    data_format: str | None,
    dilation_rate: Any,
) -> Tensor:
    """act(conv + bias) of sequences or images in one primitive: all of one dtype, activation one of the engine's."""
    ndim = x.ndim
    x, w = as_images(x, data_format), _weight(kernel, ndim)
    if x.shape[1] % w.shape[1] or w.shape[0] % (x.shape[1] // w.shape[1]):
        raise ValueError(
            f"The number of input channels must be evenly divisible by kernel's in_channels. Received input channels "
            f"{x.shape[1]} and kernel in_channels {w.shape[1]}, out_channels {w.shape[0]}"
        )
    stride, dilation = over_images(strides, ndim), over_images(dilation_rate, ndim)
    rows, columns = padding_of(padding, x, w.shape[2:], stride, dilation)  # type: ignore[arg-type]
    even = (min(rows), min(columns))
    rest = (columns[0] - even[1], columns[1] - even[1], rows[0] - even[0], rows[1] - even[0])
    if any(rest):
        x = ops.pad(x, rest)
    return as_given(conv2d(x, w, bias, stride, even, dilation, x.shape[1] // w.shape[1], activation), ndim, data_format)


def _weight(kernel: Tensor, ndim: int) -> Tensor:
    """(O, C, KH, KW) of a kernel (*sizes, C, O): a view."""
    kernel = kernel if ndim == 4 else kernel.unsqueeze(0)
    return kernel.permute(3, 2, 0, 1)


def depthwise_conv(
    inputs: Any,
    kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = 1,
) -> Tensor:
    """Each channel convolved with kernels of its own. kernel (*sizes, C, per channel)."""
    _, kernel = promoted(inputs, kernel)
    kernel = kernel.reshape(*kernel.shape[:-2], 1, kernel.shape[-2] * kernel.shape[-1])
    return conv(inputs, kernel, strides, padding, data_format, dilation_rate)


def separable_conv(
    inputs: Any,
    depthwise_kernel: Any,
    pointwise_kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = 1,
) -> Tensor:
    """A depthwise convolution, then one whose windows are single points."""
    x = depthwise_conv(inputs, depthwise_kernel, strides, padding, data_format, dilation_rate)
    return conv(x, pointwise_kernel, 1, "valid", data_format, 1)


def conv_transpose(
    inputs: Any,
    kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    output_padding: Any = None,
    data_format: str | None = None,
    dilation_rate: Any = 1,
) -> Tensor:
    """The transposed convolution, that of a gradient. kernel (*sizes, O, C).

    Every window is written whole; then the borders are cut, or padded, as Keras counts them.
    """
    x, kernel = promoted(inputs, kernel)
    ndim = x.ndim
    if ndim == 5:
        return volumes.conv_transpose(
            conv_transpose, x, kernel, strides, padding, output_padding, data_format, dilation_rate
        )
    pads = compute_conv_transpose_padding_args_for_jax(
        x.shape, kernel.shape, strides, padding, output_padding, dilation_rate
    )
    x, w = as_images(x, data_format), _weight(kernel, ndim)
    stride, dilation = over_images(strides, ndim), over_images(dilation_rate, ndim)
    spans = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilation)]
    whole = [(n - 1) * s + span for n, s, span in zip(x.shape[2:], stride, spans)]
    y = conv2d_grad_input(x, w, (x.shape[0], w.shape[1], *whole), (stride, (0, 0), dilation, 1))
    borders = [(0, 0)] * (4 - ndim) + list(pads)
    (top, bottom), (left, right) = [(a - span + 1, b - span + 1) for (a, b), span in zip(borders, spans)]
    return as_given(ops.pad(y, (left, right, top, bottom)) if any((left, right, top, bottom)) else y, ndim, data_format)
