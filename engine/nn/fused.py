"""Two modules as one primitive, where nobody can see what lies between: what layers use that are written out by hand.

Results are those of the modules one by one within rounding. Sequential has rules of its own (containers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilegrad import capture_hooks
from tilegrad.nn import functional as F
from tilegrad.nn.containers import observed
from tilegrad.nn.linear import Linear
from tilegrad.nn.module import Module
from tilegrad.nn.norm import LayerNorm
from tilegrad.tensor import Tensor

_EPILOGUES: dict[Any, str] = {F.relu: "relu", F.gelu: "gelu", F.silu: "silu", F.tanh: "tanh"}


def activated(linear: Module, activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """activation(linear(x))."""
    name = _EPILOGUES.get(activation)
    if name is None or type(linear) is not Linear or observed(linear):
        return activation(linear(x))
    _heard(linear)
    return linear.forward_activated(x, name)


def normalised_sum(norm: Module, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """(norm(s), s), s = residual + x."""
    if type(norm) is LayerNorm and not observed(norm) and x.shape == residual.shape and x.dtype == residual.dtype:
        _heard(norm)
        return norm.forward_residual(x, residual)
    s = residual + x
    return norm(s), s


def _heard(module: Module) -> None:
    """A captured step hears of modules by their calls, or here."""
    if capture_hooks.capturing and (account := capture_hooks.current()) is not None:
        account.module(module)
