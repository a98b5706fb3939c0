"""Elementwise activations, erf and their gradients on a GPU, in Numba-CUDA: the formulas of activations/reference.py.

    y[i] = f(x[i])        dx[i] = dy[i] f'(z[i])

    block 0         block 1         block 2             x, memory order
    |0 1 2 ... 255| |0 1 2 ... 255| |0 1 2 ... 255| |...
     thread t of block b computes element 256 b + t; neighbours in a warp read neighbours in memory

Any strides: an array with holes is first copied to dense memory in its own order; dense memory is walked as one row.
float16 is computed in float32 and rounded once.

Loops are `while` loops: a `range` whose step is not known at compile time costs 64-bit divisions.

Traffic: an activation reads and writes each element once, a gradient reads two and writes one. A thread has one load of
4 bytes (2 for float16) in flight, so copy bandwidth can only be reached by 2048 threads on every multiprocessor;
float16 needs as many instructions for half of the bytes; activations/gpu_triton.py avoids that by 16-byte loads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numpy import float32

from tilegrad.kernels.activations import gpu_numba_math as m
from tilegrad.kernels.activations.reference import check_alike, check_slope
from tilegrad.kernels.checks import one_of
from tilegrad.kernels.device.dense import dense, dense_as, empty_like, memory_order
from tilegrad.kernels.launch.numba_dtypes import float_dtype
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda
from tilegrad.kernels.sizes import cdiv

THREADS = 16 if SIMULATED else 256
MOST_BLOCKS = 4 if SIMULATED else 1 << 20  # beyond that a thread takes several elements, a grid apart


@functools.cache
def _forward_kernel(f: Callable) -> Kernel:
    @kernel
    def _activation_kernel(x, y):
        """x, y: n elements of dense memory."""
        i = cuda.grid(1)
        while i < x.size:
            y[i] = f(float32(x[i]))
            i += cuda.gridsize(1)

    return _activation_kernel


@functools.cache
def _backward_kernel(slope: Callable) -> Kernel:
    @kernel
    def _activation_grad_kernel(dy, z, dx):
        """dy, z, dx: n elements of dense memory; z is the activation's argument or its result, as slope takes it."""
        i = cuda.grid(1)
        while i < z.size:
            dx[i] = float32(dy[i]) * slope(float32(z[i]))
            i += cuda.gridsize(1)

    return _activation_grad_kernel


@kernel
def _relu_grad_kernel(dy, y, dx):
    """Selected, not multiplied: 0 * inf does not arise."""
    i = cuda.grid(1)
    while i < y.size:
        dx[i] = float32(0) if float32(y[i]) <= float32(0) else float32(dy[i])
        i += cuda.gridsize(1)


@kernel
def _leaky_relu_kernel(x, y, slope):
    """x, y: n elements of dense memory."""
    i = cuda.grid(1)
    while i < x.size:
        v = float32(x[i])
        y[i] = v if v > float32(0) else v * slope
        i += cuda.gridsize(1)


@kernel
def _leaky_relu_grad_kernel(dy, x, dx, slope):
    """dy, x, dx: n elements of dense memory."""
    i = cuda.grid(1)
    while i < x.size:
        d = float32(dy[i])
        dx[i] = d if float32(x[i]) > float32(0) else d * slope
        i += cuda.gridsize(1)


def relu(x: Any) -> Any:
    """y = max(x, 0)."""
    return _forward("relu", _forward_kernel(m.relu), x)


def relu_grad(dy: Any, y: Any) -> Any:
    """dx = 0 where y <= 0, else dy; y may be relu's result or its argument."""
    return _backward("relu_grad", _relu_grad_kernel, dy, y=y)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """y = x where x > 0, else negative_slope * x."""
    check_slope("leaky_relu", negative_slope)
    return _forward("leaky_relu", _leaky_relu_kernel, x, float(negative_slope))


def leaky_relu_grad(dy: Any, x: Any, negative_slope: float = 0.01) -> Any:
    """dx = dy where x > 0, else negative_slope * dy."""
    check_slope("leaky_relu_grad", negative_slope)
    return _backward("leaky_relu_grad", _leaky_relu_grad_kernel, dy, float(negative_slope), x=x)


def gelu(x: Any, approximate: str = "none") -> Any:
    """y = x Phi(x), or its tanh formula."""
    one_of("gelu", "approximate", approximate, ("none", "tanh"))
    return _forward("gelu", _forward_kernel(m.gelu if approximate == "none" else m.gelu_tanh), x)


def gelu_grad(dy: Any, x: Any, approximate: str = "none") -> Any:
    """The gradient of gelu, from its argument."""
    one_of("gelu_grad", "approximate", approximate, ("none", "tanh"))
    slope = m.gelu_slope if approximate == "none" else m.gelu_tanh_slope
    return _backward("gelu_grad", _backward_kernel(slope), dy, x=x)


def silu(x: Any) -> Any:
    """y = x sigmoid(x)."""
    return _forward("silu", _forward_kernel(m.silu), x)


def silu_grad(dy: Any, x: Any) -> Any:
    """dx = dy (s + x s (1 - s)), s = sigmoid(x)."""
    return _backward("silu_grad", _backward_kernel(m.silu_slope), dy, x=x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    return _forward("tanh", _forward_kernel(m.tanh), x)


def tanh_grad(dy: Any, y: Any) -> Any:
    """dx = dy (1 - y^2), from tanh's result."""
    return _backward("tanh_grad", _backward_kernel(m.tanh_slope), dy, y=y)


def sigmoid(x: Any) -> Any:
    """y = 1 / (1 + exp(-x))."""
    return _forward("sigmoid", _forward_kernel(m.sigmoid), x)


def sigmoid_grad(dy: Any, y: Any) -> Any:
    """dx = dy y (1 - y), from sigmoid's result."""
    return _backward("sigmoid_grad", _backward_kernel(m.sigmoid_slope_of_result), dy, y=y)


def erf(x: Any) -> Any:
    """The error function."""
    return _forward("erf", _forward_kernel(m.erf), x)


def erf_grad(dy: Any, x: Any) -> Any:
    """dx = dy * 2 / sqrt(pi) exp(-x^2), from erf's argument."""
    return _backward("erf_grad", _backward_kernel(m.erf_slope), dy, x=x)


def _forward(op: str, launch: Kernel, x: Any, *numbers: float) -> Any:
    float_dtype(op, x=x)
    x = dense(x)
    y = empty_like(x)
    launch(_grid(x.size), (THREADS,), memory_order(x), memory_order(y), *numbers)
    return y


def _backward(op: str, launch: Kernel, dy: Any, *numbers: float, **saved: Any) -> Any:
    float_dtype(op, dy=dy, **saved)
    check_alike(op, dy=dy, **saved)
    (z,) = saved.values()
    z = dense(z)
    dx = empty_like(z)
    launch(_grid(z.size), (THREADS,), memory_order(dense_as(dy, z)), memory_order(z), memory_order(dx), *numbers)
    return dx


def _grid(n: int) -> tuple[int]:
    return (min(cdiv(n, THREADS), MOST_BLOCKS),)
