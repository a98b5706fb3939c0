"""Random bits from a counter, and dropout from them, on a GPU, in Triton: the stream of dropout/reference.py.

A Philox block is four words, which serve four neighbours: it is computed once, in registers, and the bits are never
stored. Element i takes word offset + i of the stream, in row-major order whatever the memory order. So there are three
kinds of memory order:

    row-major     neighbours in the stream are neighbours in memory. If 4 divides the offset (a branch that is the same
                  for all threads), a thread moves 16 bytes at a time, otherwise single elements
    transposed    logically (N, R, S), in memory (N, S, R), as channels-last images are: tiles of R x S, loads and
                  stores contiguous along R, the neighbours that share a block along S
    any other     is copied to row-major memory and back

Traffic: random_bits writes 4 n bytes; dropout reads and writes x.size * itemsize, and that is the floor as long as the
arithmetic hides behind it. While it moves an element of 2 + 2 bytes, an H200 can issue 28 instructions for it (132 SMs
* 128 lanes * 1.75 GHz against 4.2 TB/s), of 4 + 4 bytes twice as many; compiled for sm_90 the aligned branch takes 27,
10 of them in the ten rounds. A Philox block for every element instead of every four would take twice the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.addresses import fits
from tilegrad.kernels.device.dense import dense, empty_like, transposed
from tilegrad.kernels.device.device_numbers import stream_offset
from tilegrad.kernels.dropout.reference import check_count, check_rate, check_stream, threshold
from tilegrad.kernels.launch.triton_dtypes import float_dtype
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv, next_power_of_2

BLOCK, WARPS = 2048, 8  # 8 elements and two Philox blocks a thread: 40 registers, 6 programs on an SM
TILE = 2048  # elements of a transposed tile, at most 64 along R: 8 a thread, 2 for each word of a block

_ROUNDS: tl.constexpr = tl.constexpr(10)
_MULTIPLIER_0: tl.constexpr = tl.constexpr(0xD2511F53)
_MULTIPLIER_1: tl.constexpr = tl.constexpr(0xCD9E8D57)
_WEYL_0: tl.constexpr = tl.constexpr(0x9E3779B9)
_WEYL_1: tl.constexpr = tl.constexpr(0xBB67AE85)


@triton.jit
def philox(seed_low, seed_high, block):
    """Philox4x32-10 words of the blocks with these (uint64) indices, as four blocks of uint32."""
    k0, k1 = word_of(seed_low), word_of(seed_high)
    c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    c2, c3 = tl.zeros_like(c0), tl.zeros_like(c0)
    for _ in tl.static_range(_ROUNDS):
        a, b = c0.to(tl.uint64) * _MULTIPLIER_0, c2.to(tl.uint64) * _MULTIPLIER_1
        c0, c1 = (b >> 32).to(tl.uint32) ^ c1 ^ k0, b.to(tl.uint32)
        c2, c3 = (a >> 32).to(tl.uint32) ^ c3 ^ k1, a.to(tl.uint32)
        k0, k1 = k0 + _WEYL_0, k1 + _WEYL_1
    return c0, c1, c2, c3


@triton.jit
def _bits(seed_low, seed_high, block, PAIRS: tl.constexpr):
    """The words of the blocks in order: 4 of each, or with PAIRS 8, those of the block and its successor."""
    w0, w1, w2, w3 = philox(seed_low, seed_high, block)
    if PAIRS:
        v0, v1, v2, v3 = philox(seed_low, seed_high, block + 1)
        w0, w1, w2, w3 = tl.interleave(w0, v0), tl.interleave(w1, v1), tl.interleave(w2, v2), tl.interleave(w3, v3)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def stream_start(offset_ptr, offset_low, offset_high):
    """(the block that word `offset` is in, uint64; its place there, 0 .. 3), from memory or from two words."""
    if offset_ptr is not None:
        offset = tl.load(offset_ptr).to(tl.uint64)
    else:
        offset = word_of(offset_high).to(tl.uint64) << 32 | word_of(offset_low).to(tl.uint64)
    return offset >> 2, (offset & 3).to(tl.int32)


@triton.jit
def word_of(argument):
    """The 32-bit word in an argument that `word_argument` made."""
    return (argument >> 1).to(tl.uint32)


@triton.jit
def _drop(x, bits, scale, threshold):
    """x * (scale where the bits keep it, else 0): a product, so that NaN stays."""
    return (x.to(tl.float32) * tl.where(bits >= word_of(threshold), scale, 0.0)).to(x.dtype)


@kernel
def _random_bits_kernel(
    y_ptr, offset_ptr, n, seed_low, seed_high, offset_low, offset_high, BLOCK: tl.constexpr
):  # fmt: skip
    """y: (n,) uint32. offset: one 64-bit integer, or None where the two words are given."""
    first, skipped = stream_start(offset_ptr, offset_low, offset_high)
    program = tl.program_id(0).to(tl.int64)
    block = first + (program * (BLOCK // 4) + tl.arange(0, BLOCK // 4)).to(tl.uint64)
    i = program * BLOCK + tl.arange(0, BLOCK)
    if skipped == 0:  # a branch of its own, in which the compiler knows that addresses are aligned
        tl.store(y_ptr + i, _bits(seed_low, seed_high, block, False), mask=i < n)
    else:
        i -= skipped
        tl.store(y_ptr + i, _bits(seed_low, seed_high, block, False), mask=(i >= 0) & (i < n))


@kernel
def _dropout_kernel(
    x_ptr, y_ptr, offset_ptr, n, scale, threshold, seed_low, seed_high, offset_low, offset_high, BLOCK: tl.constexpr
):
    """x, y: n elements, row-major. offset as in _random_bits_kernel."""
    first, skipped = stream_start(offset_ptr, offset_low, offset_high)
    # 16 bytes are loaded at a time: 4 floats or 8 halves. With as many words at a time, none changes threads.
    PAIRS: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 16
    AT_A_TIME: tl.constexpr = 2 if PAIRS else 1
    program = tl.program_id(0).to(tl.int64)
    block = program * (BLOCK // 4) + tl.arange(0, BLOCK // 4 // AT_A_TIME) * AT_A_TIME
    block = first + block.to(tl.uint64)
    i = program * BLOCK + tl.arange(0, BLOCK)
    if skipped == 0:  # as above
        x = tl.load(x_ptr + i, mask=i < n)  # loaded first: it arrives while the bits are computed
        y = _drop(x, _bits(seed_low, seed_high, block, PAIRS), scale, threshold)
        tl.store(y_ptr + i, y, mask=i < n)
    else:
        i -= skipped
        inside = (i >= 0) & (i < n)
        x = tl.load(x_ptr + i, mask=inside)
        y = _drop(x, _bits(seed_low, seed_high, block, PAIRS), scale, threshold)
        tl.store(y_ptr + i, y, mask=inside)


@kernel
def _dropout_transposed_kernel(
    x_ptr, y_ptr, offset_ptr, R, S, scale, threshold, seed_low, seed_high, offset_low, offset_high,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """x, y: logically (N, R, S), in memory (N, S, R). offset as in _random_bits_kernel.

    Row (n, r) of the stream begins within a block, at a place of its own: its tile begins as far before it. Word k of a
    thread's block is for row s + k of memory, so that each k is a load of its own, contiguous along r.
    """
    first, skipped = stream_start(offset_ptr, offset_low, offset_high)
    program, tiles_r, tiles_s = tl.program_id(0).to(tl.int64), tl.cdiv(R, BLOCK_R), tl.cdiv(S + 3, BLOCK_S)
    r = (program % tiles_r) * BLOCK_R + tl.arange(0, BLOCK_R)[None, :]
    block = program // tiles_r % tiles_s * (BLOCK_S // 4) + tl.arange(0, BLOCK_S // 4)[:, None]
    n = program // tiles_r // tiles_s

    word = skipped + (n * R + r) * S
    s = 4 * block - (word & 3)
    i = (n * S + s) * R + r
    inside0, inside1 = _inside(r, s, R, S), _inside(r, s + 1, R, S)
    inside2, inside3 = _inside(r, s + 2, R, S), _inside(r, s + 3, R, S)
    x0 = tl.load(x_ptr + i, mask=inside0)
    x1 = tl.load(x_ptr + i + R, mask=inside1)
    x2 = tl.load(x_ptr + i + 2 * R, mask=inside2)
    x3 = tl.load(x_ptr + i + 3 * R, mask=inside3)
    w0, w1, w2, w3 = philox(seed_low, seed_high, first + (block + (word >> 2)).to(tl.uint64))
    tl.store(y_ptr + i, _drop(x0, w0, scale, threshold), mask=inside0)
    tl.store(y_ptr + i + R, _drop(x1, w1, scale, threshold), mask=inside1)
    tl.store(y_ptr + i + 2 * R, _drop(x2, w2, scale, threshold), mask=inside2)
    tl.store(y_ptr + i + 3 * R, _drop(x3, w3, scale, threshold), mask=inside3)


@triton.jit
def _inside(r, s, R, S):
    return (r < R) & (s >= 0) & (s < S)


def random_bits(seed: int, offset: Any, n: int) -> Any:
    """dropout.reference.random_bits, in device memory.

    offset may be a 0-d int64 or uint64 device array, which the kernel reads: a captured CUDA graph then takes another
    part of the stream at every replay.
    """
    op = "random_bits"
    offset_ptr, words = stream_arguments(op, seed, offset)
    check_count(op, n)
    y = gpu.xp().empty(int(n), np.uint32)
    _random_bits_kernel((cdiv(y.size + 3, BLOCK),), y, offset_ptr, y.size, *words, BLOCK=BLOCK, num_warps=WARPS)
    return y


def dropout(x: Any, p: float, seed: int, offset: Any) -> Any:
    """dropout.reference.dropout, without float64. offset may be in device memory, as in random_bits."""
    op = "dropout"
    float_dtype(op, x=x)
    check_rate(op, p)
    offset_ptr, words = stream_arguments(op, seed, offset)
    factor = 0.0 if p == 1 else 1.0 / (1.0 - float(p)), word_argument(threshold(p)), *words

    x = dense(x)
    if x.flags.c_contiguous:
        return _row_major(x, offset_ptr, factor)
    y, extents = empty_like(x), transposed(x)
    if extents is None or not fits(3 * extents[1]):  # the kernel steps over so many
        y[...] = _row_major(gpu.xp().ascontiguousarray(x), offset_ptr, factor)
        return y
    n, r, s = extents
    block_r = min(64, next_power_of_2(r))
    block_s = min(TILE // block_r, next_power_of_2(s + 3))
    grid = n * cdiv(r, block_r) * cdiv(s + 3, block_s)
    _dropout_transposed_kernel(
        (grid,), x, y, offset_ptr, r, s, *factor, BLOCK_R=block_r, BLOCK_S=block_s, num_warps=WARPS
    )
    return y


def _row_major(x: Any, offset_ptr: Any, factor: tuple[float | int, ...]) -> Any:
    y = gpu.xp().empty(x.shape, x.dtype)
    _dropout_kernel((cdiv(x.size + 3, BLOCK),), x, y, offset_ptr, x.size, *factor, BLOCK=BLOCK, num_warps=WARPS)
    return y


def stream_arguments(op: str, seed: int, offset: Any) -> tuple[Any, tuple[int, int, int, int]]:
    """The kernel's arguments offset_ptr and (seed_low, seed_high, offset_low, offset_high)."""
    in_memory = stream_offset(op, offset)
    number = 0 if in_memory else offset
    check_stream(op, seed, number)
    seed, number = int(seed), int(number)
    words = seed & 0xFFFFFFFF, seed >> 32, number & 0xFFFFFFFF, number >> 32
    return offset if in_memory else None, tuple(map(word_argument, words))


def word_argument(word: int) -> int:
    """A 32-bit word as an argument: always 64 bits wide and odd, so that no value is compiled for anew."""
    return 1 << 40 | word << 1 | 1
