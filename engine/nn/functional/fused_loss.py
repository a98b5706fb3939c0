"""Losses of numbers against numbers by one kernel, where the arguments fit it."""

from __future__ import annotations

from tilegrad import ops
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.ops.elementwise_loss import elementwise_loss, has_kernel
from tilegrad.ops.operands import binary
from tilegrad.tensor import Tensor


def fused(
    kind: str,
    input: Tensor,
    target: Tensor,
    reduction: str,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    beta: float = 1.0,
) -> Tensor | None:
    """The loss of that kind (kernels/losses/reference.py), or None if there is no kernel for these tensors.

    There is none for integers, for float64 on a GPU, for weights of another dtype, and for weights that want a
    gradient: the caller then composes the loss of ops. The weights broadcast to input.
    """
    x, t = binary(kind, input, target)
    if not has_kernel(x):
        return None
    for w in (weight, pos_weight):
        if w is not None and (w.dtype != x.dtype or w.is_cuda != x.is_cuda or w.requires_grad and is_grad_enabled()):
            return None
    weight, pos_weight = (None if w is None else ops.expand(w, x.shape) for w in (weight, pos_weight))
    return elementwise_loss(x, t, kind, weight, pos_weight, beta, reduction)
