"""Random bits from a counter, and dropout from them, on a GPU, in Numba-CUDA: the stream of dropout/reference.py.

Element i takes word offset + i of the stream, in row-major order whatever the memory order. A Philox block is four
words, which serve four neighbours: one thread computes the block, and the bits are never stored.

    row-major     thread t makes words 4 t .. 4 t + 3 and writes them to shared memory, which then holds words
                  0 .. 4 T - 1 of a block of T threads. It takes elements t, t + T, t + 2 T and t + 3 T, so that a warp
                  reads and writes neighbours in memory, whatever the offset
                      makes   t0 t0 t0 t0 t1 t1 t1 t1 t2 t2 t2 t2 ...
                      takes   t0 t1 t2 t3 t4 t5 t6 t7 t8 t9 ...
    transposed    logically (N, R, S), in memory (N, S, R), as channels-last images are: threadIdx.x runs along R and so
                  along memory; the four words of a thread are for neighbours along S, which lie R apart
    any other     is copied to row-major memory and back

Traffic: random_bits writes 4 n bytes; dropout reads and writes x.size * itemsize. For float32 the ceiling is memory
bandwidth, if the arithmetic hides behind it: while it moves 4 + 4 bytes an H200 can start 56 instructions (132 SMs *
128 lanes * 1.75 GHz against 4.2 TB/s), and compiled for sm_90 the row-major kernel has at most 53 for an element, 10 of
them in the rounds. For float16, with room for 28, the instructions are the limit, at about half of copy bandwidth.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import float32, int64, uint32, uint64

from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.dense import dense, empty_like, memory_order, transposed
from tilegrad.kernels.device.device_numbers import stream_offset
from tilegrad.kernels.dropout.reference import check_count, check_rate, check_stream, threshold
from tilegrad.kernels.launch.driver import MOST_ALONG
from tilegrad.kernels.launch.numba_dtypes import float_dtype
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.sizes import cdiv, next_power_of_2

THREADS = 16 if SIMULATED else 256
MOST_BLOCKS = MOST_ALONG[1]  # along y and z
_ROW = THREADS + 8  # of shared memory: the four words of eight threads lie in 32 different banks

_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = uint64(0xD2511F53), uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = uint64(0x9E3779B9), uint64(0xBB67AE85)
_LOW, _HALF, _ZERO = uint64(0xFFFFFFFF), uint64(32), uint64(0)


@device
def philox(block, k0, k1):
    """The four words of block number `block` for the key (k0, k1): 32 bits each, in uint64 for the products."""
    c0, c1, c2, c3 = block & _LOW, block >> _HALF, _ZERO, _ZERO
    for _ in range(_ROUNDS):
        a, b = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c2 = (b >> _HALF) ^ c1 ^ k0, (a >> _HALF) ^ c3 ^ k1
        c1, c3 = b & _LOW, a & _LOW
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    return uint32(c0), uint32(c1), uint32(c2), uint32(c3)


@device
def given_place(first, skipped):
    """(the block that the stream begins in, how many words of that block come before it), from two numbers."""
    return uint64(first), skipped


@device
def loaded_place(offset, skipped):
    """As given_place, from an offset in memory: one 64-bit integer."""
    word = uint64(offset[0])
    return word >> uint64(2), int64(word & uint64(3))


@device
def _lay_down(words, block, seed_low, seed_high):
    """Write this thread's Philox block to the shared words, a column of four. All threads of the block must call it."""
    t = cuda.threadIdx.x
    w0, w1, w2, w3 = philox(block, uint64(seed_low), uint64(seed_high))
    words[0, t] = w0
    words[1, t] = w1
    words[2, t] = w2
    words[3, t] = w3
    cuda.syncthreads()


@device
def _drop(x, word, least, scale):
    """x * (scale where the word keeps it, else 0): a product, so that NaN stays."""
    return x * (scale if word >= least else float32(0))


@functools.cache
def _random_bits_kernel(place: Callable) -> Kernel:
    @kernel
    def _random_bits_kernel(y, offset, skipped, seed_low, seed_high):
        """y: (n,) uint32. offset, skipped: as `place` takes them."""
        words = cuda.shared.array((4, _ROW), uint32)
        first, before = place(offset, skipped)
        _lay_down(words, first + uint64(cuda.grid(1)), seed_low, seed_high)
        start = cuda.blockIdx.x * (4 * THREADS) - before
        for k in range(4):
            e = cuda.threadIdx.x + k * THREADS
            i = start + e
            if 0 <= i < y.size:
                y[i] = words[e & 3, e >> 2]

    return _random_bits_kernel


@functools.cache
def _dropout_kernel(place: Callable) -> Kernel:
    @kernel
    def _dropout_kernel(x, y, offset, skipped, seed_low, seed_high, least, scale):
        """x, y: n elements, row-major. least: the least word that keeps an element; the rest as in random_bits."""
        words = cuda.shared.array((4, _ROW), uint32)
        first, before = place(offset, skipped)
        _lay_down(words, first + uint64(cuda.grid(1)), seed_low, seed_high)
        start = cuda.blockIdx.x * (4 * THREADS) - before
        for k in range(4):
            e = cuda.threadIdx.x + k * THREADS
            i = start + e
            if 0 <= i < x.size:
                y[i] = _drop(float32(x[i]), words[e & 3, e >> 2], uint32(least), scale)

    return _dropout_kernel


@functools.cache
def _dropout_transposed_kernel(place: Callable) -> Kernel:
    @device
    def _drop_row(x, y, n, s, r, word, least, scale):
        if 0 <= s < x.shape[1]:
            y[n, s, r] = _drop(float32(x[n, s, r]), word, least, scale)

    @kernel
    def _dropout_transposed_kernel(x, y, offset, skipped, seed_low, seed_high, least, scale):
        """x, y: (N, S, R), logically (N, R, S).

        Row (n, r) of the stream begins within a Philox block, at a place of its own: thread b of it begins as far
        before 4 b.
        """
        N, S, R = x.shape
        first, before = place(offset, skipped)
        r, first_b, n = cuda.grid(3)
        _, b_step, n_step = cuda.gridsize(3)
        while n < N and r < R:  # a range with a step would divide to count its iterations
            b = first_b
            while b < (S + 6) >> 2:
                word = before + (n * R + r) * S
                s = 4 * b - (word & 3)
                w0, w1, w2, w3 = philox(first + uint64(b + (word >> 2)), uint64(seed_low), uint64(seed_high))
                _drop_row(x, y, n, s, r, w0, uint32(least), scale)
                _drop_row(x, y, n, s + 1, r, w1, uint32(least), scale)
                _drop_row(x, y, n, s + 2, r, w2, uint32(least), scale)
                _drop_row(x, y, n, s + 3, r, w3, uint32(least), scale)
                b += b_step
            n += n_step

    return _dropout_transposed_kernel


def random_bits(seed: int, offset: Any, n: int) -> Any:
    """dropout.reference.random_bits, in device memory.

    offset may be a 0-d int64 or uint64 device array, which the kernel reads: a captured CUDA graph then takes another
    part of the stream at every replay.
    """
    op = "random_bits"
    place, stream = stream_arguments(op, seed, offset)
    check_count(op, n)
    y = gpu.xp().empty(int(n), np.uint32)
    _random_bits_kernel(place)(_blocks(y.size), (THREADS,), y, *stream)
    return y


def dropout(x: Any, p: float, seed: int, offset: Any) -> Any:
    """dropout.reference.dropout, for float16 and float32. offset may be in device memory, as in random_bits."""
    op = "dropout"
    float_dtype(op, x=x)
    check_rate(op, p)
    place, stream = stream_arguments(op, seed, offset)
    factor = threshold(p), 0.0 if p == 1 else 1.0 / (1.0 - float(p))

    x = dense(x)
    if x.flags.c_contiguous:
        return _row_major(x, place, *stream, *factor)
    y, extents = empty_like(x), transposed(x)
    if extents is None:
        y[...] = _row_major(gpu.xp().ascontiguousarray(x), place, *stream, *factor)
        return y
    n, r, s = extents
    in_memory = (memory_order(each).reshape(n, s, r) for each in (x, y))
    wide = min(32 if THREADS > 32 else 4, next_power_of_2(r))
    high = THREADS // wide
    grid = cdiv(r, wide), min(cdiv(cdiv(s + 3, 4), high), MOST_BLOCKS), min(n, MOST_BLOCKS)
    _dropout_transposed_kernel(place)(grid, (wide, high), *in_memory, *stream, *factor)
    return y


def _row_major(x: Any, place: Callable, *numbers: Any) -> Any:
    y = gpu.xp().empty(x.shape, x.dtype)
    _dropout_kernel(place)(_blocks(x.size), (THREADS,), memory_order(x), memory_order(y), *numbers)
    return y


def _blocks(n: int) -> tuple[int]:
    """The grid for n elements that begin anywhere in a Philox block."""
    return (cdiv(n + 3, 4 * THREADS) if n else 0,)


def stream_arguments(op: str, seed: int, offset: Any) -> tuple[Callable, tuple[Any, int, int, int]]:
    """(where the kernel finds the stream's place, its arguments offset, skipped, seed_low and seed_high)."""
    in_memory = stream_offset(op, offset)
    check_stream(op, seed, 0 if in_memory else offset)
    seed = int(seed)
    words = seed & 0xFFFFFFFF, seed >> 32
    if in_memory:
        return loaded_place, (offset.reshape(1), 0, *words)
    return given_place, (*divmod(int(offset), 4), *words)
