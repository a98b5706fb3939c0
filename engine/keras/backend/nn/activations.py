"""Activations, elementwise and along an axis."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad import ops
from tilegrad.keras.backend.operands import floating
from tilegrad.keras.backend.origins import remember
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor


def relu(x: Any) -> Tensor:
    """max(x, 0)."""
    return tg.relu(floating(x))


def relu6(x: Any) -> Tensor:
    """x cut to [0, 6]."""
    return F.relu6(floating(x))


def sigmoid(x: Any) -> Tensor:
    """1 / (1 + e^-x)."""
    x = floating(x)
    return remember(tg.sigmoid(x), "sigmoid", x)


def sparse_sigmoid(x: Any) -> Tensor:
    """(x + 1) / 2 cut to [0, 1]."""
    return tg.clamp(tg.mul(tg.add(floating(x), 1.0), 0.5), 0.0, 1.0)


def tanh(x: Any) -> Tensor:
    """Hyperbolic tangent."""
    return tg.tanh(floating(x))


def tanh_shrink(x: Any) -> Tensor:
    """x - tanh(x)."""
    x = floating(x)
    return tg.sub(x, tg.tanh(x))


def softplus(x: Any) -> Tensor:
    """log(1 + e^x)."""
    return tg.neg(F.logsigmoid(tg.neg(floating(x))))


def softsign(x: Any) -> Tensor:
    """x / (1 + |x|)."""
    return F.softsign(floating(x))


def soft_shrink(x: Any, threshold: float = 0.5) -> Tensor:
    """x moved by the threshold towards 0, which it does not pass."""
    x = floating(x)
    return tg.sub(x, tg.clamp(x, -threshold, threshold))


def hard_shrink(x: Any, threshold: float = 0.5) -> Tensor:
    """x where |x| is above the threshold, else 0."""
    x = floating(x)
    return tg.where(tg.abs(x) > threshold, x, 0.0)


def sparse_plus(x: Any) -> Tensor:
    """0 up to -1, (x + 1)^2 / 4 up to 1, x from there on."""
    x = floating(x)
    curve = tg.mul(tg.square(tg.add(x, 1.0)), 0.25)
    return tg.where(x <= -1, 0.0, tg.where(x < 1, curve, x))


def silu(x: Any) -> Tensor:
    """x sigmoid(x)."""
    return ops.silu(floating(x))


def squareplus(x: Any, b: float = 4) -> Tensor:
    """(x + sqrt(x^2 + b)) / 2."""
    x = floating(x)
    return tg.mul(tg.add(x, tg.sqrt(tg.add(tg.square(x), b))), 0.5)


def log_sigmoid(x: Any) -> Tensor:
    """log sigmoid(x)."""
    return F.logsigmoid(floating(x))


def leaky_relu(x: Any, negative_slope: float = 0.2) -> Tensor:
    """x where x > 0, else negative_slope x."""
    return F.leaky_relu(floating(x), negative_slope)


def hard_sigmoid(x: Any) -> Tensor:
    """relu6(x + 3) / 6."""
    return F.hardsigmoid(floating(x))


def hard_silu(x: Any) -> Tensor:
    """x hard_sigmoid(x)."""
    return F.hardswish(floating(x))


def hard_tanh(x: Any) -> Tensor:
    """x cut to [-1, 1]."""
    return F.hardtanh(floating(x))


def elu(x: Any, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha (e^x - 1)."""
    return F.elu(floating(x), alpha)


def selu(x: Any) -> Tensor:
    """The scaled elu that keeps mean 0 and variance 1."""
    return F.selu(floating(x))


def celu(x: Any, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha (e^(x / alpha) - 1)."""
    x = floating(x)
    return tg.add(tg.clamp(x, 0.0), tg.mul(tg.expm1(tg.div(tg.clamp(x, max=0.0), alpha)), alpha))


def gelu(x: Any, approximate: bool = True) -> Tensor:
    """x Phi(x), by the tanh formula unless approximate=False."""
    return ops.gelu(floating(x), "tanh" if approximate else "none")


def glu(x: Any, axis: int = -1) -> Tensor:
    """a sigmoid(b), a and b the halves of x along an axis."""
    return F.glu(floating(x), axis)


def threshold(x: Any, threshold: float, default_value: float) -> Tensor:
    """x where it is above the threshold, else the default."""
    x = floating(x)
    return tg.where(x > threshold, x, default_value)


def softmax(x: Any, axis: int | None = -1) -> Tensor:
    """e^x / sum e^x along an axis; over all elements if that is None."""
    x = floating(x)
    y = tg.softmax(x.reshape(-1), 0).reshape(x.shape) if axis is None else tg.softmax(x, axis)
    return remember(y, "softmax", (x, axis))


def log_softmax(x: Any, axis: int | None = -1) -> Tensor:
    """x - log sum e^x along an axis; over all elements if that is None."""
    x = floating(x)
    return tg.log_softmax(x.reshape(-1), 0).reshape(x.shape) if axis is None else tg.log_softmax(x, axis)
