"""Attention, in whatever shapes PyTorch takes."""

from __future__ import annotations

import math

from tilegrad import ops
from tilegrad.nn.functional.arguments import probability
from tilegrad.ops.attention import attention
from tilegrad.ops.operands import broadcast_shape, require_float, require_one_device
from tilegrad.tensor import Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T * scale + mask) v (Vaswani et al. 2017), in blocks: the scores are never all in memory.

    query       (..., L, E), key (..., S, E), value (..., S, V) of one dtype -> (..., L, V); the others broadcast
    attn_mask   (..., L, S): bool, True where to attend; or floating, added to the scores. If it requires a gradient,
                the scores are in memory
    is_causal   query i attends to keys 0..i; not together with attn_mask
    scale       1 / sqrt(E) by default
    dropout_p   applied to the weights, whenever it is not 0
    enable_gqa  the third dimension from the right is heads, of which key and value may have fewer than query: each is
                shared by as many neighbours (Ainslie et al. 2023)

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
    if enable_gqa and (min(query.ndim, key.ndim, value.ndim) < 3 or not _share(query, key) or not _share(query, value)):
        raise ValueError(f"{op}: {shapes}; expected heads of key and value that divide those of query")
    full = query.shape[-3:-2] if enable_gqa else ()  # heads, which do not broadcast then
    batches = [x.shape[:-3] if enable_gqa else x.shape[:-2] for x in (query, key, value)]
    seen = (*broadcast_shape(op, *batches[:2]), *full, query.shape[-2], key.shape[-2])
    if attn_mask is not None:
        if is_causal:
            raise ValueError(f"{op}: got both attn_mask and is_causal=True; expected one of them")
        require_one_device(op, query, attn_mask)
        if attn_mask.dtype.kind != "b":
            require_float(op, query, attn_mask)
        if broadcast_shape(op, seen, attn_mask.shape) != seen:
            raise ValueError(f"{op}: attn_mask is {attn_mask.shape}; expected it to broadcast to {seen}")

    lead = (*broadcast_shape(op, *batches), *full)
    *batch, heads = (1, 1, *lead)[-max(2, len(lead)) :]
    q, k, v = (_in_batch(x, batch) for x in (query, key, value))
    if not enable_gqa:
        q = _with_heads(q, heads)
    if k.shape[1] != v.shape[1] or not (enable_gqa or k.shape[1] == 1):
        k, v = _with_heads(k, heads), _with_heads(v, heads)
    mask = None if attn_mask is None else _in_batch(attn_mask, batch, is_mask=True)
    scale = 1 / math.sqrt(query.shape[-1] or 1) if scale is None else scale
    y = attention(q, k, v, mask, bool(is_causal), scale, dropout_p)
    shape = *lead, *y.shape[2:]
    return y if y.shape == shape else ops.reshape(y, shape)


def _share(query: Tensor, x: Tensor) -> bool:
    return x.shape[-3] > 0 and query.shape[-3] % x.shape[-3] == 0


def _in_batch(x: Tensor, batch: list[int], is_mask: bool = False) -> Tensor:
    """x (..., heads, rows, columns) as (B, heads, rows, columns); the batch of a mask stays 1 where it broadcasts."""
    have = (1,) * (len(batch) + 3 - x.ndim) + x.shape
    if is_mask and set(have[:-3]) <= {1}:
        batch = [1] * len(batch)
    x = x if x.shape == have else ops.reshape(x, have)
    x = x if list(have[:-3]) == batch else ops.expand(x, (*batch, *have[-3:]))
    return x if len(batch) == 1 else ops.reshape(x, (math.prod(batch), *have[-3:]))


def _with_heads(x: Tensor, heads: int) -> Tensor:
    """x with that many heads, each of its own as often as it takes."""
    if x.shape[1] == heads:
        return x
    return ops.expand(x, (-1, heads, -1, -1)) if x.shape[1] == 1 else ops.repeat_interleave(x, heads // x.shape[1], 1)
