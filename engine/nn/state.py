"""Loading a state dict: values by dotted name, into the tensors of these names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tilegrad.autograd.grad_mode import no_grad
from tilegrad.device import is_array
from tilegrad.dtypes import is_number
from tilegrad.tensor import Tensor, wrap


class IncompatibleKeys(NamedTuple):
    """What load_state_dict returns: keys that only the module has, and keys that only the dict has."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load(of: str, own: Mapping[str, Tensor], values: Mapping[str, Any], strict: bool) -> IncompatibleKeys:
    """Copy values into the tensors of the same names, as Module.load_state_dict says.

    of   the module's class, for errors
    own  the module's tensors
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"load_state_dict: the state dict is {type(values).__name__}; expected a mapping")
    missing = [key for key in own if key not in values]
    unexpected = [key for key in values if key not in own]
    problems = []
    if strict and unexpected:
        problems.append(f"Unexpected key(s): {_quoted(unexpected)}")
    if strict and missing:
        problems.append(f"Missing key(s): {_quoted(missing)}")

    arrays = {}
    for key, tensor in own.items():
        if key in values:
            array = arrays[key] = _array(values[key])
            if array is None:
                problems.append(f"{key} is {type(values[key]).__name__}; expected a tensor or an array of numbers")
            elif array.shape != tensor.shape:
                problems.append(f"size mismatch for {key}: got {array.shape}; expected {tensor.shape}")
    if problems:
        listed = "".join(f"\n    {problem}" for problem in problems)
        raise RuntimeError(f"load_state_dict: the state dict does not fit {of}:{listed}")

    with no_grad():
        for key, array in arrays.items():
            own[key].copy_(wrap(array))
    return IncompatibleKeys(missing, unexpected)


def _array(value: Any) -> Any:
    """The array of a tensor, or of what NumPy takes for one, such as another library's; None if it has no numbers."""
    if isinstance(value, Tensor):
        return value.data
    if is_array(value):
        return value if is_number(value.dtype) else None
    array = np.asarray(value) if hasattr(value, "__array__") else None
    return array if array is not None and is_number(array.dtype) else None


def _quoted(keys: list[str]) -> str:
    return ", ".join(repr(key) for key in keys)
