"""The shapes and dtypes that a function has, found by calling it with zeros.

A dimension that is not known gets one size in a first call and another one in a second: where the results differ, their
dimension is not known either. The first dimension, the batch, gets small ones, others such as an image can be
convolved with. Variables keep their values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras.src.backend.common.keras_tensor import KerasTensor
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.backend.common.symbolic_scope import SymbolicScope
from keras.src.backend.common.variables import standardize_dtype

import tilegrad as tg
from tilegrad.autograd.grad_mode import no_grad
from tilegrad.keras.backend.core.convert import convert_to_tensor, np_dtype
from tilegrad.keras.backend.core.device import device
from tilegrad.keras.backend.nested import tree
from tilegrad.tensor import Tensor

_SIZES = (2, 83), (3, 89)  # for dimensions that are not known: for the first one, for others


def compute_output_spec(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What fn gives for arguments among which there are KerasTensors, with a KerasTensor for each tensor."""
    with StatelessScope(), SymbolicScope(), no_grad():
        first, second = [_called(fn, args, kwargs, *sizes) for sizes in _SIZES]
    return tree.map_structure(_spec, first, second)


def _called(fn: Callable[..., Any], args: Any, kwargs: Any, first: int, other: int) -> Any:
    def zeros(x: Any) -> Any:
        if not isinstance(x, KerasTensor):
            return x
        shape = [n if n is not None else other if d else first for d, n in enumerate(x.shape)]
        return tg.zeros(shape, dtype=np_dtype(x.dtype), device=device())

    args, kwargs = tree.map_structure(zeros, (args, kwargs))
    return fn(*args, **kwargs)


def _spec(x: Any, y: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    shape = tuple([a if a == b else None for a, b in zip(x.shape, convert_to_tensor(y).shape)])
    return KerasTensor(shape, standardize_dtype(x.dtype))
