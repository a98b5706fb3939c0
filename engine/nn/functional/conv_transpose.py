"""Transposed convolutions, by the primitive that is the gradient of conv2d."""

from __future__ import annotations

from typing import Any

from tilegrad import ops
from tilegrad.nn.functional.arguments import pair, require_tensor, single, size
from tilegrad.nn.functional.conv1d import require_lengths
from tilegrad.ops.conv import conv2d_grad_input
from tilegrad.ops.operands import require_float, require_one_device
from tilegrad.tensor import Tensor


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """The gradient of conv2d by its input, as a layer (Zeiler et al. 2010): what it maps from, this maps to.

    input   (N, C, H, W), or (C, H, W); weight (C, O / groups, KH, KW), bias (O,) or None -> (N, O, OH, OW)
    OH = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1
    output_padding  more at the end, less than stride or dilation: of all sizes that conv2d maps to H, which one

    Raises ValueError for shapes and geometry, TypeError for dtypes.
    """
    op = "conv_transpose2d"
    require_tensor(op, input=input, weight=weight)
    require_float(op, input, weight, bias)
    require_one_device(op, input, weight, *([] if bias is None else [bias]))
    if input.ndim not in (3, 4) or weight.ndim != 4:
        raise ValueError(f"{op}: input is {input.shape}, weight {weight.shape}; expected (N, C, H, W), (C, O, KH, KW)")
    if input.ndim == 3:
        options = stride, padding, output_padding, groups, dilation
        return conv_transpose2d(ops.unsqueeze(input, 0), weight, bias, *options)[0]
    stride, dilation = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    padding, extra = pair(op, "padding", padding), pair(op, "output_padding", output_padding)
    groups = size(op, "groups", groups, 1)
    channels, share, *kernel = weight.shape
    if input.shape[1] != channels or channels % groups:
        raise ValueError(
            f"{op}: input is {input.shape}, weight {weight.shape} in {groups} groups; expected as many channels, "
            "a multiple of groups"
        )
    if bias is not None and bias.shape != (share * groups,):
        raise ValueError(f"{op}: bias is {bias.shape}; expected ({share * groups},)")
    for more, *steps in zip(extra, stride, dilation):
        if more >= max(steps):
            raise ValueError(
                f"{op}: output_padding is {extra}; expected less than stride {stride} or dilation {dilation}"
            )
    sizes = [
        (n - 1) * s - 2 * p + d * (k - 1) + more + 1
        for n, s, p, d, k, more in zip(input.shape[2:], stride, padding, dilation, kernel, extra)
    ]
    if min(sizes) < 1:
        raise ValueError(f"{op}: the result would be {tuple(sizes)}; expected at least 1 each way")
    behind = [more // s for more, s in zip(extra, stride)]  # where dilation is larger: conv2d would have more windows
    if any(behind):
        input = ops.pad(input, (0, behind[1], 0, behind[0]))
    shape = input.shape[0], share * groups, *sizes
    y = conv2d_grad_input(input, weight, shape, (stride, padding, dilation, groups))
    return y if bias is None else y + ops.reshape(bias, (1, -1, 1, 1))


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """conv_transpose2d along the last dimension: input (N, C, L) or (C, L), weight (C, O / groups, K) -> (N, O, M)."""
    op = "conv_transpose1d"
    require_lengths(op, input, weight)
    names = {"stride": (stride, 1), "padding": (padding, 0), "output_padding": (output_padding, 0)}
    stride, padding, output_padding = (single(op, name, *given) for name, given in names.items())
    image, kernel = ops.unsqueeze(input, -2), ops.unsqueeze(weight, 2)
    options: Any = (1, stride), (0, padding), (0, output_padding), groups, (1, single(op, "dilation", dilation, 1))
    return ops.squeeze(conv_transpose2d(image, kernel, bias, *options), -2)
