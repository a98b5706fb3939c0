"""Elementwise activations, erf and their gradients on a GPU, in Triton: the formulas of activations/reference.py.

One program takes BLOCK neighbouring elements of memory, computes them in float32 and rounds once. Any strides: an array
with holes is first copied to dense memory in its own order. The result has its argument's memory order.

float16, bfloat16 and float32. Results are good to a few ulp of float32 (kernels/activations/gpu_triton_math.py).

Traffic: an activation reads and writes each element once; a gradient reads two arrays and writes one. That is the
floor as long as the arithmetic hides behind it: while it moves an element of 2 + 2 bytes, an H200 can issue 28
instructions for it (132 SMs * 128 lanes * 1.75 GHz against 4.2 TB/s), of 4 + 4 bytes twice as many. Compiled for sm_90
and halves, relu takes 4 instructions an element, leaky_relu 9, gelu 19, sigmoid and silu 22, tanh 27, gelu_tanh 28; the
gradients (2 + 2 + 2 bytes, 42 instructions) 7 to 11, of silu 27, gelu 30, gelu_tanh 38. Hence one exponential and one
division at most for sigmoid, and no erf for gelu.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tilegrad.kernels.activations.gpu_triton_math import gaussian as _gaussian
from tilegrad.kernels.activations.gpu_triton_math import normal_cdf as _normal_cdf
from tilegrad.kernels.activations.gpu_triton_math import sigmoid as _sigmoid
from tilegrad.kernels.activations.gpu_triton_math import sigmoid_and_slope as _sigmoid_and_slope
from tilegrad.kernels.activations.gpu_triton_math import tanh as _tanh
from tilegrad.kernels.activations.reference import check_alike, check_slope
from tilegrad.kernels.checks import one_of
from tilegrad.kernels.device.dense import dense, dense_as, empty_like
from tilegrad.kernels.launch.triton_dtypes import float_dtype, float_dtype_of
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv

BLOCK = 1024  # 4 warps, 8 elements a thread: one 16-byte load of halves, two of floats

_INV_SQRT_2PI: tl.constexpr = tl.constexpr(0.3989422804014327)
_TWO_PER_SQRT_PI: tl.constexpr = tl.constexpr(1.1283791670955126)
_SQRT_8_PI: tl.constexpr = tl.constexpr(1.5957691216057308)


@triton.jit
def activate(x, slope, NAME: tl.constexpr):
    """The activation of that name (of ACTIVATIONS, or None) of a float32 block; the epilogue of matmul and conv2d.

    "erf" too, which is no epilogue. Only leaky_relu uses slope.
    """
    if NAME == "relu":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif NAME == "leaky_relu":
        x = tl.where(x > 0, x, x * slope)
    elif NAME == "gelu":
        x = x * _normal_cdf(x)
    elif NAME == "gelu_tanh":
        x = x * _sigmoid(_twice_u(x))
    elif NAME == "silu":
        x = x * _sigmoid(x)
    elif NAME == "tanh":
        x = _tanh(x)
    elif NAME == "sigmoid":
        x = _sigmoid(x)
    elif NAME == "erf":
        x = tl.erf(x)
    else:
        tl.static_assert(NAME is None, "no such activation")
    return x


@triton.jit
def _slope_of(z, slope, NAME: tl.constexpr):
    """The derivative of the activation, from its argument z (tanh, sigmoid: from its result)."""
    if NAME == "leaky_relu":
        d = tl.where(z > 0, 1.0, slope)
    elif NAME == "gelu":
        density = tl.exp(z * z * -0.5) * _INV_SQRT_2PI
        d = _normal_cdf(z) + z * density
    elif NAME == "gelu_tanh":
        s, ds = _sigmoid_and_slope(_twice_u(z))
        x = _clip_saturated(z)
        d = s + z * ds * ((1.0 + 3 * 0.044715 * x * x) * _SQRT_8_PI)
    elif NAME == "silu":
        s, ds = _sigmoid_and_slope(z)
        d = s + z * ds
    elif NAME == "erf":
        d = _gaussian(z) * _TWO_PER_SQRT_PI
    elif NAME == "tanh":
        d = 1.0 - z * z
    else:
        tl.static_assert(NAME == "sigmoid", "no such activation")
        d = z * (1.0 - z)
    return d


@triton.jit
def _twice_u(x):
    x = _clip_saturated(x)
    return (x + 0.044715 * x * x * x) * _SQRT_8_PI


@triton.jit
def _clip_saturated(x):
    """x within [-30, 30], beyond which sigmoid(2u) is 0 or 1: x^3 must not overflow."""
    low = tl.maximum(x, -30.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(low, 30.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _forward_block(x_ptrs, y_ptrs, inside, slope, NAME: tl.constexpr):
    """inside: which elements there are; None: all. Under a mask that may end anywhere, loads do not vectorise."""
    y = activate(tl.load(x_ptrs, mask=inside).to(tl.float32), slope, NAME)
    tl.store(y_ptrs, y.to(y_ptrs.dtype.element_ty), mask=inside)


@kernel
def _activation_kernel(x_ptr, y_ptr, n, slope, NAME: tl.constexpr, BLOCK: tl.constexpr):
    """x, y: n elements of dense memory."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    i = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        _forward_block(x_ptr + i, y_ptr + i, None, slope, NAME)
    else:
        _forward_block(x_ptr + i, y_ptr + i, i < n, slope, NAME)


@triton.jit
def _backward_block(dy_ptrs, z_ptrs, dx_ptrs, inside, slope, NAME: tl.constexpr):
    """inside: as in _forward_block."""
    dy = tl.load(dy_ptrs, mask=inside).to(tl.float32)
    z = tl.load(z_ptrs, mask=inside).to(tl.float32)
    if NAME == "relu":
        dx = tl.where(z <= 0, 0.0, dy)  # selected, not multiplied: 0 * inf does not arise
    else:
        dx = dy * _slope_of(z, slope, NAME)
    tl.store(dx_ptrs, dx.to(dx_ptrs.dtype.element_ty), mask=inside)


@kernel
def _activation_grad_kernel(dy_ptr, z_ptr, dx_ptr, n, slope, NAME: tl.constexpr, BLOCK: tl.constexpr):
    """dy, z, dx: n elements of dense memory; z is the activation's argument or its result, as NAME's rule takes."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    i = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        _backward_block(dy_ptr + i, z_ptr + i, dx_ptr + i, None, slope, NAME)
    else:
        _backward_block(dy_ptr + i, z_ptr + i, dx_ptr + i, i < n, slope, NAME)


def relu(x: Any) -> Any:
    """y = max(x, 0)."""
    return _forward("relu", x)


def relu_grad(dy: Any, y: Any) -> Any:
    """dx = 0 where y <= 0, else dy; y may be relu's result or its argument."""
    return _backward("relu", dy, y=y)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """y = x where x > 0, else negative_slope * x."""
    check_slope("leaky_relu", negative_slope)
    return _forward("leaky_relu", x, float(negative_slope))


def leaky_relu_grad(dy: Any, x: Any, negative_slope: float = 0.01) -> Any:
    """dx = dy where x > 0, else negative_slope * dy."""
    check_slope("leaky_relu_grad", negative_slope)
    return _backward("leaky_relu", dy, float(negative_slope), x=x)


def gelu(x: Any, approximate: str = "none") -> Any:
    """y = x Phi(x), or its tanh formula."""
    one_of("gelu", "approximate", approximate, ("none", "tanh"))
    return _forward("gelu" if approximate == "none" else "gelu_tanh", x)


def gelu_grad(dy: Any, x: Any, approximate: str = "none") -> Any:
    """The gradient of gelu, from its argument."""
    one_of("gelu_grad", "approximate", approximate, ("none", "tanh"))
    return _backward("gelu" if approximate == "none" else "gelu_tanh", dy, x=x)


def silu(x: Any) -> Any:
    """y = x sigmoid(x)."""
    return _forward("silu", x)


def silu_grad(dy: Any, x: Any) -> Any:
    """dx = dy (s + x s (1 - s)), s = sigmoid(x)."""
    return _backward("silu", dy, x=x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    return _forward("tanh", x)


def tanh_grad(dy: Any, y: Any) -> Any:
    """dx = dy (1 - y^2), from tanh's result."""
    return _backward("tanh", dy, y=y)


def sigmoid(x: Any) -> Any:
    """y = 1 / (1 + exp(-x))."""
    return _forward("sigmoid", x)


def sigmoid_grad(dy: Any, y: Any) -> Any:
    """dx = dy y (1 - y), from sigmoid's result."""
    return _backward("sigmoid", dy, y=y)


def erf(x: Any) -> Any:
    """The error function."""
    return _forward("erf", x)


def erf_grad(dy: Any, x: Any) -> Any:
    """dx = dy * 2 / sqrt(pi) exp(-x^2), from erf's argument."""
    return _backward("erf", dy, x=x)


def _forward(name: str, x: Any, slope: float = 0.0) -> Any:
    float_dtype_of(name.removesuffix("_tanh"), x)
    x = dense(x)
    y = empty_like(x)
    _activation_kernel((cdiv(x.size, BLOCK),), x, y, x.size, slope, NAME=name, BLOCK=BLOCK)
    return y


def _backward(name: str, dy: Any, slope: float = 0.0, **saved: Any) -> Any:
    op = name.removesuffix("_tanh") + "_grad"
    float_dtype(op, dy=dy, **saved)
    check_alike(op, dy=dy, **saved)
    (z,) = saved.values()
    z = dense(z)
    dy = dense_as(dy, z)
    dx = empty_like(z)
    _activation_grad_kernel((cdiv(z.size, BLOCK),), dy, z, dx, z.size, slope, NAME=name, BLOCK=BLOCK)
    return dx
