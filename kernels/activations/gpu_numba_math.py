"""Functions of one float32 value, for kernels to call.

Constants are wrapped in float32. Numba takes a Python float for a float64, and arithmetic with it would be done in
float64, at a fraction of the speed.
"""

from __future__ import annotations

import math

from numpy import float32

from tilegrad.kernels.launch.numba_target import device

_HALF, _ONE, _TWO, _ZERO = float32(0.5), float32(1), float32(2), float32(0)
_SQRT_HALF = float32(0.7071067811865476)
_INV_SQRT_2PI = float32(0.3989422804014327)
_TWO_PER_SQRT_PI = float32(1.1283791670955126)
_SQRT_8_PI = float32(1.5957691216057308)
_CUBIC, _THREE_CUBIC = float32(0.044715), float32(3 * 0.044715)
_SATURATED = float32(30)  # beyond it sigmoid(2u) is 0 or 1, and x^3 must not overflow


@device
def sigmoid(x):
    """1 / (1 + exp(-x)) as exp(min(x, 0)) / (1 + exp(-|x|)): no overflow, and the tail keeps its digits."""
    e = math.exp(-abs(x))
    return (e if x < _ZERO else _ONE) / (_ONE + e)


@device
def sigmoid_slope(x):
    """sigmoid'(x) = e / (1 + e)^2, e = exp(-|x|)."""
    e = math.exp(-abs(x))
    return e / ((_ONE + e) * (_ONE + e))


@device
def identity(x):
    return x


@device
def relu(x):
    return _ZERO if x <= _ZERO else x  # so NaN stays


@device
def gelu(x):
    return x * (_HALF * (_ONE + math.erf(x * _SQRT_HALF)))


@device
def gelu_slope(x):
    return _HALF * (_ONE + math.erf(x * _SQRT_HALF)) + x * (math.exp(x * x * -_HALF) * _INV_SQRT_2PI)


@device
def _clip_saturated(x):
    if x > _SATURATED:
        return _SATURATED
    return -_SATURATED if x < -_SATURATED else x


@device
def _twice_u(x):
    x = _clip_saturated(x)
    return _SQRT_8_PI * (x + _CUBIC * x * x * x)


@device
def gelu_tanh(x):
    return x * sigmoid(_twice_u(x))


@device
def gelu_tanh_slope(x):
    u2, clipped = _twice_u(x), _clip_saturated(x)
    return sigmoid(u2) + x * sigmoid_slope(u2) * (_SQRT_8_PI * (_ONE + _THREE_CUBIC * clipped * clipped))


@device
def silu(x):
    return x * sigmoid(x)


@device
def silu_slope(x):
    return sigmoid(x) + x * sigmoid_slope(x)


@device
def tanh(x):
    return math.tanh(x)


@device
def tanh_slope(y):
    """tanh'(x), from y = tanh(x)."""
    return _ONE - y * y


@device
def sigmoid_slope_of_result(y):
    """sigmoid'(x), from y = sigmoid(x)."""
    return y * (_ONE - y)


@device
def erf(x):
    return math.erf(x)


@device
def erf_slope(x):
    return math.exp(-(x * x)) * _TWO_PER_SQRT_PI


@device
def leaky_relu(x):
    """With the default slope, as in the epilogue of a product."""
    return x if x > _ZERO else x * float32(0.01)


ACTIVATIONS = {
    None: identity,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "tanh": tanh,
    "sigmoid": sigmoid,
}
