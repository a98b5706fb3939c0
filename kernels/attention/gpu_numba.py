"""Scaled dot-product attention on a GPU, in Numba-CUDA: the formulas of attention/reference.py, in blocks.

A block of threads has ROWS queries of one head, and goes over the keys LANES at a time. Thread (x, y) has the score of
query y and key x, and then every LANES-th column of row y of the result, from x on:

    scores   q and k come in chunks of LANES columns to shared memory; the thread sums its product over the chunks
    weights  the scores of a row meet in shared memory, where each thread takes the row's maximum and sum, and keeps
             them online as gpu_triton.py does
    results  v comes in chunks of LANES columns; the thread adds the weights of its row times a column

Arrays of any strides are read in place; y has the memory order of q. float16 and float32, computed in float32
without tensor cores.

Floor: 2 B H L S (E + V) FLOP, of which a product reads two numbers from shared memory: half of the float32 pipes' peak
at best. Reads q and writes y once, k and v once for every ROWS queries, from the L2 cache as a rule.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import float32, int64, uint32, uint64

from tilegrad.kernels.attention.layout import empty_as
from tilegrad.kernels.attention.reference import check_attention
from tilegrad.kernels.device import gpu
from tilegrad.kernels.dropout.gpu_numba import philox, stream_arguments
from tilegrad.kernels.dropout.reference import threshold
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.matmul.gpu_numba import unrolled
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.softmax.gpu_numba import MINUS_INF, larger, shift_of

LANES, ROWS = (4, 2) if SIMULATED else (32, 8)
SHARED_ROW = LANES + 1  # of shared memory: a column of a tile lies in different banks
_ZERO, _ONE = float32(0), float32(1)


# --- tiles in shared memory


@device
def element(x, row, column):
    """x[row, column] in float32; 0 beyond its end."""
    return float32(x[row, column]) if row < x.shape[0] and column < x.shape[1] else _ZERO


@device
def load_chunk(tile, x, first_row, first_column):
    """LANES x LANES of x to shared memory. All threads of the block must call this, and what follows has a barrier."""
    lane = cuda.threadIdx.x
    for row in range(cuda.threadIdx.y, LANES, ROWS):
        tile[row, lane] = element(x, first_row + row, first_column + lane)


@device
def score(rows, columns, first_row, first_column, row_tile, tile):
    """The product of row first_row + y of `rows` and row first_column + x of `columns`, for thread (x, y)."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    total = _ZERO
    for first in range(0, rows.shape[1], LANES):
        row_tile[y, x] = element(rows, first_row + y, first + x)
        load_chunk(tile, columns, first_column, first)
        cuda.syncthreads()
        for e in range(LANES):
            total += row_tile[y, e] * tile[x, e]
        cuda.syncthreads()
    return total


@device
def _add_chunk(c, weights, x, first_row, sums, tile):
    load_chunk(tile, x, first_row, c * LANES)
    cuda.syncthreads()
    total = sums[c]
    for j in range(LANES):
        total += weights[cuda.threadIdx.y, j] * tile[j, cuda.threadIdx.x]
    sums[c] = total
    cuda.syncthreads()


@device
def _store_column(c, y, row, sums, factor):
    column = cuda.threadIdx.x + c * LANES
    if row < y.shape[0] and column < y.shape[1]:
        y[row, column] = sums[c] * factor


@functools.cache
def adding(width: int) -> Callable:
    """A function add(0, weights, x, first_row, sums, tile):

        sums[c] += the sum over j of weights[y, j] x[first_row + j, c LANES + lane]  for c < width

    weights are in shared memory; sums are registers, as every index is known.
    """
    return unrolled(_add_chunk, width)


@functools.cache
def storing(width: int) -> Callable:
    """A function store(0, y, row, sums, factor): y[row] = sums * factor, this thread's columns of it."""
    return unrolled(_store_column, width)


@device
def put(weights, value):
    """The thread's value among those of its row, which all threads may read after this."""
    weights[cuda.threadIdx.y, cuda.threadIdx.x] = value
    cuda.syncthreads()


@device
def row_sum(weights):
    """The sum of the row's values, always in the same order."""
    total = _ZERO
    for j in range(LANES):
        total += weights[cuda.threadIdx.y, j]
    return total


# --- keys that are left out, weights that are dropped


@device
def _no_mask(s, mask, b, h, i, j):
    return s


@device
def _bool_mask(s, mask, b, h, i, j):
    return s if mask[b, h, i, j] else MINUS_INF


@device
def _added_mask(s, mask, b, h, i, j):
    added = float32(mask[b, h, i, j])
    return MINUS_INF if added == MINUS_INF else s + added


def _masking(mask: Callable, causal: bool) -> Callable:
    @device
    def masked(s, array, b, h, i, j, L, S):
        """The score of query i and key j with what is added to it; -inf where the key is left out or there is none."""
        if i >= L or j >= S or (causal and j > i):
            return MINUS_INF
        return mask(s, array, b, h, i, j)

    return masked


def _dropping(place: Callable) -> Callable:
    @device
    def factor(plane, i, j, L, S, offset, skipped, seed_low, seed_high, least, kept_scale):
        """What dropout multiplies the weight of query i and key j with; plane counts the heads of all batches."""
        first, before = place(offset, skipped)
        word = before + (plane * L + i) * S + j
        w0, w1, w2, w3 = philox(first + uint64(word >> 2), uint64(seed_low), uint64(seed_high))
        at = word & 3
        bits = (w0 if at == 0 else w1) if at < 2 else (w2 if at == 2 else w3)
        return kept_scale if bits >= uint32(least) else _ZERO

    return factor


@device
def _nothing_dropped(plane, i, j, L, S, offset, skipped, seed_low, seed_high, least, kept_scale):
    return _ONE


# One object for each combination, so that kernels made from them are found again.
masking = functools.cache(_masking)
dropping = functools.cache(lambda place: _nothing_dropped if place is None else _dropping(place))


@functools.cache
def _forward_kernel(width: int, masked: Callable, factor: Callable, drops: bool, causal: bool) -> Kernel:
    """width   columns of the result that a thread has, at most"""
    add_product, store_row = adding(width), storing(width)

    @kernel
    def _attention_kernel(q, k, v, mask, y, lse, scale, offset, skipped, seed_low, seed_high, least, kept_scale):
        """q (B, H, L, E), k (B, G, S, E), v (B, G, S, V), mask (B, H, L, S), y (B, H, L, V), lse (B, H, L)."""
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
        m, total = MINUS_INF, _ZERO
        end = min(S, begin + ROWS) if causal else S
        for start in range(0, end, LANES):
            j = start + cuda.threadIdx.x
            s = masked(score(q[b, h], k[b, g], begin, start, row_tile, tile) * scale, mask, b, h, i, j, L, S)
            put(weights, s)
            most = m
            for other in range(LANES):
                most = larger(most, weights[cuda.threadIdx.y, other])
            cuda.syncthreads()
            shift = shift_of(most)
            p = math.exp(s - shift)
            past = math.exp(m - shift)
            put(weights, p)
            total = total * past + row_sum(weights)
            if drops:
                cuda.syncthreads()
                put(weights, p * factor(plane, i, j, L, S, offset, skipped, seed_low, seed_high, least, kept_scale))
            for c in range(width):
                sums[c] *= past
            add_product(0, weights, v[b, g], start, sums, tile)
            m = most
        store_row(0, y[b, h], i, sums, _ONE if total == _ZERO else _ONE / total)
        if cuda.threadIdx.x == 0 and i < L:
            lse[b, h, i] = m + math.log(total) if total != _ZERO else MINUS_INF

    return _attention_kernel


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
    """As attention.reference.attention, for float16 and float32.

    Traffic: at the head of this file. offset may be in device memory, as in the primitive dropout.
    """
    op = "attention"
    dtype, sizes = check_attention(op, q, k, v, mask, scale, dropout, seed, offset)
    only_served(op, dtype)
    xp = gpu.xp()
    lse = xp.empty(q.shape[:3], np.float32)
    y = empty_as(q, sizes.out, lambda shape: xp.empty(shape, dtype))
    masked, array, factor, stream = options(op, q, k, mask, causal, dropout, seed, offset)
    make = _forward_kernel(held(sizes.out), masked, factor, dropout != 0, bool(causal))
    grid = (sizes.batch * sizes.heads * cdiv(sizes.queries, ROWS),)
    make(grid, (LANES, ROWS), q, k, v, array, y, lse, float(scale), *stream)
    return y, lse


def held(width: int) -> int:
    """Columns of a result of that width that a thread has, rounded up so that few kernels are compiled."""
    return next_power_of_2(cdiv(width, LANES))


def options(
    op: str, q: Any, k: Any, mask: Any, causal: bool, rate: float, seed: int, offset: Any
) -> tuple[Callable, Any, Callable, tuple[Any, ...]]:
    """(masked, its array, what drops weights, the arguments of that)."""
    xp = gpu.xp()
    kind = _no_mask if mask is None else _bool_mask if mask.dtype == np.bool_ else _added_mask
    array = q if mask is None else xp.broadcast_to(mask, (*q.shape[:3], k.shape[2]))
    place, stream = stream_arguments(op, seed, offset) if rate else (None, (0, 0, 0, 0))
    kept_scale = 0.0 if rate == 1 else 1.0 / (1.0 - float(rate))
    return masking(kind, bool(causal)), array, dropping(place), (*stream, threshold(rate), kept_scale)
