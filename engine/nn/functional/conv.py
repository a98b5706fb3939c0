"""Two-dimensional convolution in PyTorch's calling convention, and padding."""

from __future__ import annotations

from typing import Any

from tilegrad import ops
from tilegrad.nn.functional.arguments import pair, require_images, require_tensor
from tilegrad.tensor import Tensor

pad = ops.pad


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Tensor:
    """y[n, o] = bias[o] + sum_c weight[o, c] * input[n, c], a cross-correlation.

    input       (N, C, H, W), or one image (C, H, W)
    weight      (O, C / groups, KH, KW) of input's dtype, bias (O,) or None
    stride      an int or a pair; likewise padding and dilation. padding may also be "valid" (none) or "same" (the
                output is as large as the input; stride must be 1, an odd pixel goes to the end)
    activation  as in tilegrad.ops.conv2d: computed in the primitive's epilogue
    ->          (N, O, OH, OW), OH = floor((H + 2 padding - dilation (KH - 1) - 1) / stride) + 1

    Raises ValueError for shapes and geometry, TypeError for dtypes.
    """
    require_images("conv2d", input)
    stride, dilation = pair("conv2d", "stride", stride, 1), pair("conv2d", "dilation", dilation, 1)
    if isinstance(padding, str):
        require_tensor("conv2d", weight=weight)
        input, padding = _padded_by_name(input, weight.shape[2:], stride, padding, dilation)
    else:
        padding = pair("conv2d", "padding", padding)
    if input.ndim == 4:
        return ops.conv2d(input, weight, bias, stride, padding, dilation, groups, activation)
    image = ops.unsqueeze(input, 0)
    return ops.conv2d(image, weight, bias, stride, padding, dilation, groups, activation)[0]


def same_padding(kernel_size: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Widths (left, right, top, bottom), as `pad` takes them, that keep the size at stride 1."""
    widths: list[int] = []
    for k, d in zip(kernel_size[::-1], dilation[::-1]):
        total = d * (k - 1)
        widths += [total // 2, total - total // 2]
    return tuple(widths)


def require_padding_name(op: str, padding: str, stride: tuple[int, ...]) -> None:
    """Raise ValueError unless padding is "valid", or "same" at stride 1."""
    if padding not in ("valid", "same"):
        raise ValueError(f"{op}: padding is {padding!r}; expected 'valid', 'same', an int or a pair")
    if padding == "same" and max(stride) > 1:
        raise ValueError(f"{op}: padding is 'same' and stride {stride}; expected stride 1")


def _padded_by_name(
    input: Tensor, kernel_size: tuple[int, ...], stride: tuple[int, ...], padding: str, dilation: tuple[int, ...]
) -> tuple[Tensor, tuple[int, int]]:
    """The input, and the padding that is left to the primitive. It pads evenly, so that an odd rest is padded here."""
    require_padding_name("conv2d", padding, stride)
    if padding == "valid":
        return input, (0, 0)
    left, right, top, bottom = same_padding(kernel_size, dilation)
    if right > left or bottom > top:
        input = ops.pad(input, (0, right - left, 0, bottom - top))
    return input, (top, left)
