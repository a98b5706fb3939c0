"""Clipping by the joint norm on the CPU, compiled: the sums of squares of blocks, their norm, and one product.

Served here are float32 arrays in C order; where one is not, the list goes to the reference. A block is 4096 numbers of
one array, whoever sums it, so that the norm has the same bits from any number of threads. Where nothing is clipped,
nothing is written: NumPy multiplies by 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilegrad.kernels.clip_norm import reference
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import whole
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.sizes import cdiv

_BLOCK = 1 << 12  # numbers whose squares are added in float32; blocks are added in float64
_float32, _EPS = np.dtype(np.float32), reference.EPS


def clip_norm_step(arrays: Sequence[np.ndarray], max_norm: float) -> np.ndarray:
    """clip_norm.reference.clip_norm_step. Traffic: reads 4 bytes a number, and 8 more where it is clipped."""
    reference.check_clip_norm(np.ndarray, arrays, max_norm)
    if not arrays or not all(map(_is_served, arrays)):
        return whole(reference.clip_norm_step, arrays, max_norm)
    flat = [a.reshape(-1) for a in arrays]
    blocks = [cdiv(a.size, _BLOCK) for a in flat]
    squares, result = np.empty(sum(blocks), np.float32), np.empty(2, np.float32)
    first = 0
    for a, count in zip(flat, blocks, strict=True):
        threads.share(_squares, _most(a), count, a, squares[first : first + count])
        first += count
    threads.share(_norm, 1, 1, squares, float(max_norm), result)
    for a in flat:
        threads.share(_scale, _most(a), a.size, a, result)
    return result[:1].reshape(())


def _is_served(a: np.ndarray) -> bool:
    return type(a) is np.ndarray and a.dtype == _float32 and a.flags.carray and a.size > 0


def _most(a: np.ndarray) -> int:
    return a.size if a.nbytes > threads.WORTH_SHARING else 1


@njit(nogil=True, cache=True, fastmath={"reassoc"})
def _squares(x, squares, begin, stop, part, team):
    """The sums of the squares of these blocks of x."""
    if team:
        share(begin, stop, part, team)
        return
    for b in range(begin, stop):
        block, total = x[b * _BLOCK : (b + 1) * _BLOCK], np.float32(0)
        for i in range(block.size):
            total += block[i] * block[i]
        squares[b] = total


@njit(nogil=True, cache=True, error_model="numpy")
def _norm(squares, max_norm, result, begin, stop, part, team):
    """result: the norm, and what the arrays are multiplied by."""
    if team:
        share(begin, stop, part, team)
        return
    total = 0.0
    for i in range(squares.size):
        total += squares[i]
    norm = np.float32(math.sqrt(total))
    scale = max_norm / (np.float64(norm) + _EPS)
    result[0], result[1] = norm, 1.0 if scale > 1.0 else scale


@njit(nogil=True, cache=True)
def _scale(x, result, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    x, scale = x[begin:stop], result[1]
    if scale != np.float32(1):
        for i in range(x.size):
            x[i] *= scale
