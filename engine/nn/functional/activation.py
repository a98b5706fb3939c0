"""Activations: those with kernels come from tilegrad.ops, the others are composed of elementwise ops.

`inplace=True` writes the result over the input, in memory and in the graph, and raises where that would spoil a
gradient (see tilegrad.ops.inplace); the returned tensor is then the input itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilegrad import ops
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.ops.inplace import inplace_form
from tilegrad.ops.operands import as_tensor, float_operand, quiet, require_float, rounded_once
from tilegrad.tensor import Tensor

gelu = ops.gelu
log_softmax = ops.log_softmax
sigmoid = ops.sigmoid
softmax = ops.softmax
tanh = ops.tanh


def _placed(name: str, input: Tensor, inplace: bool, op: Callable[..., Tensor], *args: Any) -> Tensor:
    """op(input, *args), in a new tensor or over the input."""
    return inplace_form(name + "_", op)(input, *args) if inplace else op(input, *args)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return _placed("relu", input, inplace, ops.relu) if inplace else ops.relu(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope * x (Maas, Hannun & Ng 2013)."""
    return _placed("leaky_relu", input, inplace, ops.leaky_relu, negative_slope)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else weight * x (He et al. 2015). weight: one number, or one for each channel (dimension 1).

    Raises ValueError for another shape, TypeError for dtypes.
    """
    require_float("prelu", input, weight)
    channels = 1 if input.ndim < 2 else input.shape[1]
    if weight.ndim > 1 or weight.numel() not in (1, channels):
        raise ValueError(f"prelu: weight is {weight.shape}; expected 1 or {channels}, the channels of {input.shape}")
    shape = (1,) if weight.numel() == 1 else (1, channels, *[1] * (input.ndim - 2))
    if weight.numel() == 1 and input.ndim == 0:
        shape = ()
    above = input > 0
    below = ops.where(
        above, 0.0, input
    )  # so that an infinite x, which the slope does not meet, is none of its gradient
    return ops.where(above, input, ops.reshape(weight, shape) * below)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x), also called swish (Elfwing, Uchibe & Doya 2017)."""
    return _placed("silu", input, inplace, ops.silu)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x cut to [min_val, max_val]; the gradient is 0 at both bounds, and at nan.

    Integers keep their dtype, the bounds are cut to integers. Raises ValueError unless min_val <= max_val and for
    negative bounds of unsigned integers, TypeError for bools.
    """
    if not min_val <= max_val:
        raise ValueError(f"hardtanh: min_val is {min_val} and max_val {max_val}; expected min_val <= max_val")
    return _placed("hardtanh", input, inplace, _hardtanh, min_val, max_val)


def _hardtanh(input: Tensor, low: float, high: float) -> Tensor:
    x = as_tensor("hardtanh", input)
    kind = x.data.dtype.kind
    if kind == "b":
        raise TypeError("hardtanh: the tensor is bool; expected numbers")
    if kind == "u" and low < 0:
        raise ValueError(f"hardtanh: min_val is {low} for {x.dtype}; expected at least 0")
    if kind in "iu":
        return ops.clamp(x, int(low), int(high))
    y = ops.clamp(x.detach(), low, high)
    return record("hardtanh", y.data, (x,), lambda dy: (_within(dy, x, low, high),))


def _within(dy: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """dy where low < x < high, else 0, also at nan."""
    return ops.where((x > low) & (x < high), dy, 0.0)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x cut to [0, 6] (Krizhevsky 2010)."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6 (Courbariaux, Bengio & David 2015, with the slope of Howard et al. 2019)."""
    return _placed("hardsigmoid", input, inplace, _hardsigmoid)


@rounded_once
def _hardsigmoid(x: Tensor) -> Tensor:
    return relu6(x + 3.0) / 6.0


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x hardsigmoid(x) (Howard et al. 2019)."""
    return _placed("hardswish", input, inplace, _hardswish)


@rounded_once
def _hardswish(x: Tensor) -> Tensor:
    return x * _hardsigmoid(x)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha (e^x - 1) (Clevert, Unterthiner & Hochreiter 2015)."""
    return _placed("elu", input, inplace, _elu, alpha)


@rounded_once
def _elu(input: Tensor, alpha: float) -> Tensor:
    x = float_operand("elu", input)
    xp = array_module(x.data)
    y = xp.where(x.data > 0, x.data, alpha * xp.expm1(xp.minimum(x.data, 0)))

    def rule(dy: Tensor) -> tuple:
        slope = ops.exp(ops.clamp(x, max=0.0)) * alpha  # cut at 0: e^x of a large x would be infinite
        return (ops.where(x <= 0, dy * slope, dy),)  # nan passes dy, as in PyTorch

    return record("elu", y, (x,), rule)


@rounded_once
def logsigmoid(input: Tensor) -> Tensor:
    """log sigmoid(x) = min(x, 0) - log(1 + e^-|x|);  dx = dy sigmoid(-x)."""
    x = float_operand("logsigmoid", input)
    xp = array_module(x.data)
    y = xp.minimum(x.data, 0) - xp.log1p(xp.exp(-xp.abs(x.data)))
    return record("logsigmoid", y, (x,), lambda dy: (dy * ops.sigmoid(-x),))


@rounded_once
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^(beta x)) / beta; x itself where beta x > threshold, as in PyTorch (Dugas et al. 2000)."""
    if beta == 0:
        raise ValueError("softplus: beta is 0; expected another number")
    x = float_operand("softplus", input)
    scaled = x * beta
    return ops.where(scaled > threshold, x, logsigmoid(-scaled) / -beta)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus(x)) (Misra 2019)."""
    return _placed("mish", input, inplace, _mish)


@rounded_once
def _mish(x: Tensor) -> Tensor:
    return x * ops.tanh(-logsigmoid(-x))


@rounded_once
def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|);  dx = dy / (1 + |x|)^2."""
    x = float_operand("softsign", input)
    with quiet():  # infinity / infinity
        y = x.data / (1 + array_module(x.data).abs(x.data))
    return record("softsign", y, (x,), lambda dy: (dy / ops.square(ops.abs(x) + 1.0),))


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a sigmoid(b), a and b the halves of x along `dim` (Dauphin et al. 2016). Raises ValueError for an odd size."""
    n = input.size(dim)
    if n % 2:
        raise ValueError(f"glu: input is {input.shape}; expected an even size of dim {dim}")
    a, b = ops.split(input, n // 2, dim)
    return a * ops.sigmoid(b)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """scale * elu(x, alpha), which keeps mean 0 and variance 1 (Klambauer et al. 2017, appendix: the constants)."""
    return _placed("selu", input, inplace, _selu)


@rounded_once
def _selu(x: Tensor) -> Tensor:
    return _elu(x, _SELU_ALPHA) * _SELU_SCALE
