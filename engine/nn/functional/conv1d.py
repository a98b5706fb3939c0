"""Convolution along one dimension, by the primitive of two."""

from __future__ import annotations

from typing import Any

from tilegrad import ops
from tilegrad.nn.functional.arguments import require_tensor, single
from tilegrad.nn.functional.conv import conv2d, require_padding_name, same_padding
from tilegrad.tensor import Tensor


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """y[n, o] = bias[o] + sum_c weight[o, c] * input[n, c], a cross-correlation along the last dimension.

    input  (N, C, L), or (C, L); weight (O, C / groups, K), bias (O,) or None -> (N, O, M)
    M = floor((L + 2 padding - dilation (K - 1) - 1) / stride) + 1; padding may be "valid" or "same", as in conv2d

    It is conv2d of images of height 1. Raises as conv2d.
    """
    op = "conv1d"
    require_lengths(op, input, weight)
    stride, dilation = single(op, "stride", stride, 1), single(op, "dilation", dilation, 1)
    if isinstance(padding, str):
        require_padding_name(op, padding, (stride,))
        left, right = same_padding((weight.shape[-1],), (dilation,)) if padding == "same" else (0, 0)
        input, padding = ops.pad(input, (0, right - left)) if right > left else input, left
    else:
        padding = single(op, "padding", padding)
    image, kernel = ops.unsqueeze(input, -2), ops.unsqueeze(weight, 2)
    y = conv2d(image, kernel, bias, (1, stride), (0, padding), (1, dilation), groups)
    return ops.squeeze(y, -2)


def require_lengths(op: str, input: Tensor, weight: Tensor) -> None:
    """Raise ValueError unless input is (N, C, L) or (C, L) and the weight has 3 dimensions."""
    require_tensor(op, input=input, weight=weight)
    if input.ndim not in (2, 3) or weight.ndim != 3:
        raise ValueError(f"{op}: input is {input.shape}, weight {weight.shape}; expected (N, C, L), and 3 dimensions")
