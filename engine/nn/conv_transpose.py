"""Transposed convolutions as layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilegrad.create import empty
from tilegrad.nn import init
from tilegrad.nn.conv import channels, described
from tilegrad.nn.functional.arguments import one_of, pair, single
from tilegrad.nn.functional.conv_transpose import conv_transpose1d, conv_transpose2d
from tilegrad.nn.module import Module
from tilegrad.nn.parameter import Parameter
from tilegrad.tensor import Tensor


class _ConvTranspose(Module):
    """What both transposed convolutions are, in `_dims` dimensions."""

    weight: Parameter
    bias: Parameter | None

    _dims: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.in_channels, self.out_channels, self.groups = channels(self, in_channels, out_channels, groups)
        one_of(name, "padding_mode", padding_mode, ("zeros",))
        self.padding_mode = padding_mode

        def sizes(option: str, value: Any, least: int) -> tuple[int, ...]:
            return pair(name, option, value, least) if self._dims == 2 else (single(name, option, value, least),)

        self.kernel_size, self.stride = sizes("kernel_size", kernel_size, 1), sizes("stride", stride, 1)
        self.padding, self.dilation = sizes("padding", padding, 0), sizes("dilation", dilation, 1)
        self.output_padding = sizes("output_padding", output_padding, 0)
        made = {"device": device, "dtype": dtype}
        self.weight = Parameter(empty(self.in_channels, self.out_channels // groups, *self.kernel_size, **made))
        self.register_parameter("bias", Parameter(empty(self.out_channels, **made)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        init.default_(self.weight, self.bias)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The transposed convolution; output_size: the last dimensions of the result, where output_padding is not."""
        convolve = conv_transpose2d if self._dims == 2 else conv_transpose1d
        extra = self.output_padding if output_size is None else self._extra(input, output_size)
        options: Any = self.stride, self.padding, extra, self.groups, self.dilation
        return convolve(input, self.weight, self.bias, *options)

    def _extra(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        name, wanted = type(self).__name__, tuple(output_size)[-self._dims :]
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                input.shape[-self._dims :], self.stride, self.padding, self.dilation, self.kernel_size
            )
        ]
        most = [n + s - 1 for n, s in zip(least, self.stride)]
        if len(wanted) != self._dims or not all(a <= n <= b for a, n, b in zip(least, wanted, most)):
            raise ValueError(f"{name}: output_size is {tuple(output_size)}; expected {tuple(least)} to {tuple(most)}")
        return tuple(n - a for n, a in zip(wanted, least))

    def extra_repr(self) -> str:
        zeros, ones = (0,) * self._dims, (1,) * self._dims
        return described(self, {"padding": zeros, "dilation": ones, "output_padding": zeros, "groups": 1})


class ConvTranspose1d(_ConvTranspose):
    """(N, C, L) -> (N, O, M), or one sequence; `F.conv_transpose1d` has the formula.

    weight  (in_channels, out_channels / groups, K), bias (out_channels,) or None; they start as Conv1d's
    output_padding  added at the end, less than stride or dilation; `output_size` of a call chooses it instead

    Raises ValueError for sizes out of range and groups that do not divide the channels.
    """

    _dims = 1


class ConvTranspose2d(_ConvTranspose):
    """(N, C, H, W) -> (N, O, OH, OW), or one image; `F.conv_transpose2d` has the formula.

    weight  (in_channels, out_channels / groups, KH, KW), bias (out_channels,) or None; they start as Conv2d's
    output_padding  added at the end, less than stride or dilation; `output_size` of a call chooses it instead

    Raises ValueError for sizes out of range and groups that do not divide the channels.
    """

    _dims = 2
