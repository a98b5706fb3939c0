"""Attention, composed of matmul and softmax."""

from __future__ import annotations

import math

import numpy as np

from tilegrad import ops
from tilegrad.device import array_module
from tilegrad.nn.functional.arguments import probability
from tilegrad.ops.operands import broadcast_shape, require_float, require_one_device, rounded_once
from tilegrad.tensor import Tensor, wrap


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale + mask) v (Vaswani et al. 2017).

    query      (..., L, E), key (..., S, E), value (..., S, V) of one dtype -> (..., L, V)
    attn_mask  (..., L, S): bool, True where to attend; or floating, added to the scores
    is_causal  query i attends to keys 0..i; not together with attn_mask
    scale      1 / sqrt(E) by default
    dropout_p  applied to the weights, whenever it is not 0

    float16 and bfloat16 are computed in float32 and rounded once, scores and weights included.
    A query that may attend to nothing gives 0, as in PyTorch. Raises ValueError for shapes, TypeError for dtypes.
    """
    op = "scaled_dot_product_attention"
    require_float(op, query, key, value)
    probability(op, dropout_p)
    shapes = f"query is {query.shape}, key {key.shape}, value {value.shape}"
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise ValueError(f"{op}: {shapes}; expected at least 2 dimensions each")
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ValueError(f"{op}: {shapes}; expected (..., L, E), (..., S, E), (..., S, V)")
    scores = (*broadcast_shape(op, query.shape[:-2], key.shape[:-2]), query.shape[-2], key.shape[-2])
    if attn_mask is not None:
        if is_causal:
            raise ValueError(f"{op}: got both attn_mask and is_causal=True; expected one of them")
        require_one_device(op, query, attn_mask)
        if attn_mask.dtype.kind != "b":
            require_float(op, query, attn_mask)
        if broadcast_shape(op, scores, attn_mask.shape) != scores:
            raise ValueError(f"{op}: attn_mask is {attn_mask.shape}; expected it to broadcast to {scores}")
    elif is_causal:
        xp = array_module(query.data)
        attn_mask = wrap(xp.tri(scores[-2], scores[-1], dtype=np.bool_))

    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return _attention(query, key, value, attn_mask, dropout_p, scale)


@rounded_once
def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, scale: float
) -> Tensor:
    weights = ops.matmul(query * scale, ops.transpose(key, -2, -1))
    weights = ops.softmax(weights, -1) if mask is None else _masked_softmax(weights, mask)
    return ops.matmul(ops.dropout(weights, dropout_p), value)


def _masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """softmax over the keys that the mask admits, along the last dimension; 0 where it admits none."""
    scores = ops.where(mask, scores, -math.inf) if mask.dtype.kind == "b" else scores + mask
    nothing = wrap((scores.data == -math.inf).all(axis=-1, keepdims=True))
    # Masked before and after: the softmax of nothing would be nan, forward and backward.
    return ops.where(nothing, 0.0, ops.softmax(ops.where(nothing, 0.0, scores), -1))
