"""Two-dimensional convolution layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import ops
from tilegrad.create import empty
from tilegrad.device import array_module
from tilegrad.nn import init
from tilegrad.nn.functional.arguments import one_of, pair, size
from tilegrad.nn.functional.conv import conv2d, require_padding_name, same_padding
from tilegrad.nn.module import Module
from tilegrad.nn.parameter import Parameter
from tilegrad.tensor import Tensor, wrap

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class Conv2d(Module):
    """Cross-correlation of images: (N, C, H, W) -> (N, O, OH, OW), or one image; `F.conv2d` has the formula.

    weight        (out_channels, in_channels / groups, KH, KW), bias (out_channels,) or None; both start uniform on
                  [-b, b),  b = 1 / sqrt(in_channels / groups * KH * KW)
    padding       an int, a pair, "valid" or "same"
    padding_mode  what lies outside the image: "zeros", "reflect", "replicate" or "circular"

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
        self.kernel_size = pair("Conv2d", "kernel_size", kernel_size, 1)
        self.stride = pair("Conv2d", "stride", stride, 1)
        self.dilation = pair("Conv2d", "dilation", dilation, 1)
        one_of("Conv2d", "padding_mode", padding_mode, PADDING_MODES)
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            require_padding_name("Conv2d", padding, self.stride)
            self.padding = padding
        else:
            self.padding = pair("Conv2d", "padding", padding)
        made = {"device": device, "dtype": dtype}
        self.weight = Parameter(empty(out_channels, in_channels // groups, *self.kernel_size, **made))
        self.register_parameter("bias", Parameter(empty(out_channels, **made)) if bias else None)
        self._moved()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        init.default_(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of the input."""
        return self.forward_activated(input, None)

    def forward_activated(self, input: Tensor, activation: str | None, flattened: bool = False) -> Tensor:
        """act(convolution) as one primitive; activation is a name of tilegrad.ops.ACTIVATIONS, or None.

        flattened  whether the result is to be flattened: on a GPU it then lies so that this takes no copy
        """
        padding, last = self.padding, not (flattened and input.is_cuda)
        if self.padding_mode != "zeros":
            input, padding = ops.pad(input, self._pad_widths(), self.padding_mode), 0
        options = self.stride, padding, self.dilation, self.groups, activation, last
        return conv2d(input, self.weight, self.bias, *options)

    def _moved(self) -> None:
        """On a GPU the weight lies channels last in memory, as the kernels read it; on the CPU in C order."""
        weight = self.__dict__.get("weight")
        if isinstance(weight, Parameter):  # not what somebody computes it to be
            ordered = _channels_last if weight.is_cuda else np.ascontiguousarray
            self._lay(weight, ordered(weight.data))
            grad = weight.grad
            if grad is not None and ordered(grad.data) is not grad.data:
                weight.grad = wrap(ordered(grad.data))

    def _pad_widths(self) -> tuple[int, ...]:
        if isinstance(self.padding, str):
            return same_padding(self.kernel_size, self.dilation) if self.padding == "same" else (0, 0, 0, 0)
        height, width = self.padding
        return width, width, height, height

    def extra_repr(self) -> str:
        return described(self, {"padding": (0, 0), "dilation": (1, 1), "groups": 1})


def channels(of: Module, in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    """The three as ints. Raises ValueError unless groups divides the others."""
    name = type(of).__name__
    counts = [size(name, "in_channels", in_channels, 1), size(name, "out_channels", out_channels, 1)]
    groups = size(name, "groups", groups, 1)
    for each, count in zip(("in_channels", "out_channels"), counts):
        if count % groups:
            raise ValueError(f"{name}: {each} is {count}; expected a multiple of groups, {groups}")
    return counts[0], counts[1], groups


def described(module: Any, defaults: dict[str, Any]) -> str:
    """The extra_repr of a convolution: options that are the defaults are left out."""
    text = f"{module.in_channels}, {module.out_channels}, kernel_size={module.kernel_size}, stride={module.stride}"
    for name, default in defaults.items():
        if (value := getattr(module, name)) != default:
            text += f", {name}={value}"
    text += "" if module.bias is not None else ", bias=False"
    return text if module.padding_mode == "zeros" else text + f", padding_mode={module.padding_mode}"


def _channels_last(w: Any) -> Any:
    """The same (O, C / groups, KH, KW), in memory (O, KH, KW, C / groups); itself if it lies so."""
    last = w.transpose(0, 2, 3, 1)
    return w if last.flags.c_contiguous else array_module(w).ascontiguousarray(last).transpose(0, 3, 1, 2)
