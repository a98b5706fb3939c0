"""Random bits and dropout on the CPU, compiled: the words of a few hundred blocks at a time, in vectors.

The words of the specification, bit for bit. Dropout is served for float32 in any memory order, and for the 16-bit types
by way of float32; float64 is left to the reference. Its words are drawn into a piece of memory that stays in the cache,
and used there. A block takes 20 products of 32-bit numbers and no memory: a word takes a core 0.25 nanoseconds. Cores
with AVX-512 shared with other work, 2,768,896 numbers, milliseconds on one thread and two (torch draws on one):

    |             | reference |     here | torch |
    | dropout     |        20 | 1.3, 0.7 |    13 |
    | random bits |        17 | 0.7, 0.5 |       |
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.checks import float_dtype
from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import contiguous, do, pooled, whole
from tilegrad.kernels.cpu.rows import row
from tilegrad.kernels.cpu.scalar_math import smaller
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.dropout import reference

_float32 = np.dtype(np.float32)
_WORDS = 1 << 11  # that are drawn at once
_WORTH_SHARING = 1 << 16  # bytes of words: some 10 microseconds of one core
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIER0, _MULTIPLIER1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL0, _WEYL1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_THREE, _TWO = np.uint64(3), np.uint64(2)
_ZERO = np.float32(0)


def random_bits(seed: int, offset: int, n: int) -> np.ndarray:
    """dropout.reference.random_bits. Traffic: writes 4 n bytes."""
    reference.check_stream("random_bits", seed, 0 if isinstance(offset, np.ndarray) else offset)
    reference.check_count("random_bits", n)
    if isinstance(offset, np.ndarray) and offset.dtype != np.uint64:
        return whole(reference.random_bits, seed, offset, n)
    words = buffers.empty((int(n),), np.uint32)
    most = min(words.size, threads.num_threads()) if words.nbytes > _WORTH_SHARING else 1
    threads.share(_bits, most, words.size, *_key(seed), _place(offset), words, np.empty((max(1, most), 4), np.uint32))
    return words


def dropout(x: np.ndarray, p: float, seed: int, offset: int) -> np.ndarray:
    """dropout.reference.dropout. Traffic: reads 4, writes 4 bytes an element; twice that for other orders than C."""
    dtype = float_dtype("dropout", x=x)
    reference.check_rate("dropout", p)
    reference.check_stream("dropout", seed, 0 if isinstance(offset, np.ndarray) else offset)
    if dtype == np.float64 or (isinstance(offset, np.ndarray) and offset.dtype != np.uint64):
        return whole(reference.dropout, x, p, seed, offset)
    if dtype != _float32:
        return whole(_rounded_once, x, p, seed, offset)
    y = _in_c_order(contiguous(x), p, seed, offset)
    if x.flags.c_contiguous:
        return y
    result = pooled(np.empty_like(x))
    do(np.copyto, result, y)
    return result


def _in_c_order(x: np.ndarray, p: float, seed: int, offset: Any) -> np.ndarray:
    y = buffers.empty(x.shape, _float32)
    most = min(x.size, threads.num_threads()) if x.nbytes > _WORTH_SHARING else 1
    scale = 0.0 if p == 1 else float(np.float32(1 / (1 - p)))
    words = np.empty((max(1, most), _WORDS), np.uint32)
    arrays = _place(offset), x.reshape(-1), y.reshape(-1), words
    threads.share(_dropout, most, x.size, *_key(seed), reference.threshold(p), scale, *arrays)
    return y


def _rounded_once(x: np.ndarray, p: float, seed: int, offset: Any) -> np.ndarray:
    """Dropout of a 16-bit type: computed in float32, rounded once."""
    with np.errstate(all="ignore"):
        y = _in_c_order(x.astype(_float32, order="C"), p, seed, offset)
        result = np.empty_like(x)
        np.copyto(result, y, casting="same_kind")
        return result


def _key(seed: int) -> tuple[int, int]:
    return int(seed) & 0xFFFFFFFF, int(seed) >> 32


def _place(offset: Any) -> np.ndarray:
    """The offset as uint64 (1,): the very memory of an array, for a program reads what is there at each launch."""
    return (offset if isinstance(offset, np.ndarray) else np.array(offset, np.uint64)).reshape(1)


@njit(nogil=True, cache=True)
def _bits(key0, key1, offset, words, blocks, begin, stop, part, team):
    """These words: of the stream from word offset[0] on. blocks: memory for one, a row for each piece."""
    if team:
        share(begin, stop, part, team)
        return
    one = blocks[part]
    skipped, first = np.int64(offset[0] & _THREE), offset[0] >> _TWO
    at = begin
    while at < stop:
        lead = (skipped + at) & 3  # words of the block before this one
        block = first + np.uint64((skipped + at) >> 2)
        whole_blocks = (stop - at) >> 2 << 2
        if lead or not whole_blocks:
            _draw(block, np.uint64(key0), np.uint64(key1), one)
            count = smaller(stop - at, 4 - lead)
            for i in range(count):  # a slice for a slice is compiled with the texts of its errors: two seconds
                words[at + i] = one[lead + i]
        else:
            count = whole_blocks
            _draw(block, np.uint64(key0), np.uint64(key1), row(words, at, count))
        at += count


@njit(nogil=True, cache=True)
def _dropout(key0, key1, least, scale, offset, x, y, words, begin, stop, part, team):
    """y of these elements. words: memory for some of the stream, a row for each piece."""
    if team:
        share(begin, stop, part, team)
        return
    words, factor, least = words[part], np.float32(scale), np.uint32(least)
    skipped, first = np.int64(offset[0] & _THREE), offset[0] >> _TWO
    at = begin
    while at < stop:
        lead = (skipped + at) & 3  # words of the block before this element's
        count = smaller(stop - at, words.size - lead)
        block = first + np.uint64((skipped + at) >> 2)
        _draw(block, np.uint64(key0), np.uint64(key1), row(words, 0, (lead + count + 3) >> 2 << 2))
        drawn, some, result = row(words, lead, count), row(x, at, count), row(y, at, count)
        for i in range(result.size):
            result[i] = some[i] * (factor if drawn[i] >= least else _ZERO)
        at += count


@njit(nogil=True)
def _draw(block, key0, key1, words):
    """The words of the blocks from `block` on: as dropout.reference.philox4x32."""
    for b in range(words.size >> 2):
        index = block + np.uint64(b)
        c0, c1, c2, c3 = index & _LOW, index >> _HALF, np.uint64(0), np.uint64(0)
        k0, k1 = key0 & _LOW, key1 & _LOW
        for _ in range(10):
            a, e = c0 * _MULTIPLIER0, c2 * _MULTIPLIER1
            c0, c1 = (e >> _HALF) ^ c1 ^ k0, e & _LOW
            c2, c3 = (a >> _HALF) ^ c3 ^ k1, a & _LOW
            k0, k1 = (k0 + _WEYL0) & _LOW, (k1 + _WEYL1) & _LOW
        words[4 * b], words[4 * b + 1] = np.uint32(c0), np.uint32(c1)
        words[4 * b + 2], words[4 * b + 3] = np.uint32(c2), np.uint32(c3)
