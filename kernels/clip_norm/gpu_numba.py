"""Clipping a list of arrays by their joint norm on a GPU, in Numba-CUDA: clip_norm/reference.py in three launches.

    squares   array 0, 9000 elements          array 1, 10      a block adds up the squares of 4096 elements of one
              | block 0 | block 1 | block 2 | | block 3 |      array: its threads each 16 of them, 256 apart, then the
                                                               256 sums meet in shared memory, half at a time
    norm      one block adds up the sums of the blocks in the same way, and has the norm and the factor
    scale     the blocks of the first launch multiply by the factor where that is not 1

A block finds its array in a table of addresses (kernels/multi_tensor/gpu_numba.py). The host waits for nothing, and all
is added in a fixed order.

Traffic: 4 bytes a float32 element, 12 where they are clipped. Memory is the ceiling, and within reach: 16 loads a
thread do not depend on one another.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import float32

from tilegrad.kernels.clip_norm.reference import EPS, check_clip_norm
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, array_at, cuda, device
from tilegrad.kernels.multi_tensor.arrays import in_one_order, write_back
from tilegrad.kernels.multi_tensor.gpu_numba import find, tables

THREADS, BLOCK = (4, 64) if SIMULATED else (256, 4096)  # BLOCK: elements

_ZERO, _ONE, _EPS = float32(0), float32(1), float32(EPS)


@device
def _added(shared, value):
    """The sum of every thread's value, for all of them."""
    me = cuda.threadIdx.x
    shared[me] = value
    half = cuda.blockDim.x >> 1
    while half > 0:
        cuda.syncthreads()
        if me < half:
            shared[me] += shared[me + half]
        half >>= 1
    cuda.syncthreads()
    return shared[0]


@functools.cache
def _squares_kernel(element: type) -> Kernel:
    @kernel
    def _squares_kernel(table, sums, before):
        """table: of arrays. sums: those of the blocks, from `before` on."""
        shared = cuda.shared.array(THREADS, float32)
        column = find(table, cuda.blockIdx.x)
        size = table[1, column]
        x = array_at(table[2, column], size, element)
        start = (cuda.blockIdx.x - table[0, column]) * BLOCK
        total = _ZERO
        for i in range(start + cuda.threadIdx.x, min(start + BLOCK, size), THREADS):
            total += float32(x[i]) * float32(x[i])
        total = _added(shared, total)
        if cuda.threadIdx.x == 0:
            sums[before + cuda.blockIdx.x] = total

    return _squares_kernel


@kernel
def _norm_kernel(sums, numbers, max_norm):
    """sums: (n,). numbers: (2,), the norm and the factor. One block."""
    shared = cuda.shared.array(THREADS, float32)
    total = _ZERO
    for i in range(cuda.threadIdx.x, sums.size, THREADS):
        total += sums[i]
    norm = float32(math.sqrt(_added(shared, total)))
    factor = max_norm / (norm + _EPS)
    if cuda.threadIdx.x == 0:
        numbers[0] = norm
        numbers[1] = _ONE if factor >= _ONE else factor  # NaN stays NaN


@functools.cache
def _scale_kernel(element: type) -> Kernel:
    @kernel
    def _scale_kernel(table, numbers):
        """table: of arrays, which are written. numbers: (2,); the second is the factor."""
        factor = numbers[1]
        if factor != _ONE:
            column = find(table, cuda.blockIdx.x)
            size = table[1, column]
            x = array_at(table[2, column], size, element)
            start = (cuda.blockIdx.x - table[0, column]) * BLOCK
            for i in range(start + cuda.threadIdx.x, min(start + BLOCK, size), THREADS):
                x[i] = float32(x[i]) * factor

    return _scale_kernel


def clip_norm_step(arrays: Sequence[Any], max_norm: float) -> Any:
    """As the reference; float16 and float32, and the norm is never waited for."""
    xp = gpu.xp()
    check_clip_norm(xp.ndarray, arrays, max_norm)
    for a in arrays:
        only_served("clip_norm_step", a.dtype)
    tensors, copies = in_one_order([arrays])
    launches = tables(tensors, BLOCK)
    if not launches:
        return xp.zeros((), np.float32)
    sums, numbers = xp.empty(sum(table.blocks for table, _ in launches), np.float32), xp.empty(2, np.float32)
    before = 0
    for table, element in launches:
        _squares_kernel(element)((table.blocks,), (THREADS,), table.array, sums, before)
        before += table.blocks
    _norm_kernel((1,), (THREADS,), sums, numbers, float(max_norm))
    for table, element in launches:
        _scale_kernel(element)((table.blocks,), (THREADS,), table.array, numbers)
    write_back(copies)
    return numbers[0]
