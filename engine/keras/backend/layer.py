"""What every Keras layer is on this backend, and layers whose `call` is one primitive here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from tilegrad.dtypes import FLOATS
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.nn.convolution import conv_activated
from tilegrad.ops.linalg import dense
from tilegrad.tensor import Tensor


class TilegradLayer:
    """Keras' own layer; convolutions and Dense compute their bias and activation in the kernel's epilogue."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        name: Any = (cls.__module__, cls.__name__)
        own: Any = cls
        if name == ("keras.src.layers.convolutional.base_conv", "BaseConv"):
            own.call = _convolution(own.call, own.convolution_op)
        elif name == ("keras.src.layers.core.dense", "Dense"):
            own.call = _dense(own.call)


def _convolution(call: Callable[..., Any], convolution_op: Callable[..., Any]) -> Callable[..., Any]:
    """BaseConv.call in one primitive; as Keras has it where a class convolves in its own way, and for volumes."""

    @wraps(call)
    def fused(self: Any, inputs: Any) -> Any:
        if not (self.use_bias and isinstance(inputs, Tensor) and inputs.ndim in (3, 4)):
            return call(self, inputs)
        kernel, bias = convert_to_tensor(self.kernel), convert_to_tensor(self.bias)
        if type(self).convolution_op is not convolution_op or not (inputs.dtype == kernel.dtype == bias.dtype):
            return call(self, inputs)
        name = _epilogues().get(self.activation)
        y = conv_activated(inputs, kernel, bias, name, self.strides, self.padding, self.data_format, self.dilation_rate)
        return y if name is not None or self.activation is None else self.activation(y)

    return fused


def _dense(call: Callable[..., Any]) -> Callable[..., Any]:
    """Dense.call in one primitive; as Keras has it for what are no floats of one dtype."""

    @wraps(call)
    def fused(self: Any, inputs: Any, training: Any = None) -> Any:
        if not (isinstance(inputs, Tensor) and inputs.ndim > 1 and inputs.dtype in FLOATS):
            return call(self, inputs, training)
        kernel = convert_to_tensor(self.kernel)
        bias = None if self.bias is None else convert_to_tensor(self.bias)
        if kernel.ndim != 2 or any(x is not None and x.dtype != inputs.dtype for x in (kernel, bias)):
            return call(self, inputs, training)
        name = _epilogues().get(self.activation)
        y = dense(inputs, kernel, bias, name)
        return y if name is not None or self.activation is None else self.activation(y)

    return fused


@cache
def _epilogues() -> dict[Any, str]:
    """Keras' activations that the kernels know. Its sigmoid leaves the logits with the result, for losses to find."""
    from keras.src.activations import activations

    return {getattr(activations, name): name for name in ("relu", "tanh", "gelu", "silu")}
