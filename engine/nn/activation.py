"""Activation layers: `tilegrad.nn.functional` has the formulas."""

from __future__ import annotations

from typing import Any

from tilegrad import ops
from tilegrad.create import full
from tilegrad.nn import functional as F
from tilegrad.nn.functional.arguments import one_of, size
from tilegrad.nn.init import constant_
from tilegrad.nn.module import Module
from tilegrad.nn.parameter import Parameter
from tilegrad.tensor import Tensor


class _Inplace(Module):
    """An activation without options but `inplace`, which writes the result over the input."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class ReLU(_Inplace):
    """max(x, 0)."""

    def forward(self, input: Tensor) -> Tensor:
        """max(x, 0)."""
        return F.relu(input, True) if self.inplace else ops.relu(input)


class ReLU6(_Inplace):
    """x cut to [0, 6]."""

    def forward(self, input: Tensor) -> Tensor:
        """x cut to [0, 6]."""
        return F.relu6(input, self.inplace)


class SiLU(_Inplace):
    """x sigmoid(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """x sigmoid(x)."""
        return F.silu(input, self.inplace)


class Mish(_Inplace):
    """x tanh(softplus(x))."""

    def forward(self, input: Tensor) -> Tensor:
        """x tanh(softplus(x))."""
        return F.mish(input, self.inplace)


class SELU(_Inplace):
    """scale * elu(x, alpha)."""

    def forward(self, input: Tensor) -> Tensor:
        """scale * elu(x, alpha)."""
        return F.selu(input, self.inplace)


class Hardswish(_Inplace):
    """x hardsigmoid(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """x hardsigmoid(x)."""
        return F.hardswish(input, self.inplace)

    def extra_repr(self) -> str:
        return ""


class Hardsigmoid(Hardswish):
    """relu6(x + 3) / 6."""

    def forward(self, input: Tensor) -> Tensor:
        """relu6(x + 3) / 6."""
        return F.hardsigmoid(input, self.inplace)


class Tanh(Module):
    """tanh x."""

    def forward(self, input: Tensor) -> Tensor:
        """tanh x."""
        return ops.tanh(input)


class Sigmoid(Module):
    """1 / (1 + e^-x)."""

    def forward(self, input: Tensor) -> Tensor:
        """1 / (1 + e^-x)."""
        return ops.sigmoid(input)


class LogSigmoid(Module):
    """log sigmoid(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """log sigmoid(x)."""
        return F.logsigmoid(input)


class Softsign(Module):
    """x / (1 + |x|)."""

    def forward(self, input: Tensor) -> Tensor:
        """x / (1 + |x|)."""
        return F.softsign(input)


class LeakyReLU(Module):
    """x where x > 0, else negative_slope * x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope, self.inplace = negative_slope, inplace

    def forward(self, input: Tensor) -> Tensor:
        """x where x > 0, else negative_slope * x."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")


class PReLU(Module):
    """x where x > 0, else weight * x: one slope that is trained, or one for each of num_parameters channels.

    weight  (num_parameters,), `init` everywhere
    """

    weight: Parameter

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = size("PReLU", "num_parameters", num_parameters, 1)
        self.init = init
        self.weight = Parameter(full((self.num_parameters,), init, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """`init` everywhere."""
        constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        """x where x > 0, else weight * x."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class ELU(Module):
    """x where x > 0, else alpha (e^x - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input: Tensor) -> Tensor:
        """x where x > 0, else alpha (e^x - 1)."""
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}" + (", inplace=True" if self.inplace else "")


class Hardtanh(Module):
    """x cut to [min_val, max_val]."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        if not min_val < max_val:
            raise ValueError(f"Hardtanh: min_val is {min_val} and max_val {max_val}; expected min_val < max_val")
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace

    def forward(self, input: Tensor) -> Tensor:
        """x cut to [min_val, max_val]."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}" + (", inplace=True" if self.inplace else "")


class GELU(Module):
    """x Phi(x), exactly ("none") or by the tanh formula ("tanh")."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        one_of("GELU", "approximate", approximate, ("none", "tanh"))
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """x Phi(x)."""
        return ops.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Softplus(Module):
    """log(1 + e^(beta x)) / beta; x itself where beta x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, input: Tensor) -> Tensor:
        """log(1 + e^(beta x)) / beta."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class GLU(Module):
    """a sigmoid(b), a and b the halves of x along `dim`."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """a sigmoid(b)."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(Module):
    """e^x / sum e^x along `dim`, which must be named."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """e^x / sum e^x."""
        return ops.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """log(e^x / sum e^x) along `dim`, which must be named."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """log(e^x / sum e^x)."""
        return ops.log_softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
