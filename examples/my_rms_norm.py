"""A kernel of your own, from the formula to the benchmark: y = x w / sqrt(mean(x^2) + eps) along the rows of x.

python examples/my_rms_norm.py [flags of python -m tilegrad.bench]

On a GPU where there is one; on the CPU, or simulated, with TRITON_INTERPRET=1, with NUMBA_ENABLE_CUDASIM=1
TILEGRAD_KERNELS=numba, or with TILEGRAD_SIMULATE=ptx. kernels/README.md walks through this file.
"""

import math
import sys

import numpy as np
import triton.language as tl

import tilegrad as tg
from tilegrad import bench, kernels, nn
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import numba_kernel, triton_kernel
from tilegrad.kernels.launch.numba_target import cuda, device
from tilegrad.kernels.sizes import next_power_of_2

EPS = 1e-5
LANES = 64  # threads of a block of the Numba kernels, a power of two


# --- the specification, which serves the CPU too


def forward_numpy(x, w):
    """(y, rstd): x, y (N, C); w (C,); rstd (N,)."""
    rstd = 1 / np.sqrt((x * x).mean(axis=1) + x.dtype.type(EPS))
    return x * rstd[:, None] * w, rstd


def gradient_numpy(dy, x, w, y, rstd):
    """(dx, dw): dx = rstd (g - xhat mean(g xhat)), dw = sum over the rows of dy xhat; g = dy w, xhat = x rstd."""
    xhat, g = x * rstd[:, None], dy * w
    return (g - xhat * (g * xhat).mean(axis=1)[:, None]) * rstd[:, None], (dy * xhat).sum(axis=0)


# --- Triton: a program takes a row, which it keeps in registers


@triton_kernel.kernel
def _forward_triton(x_ptr, w_ptr, y_ptr, rstd_ptr, n, eps, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * n + column, column < n, 0.0).to(tl.float32)
    rstd = 1 / tl.sqrt(tl.sum(x * x) / n + eps)
    y = x * rstd * tl.load(w_ptr + column, column < n, 0.0)
    tl.store(y_ptr + row * n + column, y, column < n)
    tl.store(rstd_ptr + row, rstd)


@triton_kernel.kernel
def _gradient_triton(dy_ptr, x_ptr, w_ptr, rstd_ptr, dx_ptr, part_ptr, n, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    rstd = tl.load(rstd_ptr + row)
    dy = tl.load(dy_ptr + row * n + column, column < n, 0.0).to(tl.float32)
    xhat = tl.load(x_ptr + row * n + column, column < n, 0.0) * rstd
    g = dy * tl.load(w_ptr + column, column < n, 0.0)
    tl.store(dx_ptr + row * n + column, (g - xhat * (tl.sum(g * xhat) / n)) * rstd, column < n)
    tl.store(part_ptr + row * n + column, dy * xhat, column < n)


# --- Numba: a block takes a row, and its threads stride over the columns


@device
def row_sum(value, shared):
    lane, half = cuda.threadIdx.x, LANES // 2
    cuda.syncthreads()
    shared[lane] = value
    cuda.syncthreads()
    while half:
        if lane < half:
            shared[lane] += shared[lane + half]
        cuda.syncthreads()
        half //= 2
    return shared[0]


@numba_kernel.kernel
def _forward_numba(x, w, y, rstd, eps):
    shared, row, n = cuda.shared.array(LANES, np.float32), cuda.blockIdx.x, x.shape[1]
    square = np.float32(0)
    for j in range(cuda.threadIdx.x, n, LANES):
        square += np.float32(x[row, j]) * np.float32(x[row, j])
    r = np.float32(1) / math.sqrt(row_sum(square, shared) / np.float32(n) + eps)
    for j in range(cuda.threadIdx.x, n, LANES):
        y[row, j] = np.float32(x[row, j]) * r * np.float32(w[j])
    rstd[row] = r


@numba_kernel.kernel
def _gradient_numba(dy, x, w, rstd, dx, part):
    shared, row, n = cuda.shared.array(LANES, np.float32), cuda.blockIdx.x, x.shape[1]
    total, r = np.float32(0), rstd[row]
    for j in range(cuda.threadIdx.x, n, LANES):
        total += np.float32(dy[row, j]) * np.float32(w[j]) * np.float32(x[row, j]) * r
    mean = row_sum(total, shared) / np.float32(n)
    for j in range(cuda.threadIdx.x, n, LANES):
        xhat = np.float32(x[row, j]) * r
        dx[row, j] = (np.float32(dy[row, j]) * np.float32(w[j]) - xhat * mean) * r
        part[row, j] = np.float32(dy[row, j]) * xhat


# --- the launchers: they allocate, and launch one of the two


def forward_gpu(x, w):
    x, xp, (rows, n) = gpu.xp().ascontiguousarray(x), gpu.xp(), x.shape
    y, rstd = xp.empty_like(x), xp.empty(rows, np.float32)
    if kernels.name("cuda") == "triton":
        _forward_triton((rows,), x, w, y, rstd, n, EPS, BLOCK=next_power_of_2(n))
    else:
        _forward_numba((rows,), (LANES,), x, w, y, rstd, EPS)
    return y, rstd


def gradient_gpu(dy, x, w, y, rstd):
    xp, (rows, n) = gpu.xp(), x.shape
    dy, x = xp.ascontiguousarray(dy), xp.ascontiguousarray(x)
    dx, part = xp.empty_like(x), xp.empty((rows, n), np.float32)
    if kernels.name("cuda") == "triton":
        _gradient_triton((rows,), dy, x, w, rstd, dx, part, n, BLOCK=next_power_of_2(n))
    else:
        _gradient_numba((rows,), (LANES,), dy, x, w, rstd, dx, part)
    return dx, kernels.of(part).sum(part, (0,)).astype(w.dtype)  # tilegrad's own kernel for the rest


def launches(empty):
    """What `python -m tilegrad.kernels.compile examples/my_rms_norm.py` compiles."""
    x, w = empty(4096, 1024), empty(1024)
    gradient_gpu(x, x, w, *forward_gpu(x, w))


# --- the op, with its gradient rule; the benchmark


@tg.op
def rms_norm(x, w):
    """y (N, C) of x (N, C) and w (C,)."""
    forward, backward = (forward_gpu, gradient_gpu) if x.is_cuda else (forward_numpy, gradient_numpy)
    y, rstd = forward(x.data, w.data)

    def gradient(dy):
        return backward(dy.data, x.data, w.data, y, rstd)

    return y, gradient
