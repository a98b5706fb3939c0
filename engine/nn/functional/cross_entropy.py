"""Cross-entropy and negative log-likelihood of classes."""

from __future__ import annotations

from typing import Any

from tilegrad import capture_hooks, dtypes, ops
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.device import array_module
from tilegrad.nn.functional.arguments import one_of, require_tensor
from tilegrad.nn.functional.reduction import REDUCTIONS, reduced, require_same_shape
from tilegrad.ops.operands import as_tensor, cast, require_float, require_one_device
from tilegrad.tensor import Tensor, wrap


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-sum_c q_c w_c log softmax(input)_c, q the target distribution.

    input            (N, C), (C,) or (N, C, d1, ...): logits
    target           class indices: integers (N,), () or (N, d1, ...), each 0 <= t < C, or ignore_index, which adds
                     nothing; or probabilities: floating, of input's shape
    weight           (C,), the w_c above. "mean" divides by the sum of w_t over the labels that count; for
                     probabilities by the number of rows
    label_smoothing  e in q = (1 - e) q + e / C (Szegedy et al. 2016)
    ->               of input's dtype; float32 for float16 or bfloat16 logits and class indices

    Raises ValueError for shapes, label_smoothing and labels out of range, TypeError for dtypes.
    """
    op = "cross_entropy"
    one_of(op, "reduction", reduction, REDUCTIONS)
    require_float(op, input, weight)
    require_tensor(op, target=target)
    require_one_device(op, input, target)
    if target.dtype in dtypes.FLOATS:
        return _soft_cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    rows, labels = _rows_and_labels(op, input, target)
    _require_class_weight(op, weight, rows.shape[1])
    loss = ops.softmax_xent(rows, labels, weight, label_smoothing, ignore_index, reduction)
    return ops.reshape(loss, target.shape) if reduction == "none" else loss


def _soft_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    op = "cross_entropy"
    require_float(op, input, target)
    require_same_shape(op, input, target=target)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{op}: label_smoothing is {label_smoothing}; expected 0 to 1")
    if ignore_index >= 0:
        raise ValueError(f"{op}: ignore_index is {ignore_index}; expected none where target holds probabilities")
    dim = _class_dim(op, input)
    classes = input.shape[dim]
    _require_class_weight(op, weight, classes)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    if weight is not None:
        target = target * _along(weight, dim, input.ndim)
    loss = -ops.sum(target * ops.log_softmax(input, dim), dim)
    return reduced(loss, reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-w_t input_t, of log-probabilities (input) and class indices (target); all else as in cross_entropy."""
    op = "nll_loss"
    one_of(op, "reduction", reduction, REDUCTIONS)
    require_float(op, input, weight)
    require_tensor(op, target=target)
    require_one_device(op, input, target)
    rows, labels = map(as_tensor, (op, op), _rows_and_labels(op, input, target))
    weight = None if weight is None else as_tensor(op, weight)
    classes = rows.shape[1]
    _require_class_weight(op, weight, classes)
    capture_hooks.check(_require_labels, labels, op, classes, ignore_index)
    t = labels.data
    counts = t != ignore_index
    xp = array_module(rows.data)
    safe = xp.where(counts, t, 0)
    picked = rows[xp.arange(len(t)), safe]
    w = counts.astype(rows.dtype) if weight is None else xp.where(counts, weight.data[safe], 0).astype(rows.dtype)
    loss = ops.where(wrap(counts), picked * wrap(-w), 0.0)  # not 0 * picked: picked may be infinite
    if reduction == "none":
        return ops.reshape(loss, target.shape)
    if reduction == "sum":
        return ops.sum(loss)
    total = ops.sum(loss, dtype=dtypes.accumulator(rows.dtype))
    return cast(total / wrap(w.sum(dtype=total.dtype)), rows.dtype)


def _require_labels(t: Any, op: str, classes: int, ignore_index: int) -> None:
    wrong = (t != ignore_index) & ((t < 0) | (t >= classes))
    if wrong.any():
        raise ValueError(
            f"{op}: target holds {int(t[wrong][0])}; expected 0 <= t < {classes}, or ignore_index {ignore_index}"
        )


def _class_dim(op: str, input: Tensor) -> int:
    """Where the classes are in (C,), (N, C) and (N, C, d1, ...)."""
    if input.ndim == 0:
        raise ValueError(f"{op}: input is (); expected (C,), (N, C) or (N, C, d1, ...)")
    return 0 if input.ndim == 1 else 1


def _rows_and_labels(op: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Input as (rows, C) and target as (rows,), integers that the kernels take."""
    dim = _class_dim(op, input)
    if target.dtype.kind not in "iu":
        raise TypeError(f"{op}: target is {target.dtype}; expected integers (class indices)")
    expected = (*input.shape[:dim], *input.shape[dim + 1 :])
    if target.shape != expected:
        raise ValueError(f"{op}: input is {input.shape} but target is {target.shape}; expected {expected}")
    if target.dtype not in (dtypes.int32, dtypes.int64):
        target = cast(target, dtypes.int64)
    if input.ndim == 2:
        return input, target
    rows = ops.movedim(input, dim, -1)
    return ops.reshape(rows, (target.numel(), input.shape[dim])), ops.reshape(target, -1)


def _require_class_weight(op: str, weight: Tensor | None, classes: int) -> None:
    if weight is None:
        return
    if weight.shape != (classes,):
        raise ValueError(f"{op}: weight is {weight.shape}; expected ({classes},), one a class")
    if weight.requires_grad and is_grad_enabled():
        raise RuntimeError(f"{op}: weight requires grad, but the loss has no gradient for it; expected a constant")


def _along(v: Tensor, dim: int, ndim: int) -> Tensor:
    return ops.reshape(v, tuple(-1 if d == dim else 1 for d in range(ndim)))
