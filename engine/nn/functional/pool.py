"""Pooling over two-dimensional windows, fixed and adaptive."""

from __future__ import annotations

from typing import Any

from tilegrad import ops
from tilegrad.device import array_module
from tilegrad.nn.functional.arguments import pair, require_images, size
from tilegrad.tensor import Tensor, wrap


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    activation: str | None = None,
) -> Tensor | Any:  # with return_indices a pair
    """The maximum over each window of input (N, C, H, W) or (C, H, W); stride defaults to kernel_size.

    ceil_mode also takes windows that start inside the image and reach beyond it. return_indices also gives the place
    h * W + w of each maximum, int64. The gradient goes to the first maximum. activation as in tilegrad.ops.max_pool2d.
    Raises ValueError for shapes, geometry and activation, TypeError for dtypes.
    """
    kernel_size, stride, padding = _windows("max_pool2d", input, kernel_size, stride, padding)
    dilation = pair("max_pool2d", "dilation", dilation, 1)
    windows = kernel_size, stride, padding, dilation, ceil_mode
    y = ops.max_pool2d(_batched(input), *windows, return_indices, activation)
    if input.ndim == 4:
        return y
    return (y[0][0], y[1][0]) if return_indices else y[0]


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean over each window of input (N, C, H, W) or (C, H, W); stride defaults to kernel_size.

    count_include_pad counts the padding's zeros in the mean; divisor_override divides by another number.
    Raises ValueError for shapes and geometry, TypeError for dtypes.
    """
    kernel_size, stride, padding = _windows("avg_pool2d", input, kernel_size, stride, padding)
    y = ops.avg_pool2d(_batched(input), kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return y if input.ndim == 4 else y[0]


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """The mean over windows that divide (N, C, H, W) or (C, H, W) into output_size = (OH, OW) as evenly as may be.

    Window i of n over a side of length s runs from floor(i s / n) to ceil((i + 1) s / n). An int stands for both; None
    keeps the size. Raises ValueError for shapes.
    """
    out = _adaptive_size("adaptive_avg_pool2d", input, output_size)
    kernel = _even_windows(input, out)
    if kernel:
        return avg_pool2d(input, kernel)
    # The mean over a rectangle is the mean over its columns of the means over its rows.
    for dim, n in ((-2, out[0]), (-1, out[1])):
        spans = _spans(input.shape[dim], n)
        input = ops.stack([ops.mean(_between(input, dim, *span), dim) for span in spans], dim)
    return input


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Tensor | Any:
    """The maximum over windows as adaptive_avg_pool2d has them; return_indices as in max_pool2d."""
    out = _adaptive_size("adaptive_max_pool2d", input, output_size)
    kernel = _even_windows(input, out)
    if kernel:
        return max_pool2d(input, kernel, return_indices=return_indices)
    *lead, height, width = input.shape
    values, places = [], []
    for top, bottom in _spans(height, out[0]):
        for left, right in _spans(width, out[1]):
            window = _between(_between(input, -2, top, bottom), -1, left, right)
            value, at = ops.max(ops.reshape(window, (*lead, (bottom - top) * (right - left))), -1)
            row, column = at.data // (right - left), at.data % (right - left)
            values.append(value)
            places.append((row + top) * width + column + left)
    y = ops.reshape(ops.stack(values, -1), (*lead, *out))
    if not return_indices:
        return y
    return y, wrap(array_module(input.data).stack(places, -1).reshape((*lead, *out)))


def _windows(op: str, input: Tensor, kernel_size: Any, stride: Any, padding: Any) -> tuple[Any, Any, Any]:
    require_images(op, input)
    kernel_size = pair(op, "kernel_size", kernel_size, 1)
    stride = kernel_size if stride is None or stride == () else pair(op, "stride", stride, 1)
    return kernel_size, stride, pair(op, "padding", padding)


def _batched(input: Tensor) -> Tensor:
    return input if input.ndim == 4 else ops.unsqueeze(input, 0)


def _adaptive_size(op: str, input: Tensor, output_size: Any) -> tuple[int, int]:
    require_images(op, input)
    if not isinstance(output_size, (tuple, list)):
        output_size = (output_size, output_size)
    if len(output_size) != 2:
        raise TypeError(f"{op}: output_size is {output_size!r}; expected an int, None, or two of them")
    height, width = (
        have if wanted is None else size(op, "output_size", wanted, 1)
        for have, wanted in zip(input.shape[-2:], output_size)
    )
    if 0 in input.shape[-2:]:
        raise ValueError(f"{op}: input is {input.shape}; expected images of at least one pixel")
    return height, width


def _even_windows(input: Tensor, out: tuple[int, int]) -> tuple[int, int] | None:
    """The kernel size of windows that tile the image, where they all have one size."""
    (height, width), (rows, columns) = input.shape[-2:], out
    return (height // rows, width // columns) if height % rows == width % columns == 0 else None


def _spans(length: int, n: int) -> list[tuple[int, int]]:
    return [(i * length // n, -(-(i + 1) * length // n)) for i in range(n)]


def _between(x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    return ops.narrow(x, dim, start, stop - start)
