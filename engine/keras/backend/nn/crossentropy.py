"""Cross-entropies, a value for each sample.

Where probabilities are the softmax or the sigmoid of logits, the loss is computed from these. So it stays exact where a
probability is rounded to 0 or 1.
"""

from __future__ import annotations

from typing import Any

from keras.src.backend.config import epsilon

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import floating, promoted
from tilegrad.keras.backend.origins import origin
from tilegrad.nn import functional as F
from tilegrad.ops.loss import softmax_xent
from tilegrad.ops.operands import normalize_axis
from tilegrad.tensor import Tensor


def categorical_crossentropy(target: Any, output: Any, from_logits: bool = False, axis: int = -1) -> Tensor:
    """-sum target log p along an axis, p the output or its softmax. Raises ValueError unless the shapes are equal."""
    target, output = _pair(target, output)
    if target.shape != output.shape:
        raise ValueError(
            f"Arguments `target` and `output` must have the same shape. Received: {target.shape} and {output.shape}"
        )
    if not target.ndim:
        raise ValueError("Arguments `target` and `output` must be at least rank 1. Received: scalars")
    return tg.neg(tg.sum(tg.mul(target, _log_probabilities(output, from_logits, axis)), axis))


def sparse_categorical_crossentropy(target: Any, output: Any, from_logits: bool = False, axis: int = -1) -> Tensor:
    """-log p of the class that target says, p along an axis the output or its softmax.

    target  integers of output's shape without that axis, or with 1 there
    """
    labels, output = convert_to_tensor(target).to(tg.int64), floating(output)
    if not output.ndim:
        raise ValueError("Argument `output` must be at least rank 1. Received: a scalar")
    d = normalize_axis("sparse_categorical_crossentropy", axis, output.ndim)
    rest = output.shape[:d] + output.shape[d + 1 :]
    if labels.ndim == output.ndim and labels.shape[d] == 1:
        labels = labels.squeeze(d)
    if labels.shape != rest:
        raise ValueError(
            f"Argument `target` must have the shape {rest} of `output` without axis {axis}. Received: {labels.shape}"
        )
    logits = output if from_logits else _logits(output, axis)
    if logits is None:
        picked = tg.take_along_dim(_log_probabilities(output, False, axis), labels.unsqueeze(d), d)
        return tg.neg(picked.squeeze(d))
    rows = logits.movedim(d, -1).reshape(-1, output.shape[d])
    return softmax_xent(rows, labels.reshape(-1), reduction="none").reshape(rest)


def binary_crossentropy(target: Any, output: Any, from_logits: bool = False) -> Tensor:
    """-(target log p + (1 - target) log(1 - p)) elementwise, p the output or its sigmoid."""
    target, output = _pair(target, output)
    if target.shape != output.shape:
        raise ValueError(
            f"Arguments `target` and `output` must have the same shape. Received: {target.shape} and {output.shape}"
        )
    logits = output if from_logits else origin(output, "sigmoid")
    if logits is not None:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = tg.clamp(output, epsilon(), 1.0 - epsilon())
    return tg.neg(tg.add(tg.mul(target, tg.log(p)), tg.mul(tg.sub(1.0, target), tg.log(tg.sub(1.0, p)))))


def _pair(target: Any, output: Any) -> tuple[Tensor, Tensor]:
    """Both as floats of one dtype; the output itself where it has that."""
    output = floating(output)
    target, wide = promoted(convert_to_tensor(target), output)
    return target, wide


def _logits(output: Tensor, axis: int) -> Tensor | None:
    """What the output is the softmax of along the axis, as far as is known."""
    found = origin(output, "softmax")
    if found is None:
        return None
    logits, of = found
    return logits if of is not None and of % output.ndim == axis % output.ndim else None


def _log_probabilities(output: Tensor, from_logits: bool, axis: int) -> Tensor:
    """log p, of probabilities scaled so that their sum is 1, and cut to [epsilon, 1 - epsilon]."""
    logits = output if from_logits else _logits(output, axis)
    if logits is not None:
        return tg.log_softmax(logits, axis)
    p = tg.div(output, tg.sum(output, axis, keepdim=True))
    return tg.log(tg.clamp(p, epsilon(), 1.0 - epsilon()))
