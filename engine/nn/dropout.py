"""Dropout layers: active in training mode only."""

from __future__ import annotations

from tilegrad.nn import functional as F
from tilegrad.nn.functional.arguments import probability
from tilegrad.nn.module import Module
from tilegrad.tensor import Tensor


class Dropout(Module):
    """Each element 0 with probability p, else x / (1 - p). See `F.dropout`."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = probability(type(self).__name__, p)
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """The input with elements dropped; not in training, the input."""
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout2d(Dropout):
    """Each channel as a whole 0 with probability p, else x / (1 - p). See `F.dropout2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """The input with channels dropped; not in training, the input."""
        return F.dropout2d(input, self.p, self.training, self.inplace)
