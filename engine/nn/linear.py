"""Linear layers, and those that only arrange dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilegrad import ops
from tilegrad.create import empty
from tilegrad.nn import init
from tilegrad.nn.functional.arguments import size
from tilegrad.nn.module import Module
from tilegrad.nn.parameter import Parameter
from tilegrad.tensor import Tensor


class Linear(Module):
    """y = x W^T + b: (..., in_features) -> (..., out_features).

    weight  (out_features, in_features), bias (out_features,) or None; both start uniform on [-b, b),
            b = 1 / sqrt(in_features)
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features = size("Linear", "in_features", in_features)
        self.out_features = size("Linear", "out_features", out_features)
        made = {"device": device, "dtype": dtype}
        self.weight = Parameter(empty(self.out_features, self.in_features, **made))
        self.register_parameter("bias", Parameter(empty(self.out_features, **made)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        init.default_(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b."""
        return ops.linear(input, self.weight, self.bias)

    def forward_activated(self, input: Tensor, activation: str) -> Tensor:
        """act(x W^T + b) as one primitive; activation is a name of tilegrad.ops.ACTIVATIONS."""
        return ops.linear(input, self.weight, self.bias, activation)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Identity(Module):
    """Its input. Arguments are accepted and ignored, so that it can stand in for any layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Tensor | Any:
        """The input."""
        return input


class Flatten(Module):
    """Dimensions start_dim..end_dim as one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        """The input flattened."""
        return ops.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Dimension `dim` as the dimensions unflattened_size, one of which may be -1."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(unflattened_size, (tuple, list)):
            raise TypeError(f"Unflatten: unflattened_size is {unflattened_size!r}; expected a tuple of ints")
        self.dim = dim
        self.unflattened_size = tuple(size("Unflatten", "unflattened_size", s, -1) for s in unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        """The input unflattened."""
        return ops.unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
