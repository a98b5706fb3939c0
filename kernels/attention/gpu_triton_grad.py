"""The gradients of attention on a GPU, in Triton: the formulas of attention/reference.py, in blocks (Dao 2023).

Scores are computed again from q, k and lse. Two kernels, so that every sum has one owner and no atomics are needed:

    queries   one program has BLOCK_Q queries and goes over the keys: dq, and the sum dp p of each query, which the
              other kernel needs too. That sum is dy y; where y is rounded to 16 bits, a first round over the keys
              adds it up
    keys      one program has BLOCK_K keys of one head of k and v, and goes over the queries of all heads that share it:
              dk and dv. Its tiles are transposed: keys down, queries across

Weights and gradients of scores are float32 and multiplied in two 16-bit parts, as in gpu_triton.py. Of float16 a
gradient of a score beyond 65504 is infinite, and so is what it is added to.

Floor: 2 B H L S (3 E + 2 V) FLOP, and 2 B H L S (E + V) more for scores that are computed twice (of 16-bit
arrays three times); half of it if causal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.attention.gpu_triton import (
    Blocks,
    add_product,
    check_width,
    dropout_arguments,
    in_elements,
    kept,
    left_out,
    load_rows,
    numbers,
    padded,
    products,
    steps,
    store_rows,
)
from tilegrad.kernels.attention.layout import empty_as
from tilegrad.kernels.attention.reference import check_attention_grad
from tilegrad.kernels.device import gpu
from tilegrad.kernels.dropout.gpu_triton import stream_start
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.softmax.gpu_triton import shift_of


@triton.jit
def _row_products(a, b):
    """The sum of each row of a b, the same bits in every lane that has it.

    Contracted with the sum over lanes, a lane's product would be exact and its neighbour's rounded. So it is rounded by
    an instruction of its own.
    """
    return tl.sum(tl.fma(a, b, tl.zeros_like(a)), 1)


@triton.jit
def _weights_and_slopes(
    q, dy, shift, rows, start, plane, k_ptr, v_ptr, mask_ptr, L, S, E, V, scale, k_s, k_e, v_s, v_e, mask_l, mask_s,
    kept_scale, least, seed_low, seed_high, first, skipped,
    CAUSAL: tl.constexpr, DROPPED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """(p, dp, k) of a block of queries and the keys from `start` on."""
    keys = start + tl.arange(0, BLOCK_K)
    k = load_rows(k_ptr, keys, tl.arange(0, BLOCK_E), k_s, k_e, S, E)
    s = products(q, tl.trans(k)) * scale
    s = left_out(s, rows[:, None], keys[None, :], L, S, mask_ptr, mask_l, mask_s, CAUSAL)
    dp = products(dy, tl.trans(load_rows(v_ptr, keys, tl.arange(0, BLOCK_V), v_s, v_e, S, V)))
    if DROPPED:
        stays = kept(rows[:, None], keys[None, :], plane, L, S, first, skipped, seed_low, seed_high, least)
        dp *= tl.where(stays, kept_scale, 0.0)
    return tl.exp(s - shift[:, None]), dp, k


@kernel
def _attention_grad_queries_kernel(
    dy_ptr, q_ptr, k_ptr, v_ptr, mask_ptr, y_ptr, lse_ptr, dq_ptr, inner_ptr, offset_ptr,
    H, SHARED, L, S, E, V, scale,
    dy_b, dy_h, dy_l, dy_e, q_b, q_h, q_l, q_e, k_b, k_h, k_s, k_e, v_b, v_h, v_s, v_e, mask_b, mask_h, mask_l, mask_s,
    y_b, y_h, y_l, y_e, dq_b, dq_h, dq_l, kept_scale, least, seed_low, seed_high, offset_low, offset_high,
    CAUSAL: tl.constexpr, DROPPED: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Arrays as _attention_kernel has them, dy and y (B, H, L, V) and dq (B, H, L, E) too; inner (B, H, L),
    float32, dense. One program a block of queries.
    """
    tiles = tl.cdiv(L, BLOCK_Q)
    plane = (tl.program_id(0) // tiles).to(tl.int64)
    begin = tl.program_id(0) % tiles * BLOCK_Q
    b, h = plane // H, plane % H
    k_ptr += b * k_b + h // SHARED * k_h
    v_ptr += b * v_b + h // SHARED * v_h
    if mask_ptr is not None:
        mask_ptr += b * mask_b + h * mask_h
    first, skipped = stream_start(offset_ptr, offset_low, offset_high)

    rows = begin + tl.arange(0, BLOCK_Q)
    along_e, along_v = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_V)
    q = load_rows(q_ptr + b * q_b + h * q_h, rows, along_e, q_l, q_e, L, E)
    dy = load_rows(dy_ptr + b * dy_b + h * dy_h, rows, along_v, dy_l, dy_e, L, V)
    shift = shift_of(tl.load(lse_ptr + plane * L + rows, mask=rows < L, other=0.0))
    end = S
    if CAUSAL:
        end = tl.minimum(S, begin + BLOCK_Q)
    if y_ptr.dtype.element_ty == tl.float32:
        inner = _row_products(dy, load_rows(y_ptr + b * y_b + h * y_h, rows, along_v, y_l, y_e, L, V))
    else:
        inner = tl.zeros([BLOCK_Q], tl.float32)
        for start in tl.range(0, end, BLOCK_K, disable_licm=True):
            p, dp, _ = _weights_and_slopes(
                q, dy, shift, rows, start, plane, k_ptr, v_ptr, mask_ptr, L, S, E, V, scale,
                k_s, k_e, v_s, v_e, mask_l, mask_s, kept_scale, least, seed_low, seed_high, first, skipped,
                CAUSAL, DROPPED, BLOCK_K, BLOCK_E, BLOCK_V,
            )  # fmt: skip
            inner += _row_products(p, dp)
    tl.store(inner_ptr + plane * L + rows, inner, mask=rows < L)
    sums = tl.zeros([BLOCK_Q, BLOCK_E], tl.float32)
    # Moved out of the loop, q and dy as operands of the float32 pipes would take all registers.
    for start in tl.range(0, end, BLOCK_K, disable_licm=True):
        p, dp, k = _weights_and_slopes(
            q, dy, shift, rows, start, plane, k_ptr, v_ptr, mask_ptr, L, S, E, V, scale,
            k_s, k_e, v_s, v_e, mask_l, mask_s, kept_scale, least, seed_low, seed_high, first, skipped,
            CAUSAL, DROPPED, BLOCK_K, BLOCK_E, BLOCK_V,
        )  # fmt: skip
        ds = p * (dp - inner[:, None]) * scale
        sums = add_product(ds, k, sums)
    store_rows(dq_ptr + b * dq_b + h * dq_h, rows, along_e, dq_l, L, E, sums)


@kernel
def _attention_grad_keys_kernel(
    dy_ptr, q_ptr, k_ptr, v_ptr, mask_ptr, lse_ptr, inner_ptr, dk_ptr, dv_ptr, offset_ptr,
    H, SHARED, L, S, E, V, scale,
    dy_b, dy_h, dy_l, dy_e, q_b, q_h, q_l, q_e, k_b, k_h, k_s, k_e, v_b, v_h, v_s, v_e, mask_b, mask_h, mask_l, mask_s,
    dk_b, dk_h, dk_s, dv_b, dv_h, dv_s, kept_scale, least, seed_low, seed_high, offset_low, offset_high,
    CAUSAL: tl.constexpr, DROPPED: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """As the queries' kernel; dk (B, H / SHARED, S, E), dv (B, H / SHARED, S, V). One program a block of keys."""
    tiles = tl.cdiv(S, BLOCK_K)
    owner = (tl.program_id(0) // tiles).to(tl.int64)
    begin = tl.program_id(0) % tiles * BLOCK_K
    heads = H // SHARED
    b, g = owner // heads, owner % heads
    first, skipped = stream_start(offset_ptr, offset_low, offset_high)

    keys = begin + tl.arange(0, BLOCK_K)
    along_e, along_v = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_V)
    k = load_rows(k_ptr + b * k_b + g * k_h, keys, along_e, k_s, k_e, S, E)
    v = load_rows(v_ptr + b * v_b + g * v_h, keys, along_v, v_s, v_e, S, V)
    sums_k = tl.zeros([BLOCK_K, BLOCK_E], tl.float32)
    sums_v = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    above = 0  # the first block of queries that attends to these keys
    if CAUSAL:
        above = begin // BLOCK_Q * BLOCK_Q
    steps_of_head = tl.cdiv(tl.maximum(L - above, 0), BLOCK_Q)
    for step in range(SHARED * steps_of_head):  # one loop, which the compiler can pipeline
        h = g * SHARED + step // steps_of_head
        plane = b * H + h
        rows = above + step % steps_of_head * BLOCK_Q + tl.arange(0, BLOCK_Q)
        q = load_rows(q_ptr + b * q_b + h * q_h, rows, along_e, q_l, q_e, L, E)
        dy = load_rows(dy_ptr + b * dy_b + h * dy_h, rows, along_v, dy_l, dy_e, L, V)
        shift = shift_of(tl.load(lse_ptr + plane * L + rows, mask=rows < L, other=0.0))
        inner = tl.load(inner_ptr + plane * L + rows, mask=rows < L, other=0.0)
        s = products(k, tl.trans(q)) * scale
        if mask_ptr is not None:
            mask_of_head = mask_ptr + b * mask_b + h * mask_h
            s = left_out(s, rows[None, :], keys[:, None], L, S, mask_of_head, mask_l, mask_s, CAUSAL)
        else:
            s = left_out(s, rows[None, :], keys[:, None], L, S, None, mask_l, mask_s, CAUSAL)
        p = tl.exp(s - shift[None, :])
        dp = products(v, tl.trans(dy))
        weights = p
        if DROPPED:
            stays = kept(rows[None, :], keys[:, None], plane, L, S, first, skipped, seed_low, seed_high, least)
            factor = tl.where(stays, kept_scale, 0.0)
            weights = p * factor
            dp *= factor
        sums_v = add_product(weights, dy, sums_v)
        ds = p * (dp - inner[None, :]) * scale
        sums_k = add_product(ds, q, sums_k)
    store_rows(dk_ptr + b * dk_b + g * dk_h, keys, along_e, dk_s, S, E, sums_k)
    store_rows(dv_ptr + b * dv_b + g * dv_h, keys, along_v, dv_s, S, V, sums_v)


def _blocks(dtype: np.dtype, widest: int, is_plain: bool) -> tuple[Blocks, Blocks]:
    """The tiles of the queries' kernel and of the keys', chosen so that nothing spills."""
    if dtype.itemsize == 2:
        if widest > 128:
            return Blocks(16, 32, 8, 1), Blocks(32, 32, 8, 1)
        if not is_plain:  # addresses of a mask and words of dropout take registers too
            warps = 4 if widest <= 64 else 8
            return Blocks(32, 32, warps, 1), Blocks(32, 32, warps, 1)
        if widest <= 64:
            return Blocks(64, 32, 4, 2), Blocks(32, 64, 4, 2)
        return Blocks(64, 32, 8, 2), Blocks(32, 32, 8, 1)
    if widest <= 64:
        return Blocks(32, 32, 4, 1) if is_plain else Blocks(16, 32, 8, 1), Blocks(16, 32, 8, 1)
    return Blocks(16, 16, 4, 1), Blocks(16, 16, 4, 1)


def attention_grad(
    dy: Any,
    q: Any,
    k: Any,
    v: Any,
    y: Any,
    lse: Any,
    mask: Any | None = None,
    causal: bool = False,
    scale: float = 1.0,
    dropout: float = 0.0,
    seed: int = 0,
    offset: Any = 0,
) -> tuple[Any, Any, Any]:
    """As attention.reference.attention_grad, for float16, bfloat16 and float32, E and V up to MOST. Deterministic.

    Traffic: reads dy, q, y and writes dq once, k and v once for each block of queries; and dy and q once for each block
    of keys, k and v and dk and dv once. offset may be in device memory.
    """
    op = "attention_grad"
    dtype, sizes = check_attention_grad(dy, q, k, v, y, lse, mask, scale, dropout, seed, offset)
    no_float64(op, dtype)
    check_width(op, sizes)
    xp = gpu.xp()
    dq, dk, dv = (empty_as(x, x.shape[3], lambda shape: xp.empty(shape, dtype)) for x in (q, k, v))
    inner = xp.empty(q.shape[:3], np.float32)
    block_e, block_v = (padded(n) for n in (sizes.width, sizes.out))
    of_queries, of_keys = _blocks(dtype, max(block_e, block_v), mask is None and not dropout)
    offset_ptr, stream = dropout_arguments(op, dropout, seed, offset)
    dy, q, k, v, y, mask = map(in_elements, (dy, q, k, v, y, mask))
    lse = lse if lse.flags.c_contiguous else xp.ascontiguousarray(lse)
    arguments = *numbers(sizes, scale), *steps(dy), *steps(q), *steps(k), *steps(v), *steps(mask)

    def options(blocks: Blocks) -> dict[str, Any]:
        tile = {"BLOCK_Q": blocks.queries, "BLOCK_K": blocks.keys, "BLOCK_E": block_e, "BLOCK_V": block_v}
        compiled = {"num_warps": blocks.num_warps, "num_stages": blocks.num_stages}
        return {"CAUSAL": bool(causal), "DROPPED": dropout != 0, **tile, **compiled}

    _attention_grad_queries_kernel(
        (sizes.batch * sizes.heads * cdiv(sizes.queries, of_queries.queries),),
        dy, q, k, v, mask, y, lse, dq, inner, offset_ptr, *arguments, *steps(y), *steps(dq)[:3],
        *stream, **options(of_queries),
    )  # fmt: skip
    _attention_grad_keys_kernel(
        (sizes.batch * k.shape[1] * cdiv(sizes.keys, of_keys.keys),),
        dy, q, k, v, mask, lse, inner, dk, dv, offset_ptr, *arguments, *steps(dk)[:3], *steps(dv)[:3],
        *stream, **options(of_keys),
    )  # fmt: skip
    return dq, dk, dv
