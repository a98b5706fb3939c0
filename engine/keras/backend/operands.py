"""What every function does first: turn its arguments into tensors of the dtype that Keras' rules ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src.backend.config import floatx

from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor, np_dtype, result_dtype
from tilegrad.ops.operands import cast
from tilegrad.tensor import Tensor

_NUMBERS = (bool, int, float)


def promoted(*xs: Any, least: Any = None) -> list[Any]:
    """Tensors of the common dtype, which is at least `least`. Python's numbers stay numbers beside a tensor."""
    found = [x if isinstance(x, _NUMBERS) else convert_to_tensor(x) for x in xs]
    if all(isinstance(x, _NUMBERS) for x in found):
        found[0] = convert_to_tensor(found[0])
    dtype = result_dtype(*found) if least is None else result_dtype(*found, least)
    return [cast(x, dtype) if isinstance(x, Tensor) else x for x in found]


def floating(x: Any) -> Tensor:
    """x as a tensor of floats: integers and bools become floatx."""
    x = convert_to_tensor(x)
    return x if x.data.dtype in dtypes.FLOATS else cast(x, np_dtype(floatx()))


def counted(x: Tensor) -> Tensor:
    """An index or a count, which Keras has as int32."""
    return cast(x, dtypes.int32)


def summed_dtype(x: Tensor, dtype: Any = None) -> np.dtype:
    """The dtype of a sum of these: small integers as int32 or uint32, bools as int32."""
    if dtype is not None:
        return np_dtype(dtype)
    found = x.data.dtype
    if found in dtypes.FLOATS or found.itemsize == 8:
        return found
    return dtypes.uint32 if found.kind == "u" else dtypes.int32


def axes_of(axis: Any) -> Any:
    """None, an int, or a tuple of ints."""
    return tuple(axis) if isinstance(axis, (list, tuple)) else axis


def over(reduction: Any, x: Tensor, axis: Any, keepdims: bool = False, **options: Any) -> Tensor:
    """A reduction over one axis, several or all (None); over none of them, (), each element is reduced by itself.

    The engine's reductions take () for all, as PyTorch's do.
    """
    axes = axes_of(axis)
    if axes == ():
        return reduction(x.unsqueeze(-1), -1, **options)
    return reduction(x, axes, keepdim=keepdims, **options)
