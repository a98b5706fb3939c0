"""What losses share: the reductions, and checks of shapes. Nothing is ever broadcast by accident."""

from __future__ import annotations

from tilegrad import ops
from tilegrad.ops.operands import broadcast_shape
from tilegrad.tensor import Tensor

REDUCTIONS = ("mean", "sum", "none")


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of the elements, or the elements themselves."""
    if reduction == "none":
        return loss
    return ops.mean(loss) if reduction == "mean" else ops.sum(loss)


def require_same_shape(op: str, input: Tensor, **tensors: Tensor | None) -> None:
    """Raise ValueError unless each tensor that is given has the input's shape."""
    for name, t in tensors.items():
        if t is not None and t.shape != input.shape:
            raise ValueError(f"{op}: input is {input.shape} but {name} is {t.shape}; expected one shape")


def require_broadcast(op: str, input: Tensor, **tensors: Tensor | None) -> None:
    """Raise ValueError unless each tensor that is given broadcasts to the input's shape."""
    for name, t in tensors.items():
        if t is not None and broadcast_shape(op, input.shape, t.shape) != input.shape:
            raise ValueError(f"{op}: input is {input.shape} but {name} is {t.shape}; expected it to broadcast to input")
