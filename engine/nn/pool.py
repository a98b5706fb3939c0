"""Pooling layers."""

from __future__ import annotations

from typing import Any

from tilegrad.nn import functional as F
from tilegrad.nn.functional.arguments import pair, size
from tilegrad.nn.module import Module
from tilegrad.tensor import Tensor


class MaxPool2d(Module):
    """The maximum over each window; stride defaults to kernel_size. See `F.max_pool2d`."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        _check_windows("MaxPool2d", kernel_size, stride, padding)
        pair("MaxPool2d", "dilation", dilation, 1)
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Tensor | Any:
        """The maxima or, with return_indices, (maxima, indices)."""
        return self.forward_activated(input, None)

    def forward_activated(self, input: Tensor, activation: str | None) -> Tensor | Any:
        """act(maxima) as one primitive; activation is None or, without return_indices, "relu"."""
        windows = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return F.max_pool2d(input, *windows, self.return_indices, activation)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """The mean over each window; stride defaults to kernel_size. See `F.avg_pool2d`."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        _check_windows("AvgPool2d", kernel_size, stride, padding)
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """The means."""
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """The mean over windows that divide the image into output_size. See `F.adaptive_avg_pool2d`."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = _checked_output("AdaptiveAvgPool2d", output_size)

    def forward(self, input: Tensor) -> Tensor:
        """The means."""
        return F.adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool2d(Module):
    """The maximum over windows that divide the image into output_size. See `F.adaptive_max_pool2d`."""

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = _checked_output("AdaptiveMaxPool2d", output_size)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Tensor | Any:
        """The maxima or, with return_indices, (maxima, indices)."""
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


def _check_windows(op: str, kernel_size: Any, stride: Any, padding: Any) -> None:
    pair(op, "kernel_size", kernel_size, 1)
    if stride is not None:
        pair(op, "stride", stride, 1)
    pair(op, "padding", padding)


def _checked_output(op: str, output_size: Any) -> Any:
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,)
    if len(sizes) > 2:
        raise TypeError(f"{op}: output_size is {output_size!r}; expected an int, None, or two of them")
    for s in sizes:
        if s is not None:
            size(op, "output_size", s, 1)
    return output_size
