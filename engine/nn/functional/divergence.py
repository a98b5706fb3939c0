"""Losses of probabilities against probabilities of the same shape: binary cross-entropy, relative entropy."""

from __future__ import annotations

from tilegrad import capture_hooks, ops
from tilegrad.autograd.grad_mode import no_grad
from tilegrad.autograd.record import record
from tilegrad.kernels.losses.probabilities import check_probabilities
from tilegrad.nn.functional.activation import logsigmoid
from tilegrad.nn.functional.arguments import one_of
from tilegrad.nn.functional.fused_loss import fused
from tilegrad.nn.functional.reduction import REDUCTIONS, reduced, require_broadcast, require_same_shape
from tilegrad.ops.elementwise_loss import slopes_of
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
    loss = fused(op, input, target, reduction, weight)
    if loss is not None:
        return loss
    capture_hooks.check(check_probabilities, input)
    loss = _bernoulli_nll(input, target)
    return reduced(loss if weight is None else loss * weight, reduction)


def _bernoulli_nll(x: Tensor, t: Tensor) -> Tensor:
    def rule(dy: Tensor) -> tuple:
        slopes = slopes_of(x, t, "binary_cross_entropy")
        return tuple([dy * slope if a.requires_grad else None for slope, a in zip(slopes, (x, t))])

    with no_grad():
        log_x, log_rest = ops.clamp(ops.log(x), min=-100.0), ops.clamp(ops.log1p(-x), min=-100.0)
        y = -(t * log_x + (1.0 - t) * log_rest)
    return record("binary_cross_entropy", y.data, (x, t), rule)


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
    loss = fused(op, input, target, reduction, weight, pos_weight)
    if loss is not None:
        return loss
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
