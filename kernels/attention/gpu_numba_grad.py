"""The gradients of attention on a GPU, in Numba-CUDA: the formulas of attention/reference.py, in blocks (Dao 2023).

Scores are computed again from q, k and lse. Every sum has one owner, so that no atomics are needed:

    queries   a block of threads has ROWS queries and goes over the keys, LANES at a time: dq, and the sum dp p of each
              query, which the other kernel needs too: dy y, or where y is rounded to float16 what a first round over
              the keys adds up
    keys      a block has ROWS keys of one head of k and v, and goes over the queries of all heads that share it: dk, dv

Tiles and threads are as in gpu_numba.py. float16 and float32, computed in float32.

Floor: 2 B H L S (3 E + 2 V) FLOP, and 2 B H L S (E + V) more for scores that are computed twice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import float32, int64

from tilegrad.kernels.attention.gpu_numba import (
    LANES,
    ROWS,
    SHARED_ROW,
    adding,
    element,
    held,
    options,
    put,
    row_sum,
    score,
    storing,
)
from tilegrad.kernels.attention.layout import empty_as
from tilegrad.kernels.attention.reference import check_attention_grad
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import cuda
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.softmax.gpu_numba import shift_of

_ZERO, _ONE = float32(0), float32(1)


@functools.cache
def _queries_kernel(width: int, masked: Callable, factor: Callable, causal: bool, rounded: bool) -> Kernel:
    add_product, store_row = adding(width), storing(width)

    @kernel
    def _attention_grad_queries_kernel(
        dy, q, k, v, y, lse, mask, dq, inner, scale, offset, skipped, seed_low, seed_high, least, kept_scale
    ):
        """dy, y (B, H, L, V), dq as q, inner (B, H, L) float32; the others as _attention_kernel has them."""
        row_tile = cuda.shared.array((ROWS, SHARED_ROW), float32)
        tile = cuda.shared.array((LANES, SHARED_ROW), float32)
        weights = cuda.shared.array((ROWS, SHARED_ROW), float32)
        sums = cuda.local.array(width, float32)
        for c in range(width):
            sums[c] = _ZERO

        H, L, S = q.shape[1], q.shape[2], k.shape[2]
        tiles = (L + ROWS - 1) // ROWS
        plane, begin = int64(cuda.blockIdx.x) // tiles, int64(cuda.blockIdx.x) % tiles * ROWS
        b, h = plane // H, plane % H
        g = h // (H // k.shape[1])
        i = begin + cuda.threadIdx.y
        shift = shift_of(lse[b, h, i]) if i < L else _ZERO
        end = min(S, begin + ROWS) if causal else S
        part = _ZERO
        if rounded:
            for start in range(0, end, LANES):
                j = start + cuda.threadIdx.x
                s = masked(score(q[b, h], k[b, g], begin, start, row_tile, tile) * scale, mask, b, h, i, j, L, S)
                dp = score(dy[b, h], v[b, g], begin, start, row_tile, tile)
                dp *= factor(plane, i, j, L, S, offset, skipped, seed_low, seed_high, least, kept_scale)
                part += math.exp(s - shift) * dp
        else:
            for column in range(cuda.threadIdx.x, dy.shape[3], LANES):
                part += element(dy[b, h], i, column) * element(y[b, h], i, column)
        put(weights, part)
        of_row = row_sum(weights)
        cuda.syncthreads()
        if cuda.threadIdx.x == 0 and i < L:
            inner[b, h, i] = of_row

        for start in range(0, end, LANES):
            j = start + cuda.threadIdx.x
            s = masked(score(q[b, h], k[b, g], begin, start, row_tile, tile) * scale, mask, b, h, i, j, L, S)
            dp = score(dy[b, h], v[b, g], begin, start, row_tile, tile)
            dp *= factor(plane, i, j, L, S, offset, skipped, seed_low, seed_high, least, kept_scale)
            put(weights, math.exp(s - shift) * (dp - of_row) * scale)
            add_product(0, weights, k[b, g], start, sums, tile)
        store_row(0, dq[b, h], i, sums, _ONE)

    return _attention_grad_queries_kernel


@functools.cache
def _keys_kernel(width_k: int, width_v: int, masked: Callable, factor: Callable, causal: bool) -> Kernel:
    add_to_k, add_to_v, store_k, store_v = adding(width_k), adding(width_v), storing(width_k), storing(width_v)

    @kernel
    def _attention_grad_keys_kernel(
        dy, q, k, v, lse, inner, mask, dk, dv, scale, offset, skipped, seed_low, seed_high, least, kept_scale
    ):
        """As the queries' kernel; dk as k, dv as v. Thread (x, y) has query x and key y."""
        row_tile = cuda.shared.array((ROWS, SHARED_ROW), float32)
        tile = cuda.shared.array((LANES, SHARED_ROW), float32)
        weights = cuda.shared.array((ROWS, SHARED_ROW), float32)
        sums_k = cuda.local.array(width_k, float32)
        sums_v = cuda.local.array(width_v, float32)
        for c in range(width_k):
            sums_k[c] = _ZERO
        for c in range(width_v):
            sums_v[c] = _ZERO

        H, G, L, S = q.shape[1], k.shape[1], q.shape[2], k.shape[2]
        tiles = (S + ROWS - 1) // ROWS
        owner, begin = int64(cuda.blockIdx.x) // tiles, int64(cuda.blockIdx.x) % tiles * ROWS
        b, g = owner // G, owner % G
        j = begin + cuda.threadIdx.y
        above = begin // LANES * LANES if causal else 0  # the first queries that attend to these keys
        for h in range(g * (H // G), (g + 1) * (H // G)):
            for start in range(above, L, LANES):
                i = start + cuda.threadIdx.x
                s = masked(score(k[b, g], q[b, h], begin, start, row_tile, tile) * scale, mask, b, h, i, j, L, S)
                dp = score(v[b, g], dy[b, h], begin, start, row_tile, tile)
                p = math.exp(s - shift_of(lse[b, h, i])) if i < L else _ZERO
                of_query = inner[b, h, i] if i < L else _ZERO
                keep = factor(b * H + h, i, j, L, S, offset, skipped, seed_low, seed_high, least, kept_scale)
                put(weights, p * keep)
                add_to_v(0, weights, dy[b, h], start, sums_v, tile)
                put(weights, p * (dp * keep - of_query) * scale)
                add_to_k(0, weights, q[b, h], start, sums_k, tile)
        store_k(0, dk[b, g], j, sums_k, _ONE)
        store_v(0, dv[b, g], j, sums_v, _ONE)

    return _attention_grad_keys_kernel


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
    """As attention.reference.attention_grad, for float16 and float32. Deterministic.

    Traffic: reads dy, q, y and writes dq once, k and v once for every ROWS queries; and dy and q once for every ROWS
    keys, k and v and dk and dv once. offset may be in device memory.
    """
    op = "attention_grad"
    dtype, sizes = check_attention_grad(dy, q, k, v, y, lse, mask, scale, dropout, seed, offset)
    only_served(op, dtype)
    xp = gpu.xp()
    dq, dk, dv = (empty_as(x, x.shape[3], lambda shape: xp.empty(shape, dtype)) for x in (q, k, v))
    inner = xp.empty(q.shape[:3], np.float32)
    masked, array, factor, stream = options(op, q, k, mask, causal, dropout, seed, offset)
    block, rest = (LANES, ROWS), (float(scale), *stream)
    make = _queries_kernel(held(sizes.width), masked, factor, bool(causal), dtype == np.float16)
    grid = (sizes.batch * sizes.heads * cdiv(sizes.queries, ROWS),)
    make(grid, block, dy, q, k, v, y, lse, array, dq, inner, *rest)
    make = _keys_kernel(held(sizes.width), held(sizes.out), masked, factor, bool(causal))
    grid = (sizes.batch * k.shape[1] * cdiv(sizes.keys, ROWS),)
    make(grid, block, dy, q, k, v, lse, inner, array, dk, dv, *rest)
    return dq, dk, dv
