"""Scaled dot-product attention: the fused primitive, tied into the graph; and the same composed of other ops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tilegrad import capture_hooks, kernels
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.ops.activations import softmax, softmax_grad
from tilegrad.ops.arithmetic import add, mul
from tilegrad.ops.linalg import matmul
from tilegrad.ops.noise import dropped
from tilegrad.ops.operands import cast, made_together, widened
from tilegrad.ops.reduce import sum
from tilegrad.ops.selection import where
from tilegrad.ops.shape import expand, reshape, transpose, unsqueeze
from tilegrad.random import default_generator
from tilegrad.tensor import Tensor, wrap

_MOST_ON_GPU = 256  # columns of a head: the kernels there have registers for no more


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, dropout_p: float
) -> Tensor:
    """softmax(q k^T * scale + mask) v:  q (B, H, L, E), k (B, G, S, E), v (B, G, S, V) -> (B, H, L, V).

    The primitive attention, whose docstring says what mask and dropout_p are. Where the mask itself wants a gradient,
    as PyTorch does it too, and where a head is wider than a GPU's kernel takes, it is composed of matmul and softmax.
    """
    drop = (0.0, 0, 0)
    if dropout_p:
        words = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
        drop = (dropout_p, *default_generator.take_for(q.data, words))
    mask_learns = mask is not None and mask.requires_grad and is_grad_enabled()
    if mask_learns or (q.device != "cpu" and max(q.shape[3], v.shape[3]) > _MOST_ON_GPU):
        y = _composed(widened(q), widened(k), widened(v), widened(mask), causal, scale, drop)
        return cast(y, q.dtype)
    capture_hooks.reads(mask)
    arrays = [x.data for x in (q, k, v)]
    options = None if mask is None else mask.data, causal, scale, *drop
    y, lse = kernels.of(*arrays, options[0]).attention(*arrays, *options)

    def rule(dy: Tensor, y: Tensor) -> tuple:
        if is_grad_enabled():
            wide = _composed_grad(widened(dy), widened(q), widened(k), widened(v), widened(mask), causal, scale, drop)
            return tuple([cast(x, q.dtype) for x in wide])
        used = dy, q, k, v, y
        arrays = [x.data for x in used]
        options = None if mask is None else mask.data, causal, scale, *drop
        found = kernels.of(*arrays).attention_grad(*arrays, lse, *options)
        return tuple(made_together("attention_grad", used, found, (q, k, v)))

    return record("scaled_dot_product_attention", y, (q, k, v), rule, output=True)


def attention_with_weights(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, dropout_p: float
) -> tuple[Tensor, Tensor]:
    """(attention, its weights (B, H, L, S) after dropout): composed, as weights are wanted."""
    capture_hooks.reads(mask)
    p = _weights(widened(q), _repeated(widened(k), q.shape[1] // k.shape[1]), widened(mask), causal, scale)
    if dropout_p:
        p = dropped(p, dropout_p, *default_generator.take_for(q.data, math.prod(p.shape)))
    y = matmul(p, _repeated(widened(v), q.shape[1] // v.shape[1]))
    return cast(y, q.dtype), cast(p, q.dtype)


# --- composed of other ops, in float32 for the 16-bit types: the scores are in memory


def _composed(q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, drop: tuple[Any, ...]) -> Tensor:
    shared = q.shape[1] // k.shape[1]
    p = _weights(q, _repeated(k, shared), mask, causal, scale)
    return matmul(dropped(p, *drop) if drop[0] else p, _repeated(v, shared))


def _composed_grad(
    dy: Any, q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, drop: tuple[Any, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """The primitive attention_grad's formulas, in ops that have gradients."""
    shared = q.shape[1] // k.shape[1]
    keys = _repeated(k, shared)
    p = _weights(q, keys, mask, causal, scale)
    dp = matmul(dy, transpose(_repeated(v, shared), -2, -1))
    used = p
    if drop[0]:
        used, dp = dropped(p, *drop), dropped(dp, *drop)
    ds = mul(softmax_grad(dp, p, -1), scale)
    dk, dv = matmul(transpose(ds, -2, -1), q), matmul(transpose(used, -2, -1), dy)
    return matmul(ds, keys), _summed(dk, shared), _summed(dv, shared)


def _weights(q: Tensor, keys: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """softmax over the keys that are not left out, along the last dimension; 0 where all are."""
    s = matmul(mul(q, scale), transpose(keys, -2, -1))
    if mask is not None:
        s = where(mask, s, -math.inf) if mask.dtype.kind == "b" else add(s, mask)
    if causal:
        s = where(wrap(array_module(s.data).tri(*s.shape[-2:], dtype=np.bool_)), s, -math.inf)
    if mask is None and s.shape[-1]:  # causality leaves the first key to every query
        return softmax(s, -1)
    nothing = wrap((s.data == -math.inf).all(axis=-1, keepdims=True))
    # Masked before and after: the softmax of nothing would be nan, forward and backward.
    return where(nothing, 0.0, softmax(where(nothing, 0.0, s), -1))


def _repeated(x: Tensor, shared: int) -> Tensor:
    """Each head of x as often as heads of q share it."""
    if shared == 1:
        return x
    batch, heads, *rest = x.shape
    return reshape(expand(unsqueeze(x, 2), (batch, heads, shared, *rest)), (batch, heads * shared, *rest))


def _summed(x: Tensor, shared: int) -> Tensor:
    """The sum over the heads that share one."""
    if shared == 1:
        return x
    batch, heads, *rest = x.shape
    return sum(reshape(x, (batch, heads // shared, shared, *rest)), 2)
