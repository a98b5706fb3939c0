"""Elementwise activations, erf and their gradients: the NumPy specification.

For all of them: x, y and dy are float16, bfloat16, float32 or float64 arrays of one dtype and one shape
(nothing broadcasts), with any strides; the result has that dtype and shape, and the memory order of its
arguments. 16-bit types are computed in float32. NaN gives NaN. No intermediate result of a finite argument
overflows or warns. 0 * inf is NaN; so gelu(-inf) and silu(-inf) are NaN, and so are both gradients at +-inf.

Each raises TypeError for another dtype or for two dtypes, and ValueError for two shapes.

Traffic: an activation reads and writes each element once; a gradient reads two arrays and writes one.
"""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from tilegrad.kernels.activations.reference_erf import erf as _erf
from tilegrad.kernels.checks import accumulator, float_dtype, one_of, require

ACTIVATIONS = ("relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid")

_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore")


def relu(x: np.ndarray) -> np.ndarray:
    """y = max(x, 0)."""
    float_dtype("relu", x=x)
    return np.asarray(np.maximum(x, 0))


@_quiet  # a comparison with a bfloat16 NaN warns
def relu_grad(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dx = 0 where y <= 0, else dy. y may be relu's result or its argument; the derivative at 0 is 0."""
    dtype = check_alike("relu_grad", dy=dy, y=y)
    # A mask on the bits selects without a branch or a product, so that 0 * inf does not arise.
    bits = np.dtype(f"i{dtype.itemsize}")
    keep = np.asarray(y <= 0).astype(bits)
    keep -= 1
    keep &= dy.view(bits)
    return keep.view(dtype)


@_quiet
def leaky_relu(x: np.ndarray, negative_slope: float = 0.01) -> np.ndarray:
    """y = x where x > 0, else negative_slope * x."""
    dtype = float_dtype("leaky_relu", x=x)
    check_slope("leaky_relu", negative_slope)
    x = _wide(x)
    return _narrow(np.where(x > 0, x, x * negative_slope), dtype)


@_quiet
def leaky_relu_grad(dy: np.ndarray, x: np.ndarray, negative_slope: float = 0.01) -> np.ndarray:
    """dx = dy where x > 0, else negative_slope * dy."""
    dtype = check_alike("leaky_relu_grad", dy=dy, x=x)
    check_slope("leaky_relu_grad", negative_slope)
    dy = _wide(dy)
    return _narrow(np.where(x > 0, dy, dy * negative_slope), dtype)


@_quiet
def gelu(x: np.ndarray, approximate: str = "none") -> np.ndarray:
    """The Gaussian error linear unit, Hendrycks & Gimpel 2016.

    approximate "none"   y = x Phi(x) = x/2 (1 + erf(x / sqrt 2))
    approximate "tanh"   y = x/2 (1 + tanh u) = x sigmoid(2u),  u = sqrt(2/pi) (x + 0.044715 x^3)

    Raises ValueError for another approximate.
    """
    dtype = float_dtype("gelu", x=x)
    one_of("gelu", "approximate", approximate, ("none", "tanh"))
    x = _wide(x)
    if approximate == "none":
        y = _erf(x * math.sqrt(0.5))
        y += 1
        y *= 0.5
    else:
        y = _sigmoid(_twice_u(x))
    y *= x
    return _narrow(y, dtype)


@_quiet
def gelu_grad(dy: np.ndarray, x: np.ndarray, approximate: str = "none") -> np.ndarray:
    """The gradient of gelu, from its argument.

    approximate "none"   dx = dy (Phi(x) + x phi(x)),  phi(x) = exp(-x^2/2) / sqrt(2 pi)
    approximate "tanh"   dx = dy (sigmoid(2u) + 2 x u' sigmoid'(2u)),  u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2)
    """
    dtype = check_alike("gelu_grad", dy=dy, x=x)
    one_of("gelu_grad", "approximate", approximate, ("none", "tanh"))
    dy, x = _wide(dy), _wide(x)
    if approximate == "none":
        density = np.exp(x * x * -0.5) / math.sqrt(2 * math.pi)
        slope = 0.5 * (1 + _erf(x * math.sqrt(0.5))) + x * density
    else:
        u2 = _twice_u(x)
        du2 = math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * _clip_saturated(x) ** 2)
        slope = _sigmoid(u2) + x * _sigmoid_slope(u2) * du2
    return _narrow(dy * slope, dtype)


@_quiet
def silu(x: np.ndarray) -> np.ndarray:
    """y = x sigmoid(x), also called swish: Elfwing, Uchibe & Doya 2018; Ramachandran, Zoph & Le 2017."""
    dtype = float_dtype("silu", x=x)
    x = _wide(x)
    return _narrow(x * _sigmoid(x), dtype)


@_quiet
def silu_grad(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dx = dy (s + x s'), s = sigmoid(x), s' = s (1 - s)."""
    dtype = check_alike("silu_grad", dy=dy, x=x)
    dy, x = _wide(dy), _wide(x)
    return _narrow(dy * (_sigmoid(x) + x * _sigmoid_slope(x)), dtype)


@_quiet
def tanh(x: np.ndarray) -> np.ndarray:
    """y = (exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    dtype = float_dtype("tanh", x=x)
    return _narrow(np.tanh(_wide(x)), dtype)


@_quiet
def tanh_grad(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dx = dy (1 - y^2), from tanh's result."""
    dtype = check_alike("tanh_grad", dy=dy, y=y)
    y = _wide(y)
    return _narrow(_wide(dy) * (1 - y * y), dtype)


@_quiet
def sigmoid(x: np.ndarray) -> np.ndarray:
    """y = 1 / (1 + exp(-x))."""
    dtype = float_dtype("sigmoid", x=x)
    return _narrow(_sigmoid(_wide(x)), dtype)


@_quiet
def sigmoid_grad(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dx = dy y (1 - y), from sigmoid's result."""
    dtype = check_alike("sigmoid_grad", dy=dy, y=y)
    y = _wide(y)
    return _narrow(_wide(dy) * (y * (1 - y)), dtype)


@_quiet
def erf(x: np.ndarray) -> np.ndarray:
    """y = 2 / sqrt(pi) * integral from 0 to x of exp(-u^2) du: Abramowitz & Stegun 7.1.1."""
    dtype = float_dtype("erf", x=x)
    return _narrow(_erf(_wide(x)), dtype)


@_quiet
def erf_grad(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dx = dy * 2 / sqrt(pi) exp(-x^2), from erf's argument."""
    dtype = check_alike("erf_grad", dy=dy, x=x)
    x = _wide(x)
    return _narrow(_wide(dy) * (2 / math.sqrt(math.pi) * np.exp(-x * x)), dtype)


def apply_activation(y: np.ndarray, name: str | None) -> np.ndarray:
    """Apply the activation of that name to y in place, and return y: the epilogue of matmul and conv2d.

    name   one of ACTIVATIONS, with the activation's default arguments; "gelu_tanh" is gelu's tanh formula;
           None is the identity

    Raises ValueError for another name.
    """
    if name is None:
        return y
    one_of("apply_activation", "activation", name, ACTIVATIONS)
    if name == "relu":
        return np.maximum(y, 0, out=y)
    y[...] = gelu(y, "tanh") if name == "gelu_tanh" else globals()[name](y)
    return y


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """exp(min(x, 0)) / (1 + exp(-|x|)): no exponential overflows, and neither tail loses digits to 1 - y."""
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


def _sigmoid_slope(x: np.ndarray) -> np.ndarray:
    """sigmoid'(x) = e / (1 + e)^2, e = exp(-|x|): s (1 - s) would lose its digits where s is nearly 1."""
    e = np.exp(-np.abs(x))
    return e / (1 + e) ** 2


def _twice_u(x: np.ndarray) -> np.ndarray:
    x = _clip_saturated(x)
    return math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x)


def _clip_saturated(x: np.ndarray) -> np.ndarray:
    """x within [-30, 30], beyond which sigmoid(2u) is 0 or 1 even in float64: x^3 must not overflow."""
    return np.clip(x, -30, 30)


def check_alike(op: str, **arrays: np.ndarray) -> np.dtype:
    """The one dtype of two arrays, which must have one shape too."""
    dtype = float_dtype(op, **arrays)
    (first, a), (second, b) = arrays.items()
    require(a.shape == b.shape, op, f"{first} is {a.shape} but {second} is {b.shape}; expected one shape")
    return dtype


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(accumulator(x.dtype), copy=False)


def _narrow(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    # asarray: NumPy turns 0-d arrays into scalars
    return np.asarray(y).astype(dtype, copy=False)


def check_slope(op: str, negative_slope: float) -> None:
    if not isinstance(negative_slope, Real):
        raise TypeError(f"{op}: negative_slope is a {type(negative_slope).__name__}; expected a real number")
