"""Losses of numbers against numbers of the same shape: one kernel each, or ops where there is none (fused_loss.py)."""

from __future__ import annotations

from tilegrad import ops
from tilegrad.nn.functional.arguments import one_of, require_tensor
from tilegrad.nn.functional.fused_loss import fused
from tilegrad.nn.functional.reduction import REDUCTIONS, reduced, require_same_shape
from tilegrad.tensor import Tensor


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    """(input - target)^2, times weight. Raises ValueError unless all have one shape: nothing is broadcast.

    With a weight, "mean" divides by its sum.
    """
    _check("mse_loss", input, target, reduction, weight)
    loss = _by_weight("mse_loss", input, target, weight, reduction)
    return _weighted(ops.square(input - target), weight, reduction) if loss is None else loss


def l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    """|input - target|, times weight; as mse_loss otherwise. The gradient where they are equal is 0."""
    _check("l1_loss", input, target, reduction, weight)
    loss = _by_weight("l1_loss", input, target, weight, reduction)
    return _weighted(ops.abs(input - target), weight, reduction) if loss is None else loss


def smooth_l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2;  d = input - target (Girshick 2015). Shapes as mse_loss.

    Raises ValueError for a negative beta.
    """
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta is {beta}; expected >= 0")
    _check("smooth_l1_loss", input, target, reduction)
    loss = fused("smooth_l1_loss", input, target, reduction, beta=beta)
    if loss is not None:
        return loss
    d = input - target
    size = ops.abs(d)
    if beta == 0:
        return reduced(size, reduction)
    return reduced(ops.where(size < beta, ops.square(d) * (0.5 / beta), size - 0.5 * beta), reduction)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2);  d = input - target (Huber 1964). Shapes as mse_loss.

    With a weight, "mean" still divides by the number of elements, as in PyTorch. Raises ValueError unless delta > 0.
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta is {delta}; expected > 0")
    _check("huber_loss", input, target, reduction, weight)
    loss = fused("huber_loss", input, target, reduction, weight, beta=delta)
    if loss is not None:
        return loss
    d = input - target
    size = ops.abs(d)
    loss = ops.where(size <= delta, ops.square(d) * 0.5, (size - 0.5 * delta) * delta)
    return reduced(loss if weight is None else loss * weight, reduction)


def _check(op: str, input: Tensor, target: Tensor, reduction: str, weight: Tensor | None = None) -> None:
    one_of(op, "reduction", reduction, REDUCTIONS)
    require_tensor(op, input=input, target=target)
    if weight is not None:
        require_tensor(op, weight=weight)
    require_same_shape(op, input, target=target, weight=weight)


def _by_weight(kind: str, input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> Tensor | None:
    """By a kernel, if there is one: with weights "mean" divides by their sum."""
    if weight is None or reduction != "mean":
        return fused(kind, input, target, reduction, weight)
    loss = fused(kind, input, target, "sum", weight)
    return None if loss is None else loss / ops.sum(weight)


def _weighted(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """The same of a loss that ops have computed."""
    if weight is None or reduction != "mean":
        return reduced(loss if weight is None else loss * weight, reduction)
    return ops.sum(loss * weight) / ops.sum(weight)
