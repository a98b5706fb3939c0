"""Dropout, of elements and of whole channels."""

from __future__ import annotations

from tilegrad import ops
from tilegrad.device import array_module
from tilegrad.nn.functional.arguments import probability, require_tensor
from tilegrad.ops.inplace import inplace_form
from tilegrad.ops.operands import require_float
from tilegrad.tensor import Tensor, wrap


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element 0 with probability p, else x / (1 - p) (Srivastava et al. 2014); x itself unless training.

    The bits come from the default generator's Philox stream. Raises ValueError unless 0 <= p <= 1.
    """
    require_tensor("dropout", input=input)
    probability("dropout", p)
    if not inplace:
        return ops.dropout(input, p, training)
    return inplace_form("dropout_", ops.dropout)(input, p) if training and p > 0 else input


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each channel of (N, C, H, W) as a whole 0 with probability p, else x / (1 - p) (Tompson et al. 2015).

    The first two dimensions count the channels, also in (N, C) and, as in PyTorch, in a single image (C, H, W).
    Raises ValueError for shapes and unless 0 <= p <= 1.
    """
    require_float("dropout2d", input)
    probability("dropout2d", p)
    if input.ndim < 2:
        raise ValueError(f"dropout2d: input is {input.shape}; expected (N, C, H, W), or (N, C, ...)")
    return (
        inplace_form("dropout2d_", _drop_channels)(input, p, training)
        if inplace
        else _drop_channels(input, p, training)
    )


def _drop_channels(input: Tensor, p: float, training: bool) -> Tensor:
    if not training or p == 0:
        return input
    one_a_channel = wrap(array_module(input.data).ones((*input.shape[:2], *[1] * (input.ndim - 2)), input.dtype))
    return input * ops.dropout(one_a_channel, p)
