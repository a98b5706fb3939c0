"""Attention."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import promoted
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor


def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    scale: float | None = None,
    is_causal: bool = False,
    flash_attention: bool | None = None,
    attn_logits_soft_cap: float | None = None,
) -> Tensor:
    """softmax(q k^T scale + bias) v where the mask holds.

    query (B, T, N, H), key and value (B, S, K, H) with K a divisor of N -> (B, T, N, H)
    bias, mask            broadcast to (B, N, T, S)
    attn_logits_soft_cap  a c: scores s become c tanh(s / c), and are then all in memory at once
    """
    q, k, v = [convert_to_tensor(x) for x in promoted(query, key, value, least=float)]
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise ValueError(f"`dot_product_attention` only supports 4D inputs. Received: {q.shape}, {k.shape}, {v.shape}")
    shown = None if mask is None else convert_to_tensor(mask, dtype="bool")
    if is_causal and (shown is not None or bias is not None):
        causal = tg.ones(q.shape[1], k.shape[1], device=q.device).tril().bool()
        shown, is_causal = causal if shown is None else tg.logical_and(shown, causal), False
    if bias is not None:
        added = convert_to_tensor(bias, dtype=q.dtype)
        shown = added if shown is None else tg.where(shown, added, -float("inf"))
    q, k, v = [x.transpose(1, 2) for x in (q, k, v)]
    shares = k.shape[1] != q.shape[1]
    if attn_logits_soft_cap is not None:
        return _capped(q, k, v, shown, is_causal, scale, attn_logits_soft_cap).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, k, v, shown, 0.0, is_causal, scale, enable_gqa=shares)
    return y.transpose(1, 2)


def _capped(
    q: Tensor, k: Tensor, v: Tensor, shown: Tensor | None, is_causal: bool, scale: float | None, cap: float
) -> Tensor:
    """Attention of (B, N, T, H) by its formula."""
    shares = q.shape[1] // k.shape[1]
    k, v = [tg.repeat_interleave(x, shares, 1) if shares > 1 else x for x in (k, v)]
    scores = tg.mul(tg.matmul(q, k.transpose(-1, -2)), q.shape[-1] ** -0.5 if scale is None else scale)
    scores = tg.mul(tg.tanh(tg.div(scores, cap)), cap)
    if is_causal:
        shown = tg.ones(*scores.shape[-2:], device=q.device).tril().bool()
    if shown is not None:
        scores = tg.where(shown, scores, -float("inf")) if shown.dtype == tg.bool else tg.add(scores, shown)
    return tg.matmul(tg.softmax(scores, -1), v)
