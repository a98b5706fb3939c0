"""Attention with several heads, as a layer."""

from __future__ import annotations

import math
from typing import Any

from tilegrad import ops
from tilegrad.create import empty, zeros_like
from tilegrad.nn import functional as F
from tilegrad.nn import init
from tilegrad.nn.functional.arguments import probability, size
from tilegrad.nn.linear import Linear
from tilegrad.nn.module import Module
from tilegrad.nn.parameter import Parameter
from tilegrad.ops.attention import attention_with_weights
from tilegrad.ops.operands import require_float, require_one_device
from tilegrad.tensor import Tensor


class MultiheadAttention(Module):
    """softmax(q k^T / sqrt(d)) v in `num_heads` heads of width d = embed_dim / num_heads (Vaswani et al. 2017).

    in_proj_weight  (3 embed_dim, embed_dim): queries, keys, values; where kdim or vdim differs from embed_dim,
                    q_proj_weight, k_proj_weight and v_proj_weight instead
    in_proj_bias    (3 embed_dim,), zeros, or None
    out_proj        a Linear of embed_dim; its bias starts as zeros
    bias_k, bias_v  (1, 1, embed_dim) with add_bias_kv: one more key and value
    dropout         of the weights, in training
    add_zero_attn   one more key and value of zeros
    batch_first     inputs are (N, L, E), else (L, N, E); without a batch they are (L, E)

    Raises ValueError for sizes that do not fit.
    """

    in_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = "MultiheadAttention"
        self.embed_dim = e = size(name, "embed_dim", embed_dim, 1)
        self.num_heads = size(name, "num_heads", num_heads, 1)
        if e % num_heads:
            raise ValueError(f"{name}: embed_dim is {e} and num_heads {num_heads}; expected a multiple of num_heads")
        self.head_dim = e // num_heads
        self.kdim = e if kdim is None else size(name, "kdim", kdim, 1)
        self.vdim = e if vdim is None else size(name, "vdim", vdim, 1)
        self.dropout = probability(name, dropout)
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        made = {"device": device, "dtype": dtype}
        packed = self.kdim == self.vdim == e
        for each, width in (("q", e), ("k", self.kdim), ("v", self.vdim)):
            self.register_parameter(f"{each}_proj_weight", None if packed else Parameter(empty(e, width, **made)))
        self.register_parameter("in_proj_weight", Parameter(empty(3 * e, e, **made)) if packed else None)
        self.register_parameter("in_proj_bias", Parameter(empty(3 * e, **made)) if bias else None)
        self.out_proj = Linear(e, e, bias, **made)
        for each in ("bias_k", "bias_v"):
            self.register_parameter(each, Parameter(empty(1, 1, e, **made)) if add_bias_kv else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew: projections of the inputs by Xavier's rule, biases 0."""
        self.out_proj.reset_parameters()
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for row in (self.bias_k, self.bias_v):
            if row is not None:
                init.xavier_normal_(row)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(output, weights): the output has the shape of query, the weights are (N, L, S), or None if not needed.

        key_padding_mask      (N, S): bool, True for keys to leave out; or floating, added to the scores
        attn_mask             (L, S) or (N num_heads, L, S), of either kind as well
        need_weights          whether the weights are wanted. Without them attention runs in blocks, and is faster
        average_attn_weights  the mean over the heads, else (N, num_heads, L, S)
        is_causal             a promise that attn_mask is the causal one, which must be given too

        Outputs and weights of a query that may attend to nothing are 0 before the last projection. Raises ValueError
        for shapes, TypeError for dtypes.
        """
        self._check(query, key, value, key_padding_mask, attn_mask, is_causal)
        if is_causal and key_padding_mask is None and not need_weights:
            attn_mask = None
        else:
            is_causal = False
        batched = query.ndim == 3
        if not batched:
            itself = key is query, value is key
            query = ops.unsqueeze(query, 0)
            key = query if itself[0] else ops.unsqueeze(key, 0)
            value = key if itself[1] else ops.unsqueeze(value, 0)
            key_padding_mask = None if key_padding_mask is None else ops.unsqueeze(key_padding_mask, 0)
        batch_first = self.batch_first or not batched
        q, k, v = self._heads(query, key, value, batch_first)
        extra = (self.bias_k is not None) + bool(self.add_zero_attn)
        mask = _merged(attn_mask, key_padding_mask, self.num_heads, extra, q)
        scale, p = 1 / math.sqrt(self.head_dim), self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            y, weights = attention_with_weights(q, k, v, mask, is_causal, scale, p)
            weights = ops.mean(weights, 1) if average_attn_weights else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, p, is_causal)
        n, _, length, _ = y.shape
        order, shape = ((0, 2, 1, 3), (n, length)) if batch_first else ((2, 0, 1, 3), (length, n))
        y = self.out_proj(ops.reshape(ops.permute(y, order), (*shape, self.embed_dim)))
        if not batched:
            y, weights = ops.squeeze(y, 0), None if weights is None else ops.squeeze(weights, 0)
        return y, weights

    def _heads(self, query: Tensor, key: Tensor, value: Tensor, batch_first: bool) -> list[Tensor]:
        """Queries, keys and values as (N, heads, L or S, head_dim), views of as few products as there are inputs."""
        packed: Any = self.in_proj_weight
        products: list[tuple[Tensor, int, int]] = [(query, 0, 1), (key, 1, 2), (value, 2, 3)]
        if packed is not None and key is value:
            products = [(query, 0, 3)] if query is key else [(query, 0, 1), (key, 1, 3)]
        order = (2, 0, 3, 1, 4) if batch_first else (2, 1, 3, 0, 4)
        found: list[Tensor] = []
        for x, first, last in products:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
            weight: Any = weights[first] if packed is None else self._rows(packed, first, last)
            y = ops.linear(x, weight, self._rows(self.in_proj_bias, first, last))
            y = ops.reshape(y, (*y.shape[:2], last - first, self.num_heads, self.head_dim))
            found += ops.unbind(ops.permute(y, order))
        if self.bias_k is not None:
            rows: Any = self.bias_k, self.bias_v
            for i, row in enumerate(rows, 1):
                row = ops.permute(ops.reshape(row, (1, 1, self.num_heads, self.head_dim)), (0, 2, 1, 3))
                found[i] = ops.cat([found[i], ops.expand(row, (found[i].shape[0], -1, -1, -1))], 2)
        if self.add_zero_attn:
            for i in (1, 2):
                found[i] = F.pad(found[i], (0, 0, 0, 1))
        return found

    def _rows(self, x: Tensor | None, first: int, last: int) -> Tensor | None:
        """What of a packed parameter belongs to queries (0 to 1), keys (1 to 2) and values (2 to 3)."""
        return x if x is None or last - first == 3 else x[first * self.embed_dim : last * self.embed_dim]

    def _check(self, query: Any, key: Any, value: Any, padding: Any, mask: Any, is_causal: bool) -> None:
        op = "MultiheadAttention"
        require_float(op, query, key, value)
        shapes = f"query is {query.shape}, key {key.shape}, value {value.shape}"
        if not (query.ndim == key.ndim == value.ndim and query.ndim in (2, 3)):
            lead = "(N, L, E)" if self.batch_first else "(L, N, E)"
            raise ValueError(f"{op}: {shapes}; expected 3 dimensions each, {lead}, or 2 without a batch")
        batch, along = (0, 1) if query.ndim == 3 and self.batch_first else (1, 0)
        n = query.shape[batch] if query.ndim == 3 else 1
        alike = query.ndim == 2 or key.shape[batch] == value.shape[batch] == n
        widths = query.shape[-1], key.shape[-1], value.shape[-1]
        if not alike or key.shape[along] != value.shape[along] or widths != (self.embed_dim, self.kdim, self.vdim):
            raise ValueError(
                f"{op}: {shapes}; expected one batch size, as many values as keys, and widths of "
                f"{self.embed_dim}, {self.kdim} and {self.vdim}"
            )
        length, s = query.shape[along], key.shape[along]
        if is_causal and mask is None:
            raise ValueError(f"{op}: is_causal is True without attn_mask; expected the causal mask too")
        wanted: list[tuple[str, Any, list[tuple[int, ...]]]] = [
            ("key_padding_mask", padding, [(n, s) if query.ndim == 3 else (s,)]),
            ("attn_mask", mask, [(length, s), (n * self.num_heads, length, s)]),
        ]
        for name, given, allowed in wanted:
            if given is None:
                continue
            require_one_device(op, query, given)
            if given.shape not in allowed:
                raise ValueError(f"{op}: {name} is {given.shape}; expected {' or '.join(map(str, allowed))}")
            if given.dtype.kind != "b":
                require_float(op, query, given)


def _merged(mask: Any, padding: Any, heads: int, extra: int, q: Tensor) -> Tensor | None:
    """Both masks as one that broadcasts to (N, heads, L, S + extra): bool, True where to attend, or added."""
    if mask is not None and mask.ndim == 3:
        mask = ops.reshape(mask, (-1, heads, *mask.shape[1:]))
    if padding is not None:
        padding = ops.reshape(padding, (padding.shape[0], 1, 1, padding.shape[1]))
    given = [x for x in (mask, padding) if x is not None]
    if not given:
        return None
    if all(x.dtype.kind == "b" for x in given):
        left_out = given[0] if len(given) == 1 else ops.logical_or(*given)
        if extra:
            left_out = F.pad(left_out, (0, extra), value=False)
        return ops.logical_not(left_out)
    added = [ops.masked_fill(zeros_like(x, dtype=q.dtype), x, -math.inf) if x.dtype.kind == "b" else x for x in given]
    total = added[0] if len(added) == 1 else ops.add(*added)
    return F.pad(total, (0, extra)) if extra else total
