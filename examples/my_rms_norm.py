"""A kernel of your own, from the formula to the benchmark: y = x w / sqrt(mean(x^2) + eps) along the rows of x.

    python examples/my_rms_norm.py [flags of python -m tilegrad.bench]

It runs on a GPU where there is one, else on the CPU; simulated with TRITON_INTERPRET=1, with NUMBA_ENABLE_CUDASIM=1, or
with TILEGRAD_SIMULATE=ptx; the Numba kernels with TILEGRAD_KERNELS=numba. kernels/README.md walks through this file.
"""

import math
import sys

import numpy as np
import triton.language as tl

import tilegrad as tg
from tilegrad import bench, kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import numba_kernel, triton_kernel
from tilegrad.kernels.launch.numba_target import cuda
from tilegrad.kernels.launch.numba_trees import tree_sum
from tilegrad.kernels.sizes import next_power_of_2

EPS, LANES = 1e-5, 64  # threads of a block of the Numba kernels: a power of two


def forward_numpy(x, w):
    """The specification, which serves the CPU too: (y, rstd); x, y (N, C); w (C,); rstd (N,)."""
    rstd = 1 / np.sqrt((x * x).mean(axis=1) + EPS)
    return x * rstd[:, None] * w, rstd


def gradient_numpy(dy, x, w, y, rstd):
    """(dx, dw): dx = rstd (g - xhat mean(g xhat)), dw = sum over rows of dy xhat, where g = dy w and xhat = x rstd."""
    xhat, g = x * rstd[:, None], dy * w
    return (g - xhat * (g * xhat).mean(axis=1)[:, None]) * rstd[:, None], (dy * xhat).sum(axis=0)


# --- Triton: a program takes a row, which stays in registers


@triton_kernel.kernel
def _forward_triton(x_ptr, w_ptr, y_ptr, rstd_ptr, n, eps, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * n + column, column < n, 0.0).to(tl.float32)
    rstd = 1 / tl.sqrt(tl.sum(tl.where(column < n, x * x, 0.0)) / n + eps)  # where: a bare product would be fused
    tl.store(y_ptr + row * n + column, x * rstd * tl.load(w_ptr + column, column < n, 0.0), column < n)
    tl.store(rstd_ptr + row, rstd)


@triton_kernel.kernel
def _gradient_triton(dy_ptr, x_ptr, w_ptr, rstd_ptr, dx_ptr, part_ptr, n, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    rstd = tl.load(rstd_ptr + row)
    dy = tl.load(dy_ptr + row * n + column, column < n, 0.0).to(tl.float32)
    xhat = tl.load(x_ptr + row * n + column, column < n, 0.0) * rstd
    g = dy * tl.load(w_ptr + column, column < n, 0.0)
    mean = tl.sum(tl.where(column < n, g * xhat, 0.0)) / n
    tl.store(dx_ptr + row * n + column, (g - xhat * mean) * rstd, column < n)
    tl.store(part_ptr + row * n + column, dy * xhat, column < n)


# --- Numba: a block takes a row, and its threads stride over the columns


@numba_kernel.kernel
def _forward_numba(x, w, y, rstd, eps):
    shared, row, lane, n = cuda.shared.array(LANES, np.float32), cuda.blockIdx.x, cuda.threadIdx.x, x.shape[1]
    square = np.float32(0)
    for j in range(lane, n, LANES):
        square += np.float32(x[row, j]) * np.float32(x[row, j])
    r = np.float32(1) / math.sqrt(tree_sum(square, shared, lane, LANES, 1) / np.float32(n) + eps)
    for j in range(lane, n, LANES):
        y[row, j] = np.float32(x[row, j]) * r * np.float32(w[j])
    if lane == 0:
        rstd[row] = r


@numba_kernel.kernel
def _gradient_numba(dy, x, w, rstd, dx, part):
    shared, row, lane, n = cuda.shared.array(LANES, np.float32), cuda.blockIdx.x, cuda.threadIdx.x, x.shape[1]
    total, r = np.float32(0), rstd[row]
    for j in range(lane, n, LANES):
        total += np.float32(dy[row, j]) * np.float32(w[j]) * (np.float32(x[row, j]) * r)
    mean = tree_sum(total, shared, lane, LANES, 1) / np.float32(n)
    for j in range(lane, n, LANES):
        xhat = np.float32(x[row, j]) * r
        dx[row, j] = (np.float32(dy[row, j]) * np.float32(w[j]) - xhat * mean) * r
        part[row, j] = np.float32(dy[row, j]) * xhat


def forward_gpu(x, w):
    xp, (rows, n) = gpu.xp(), x.shape
    x, w = map(xp.ascontiguousarray, (x, w))
    y, rstd = xp.empty((rows, n), x.dtype), xp.empty(rows, np.float32)
    if kernels.name("cuda") == "triton":
        _forward_triton((rows,), x, w, y, rstd, n, EPS, BLOCK=next_power_of_2(n))
    else:
        _forward_numba((rows,), (LANES,), x, w, y, rstd, EPS)
    return y, rstd


def gradient_gpu(dy, x, w, y, rstd):
    xp, (rows, n) = gpu.xp(), x.shape
    dy, x, w = map(xp.ascontiguousarray, (dy, x, w))
    dx, part = xp.empty((rows, n), x.dtype), xp.empty((rows, n), np.float32)
    if kernels.name("cuda") == "triton":
        _gradient_triton((rows,), dy, x, w, rstd, dx, part, n, BLOCK=next_power_of_2(n))
    else:
        _gradient_numba((rows,), (LANES,), dy, x, w, rstd, dx, part)
    return dx, kernels.of(part).sum(part, (0,)).astype(w.dtype)  # tilegrad's kernel adds the rows


@tg.op
def rms_norm(x, w):
    """y (N, C) of x (N, C) and w (C,)."""
    forward, backward = (forward_gpu, gradient_gpu) if x.is_cuda else (forward_numpy, gradient_numpy)
    y, rstd = forward(x.data, w.data)
    return y, lambda dy: backward(dy.data, x.data, w.data, None, rstd)


def launches(empty):  # of python -m tilegrad.kernels.compile examples/my_rms_norm.py
    gradient_gpu(empty(4096, 1024), empty(4096, 1024), empty(1024), *forward_gpu(empty(4096, 1024), empty(1024)))


def test_rms_norm(device="cuda"):  # TRITON_INTERPRET=1 pytest examples/my_rms_norm.py
    tg.manual_seed(0)
    x, w = tg.randn(3, 100, device=device, requires_grad=True), tg.rand(100, device=device, requires_grad=True)
    want, _ = forward_numpy(*(t.detach().cpu().double().numpy() for t in (x, w)))
    np.testing.assert_allclose(rms_norm(x, w).detach().cpu().numpy(), want, rtol=1e-5)
    assert tg.gradcheck(rms_norm, (x, w))  # the device's gradients, against differences in float64 on the CPU


bench.op(
    "my_rms_norm", axes=("N", "C"), cpu={(2048, 768): "BERT's width"}, cuda={(65536, 1024): "short rows"}, toy=(3, 100),
    inputs=lambda rng, s: {"x": rng.normal(size=s), "w": rng.normal(size=s[1]), "dy": rng.normal(size=s)},
    reference=forward_numpy, gradient=gradient_numpy, terms={"forward": lambda s: s[1], "backward": max},
    bytes={"forward": lambda s, b: (2 * s[0] + 1) * s[1] * b, "backward": lambda s, b: (3 * s[0] + 2) * s[1] * b},
    flops={"forward": lambda s: 4 * s[0] * s[1], "backward": lambda s: 9 * s[0] * s[1]},
    torch=lambda torch, x, w: torch.nn.functional.rms_norm(x, w.shape, w, EPS),
)  # fmt: skip
bench.provider("mine", op="my_rms_norm", device="cuda")(forward_gpu)
bench.provider("mine", op="my_rms_norm", mode="backward", device="cuda")(gradient_gpu)

if __name__ == "__main__":
    found = "cuda" if tg.cuda.is_available() or tg.cuda.is_simulated() else "cpu"
    test_rms_norm(found)
    dtypes = "float32,float16" if found == "cuda" and kernels.name("cuda") == "numba" else "float32,bfloat16"
    sys.exit(bench.main(["my_rms_norm", "--device", found, "--dtype", dtypes, *sys.argv[1:]]))
