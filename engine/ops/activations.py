"""Activations and softmax: the kernels' forward and gradient primitives, tied into the graph.

A gradient primitive is an op like any other, with a rule of its own below it, and so on to any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from tilegrad import dtypes, kernels
from tilegrad.autograd.record import RELU, record
from tilegrad.autograd.relu_mask import is_masked
from tilegrad.ops.arithmetic import add, mul, sub
from tilegrad.ops.exponential import exp
from tilegrad.ops.operands import as_tensor, cast, float_operand, normalize_axis
from tilegrad.ops.reduce import sum
from tilegrad.ops.selection import clamp
from tilegrad.tensor import Tensor


def relu(input: Tensor) -> Tensor:
    """max(x, 0);  dx = dy where y > 0. The gradient at 0 is 0. Integers keep their dtype; bools raise TypeError."""
    x = as_tensor("relu", input)
    if x._data.dtype not in dtypes.FLOATS:
        if x._data.dtype.kind == "b":
            raise TypeError("relu: the tensor is bool; expected numbers")
        return clamp(x, min=0)
    y = kernels.of(x._data).relu(x._data)

    def rule(dy: Tensor, y: Tensor) -> tuple:
        return (dy if is_masked(dy, y) else relu_grad(dy, y),)

    return record("relu", y, (x,), rule, output=True, mask=RELU)


def relu_grad(dy: Tensor, y: Tensor) -> Tensor:
    """dy where y > 0; linear in dy, constant in y."""
    dx = kernels.of(dy.data, y.data).relu_grad(dy.data, y.data)
    return record("relu_grad", dx, (dy,), lambda g: (relu_grad(g, y),))


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, else negative_slope * x."""
    x = float_operand("leaky_relu", input)
    y = kernels.of(x.data).leaky_relu(x.data, negative_slope)
    return record("leaky_relu", y, (x,), lambda dy: (leaky_relu_grad(dy, x, negative_slope),))


def leaky_relu_grad(dy: Tensor, x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """dy where x > 0, else negative_slope * dy."""
    dx = kernels.of(dy.data, x.data).leaky_relu_grad(dy.data, x.data, negative_slope)
    return record("leaky_relu_grad", dx, (dy,), lambda g: (leaky_relu_grad(g, x, negative_slope),))


def tanh(input: Tensor) -> Tensor:
    """tanh x;  dx = dy (1 - y^2)."""
    x = float_operand("tanh", input)
    y = kernels.of(x.data).tanh(x.data)
    return record("tanh", y, (x,), lambda dy, y: (tanh_grad(dy, y),), output=True)


def tanh_grad(dy: Tensor, y: Tensor) -> Tensor:
    """dy (1 - y^2)."""

    def rule(g: Tensor) -> tuple:
        return tanh_grad(g, y), mul(mul(g, dy), mul(y, -2.0))

    return record("tanh_grad", kernels.of(dy.data, y.data).tanh_grad(dy.data, y.data), (dy, y), rule)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e^-x);  dx = dy y (1 - y)."""
    x = float_operand("sigmoid", input)
    y = kernels.of(x.data).sigmoid(x.data)
    return record("sigmoid", y, (x,), lambda dy, y: (sigmoid_grad(dy, y),), output=True)


def sigmoid_grad(dy: Tensor, y: Tensor) -> Tensor:
    """dy y (1 - y)."""

    def rule(g: Tensor) -> tuple:
        return sigmoid_grad(g, y), mul(mul(g, dy), sub(1.0, mul(y, 2.0)))

    return record("sigmoid_grad", kernels.of(dy.data, y.data).sigmoid_grad(dy.data, y.data), (dy, y), rule)


def erf(input: Tensor) -> Tensor:
    """2 / sqrt(pi) times the integral of exp(-u^2) from 0 to x;  dx = dy 2 / sqrt(pi) exp(-x^2)."""
    x = float_operand("erf", input)
    y = kernels.of(x.data).erf(x.data)
    return record("erf", y, (x,), lambda dy: (erf_grad(dy, x),))


def erf_grad(dy: Tensor, x: Tensor) -> Tensor:
    """dy 2 / sqrt(pi) exp(-x^2), which is erf'(x);  erf''(x) = -2 x erf'(x)."""

    def rule(g: Tensor) -> tuple:
        return erf_grad(g, x), mul(erf_grad(mul(g, dy), x), mul(x, -2.0))

    return record("erf_grad", kernels.of(dy.data, x.data).erf_grad(dy.data, x.data), (dy, x), rule)


def silu(input: Tensor) -> Tensor:
    """x sigmoid(x), also called swish."""
    x = float_operand("silu", input)
    return _silu_of(x, kernels.of(x.data).silu(x.data))


def _silu_of(x: Tensor, y: Any) -> Tensor:
    return record("silu", y, (x,), lambda dy: (silu_grad(dy, x),))


def silu_grad(dy: Tensor, x: Tensor) -> Tensor:
    """dy s (1 + x (1 - s)),  s = sigmoid(x);  its own derivative in x is dy s (1 - s) (2 + x (1 - 2 s))."""

    def rule(g: Tensor) -> tuple:
        s = sigmoid(x)
        curvature = mul(mul(s, sub(1.0, s)), add(2.0, mul(x, sub(1.0, mul(s, 2.0)))))
        return silu_grad(g, x), mul(mul(g, dy), curvature)

    return record("silu_grad", kernels.of(dy.data, x.data).silu_grad(dy.data, x.data), (dy, x), rule)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016); "tanh" takes their approximation."""
    x = float_operand("gelu", input)
    return _gelu_of(x, kernels.of(x.data).gelu(x.data, approximate), approximate)


def _gelu_of(x: Tensor, y: Any, approximate: str = "none") -> Tensor:
    return record("gelu", y, (x,), lambda dy: (gelu_grad(dy, x, approximate),))


def gelu_grad(dy: Tensor, x: Tensor, approximate: str = "none") -> Tensor:
    """dy gelu'(x)."""

    def rule(g: Tensor) -> tuple:
        return gelu_grad(g, x, approximate), mul(mul(g, dy), _gelu_curvature(x, approximate))

    dx = kernels.of(dy.data, x.data).gelu_grad(dy.data, x.data, approximate)
    return record("gelu_grad", dx, (dy, x), rule)


def _gelu_curvature(x: Tensor, approximate: str) -> Tensor:
    """gelu''(x): phi(x) (2 - x^2), phi the normal density; by the chain rule for the tanh form."""
    square = mul(x, x)
    if approximate == "none":
        density = mul(exp(mul(square, -0.5)), 1 / math.sqrt(2 * math.pi))
        return mul(density, sub(2.0, square))
    k, c = math.sqrt(2 / math.pi), 0.044715
    u1, u2 = mul(add(mul(square, 3 * c), 1.0), k), mul(x, 6 * k * c)  # u' and u'' of u = k (x + c x^3)
    t = tanh(mul(add(x, mul(mul(square, x), c)), k))
    s = sub(1.0, mul(t, t))
    return add(mul(s, u1), mul(mul(mul(x, s), 0.5), sub(u2, mul(mul(t, mul(u1, u1)), 2.0))))


# The activations that the matmul and conv2d primitives know, by the name they know them by.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "leaky_relu": leaky_relu,
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "silu": silu,
    "tanh": tanh,
    "sigmoid": sigmoid,
}

# Those whose gradient needs nothing but the result, so that one primitive can serve forward and backward.
from_output: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": relu_grad,
    "leaky_relu": leaky_relu_grad,
    "tanh": tanh_grad,
    "sigmoid": sigmoid_grad,
}

# The others, whose gradient needs the argument: (argument, the result that its product left beside it) -> result.
kept: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "gelu": _gelu_of,
    "gelu_tanh": partial(_gelu_of, approximate="tanh"),
    "silu": _silu_of,
}


def activation_grad(name: str | None, dy: Tensor, y: Tensor | None) -> Tensor:
    """The gradient through an activation of `from_output`, from its result; dy where there is none."""
    return dy if name is None or y is None else from_output[name](dy, y)


# --- softmax ---------------------------------------------------------------------------------------------------------


def softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """exp(x - m) / sum exp(x - m) along `dim`, m the largest;  dx = y (dy - sum(dy y))."""
    x = _softmax_operand("softmax", input, dtype)
    d = normalize_axis("softmax", dim, x.ndim)
    if x.ndim == 0:
        return exp(sub(x, x))
    y = kernels.of(x.data).softmax(x.data, d)
    return record("softmax", y, (x,), lambda dy, y: (softmax_grad(dy, y, d),), output=True)


def softmax_grad(dy: Tensor, y: Tensor, dim: int) -> Tensor:
    """y (dy - sum(dy y)) along `dim`."""

    def rule(g: Tensor) -> tuple:
        inner, outer = sum(mul(dy, y), dim, keepdim=True), sum(mul(g, y), dim, keepdim=True)
        return softmax_grad(g, y, dim), sub(mul(g, sub(dy, inner)), mul(dy, outer))

    return record("softmax_grad", kernels.of(dy.data, y.data).softmax_grad(dy.data, y.data, dim), (dy, y), rule)


def log_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """(x - m) - log sum exp(x - m) along `dim`, m the largest;  dx = dy - e^y sum(dy)."""
    x = _softmax_operand("log_softmax", input, dtype)
    d = normalize_axis("log_softmax", dim, x.ndim)
    if x.ndim == 0:
        return sub(x, x)
    y = kernels.of(x.data).log_softmax(x.data, d)
    return record("log_softmax", y, (x,), lambda dy, y: (log_softmax_grad(dy, y, d),), output=True)


def log_softmax_grad(dy: Tensor, y: Tensor, dim: int) -> Tensor:
    """dy - e^y sum(dy) along `dim`."""

    def rule(g: Tensor) -> tuple:
        p = exp(y)
        total = sum(dy, dim, keepdim=True)
        return sub(g, sum(mul(g, p), dim, keepdim=True)), mul(mul(g, p), mul(total, -1.0))

    dx = kernels.of(dy.data, y.data).log_softmax_grad(dy.data, y.data, dim)
    return record("log_softmax_grad", dx, (dy, y), rule)


def _softmax_operand(op: str, x: Tensor, dtype: Any) -> Tensor:
    return float_operand(op, x if dtype is None else cast(x, dtypes.as_dtype(dtype)))
