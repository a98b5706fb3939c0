"""Sums and maxima of bags of rows, on the CPU, compiled.

Served here are tables in C order and gradients, both in float32. All else is left to the reference.

Threads share the bags: each sum is one thread's, row by row as the index has them. Of the gradient they share the
columns, as take_rows_grad's do. So the bits do not depend on how many threads there are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tilegrad.kernels.bags import reference
from tilegrad.kernels.bags.reference import check_bags, index_error, offsets_error, wrong_offsets
from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.apart import load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import contiguous, do, guard, whole
from tilegrad.kernels.cpu.rows import row as borrowed
from tilegrad.kernels.cpu.team import share

_float32, _int64 = np.dtype(np.float32), np.dtype(np.int64)
_ZERO = np.float32(0)
_AHEAD = 4  # rows that are added at once, one after the other


def sum_bags(
    x: np.ndarray, index: np.ndarray, offsets: np.ndarray, bags: int, padding: int | None = None, mean: bool = False
) -> np.ndarray:
    """bags.reference.sum_bags. Traffic: reads the M rows and the index once, writes y once."""
    check_bags("sum_bags", x, index, offsets, bags, None, padding)
    if not (_is_served(x) and bags):
        return whole(reference.sum_bags, x, index, offsets, bags, padding, mean)
    y = buffers.empty((bags, *x.shape[1:]), _float32)
    _of_table("sum_bags", _sum_bags, x, index, offsets, (y.reshape(-1), int(bool(mean))), bags, padding)
    return y


def max_bags(
    x: np.ndarray, index: np.ndarray, offsets: np.ndarray, bags: int, padding: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """bags.reference.max_bags. Traffic: reads the M rows and the index once, writes 12 bytes an element of y."""
    check_bags("max_bags", x, index, offsets, bags, None, padding)
    if not (_is_served(x) and bags):
        return whole(reference.max_bags, x, index, offsets, bags, padding)
    y, best = (buffers.empty((bags, *x.shape[1:]), dtype) for dtype in (_float32, _int64))
    _of_table("max_bags", _max_bags, x, index, offsets, (y.reshape(-1), best.reshape(-1)), bags, padding)
    return y, best


def sum_bags_grad(
    dy: np.ndarray, index: np.ndarray, offsets: np.ndarray, rows: int, padding: int | None = None
) -> np.ndarray:
    """bags.reference.sum_bags_grad. Traffic: reads dy once and writes dx once, and reads and writes again the rows of
    dx that the index names; each thread reads the index.
    """
    op = "sum_bags_grad"
    check_bags(op, dy, index, offsets, None, rows, padding)
    if type(dy) is not np.ndarray or dy.dtype != _float32 or not dy.flags.aligned or not (rows and dy.size):
        return whole(reference.sum_bags_grad, dy, index, offsets, rows, padding)
    dx = buffers.empty((rows, *dy.shape[1:]), _float32)
    at, ends, wrong, width = _as_int64(index), _as_int64(offsets), np.full(1, -1), math.prod(dy.shape[1:])
    pieces = width if max(dy.nbytes, dx.nbytes) > threads.WORTH_SHARING else 1
    arrays = contiguous(dy).reshape(-1), at, ends, dx.reshape(-1)
    numbers = len(dy), rows, -1 if padding is None else int(padding)
    threads.share(_add_bags, pieces, width, *arrays, *numbers, wrong)
    guard(wrong, _raise, op, at, ends, wrong, rows)
    return dx


def _is_served(x: np.ndarray) -> bool:
    return type(x) is np.ndarray and x.dtype == _float32 and x.flags.carray and x.size > 0


def _of_table(
    op: str, kernel: Any, x: np.ndarray, index: np.ndarray, offsets: np.ndarray, results: Any, bags: int, padding: Any
) -> None:
    at, ends, wrong = _as_int64(index), _as_int64(offsets), np.full(1, -1)
    pieces = bags if at.size * (x.nbytes // len(x)) > threads.WORTH_SHARING else 1
    numbers = len(x), x.size // len(x), -1 if padding is None else int(padding)
    threads.share(kernel, pieces, bags, x.reshape(-1), at, ends, *results, *numbers, wrong)
    guard(wrong, _raise, op, at, ends, wrong, len(x))


def _as_int64(index: np.ndarray) -> np.ndarray:
    if index.dtype == _int64 and index.flags.carray:
        return index
    target = np.empty(index.shape, _int64)
    do(np.copyto, target, index)
    return target


def _raise(op: str, index: np.ndarray, offsets: np.ndarray, wrong: np.ndarray, rows: int) -> None:
    """A piece has met an index that is no row's, or an offset that is out of order: raise for the first such place."""
    wrong[0] = -1
    outside = np.flatnonzero((index < 0) | (index >= rows))
    if outside.size:
        raise index_error(op, rows, int(outside[0]), int(index[outside[0]]))
    place = int(wrong_offsets(offsets, index.size)[0])
    raise offsets_error(op, index.size, place, int(offsets[place]))


@njit(nogil=True)
def _end(index, offsets, b):
    """Where bag b ends; -1 if that is not behind its begin, and within the index."""
    end = offsets[b + 1] if b + 1 < offsets.size else index.size
    return end if 0 <= offsets[b] <= end <= index.size else -1


@njit(nogil=True)
def _counts(row, rows, padding):
    return 0 <= row < rows and row != padding


@njit(nogil=True, cache=True)
def _sum_bags(x, index, offsets, y, mean, rows, width, padding, wrong, begin, stop, part, team):
    """Bags begin to stop of y. wrong: written to where an index is no row's, or an offset is out of order."""
    if team:
        share(begin, stop, part, team)
        return
    for b in range(begin, stop):
        sums, end = borrowed(y, b * width, width), _end(index, offsets, b)
        for j in range(width):
            store(sums, j, _ZERO)
        if end < 0:
            wrong[0] = b
            continue
        i, count = offsets[b], 0
        while i < end:
            row = index[i]
            of = row * width
            if i + _AHEAD <= end and _all_count(index, i, rows, padding):  # as many loads wait at once
                second, third, fourth = index[i + 1] * width, index[i + 2] * width, index[i + 3] * width
                for j in range(width):
                    two = (sums[j] + load(x, of + j)) + load(x, second + j)
                    store(sums, j, (two + load(x, third + j)) + load(x, fourth + j))
                i += _AHEAD
                count += _AHEAD
                continue
            if _counts(row, rows, padding):
                for j in range(width):
                    store(sums, j, sums[j] + load(x, of + j))
                count += 1
            elif not 0 <= row < rows:
                wrong[0] = i
            i += 1
        if mean and count:
            for j in range(width):
                store(sums, j, sums[j] / np.float32(count))


@njit(nogil=True)
def _all_count(index, i, rows, padding):
    """Whether four rows from place i on count."""
    first = _counts(index[i], rows, padding) and _counts(index[i + 1], rows, padding)
    return first and _counts(index[i + 2], rows, padding) and _counts(index[i + 3], rows, padding)


@njit(nogil=True, cache=True)
def _max_bags(x, index, offsets, y, best, rows, width, padding, wrong, begin, stop, part, team):
    """As _sum_bags; best has rows."""
    if team:
        share(begin, stop, part, team)
        return
    for b in range(begin, stop):
        most, end = borrowed(y, b * width, width), _end(index, offsets, b)
        of_most = borrowed(best, b * width, width)
        for j in range(width):
            store(most, j, _ZERO)
            store(of_most, j, -1)
        if end < 0:
            wrong[0] = b
            continue
        for i in range(offsets[b], end):
            row = index[i]
            if _counts(row, rows, padding):
                of = row * width
                for j in range(width):
                    old, new = most[j], load(x, of + j)
                    better = (of_most[j] < 0) | (new > old) | ((new != new) & (old == old))
                    store(most, j, new if better else old)
                    store(of_most, j, row if better else of_most[j])
            elif not 0 <= row < rows:
                wrong[0] = i


@njit(nogil=True, cache=True)
def _add_bags(dy, index, offsets, dx, bags, rows, padding, wrong, begin, stop, part, team):
    """Columns begin to stop of dx. wrong: as in _sum_bags."""
    if team:
        share(begin, stop, part, team)
        return
    width = dy.size // bags
    lines, wide = (1, rows * width) if stop - begin == width else (rows, stop - begin)
    for row in range(lines):
        for j in range(row * width + begin, row * width + begin + wide):
            store(dx, j, _ZERO)
    for b in range(bags):
        end, of = _end(index, offsets, b), b * width + begin
        if end < 0:
            wrong[0] = b
            continue
        for i in range(offsets[b], end):
            row = index[i]
            if not 0 <= row < rows:
                wrong[0] = i
            elif row != padding:
                sums = borrowed(dx, row * width + begin, stop - begin)
                for j in range(sums.size):
                    store(sums, j, sums[j] + load(dy, of + j))
