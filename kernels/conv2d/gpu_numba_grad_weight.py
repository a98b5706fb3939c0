"""Gradient of conv2d with respect to its weight, in Numba-CUDA: a sum over all pixels, in two stages of fixed order.

    dw[o, c, kh, kw] = sum over (n, i, j) of
                       dy[n, o, i, j] * x[n, c, i * sh + kh * dh - ph, j * sw + kw * dw - pw]

There are few elements, each a long sum, so blocks share a sum. A block has one tap (c, kh, kw) and up to 32 outputs o.

    threadIdx.x, outputs     0  1  2 ... 31                       rows (n, i) of all images, each OW pixels:
    threadIdx.y, strand 0   +--------------+  sums rows 0,     8 S, ...
                strand 1    |              |  sums rows 1, 1 + 8 S, ...     S = gridDim.y, the blocks that share
                ...         |              |                                a sum
                strand 7    +--------------+  sums rows 7, 7 + 8 S, ...
                  strands 0..3 += 4..7, then 0..1 += 2..3, then 0 += 1, in shared memory: one sum a block

The lanes of a warp read 128 bytes of dy in a row, and all of them the same x (or, depthwise, neighbours). The sums of a
block go to a workspace (S, taps, outputs) of float32, and a second kernel adds the S sums of each element, in order. No
atomics: two runs give the same bits. S depends on the shape alone. It makes BLOCKS blocks where there are pixels
enough: the first layer of a net has nine taps, and more pixels than any other.

Traffic: dy and x once from memory, if the caches hold what is read again: dy C KH KW / groups times, x by the blocks of
O / 32 groups of outputs and of all taps; the workspace, S O C KH KW / groups * 4 bytes, is written and read once.
Two loads for each multiplication and addition, as in conv2d/gpu_numba.py: at most an eighth of the float32 rate.
"""

from __future__ import annotations

import functools
from typing import Any

from numpy import float32

from tilegrad.kernels.conv2d.reference import check_grad_weight
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.images import channels_last
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_images import MOST_BLOCKS
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.windows import Pair

THREADS = 8 if SIMULATED else 256
WARP = 4 if SIMULATED else 32
BLOCKS = 8 if SIMULATED else 2048  # wanted: some four rounds of what a card of 132 multiprocessors holds

_ZERO = float32(0)


@functools.cache
def _sums_kernel(size: Pair, stride: Pair, dilation: Pair) -> Kernel:
    (down, right), (stride_down, stride_right), (apart_down, apart_right) = size, stride, dilation

    @kernel
    def _conv2d_grad_weight_kernel(dy, x, sums, outputs_of_group, pad_down, pad_right):
        """dy: (images, rows, columns, outputs). x: (images, height, width, channels).
        sums: (gridDim.y, taps, outputs), taps in the order (c, kh, kw).
        """
        shared = cuda.shared.array(THREADS, float32)
        images, rows, columns, outputs = dy.shape
        height, width, depth = x.shape[1], x.shape[2], sums.shape[1] // (down * right)
        lanes, strands = cuda.blockDim.x, cuda.blockDim.y
        lane, strand = cuda.threadIdx.x, cuda.threadIdx.y
        taps = sums.shape[1]
        tap = cuda.blockIdx.x % taps
        c, kh, kw = tap // (down * right), tap // right % down, tap % right
        o = cuda.blockIdx.x // taps * lanes + lane
        total = _ZERO
        if o < outputs:
            channel = o // outputs_of_group * depth + c
            for row in range(cuda.blockIdx.y * strands + strand, images * rows, cuda.gridDim.y * strands):
                n, i = row // rows, row % rows
                h = i * stride_down + kh * apart_down - pad_down
                for j in range(columns):
                    w = j * stride_right + kw * apart_right - pad_right
                    inside = 0 <= h < height and 0 <= w < width
                    v = float32(x[n, h, w, channel]) if inside else _ZERO
                    total += float32(dy[n, i, j, o]) * v

        at = strand * lanes + lane
        shared[at] = total
        half = strands // 2
        while half > 0:
            cuda.syncthreads()
            if strand < half:
                shared[at] += shared[at + half * lanes]
            half //= 2
        if strand == 0 and o < outputs:
            sums[cuda.blockIdx.y, tap, o] = shared[at]

    return _conv2d_grad_weight_kernel


@kernel
def _add_kernel(sums, dw):
    """sums: (shares, taps, outputs). dw: (outputs, taps)."""
    shares, taps, outputs = sums.shape
    for at in range(cuda.grid(1), taps * outputs, cuda.gridsize(1)):
        tap, o = at // outputs, at % outputs
        total = _ZERO
        for share in range(shares):
            total += sums[share, tap, o]
        dw[o, tap] = total


def conv2d_grad_weight(
    dy: Any,
    x: Any,
    w_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    precision: str = "ieee",
) -> Any:
    """conv2d.reference.conv2d_grad_weight, for float16 and float32; the precision is always "ieee"."""
    dtype, s = check_grad_weight(dy, x, w_shape, stride, padding, dilation, groups, precision)
    only_served("conv2d_grad_weight", dtype)
    outputs, taps = s.w_shape[0], s.window_size
    lanes = min(WARP, next_power_of_2(outputs))
    strands = THREADS // lanes
    blocks = taps * cdiv(outputs, lanes)
    rows = s.images * s.windows.count[0]
    shares = max(1, min(cdiv(BLOCKS, max(1, blocks)), cdiv(rows, strands), MOST_BLOCKS))

    sums = gpu.xp().empty((shares, taps, outputs), float32)
    launch = _sums_kernel(s.windows.kernel, s.windows.stride, s.windows.dilation)
    block = lanes, strands
    launch((blocks, shares), block, channels_last(dy), channels_last(x), sums, s.out_channels, *s.windows.padding)
    dw = gpu.xp().empty((outputs, taps), dtype)
    _add_kernel((min(cdiv(dw.size, THREADS), MOST_BLOCKS),), (THREADS,), sums, dw)
    return dw.reshape(s.w_shape)
