"""Between Keras and the engine: tensors from what programs pass, arrays out of tensors, dtypes by name.

Dtypes are Keras': of Python's numbers a float is floatx, an int int32. Arrays of NumPy keep their dtype.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from keras.src.backend.common.dtypes import result_type
from keras.src.backend.common.keras_tensor import KerasTensor
from keras.src.backend.common.variables import Variable as KerasVariable
from keras.src.backend.common.variables import standardize_dtype
from keras.src.backend.config import floatx

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.device import is_array, on_host
from tilegrad.keras.backend.core.constants import is_small, on_gpu
from tilegrad.keras.backend.core.device import device
from tilegrad.ops.operands import cast as cast_tensor
from tilegrad.tensor import Tensor, wrap


def np_dtype(dtype: Any) -> np.dtype:
    """The engine's dtype for one of Keras', a name or a class; floatx for None. TypeError for what the engine lacks."""
    return dtypes.as_dtype(standardize_dtype(dtype))


def convert_to_tensor(x: Any, dtype: Any = None, sparse: bool | None = None, ragged: bool | None = None) -> Tensor:
    """x as a tensor, of that dtype if one is given. An array is copied: Keras' layers write to their inputs by `+=`.

    Raises ValueError for sparse, ragged and symbolic ones, TypeError for what are no numbers, and for dtypes.
    """
    if sparse or ragged:
        raise ValueError(f"`{'sparse' if sparse else 'ragged'}=True` is not supported with the tilegrad backend")
    if isinstance(x, KerasVariable):
        x = x.value
    if not isinstance(x, Tensor):
        if isinstance(x, KerasTensor):
            raise ValueError(f"convert_to_tensor: got the symbolic {x}; expected values")
        if not isinstance(x, (list, tuple)) or not _has_tensors(x):
            return _from_numbers(x, dtype)
        x = tg.stack(of_one_dtype([convert_to_tensor(item) for item in x]))
    return x if dtype is None else cast_tensor(x, np_dtype(dtype))


def _from_numbers(x: Any, dtype: Any) -> Tensor:
    if not is_array(x) and not isinstance(x, (bool, int, float, list, tuple, np.generic)):
        x = np.asarray(x)  # of another library, which may say so by __array__
    kind = getattr(x, "dtype", None)
    if dtype is not None:
        found = np_dtype(dtype)
    elif kind is not None:
        found = None
    else:
        array = np.asarray(x)
        found = None if array.size and array.dtype.kind == "b" else np_dtype(int if array.dtype.kind == "i" else None)
        if isinstance(x, (list, tuple)) and any(isinstance(item, (np.ndarray, np.generic)) for item in x):
            x, found = array, None
    where = None if is_array(x) and not isinstance(x, np.ndarray) else device()
    if where != "cuda" or not is_small(x):
        return tg.tensor(x, dtype=found, device=where)
    return wrap(on_gpu(tg.tensor(x, dtype=found).data))


def _has_tensors(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return any(map(_has_tensors, x))
    return isinstance(x, (Tensor, KerasVariable))


def of_one_dtype(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors, all of their common dtype."""
    found = result_dtype(*tensors)
    return [cast_tensor(x, found) for x in tensors]


def result_dtype(*xs: Any) -> np.dtype:
    """The common dtype of tensors, dtypes and Python's numbers or their classes (keras.backend.result_type).

    Keras has no results of 64 bits. Here there are, where a tensor has them.
    """
    return _joined(floatx(), *map(_kind, xs))


def _kind(x: Any) -> Any:
    """The name of a dtype; of Python's numbers their class."""
    x = x.data.dtype if isinstance(x, Tensor) else x
    return x.name if isinstance(x, np.dtype) else x if isinstance(x, type) else type(x)


@cache
def _joined(floatx: str, *kinds: Any) -> np.dtype:
    found = result_type(*kinds)
    if "float64" in kinds:
        found = "float64"
    elif found == "int32" and "int64" in kinds:
        found = "int64"
    return dtypes.as_dtype(found)


def convert_to_numpy(x: Any) -> np.ndarray:
    """x as an array of NumPy's, with memory of its own: a variable's tensor is written to in place."""
    if isinstance(x, KerasVariable):
        x = x.value
    if isinstance(x, Tensor):
        array = on_host(x.data)
        return array.copy() if array is x.data else array
    if isinstance(x, (list, tuple)) and _has_tensors(x):
        return np.array([convert_to_numpy(item) for item in x])
    return np.array(x)


def is_tensor(x: Any) -> bool:
    """Whether x is a tensor of this backend."""
    return isinstance(x, Tensor)


def shape(x: Any) -> tuple[int | None, ...]:
    """The shape; of a symbolic tensor with None where it is not known."""
    return tuple(x.shape)


def cast(x: Any, dtype: Any) -> Tensor:
    """x as a tensor of that dtype."""
    return convert_to_tensor(x, dtype=np_dtype(dtype))
