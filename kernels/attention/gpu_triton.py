"""Scaled dot-product attention on a GPU, in Triton: the formulas of attention/reference.py, in blocks.

One program has BLOCK_Q queries of one head, and goes over the keys BLOCK_K at a time. It keeps of each query the
largest score so far m, the sum of exponentials so far and the output so far, both relative to m (Dao et al. 2022,
"FlashAttention", algorithm 1, with one division at the end as in FlashAttention-2):

    m' = max(m, max_j s_j),   p_j = exp(s_j - m'),   sum' = sum exp(m - m') + sum_j p_j,   y' = y exp(m - m') + p v

Causal programs end at the diagonal. Scores are float32. Products of 16-bit operands go through the tensor cores; a
weight is float32, so it is multiplied as the sum of two 16-bit numbers, high and low part: rounded once, its error
would be as large as that of the result. float32 is multiplied on the float32 pipes ("ieee").

Arrays of any strides are read in place; y has the memory order of q. Heads are up to MOST wide, padded to a power
of two.

Floor: 2 B H L S (E + V) FLOP, half of it if causal, and one half more of the V part for the low parts. Reads q and
writes y once, k and v once for each block of queries, from the L2 cache as a rule.
Dropout takes one Philox block a score, of which it uses one word of four.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.attention.layout import empty_as
from tilegrad.kernels.attention.reference import Sizes, check_attention
from tilegrad.kernels.checks import require
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.dense import dense
from tilegrad.kernels.dropout.gpu_triton import philox, stream_arguments, stream_start, word_argument, word_of
from tilegrad.kernels.dropout.reference import threshold
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.softmax.gpu_triton import shift_of

MOST = 256  # of the widths of heads: a wider tile of results would not fit the registers


@triton.jit
def load_rows(ptr, rows, columns, row_step, column_step, n_rows, n_columns):
    """(rows, columns) of a matrix; 0 beyond its end."""
    at = rows.to(tl.int64)[:, None] * row_step + columns.to(tl.int64)[None, :] * column_step
    return tl.load(ptr + at, mask=(rows < n_rows)[:, None] & (columns < n_columns)[None, :], other=0.0)


@triton.jit
def store_rows(ptr, rows, columns, row_step, n_rows, n_columns, value):
    """Rows of a matrix whose columns are dense."""
    at = rows.to(tl.int64)[:, None] * row_step + columns.to(tl.int64)[None, :]
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    tl.store(ptr + at, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def products(a, b):
    """a b of two tiles as they were loaded, in float32."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def add_product(weights, b, sums):
    """sums + weights b; weights are float32, and multiplied in two parts where b is 16 bits."""
    if b.dtype == tl.float32:
        return tl.dot(weights, b, sums, input_precision="ieee")
    high = weights.to(b.dtype)
    low = (weights - high.to(tl.float32)).to(b.dtype)
    return tl.dot(low, b, tl.dot(high, b, sums))


@triton.jit
def left_out(s, i, j, L, S, mask_ptr, mask_row, mask_column, CAUSAL: tl.constexpr):
    """Scores of queries i and keys j, with what is added to them, and -inf for keys that are left out."""
    inside = (j < S) & (i >= 0)
    if mask_ptr is not None:
        at = i.to(tl.int64) * mask_row + j.to(tl.int64) * mask_column
        mask = tl.load(mask_ptr + at, mask=(i < L) & (j < S), other=0)
        if mask_ptr.dtype.element_ty.is_floating():
            added = mask.to(tl.float32)
            inside &= added != float("-inf")
            s += added
        else:
            inside &= mask != 0
    if CAUSAL:
        inside &= j <= i
    return tl.where(inside, s, float("-inf"))


@triton.jit
def kept(i, j, plane, L, S, first, skipped, seed_low, seed_high, least):
    """Which weights of queries i and keys j dropout keeps; plane counts the heads of all batches."""
    word = skipped + (plane * L + i) * S + j
    w0, w1, w2, w3 = philox(seed_low, seed_high, first + (word >> 2).to(tl.uint64))
    place = word & 3
    bits = tl.where(place < 2, tl.where(place == 0, w0, w1), tl.where(place == 2, w2, w3))
    return bits >= word_of(least)


@kernel
def _attention_kernel(
    q_ptr, k_ptr, v_ptr, mask_ptr, y_ptr, lse_ptr, offset_ptr,
    H, SHARED, L, S, E, V, scale,
    q_b, q_h, q_l, q_e, k_b, k_h, k_s, k_e, v_b, v_h, v_s, v_e, mask_b, mask_h, mask_l, mask_s,
    y_b, y_h, y_l, kept_scale, least, seed_low, seed_high, offset_low, offset_high,
    CAUSAL: tl.constexpr, DROPPED: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """q (B, H, L, E), k (B, H / SHARED, S, E), v (B, H / SHARED, S, V), mask (B, H, L, S) or None, y (B, H, L, V),
    each with its strides in elements, 0 where it is broadcast; lse (B, H, L) dense. One program a block of queries.
    """
    tiles = tl.cdiv(L, BLOCK_Q)
    plane = (tl.program_id(0) // tiles).to(tl.int64)
    begin = tl.program_id(0) % tiles * BLOCK_Q
    b, h = plane // H, plane % H
    q_ptr += b * q_b + h * q_h
    k_ptr += b * k_b + h // SHARED * k_h
    v_ptr += b * v_b + h // SHARED * v_h
    if mask_ptr is not None:
        mask_ptr += b * mask_b + h * mask_h
    first, skipped = stream_start(offset_ptr, offset_low, offset_high)

    rows = begin + tl.arange(0, BLOCK_Q)
    along_e, along_v = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_V)
    q = load_rows(q_ptr, rows, along_e, q_l, q_e, L, E)
    m = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    sums = tl.zeros([BLOCK_Q, BLOCK_V], tl.float32)
    end = S
    if CAUSAL:
        end = tl.minimum(S, begin + BLOCK_Q)
    for start in range(0, end, BLOCK_K):
        keys = start + tl.arange(0, BLOCK_K)
        k = load_rows(k_ptr, keys, along_e, k_s, k_e, S, E)
        s = products(q, tl.trans(k)) * scale
        s = left_out(s, rows[:, None], keys[None, :], L, S, mask_ptr, mask_l, mask_s, CAUSAL)
        before = m
        m = tl.maximum(m, tl.max(s, 1))
        shift = shift_of(m)
        p = tl.exp(s - shift[:, None])
        past = tl.exp(before - shift)
        total = total * past + tl.sum(p, 1)
        if DROPPED:
            stays = kept(rows[:, None], keys[None, :], plane, L, S, first, skipped, seed_low, seed_high, least)
            p *= tl.where(stays, kept_scale, 0.0)
        v = load_rows(v_ptr, keys, along_v, v_s, v_e, S, V)
        sums = add_product(p, v, sums * past[:, None])
    y = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    store_rows(y_ptr + b * y_b + h * y_h, rows, along_v, y_l, L, V, y)
    tl.store(lse_ptr + plane * L + rows, m + tl.log(total), mask=rows < L)


class Blocks(NamedTuple):
    queries: int
    keys: int
    num_warps: int
    num_stages: int


def _blocks(dtype: np.dtype, widest: int, is_plain: bool) -> Blocks:
    """The tile, chosen so that nothing spills; a mask or dropout needs registers for addresses and words."""
    if dtype.itemsize == 2:
        if widest <= 64:
            return Blocks(128, 32, 4, 3) if is_plain else Blocks(128, 32, 8, 2)
        return Blocks(128, 32, 8, 2) if widest <= 128 else Blocks(32, 32, 8, 1)
    if widest <= 64:
        return Blocks(32, 32, 4, 2)
    return Blocks(32, 16, 4, 2) if widest <= 128 else Blocks(16, 16, 4, 2)


def attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any | None = None,
    causal: bool = False,
    scale: float = 1.0,
    dropout: float = 0.0,
    seed: int = 0,
    offset: Any = 0,
) -> tuple[Any, Any]:
    """As attention.reference.attention, for float16, bfloat16 and float32, E and V up to MOST.

    Traffic: at the head of this file. offset may be in device memory, as in the primitive dropout.
    """
    op = "attention"
    dtype, sizes = check_attention(op, q, k, v, mask, scale, dropout, seed, offset)
    no_float64(op, dtype)
    check_width(op, sizes)
    xp = gpu.xp()
    y = empty_as(q, sizes.out, lambda shape: xp.empty(shape, dtype))
    lse = xp.empty(q.shape[:3], np.float32)
    block_e, block_v = (padded(n) for n in (sizes.width, sizes.out))
    blocks = _blocks(dtype, max(block_e, block_v), mask is None and not dropout)
    offset_ptr, stream = dropout_arguments(op, dropout, seed, offset)
    q, k, v, mask = map(in_elements, (q, k, v, mask))
    _attention_kernel(
        (sizes.batch * sizes.heads * cdiv(sizes.queries, blocks.queries),),
        q, k, v, mask, y, lse, offset_ptr,
        *numbers(sizes, scale), *steps(q), *steps(k), *steps(v), *steps(mask), *steps(y)[:3], *stream,
        CAUSAL=bool(causal), DROPPED=dropout != 0,
        BLOCK_Q=blocks.queries, BLOCK_K=blocks.keys, BLOCK_E=block_e, BLOCK_V=block_v,
        num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    return y, lse


def check_width(op: str, sizes: Sizes) -> None:
    """Raise ValueError for heads that the kernels have no registers for."""
    widest = max(sizes.width, sizes.out)
    require(widest <= MOST, op, f"a head is {widest} wide; expected at most {MOST} on a GPU")


def padded(width: int) -> int:
    """The width of a tile: tensor cores take 16 terms or more."""
    return max(16, next_power_of_2(width))


def in_elements(x: Any) -> Any:
    """The array where its strides are whole elements, which they are but for fields of records; else a copy."""
    return x if x is None or not any([step % x.itemsize for step in x.strides]) else dense(x)


def numbers(sizes: Sizes, scale: float) -> tuple[Any, ...]:
    """The arguments H, SHARED, L, S, E, V and scale."""
    return sizes.heads, sizes.shared, sizes.queries, sizes.keys, sizes.width, sizes.out, float(scale)


def steps(x: Any) -> tuple[int, ...]:
    """Strides in elements, 0 along an axis of length 1: of a mask it is broadcast."""
    if x is None:
        return 0, 0, 0, 0
    return tuple([0 if n == 1 else step // x.itemsize for n, step in zip(x.shape, x.strides, strict=True)])


def dropout_arguments(op: str, rate: float, seed: int, offset: Any) -> tuple[Any, tuple[float | int, ...]]:
    """offset_ptr, and the arguments from kept_scale on."""
    if not rate:
        seed = offset = 0
    offset_ptr, words = stream_arguments(op, seed, offset)
    kept_scale = 0.0 if rate == 1 else 1.0 / (1.0 - float(rate))
    return offset_ptr, (kept_scale, word_argument(threshold(rate)), *words)
