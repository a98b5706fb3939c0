"""Random bits from a counter, and dropout from them: the NumPy specification.

Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
128-bit counter and a 64-bit key into 128 random bits. It has no state, so every element of an array can be
given its own bits on any device, in any order. Here the key is the seed, low word first; word i of
the stream is word i % 4 of the block whose counter is i // 4.
"""

from __future__ import annotations

from numbers import Real

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, is_int, require
from tilegrad.kernels.sizes import cdiv

Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_ROUNDS = 10
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85  # the key's increments: golden ratio, sqrt(3) - 1
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_CACHED = 16384  # blocks at a time, so that all the intermediate words stay in the L2 cache


def random_bits(seed: int, offset: int, n: int) -> np.ndarray:
    """Words offset .. offset + n - 1 of the Philox4x32-10 stream of this seed.

    seed    0 <= seed < 2^64
    offset  0 <= offset < 2^64, in words
    ->      (n,) uint32

    Traffic: writes 4 n bytes.
    Raises TypeError for arguments that are not ints, ValueError for ints out of range.
    """
    op = "random_bits"
    if isinstance(offset, np.ndarray):  # of a program, which reads it at each launch
        offset = offset.item()
    check_stream(op, seed, offset)
    check_count(op, n)

    first, skipped = divmod(int(offset), 4)
    count = cdiv(skipped + int(n), 4)
    key = int(seed) & 0xFFFFFFFF, int(seed) >> 32
    blocks = np.empty((count, 4), np.uint32)
    for start in range(0, count, _CACHED):
        part = blocks[start : start + _CACHED]
        index = np.uint64(first + start) + np.arange(len(part), dtype=np.uint64)
        zero = np.zeros_like(index)
        words = philox4x32((index & _LOW, index >> _HALF, zero, zero), key)
        np.stack(words, axis=1, out=part, casting="unsafe")  # every word fits in 32 bits
    return blocks.reshape(-1)[skipped : skipped + n]


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def dropout(x: np.ndarray, p: float, seed: int, offset: int) -> np.ndarray:
    """y = x / (1 - p) where the stream keeps it, else 0; applied to dy, it is its own gradient.

    Element i of x, counted in row-major order whatever the strides, is kept if and only if

        random_bits(seed, offset, x.size)[i] >= min(round(p * 2^32), 2^32 - 1)     and p < 1

    Each element is multiplied by 0 or by 1 / (1 - p): NaN stays NaN, and an infinity that is dropped becomes NaN.

    x       float16 | bfloat16 | float32 | float64, any shape and strides
    p       0 <= p <= 1, the probability of an element to be dropped
    ->      y of x's shape, dtype and memory order; 16-bit types are computed in float32

    Traffic: reads and writes x.size * itemsize; the bits are never stored on a GPU.
    Raises TypeError for dtypes and for arguments that are not numbers, ValueError for ranges. Srivastava et al. 2014.
    """
    op = "dropout"
    dtype = float_dtype(op, x=x)
    check_rate(op, p)
    if isinstance(offset, np.ndarray):  # of a program, which reads it at each launch
        offset = offset.item()
    check_stream(op, seed, offset)

    accumulate = accumulator(dtype)
    if p == 1:
        factor = np.zeros(x.shape, accumulate)
    else:
        factor = (random_bits(seed, offset, x.size) >= threshold(p)).astype(accumulate).reshape(x.shape)
        factor *= 1 / (1 - p)
    y = np.empty_like(x, accumulate)
    np.multiply(x, factor, out=y)
    return y.astype(dtype, copy=False)


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Ten rounds on arrays of counters: the four words of each block, 32 bits held in uint64 for the products."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (b >> _HALF) ^ c1 ^ np.uint64(k0)
        c2 = (a >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = b & _LOW, a & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def threshold(p: float) -> int:
    """The least word that keeps an element."""
    return min(round(p * 2**32), 2**32 - 1)


def check_stream(op: str, seed: int, offset: int) -> None:
    for name, value in (("seed", seed), ("offset", offset)):
        if not is_int(value):
            raise TypeError(f"{op}: {name} is {value!r}; expected an int")
        require(0 <= value < 2**64, op, f"{name} is {value}; expected 0 <= {name} < 2^64")


def check_count(op: str, n: int) -> None:
    if not is_int(n):
        raise TypeError(f"{op}: n is {n!r}; expected an int")
    require(n >= 0, op, f"n is {n}; expected n >= 0")


def check_rate(op: str, p: float) -> None:
    if not isinstance(p, Real):
        raise TypeError(f"{op}: p is {p!r}; expected a real number")
    require(0 <= p <= 1, op, f"p is {p}; expected 0 <= p <= 1")
