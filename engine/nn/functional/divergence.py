"""Losses of probabilities against probabilities of the same shape: binary cross-entropy, relative entropy."""

from __future__ import annotations

from typing import Any

from tilegrad import capture_hooks, ops
from tilegrad.autograd.grad_mode import no_grad
from tilegrad.autograd.record import record
from tilegrad.nn.functional.activation import logsigmoid
from tilegrad.nn.functional.arguments import one_of
from tilegrad.nn.functional.reduction import REDUCTIONS, reduced, require_broadcast, require_same_shape
from tilegrad.ops.operands import as_tensor, require_float
from tilegrad.tensor import Tensor, wrap


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """-(t log x + (1 - t) log(1 - x)) * weight, input x and target t of one shape and dtype, 0 <= x <= 1.

    Logarithms are cut at -100, and the gradient's denominator x (1 - x) at 1e-12, as in PyTorch.
    Raises ValueError for shapes and inputs out of range, TypeError for dtypes.
    """
    op = "binary_cross_entropy"
    one_of(op, "reduction", reduction, REDUCTIONS)
    require_float(op, input, target, weight)
    require_same_shape(op, input, target=target)
    require_broadcast(op, input, weight=weight)
    capture_hooks.check(_require_probabilities, input, op)
    loss = _bernoulli_nll(input, target)
    return reduced(loss if weight is None else loss * weight, reduction)


def _require_probabilities(x: Any, op: str) -> None:
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"{op}: input holds values from {x.min()} to {x.max()}; expected 0 <= input <= 1")


def _bernoulli_nll(x: Tensor, t: Tensor) -> Tensor:
    def rule(dy: Tensor) -> tuple:
        dx = dt = None
        if x.requires_grad:
            dx = dy * (x - t) / ops.clamp(x * (1.0 - x), min=1e-12)
        if t.requires_grad:
            log_x, log_rest = _logarithms(x)
            dt = dy * (log_rest - log_x)
        return dx, dt

    with no_grad():
        log_x, log_rest = _logarithms(x)
        y = -(t * log_x + (1.0 - t) * log_rest)
    return record("binary_cross_entropy", y.data, (x, t), rule)


def _logarithms(x: Tensor) -> tuple[Tensor, Tensor]:
    """log x and log(1 - x), not below -100."""
    return ops.clamp(ops.log(x), min=-100.0), ops.clamp(ops.log1p(-x), min=-100.0)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-(pos_weight t log sigmoid(x) + (1 - t) log sigmoid(-x)) * weight: logits x and target t of one shape.

    Both logarithms are exact for any |x|, and for 0 <= t <= 1 no digits cancel. weight and pos_weight broadcast
    to x. Raises ValueError for shapes, TypeError for dtypes.
    """
    op = "binary_cross_entropy_with_logits"
    one_of(op, "reduction", reduction, REDUCTIONS)
    require_float(op, input, target, weight, pos_weight)
    require_same_shape(op, input, target=target)
    require_broadcast(op, input, weight=weight, pos_weight=pos_weight)
    positive = target if pos_weight is None else target * pos_weight
    loss = -(positive * logsigmoid(input) + (1.0 - target) * logsigmoid(-input))
    return reduced(loss if weight is None else loss * weight, reduction)


def kl_div(input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """t (log t - input), 0 where t = 0: input log-probabilities, target probabilities (or log-probabilities).

    reduction may also be "batchmean": the sum divided by the batch size, as the formula of Kullback & Leibler
    (1951) has it; "mean" divides by the number of elements. Shapes as mse_loss.
    """
    op = "kl_div"
    one_of(op, "reduction", reduction, (*REDUCTIONS, "batchmean"))
    require_float(op, input, target)
    require_same_shape(op, input, target=target)
    if reduction == "batchmean" and input.ndim == 0:
        raise ValueError(f"{op}: input is (); expected a batch for reduction 'batchmean'")
    if log_target:
        loss = ops.exp(target) * (target - input)
    else:
        zero = wrap(as_tensor(op, target).data == 0)
        entropy = ops.where(zero, 0.0, target * ops.log(ops.where(zero, 1.0, target)))
        loss = entropy - target * input
    if reduction != "batchmean":
        return reduced(loss, reduction)
    return ops.sum(loss) / float(input.shape[0])
