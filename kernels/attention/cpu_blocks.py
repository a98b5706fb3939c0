"""Attention on the CPU, compiled: blocks of queries and keys small enough for the caches, on the register tile.

Scores of a block are one product, q by the block's keys, which are transposed first so that the tile reads them by
vectors. Rows of scores become weights in place. The other products take q, k, v and dy as they lie in memory:

    forward    s = q k^T,  y += p v
    backward   s = q k^T,  dp = dy v^T,  dv += p^T dy,  dk += ds^T q,  dq += ds k

The forward's items are blocks of queries, which keep a maximum and a sum for each row online. The backward's items are
the queries of a head of k and v, or a part of them, which are parted by the sizes alone. So each item does all that it
adds up by itself, in one order, and results have the same bits whatever the number of threads.

Widths are whole vectors here; cpu.py fills narrower heads up with zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.rows import row as borrowed
from tilegrad.kernels.cpu.scalar_math import CONTRACT, exp, larger, smaller
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.cpu.tile import HELD, LANES, ROWS, WIDEST, ZERO, call_tiles
from tilegrad.kernels.matmul.cpu_panels import transpose_block
from tilegrad.kernels.softmax.cpu import maximum

MOST_ROWS = max(ROWS.values())
QUERIES, KEYS = 64, 128  # of a block, at most
KEYS_GRAD = 64
WALKS = 3  # of a product, one for each width of a tile

_ZERO, _ONE = np.float32(0), np.float32(1)
_MINUS_INF = np.float32(-np.inf)
_MORE = 8  # words before and behind those of a row, in the blocks that they share
_LOW, _HALF, _THREE = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(3)
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_REASSOC = {"reassoc", "contract"}


class Call(NamedTuple):
    """The numbers of one call, which kernels get as an array of int64. Steps count elements."""

    heads: int
    shared: int
    queries: int
    keys: int
    width: int
    out: int
    parts: int  # of the queries of a head of k and v, in the backward
    k_size: int  # elements of a part of dk
    v_size: int
    masked: int
    causal: int
    dropped: int
    seed_low: int
    seed_high: int
    least: int
    q_b: int
    q_h: int
    q_l: int
    k_b: int
    k_h: int
    k_s: int
    v_b: int
    v_h: int
    v_s: int
    y_b: int
    y_h: int
    y_l: int
    mask_b: int
    mask_h: int
    mask_l: int
    mask_s: int
    dy_b: int = 0
    dy_h: int = 0
    dy_l: int = 0
    dq_b: int = 0
    dq_h: int = 0
    dq_l: int = 0
    dk_b: int = 0
    dk_h: int = 0
    dk_l: int = 0
    dv_b: int = 0
    dv_h: int = 0
    dv_l: int = 0


CALL = np.dtype([(name, np.int64) for name in Call._fields])


def floats(width: int, out: int) -> int:
    """Floats of scratch memory that a piece of the forward takes."""
    return KEYS * (width + QUERIES) + 2 * QUERIES + KEYS + _MORE


def floats_grad(width: int, out: int) -> int:
    """Floats of scratch memory that a piece of the backward takes."""
    return KEYS_GRAD * (width + out + 2 * QUERIES) + KEYS_GRAD + _MORE


# --- products


@njit(nogil=True)
def _product(walks, at, fixed, y, y_row, x, x_row, x_step, w, w_row, rows, columns, terms, start):
    """y[p, :] = start + the sum over k < terms of x[p x_row + k x_step] w[k w_row, :], for p < rows.

    columns  of y and w, whole vectors
    walks    records of memory that is this piece's own, as is `at`
    fixed    tiles_address() and ONE_RUN of tile.py
    """
    table = rows + MOST_ROWS
    y_at, x_at = borrowed(at, 0, table), borrowed(at, table, table)
    for p in range(rows):
        y_at[p], x_at[p] = p * y_row, p * x_row
    for p in range(rows, rows + MOST_ROWS):  # a tile may begin at any row: the last one is there again
        y_at[p], x_at[p] = (rows - 1) * y_row, (rows - 1) * x_row
    column = 0
    for i in range(WALKS):
        vectors = 4 >> i
        panel = vectors * LANES
        panels = (columns - column) // panel if vectors <= WIDEST else 0
        walk = walks[i]
        walk.vectors, walk.panels, walk.total_panels, walk.rows, walk.total_rows = vectors, panels, panels, rows, rows
        walk.run, walk.w_step, walk.x_step, walk.start = terms, w_row, x_step, start
        walk.y_panel, walk.w_panel, walk.y_base, walk.w_base = panel, panel, column, column
        column += panels * panel
    call_tiles(fixed[0], walks, y, y_at, fixed[1], x, x_at, fixed[1], w, w, 0, 1, 0)  # without shifts, runs or a bias


@njit(nogil=True)
def _transposed(x, first, row, rows, columns, y, width):
    """y[c width + r] = x[first + r row + c] for r < rows; 0 up to the next whole vector of rows."""
    whole = rows // LANES * LANES
    for c in range(0, columns, LANES):
        for r in range(0, whole, LANES):
            transpose_block(x, first + r * row + c, row, y, c * width + r, width)
    if whole < rows:
        for c in range(columns):
            for r in range(whole, whole + LANES):
                y[c * width + r] = x[first + r * row + c] if r < rows else _ZERO


@njit(nogil=True)
def _from(array, first):
    """array[first:]."""
    return borrowed(array, first, array.size - first)


@njit(nogil=True)
def _clear(row):
    """row = 0."""
    for j in range(row.size):
        row[j] = _ZERO


# --- rows of scores


@njit(nogil=True, fastmath=_REASSOC)
def _exponentials(row, scale, shift):
    """row = exp(row * scale - shift); the sum."""
    total = _ZERO
    for j in range(row.size):
        e = exp(row[j] * scale - shift)
        row[j] = e
        total += e
    return total


@njit(nogil=True)
def _masked(row, mask, first, step, scale):
    """row = row * scale + mask; -inf where the mask is, whatever the score."""
    for j in range(row.size):
        added = mask[first + j * step]
        row[j] = _MINUS_INF if added == _MINUS_INF else row[j] * scale + added


@njit(nogil=True, fastmath=CONTRACT)
def _scaled(row, factor):
    for j in range(row.size):
        row[j] *= factor


@njit(nogil=True)
def _multiplied(row, factors):
    for j in range(row.size):
        row[j] *= factors[j]


@njit(nogil=True, fastmath=_REASSOC)
def _dot(a, b):
    total = _ZERO
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@njit(nogil=True, fastmath=CONTRACT)
def _slopes(p, dp, inner, scale):
    """dp = p (dp - inner) scale."""
    for j in range(p.size):
        dp[j] = p[j] * (dp[j] - inner) * scale


@njit(nogil=True)
def _factors(call, word, kept_scale, factors, count):
    """What dropout multiplies weights with that take `count` words of the stream from `word` on: a part of `factors`.

    Whole blocks of the stream are drawn, in vectors.
    """
    low, high = np.uint64(call.seed_low), np.uint64(call.seed_high)
    skipped, first = np.int64(word & _THREE), word >> np.uint64(2)
    least = np.uint64(call.least)
    for n in range((skipped + count + 3) >> 2):
        block = first + np.uint64(n)
        c0, c1, c2, c3 = block & _LOW, block >> _HALF, np.uint64(0), np.uint64(0)
        k0, k1 = low, high
        for _ in range(10):
            a, b = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
            c0, c2 = (b >> _HALF) ^ c1 ^ k0, (a >> _HALF) ^ c3 ^ k1
            c1, c3 = b & _LOW, a & _LOW
            k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
        factors[4 * n] = kept_scale if c0 >= least else _ZERO
        factors[4 * n + 1] = kept_scale if c1 >= least else _ZERO
        factors[4 * n + 2] = kept_scale if c2 >= least else _ZERO
        factors[4 * n + 3] = kept_scale if c3 >= least else _ZERO
    return borrowed(factors, skipped, count)


@njit(nogil=True)
def _there(call, i, start, keys):
    """How many of the keys from `start` on causality leaves to query i."""
    return larger(0, smaller(keys, i + 1 - start)) if call.causal else keys


@njit(nogil=True)
def _raw(call, row, mask, b, h, i, start, scale):
    """The row with its mask; what is left to multiply it with."""
    if call.masked:
        _masked(
            row, mask, b * call.mask_b + h * call.mask_h + i * call.mask_l + start * call.mask_s, call.mask_s, scale
        )
        return _ONE
    if scale < _ZERO:
        _scaled(row, scale)
        return _ONE
    return scale


# --- the kernels


@njit(nogil=True, cache=True, error_model="numpy")
def forward(
    q, k, v, mask, y, lse, calls, offset, scale, kept_scale, scratch, walks, at,
    tiles_at, one_run, begin, stop, part, team,
):  # fmt: skip
    """Items begin to stop: blocks of queries, of every head of every batch.

    q, k, v, y, mask  float32, their memory as one dimension; calls has their steps
    lse               float32, (B H L,)
    offset            uint64 (1,), of the random stream
    scratch, walks, at  memory, of which piece `part` takes row `part`
    tiles_at, one_run  those of tile.py
    """
    if team:
        share(begin, stop, part, team)
        return
    call, fixed = calls[0], (tiles_at, one_run)
    L, S, E, V = call.queries, call.keys, call.width, call.out
    work, walk, table = scratch[part], walks[part], at[part]
    keys_t, s = borrowed(work, 0, KEYS * E), borrowed(work, KEYS * E, KEYS * QUERIES)
    of_rows = KEYS * (E + QUERIES)
    m, total = borrowed(work, of_rows, QUERIES), borrowed(work, of_rows + QUERIES, QUERIES)
    factors = borrowed(work, of_rows + 2 * QUERIES, KEYS + _MORE)
    blocks = -(-L // QUERIES)
    for item in range(begin, stop):
        plane, block = item // blocks, item % blocks
        b, h = plane // call.heads, plane % call.heads
        g = h // call.shared
        first, last = L * block // blocks, L * (block + 1) // blocks
        rows = last - first
        q_at = b * call.q_b + h * call.q_h + first * call.q_l
        y_at = b * call.y_b + h * call.y_h + first * call.y_l
        for r in range(rows):
            m[r], total[r] = _MINUS_INF, _ZERO
        end = smaller(S, last) if call.causal else S
        steps = -(-end // KEYS)
        for step in range(steps):
            start = end * step // steps
            keys = end * (step + 1) // steps - start
            wide = -(-keys // LANES) * LANES
            k_at = b * call.k_b + g * call.k_h + start * call.k_s
            v_at = b * call.v_b + g * call.v_h + start * call.v_s
            q_here, v_here, y_here = _from(q, q_at), _from(v, v_at), _from(y, y_at)
            _transposed(k, k_at, call.k_s, keys, E, keys_t, wide)
            _product(walk, table, fixed, s, wide, q_here, call.q_l, 1, keys_t, wide, rows, wide, E, ZERO)
            for r in range(rows):
                i = first + r
                there = _there(call, i, start, keys)
                row = borrowed(s, r * wide, there)
                _clear(borrowed(s, r * wide + there, keys - there))
                if there == 0:
                    continue
                left = _raw(call, row, mask, b, h, i, start, scale)
                most = maximum(row) * left
                before = m[r]
                most = before if before > most else most
                shift = _ZERO if most == _MINUS_INF else most
                past = exp(before - shift)
                total[r] = total[r] * past + _exponentials(row, left, shift)
                m[r] = most
                if call.dropped:
                    word = offset[0] + np.uint64((plane * L + i) * S + start)
                    _multiplied(row, _factors(call, word, kept_scale, factors, there))
                if step and past != _ONE:
                    _scaled(borrowed(y, y_at + r * call.y_l, V), past)
            started = HELD if step else ZERO
            _product(walk, table, fixed, y_here, call.y_l, s, wide, 1, v_here, call.v_s, rows, V, keys, started)
        for r in range(rows):
            if total[r] != _ZERO:
                _scaled(borrowed(y, y_at + r * call.y_l, V), _ONE / total[r])
            lse[plane * L + first + r] = m[r] + np.log(total[r])


@njit(nogil=True, cache=True, error_model="numpy")
def backward(
    dy, q, k, v, y, lse, mask, dq, dk, dv, inner, calls, offset, scale, kept_scale, scratch, walks, at,
    tiles_at, one_run, begin, stop, part, team,
):  # fmt: skip
    """Items begin to stop: parts of the queries, of every head of k and v of every batch.

    dy, q, k, v, y, mask  float32, their memory as one dimension; calls has their steps
    dq, dk, dv            float32, without gaps; dk and dv one after the other for each part of the queries
    inner                 float32, (B H L,): the sum dy y of each query, made here

    Where one block has all keys, weights and sums are those of its rows, not by way of lse and y: a lse as large as the
    scores are has fewer digits than the weights.
    """
    if team:
        share(begin, stop, part, team)
        return
    call, fixed = calls[0], (tiles_at, one_run)
    L, S, E, V = call.queries, call.keys, call.width, call.out
    work, walk, table = scratch[part], walks[part], at[part]
    keys_t, values_t = borrowed(work, 0, KEYS_GRAD * E), borrowed(work, KEYS_GRAD * E, KEYS_GRAD * V)
    s = borrowed(work, KEYS_GRAD * (E + V), KEYS_GRAD * QUERIES)
    dp = borrowed(work, KEYS_GRAD * (E + V + QUERIES), KEYS_GRAD * QUERIES)
    factors = borrowed(work, KEYS_GRAD * (E + V + 2 * QUERIES), KEYS_GRAD + _MORE)
    groups = call.heads // call.shared
    steps = -(-S // KEYS_GRAD)
    for item in range(begin, stop):
        owner, of_queries = item // call.parts, item % call.parts
        b, g = owner // groups, owner % groups
        first_of_part, last_of_part = L * of_queries // call.parts, L * (of_queries + 1) // call.parts
        blocks = -(-(last_of_part - first_of_part) // QUERIES)
        for step in range(steps):
            start = S * step // steps
            keys = S * (step + 1) // steps - start
            wide = -(-keys // LANES) * LANES
            k_at = b * call.k_b + g * call.k_h + start * call.k_s
            v_at = b * call.v_b + g * call.v_h + start * call.v_s
            dk_at = of_queries * call.k_size + b * call.dk_b + g * call.dk_h + start * call.dk_l
            dv_at = of_queries * call.v_size + b * call.dv_b + g * call.dv_h + start * call.dv_l
            _transposed(k, k_at, call.k_s, keys, E, keys_t, wide)
            _transposed(v, v_at, call.v_s, keys, V, values_t, wide)
            k_here, dk_here, dv_here = _from(k, k_at), _from(dk, dk_at), _from(dv, dv_at)
            started = ZERO
            for each in range(call.shared * blocks):
                h, block = g * call.shared + each // blocks, each % blocks
                count = last_of_part - first_of_part
                first = first_of_part + count * block // blocks
                last = first_of_part + count * (block + 1) // blocks
                rows, plane = last - first, b * call.heads + h
                q_at = b * call.q_b + h * call.q_h + first * call.q_l
                dq_at = b * call.dq_b + h * call.dq_h + first * call.dq_l
                dy_at = b * call.dy_b + h * call.dy_h + first * call.dy_l
                if step == 0 and steps > 1:
                    y_at = b * call.y_b + h * call.y_h + first * call.y_l
                    for r in range(rows):
                        one, other = dy_at + r * call.dy_l, y_at + r * call.y_l
                        inner[plane * L + first + r] = _dot(borrowed(dy, one, V), borrowed(y, other, V))
                if call.causal and last <= start:
                    continue
                q_here, dq_here, dy_here = _from(q, q_at), _from(dq, dq_at), _from(dy, dy_at)
                _product(walk, table, fixed, s, wide, q_here, call.q_l, 1, keys_t, wide, rows, wide, E, ZERO)
                _product(walk, table, fixed, dp, wide, dy_here, call.dy_l, 1, values_t, wide, rows, wide, V, ZERO)
                for r in range(rows):
                    i = first + r
                    there = _there(call, i, start, keys)
                    row, slopes = borrowed(s, r * wide, there), borrowed(dp, r * wide, there)
                    _clear(borrowed(s, r * wide + there, keys - there))
                    _clear(borrowed(dp, r * wide + there, keys - there))
                    if there == 0:
                        continue
                    left = _raw(call, row, mask, b, h, i, start, scale)
                    shift = maximum(row) * left if steps == 1 else lse[plane * L + i]
                    total = _exponentials(row, left, _ZERO if shift == _MINUS_INF else shift)
                    if steps == 1 and total != _ZERO:
                        _scaled(row, _ONE / total)
                    if call.dropped:
                        word = offset[0] + np.uint64((plane * L + i) * S + start)
                        kept = _factors(call, word, kept_scale, factors, there)
                        _multiplied(slopes, kept)
                    of_row = _dot(row, slopes) if steps == 1 else inner[plane * L + i]
                    _slopes(row, slopes, of_row, scale)
                    if call.dropped:
                        _multiplied(row, kept)
                _product(walk, table, fixed, dv_here, call.dv_l, s, 1, wide, dy_here, call.dy_l, keys, V, rows, started)
                _product(walk, table, fixed, dk_here, call.dk_l, dp, 1, wide, q_here, call.q_l, keys, E, rows, started)
                held = HELD if step else ZERO
                _product(walk, table, fixed, dq_here, call.dq_l, dp, wide, 1, k_here, call.k_s, rows, E, keys, held)
                started = HELD
            if started == ZERO:  # causality leaves these keys to none of the queries
                for r in range(keys):
                    _clear(borrowed(dk, dk_at + r * call.dk_l, E))
                    _clear(borrowed(dv, dv_at + r * call.dv_l, V))
