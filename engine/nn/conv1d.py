"""Convolution of sequences as a layer."""

from __future__ import annotations

from typing import Any

from tilegrad import ops
from tilegrad.create import empty
from tilegrad.nn import init
from tilegrad.nn.conv import PADDING_MODES, channels, described
from tilegrad.nn.functional.arguments import one_of, single
from tilegrad.nn.functional.conv import require_padding_name, same_padding
from tilegrad.nn.functional.conv1d import conv1d
from tilegrad.nn.module import Module
from tilegrad.nn.parameter import Parameter
from tilegrad.tensor import Tensor


class Conv1d(Module):
    """Cross-correlation of sequences: (N, C, L) -> (N, O, M), or one sequence; `F.conv1d` has the formula.

    weight  (out_channels, in_channels / groups, K), bias (out_channels,) or None; both start uniform on [-b, b),
            b = 1 / sqrt(in_channels / groups * K)
    padding, padding_mode  as Conv2d has them

    Raises ValueError for sizes out of range and groups that do not divide the channels.
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = channels(self, in_channels, out_channels, groups)
        options = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        self.kernel_size, self.stride, self.dilation = (
            (single("Conv1d", name, value, 1),) for name, value in options.items()
        )
        one_of("Conv1d", "padding_mode", padding_mode, PADDING_MODES)
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            require_padding_name("Conv1d", padding, self.stride)
        self.padding = padding if isinstance(padding, str) else (single("Conv1d", "padding", padding),)
        made = {"device": device, "dtype": dtype}
        self.weight = Parameter(empty(self.out_channels, self.in_channels // groups, *self.kernel_size, **made))
        self.register_parameter("bias", Parameter(empty(self.out_channels, **made)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        init.default_(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of the input."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            if isinstance(padding, str):
                around = same_padding(self.kernel_size, self.dilation) if padding == "same" else (0, 0)
            else:
                around = padding * 2
            input, padding = ops.pad(input, around, self.padding_mode), 0
        return conv1d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return described(self, {"padding": (0,), "dilation": (1,), "groups": 1})
