"""State dicts: everything a module would have to remember, by dotted name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilegrad.autograd.grad_mode import no_grad
from tilegrad.device import is_array
from tilegrad.dtypes import is_number
from tilegrad.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tilegrad.nn.module import Module


class IncompatibleKeys(NamedTuple):
    """What load_state_dict returns: keys the module has and the dict has not, and the reverse."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def state_dict(module: Module, prefix: str = "") -> OrderedDict[str, Tensor]:
    """Parameters and persistent buffers, module by module, detached; a shared tensor stands under each of its names."""
    tensors: OrderedDict[str, Tensor] = OrderedDict()
    for path, owner in module.named_modules(remove_duplicate=False):
        start = f"{prefix}{path}." if path else prefix
        for kind in ("parameter", "buffer"):
            for name, value in owner._own(kind):
                if name not in owner._transient:
                    tensors[start + name] = value.detach()
    return tensors


def load_state_dict(module: Module, values: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
    """Module.load_state_dict."""
    if not isinstance(values, Mapping):
        raise TypeError(f"load_state_dict: the state dict is {type(values).__name__}; expected a mapping")
    own = state_dict(module)
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
        raise RuntimeError(f"load_state_dict: the state dict does not fit {type(module).__name__}:{listed}")

    with no_grad():
        for key, array in arrays.items():
            own[key].copy_(wrap(array))
    return IncompatibleKeys(missing, unexpected)


def _array(value: Any) -> Any:
    """The array of a tensor or of what NumPy takes for one (a tensor of another library); None if it is no numbers."""
    if isinstance(value, Tensor):
        return value.data
    if is_array(value):
        return value if is_number(value.dtype) else None
    array = np.asarray(value) if hasattr(value, "__array__") else None
    return array if array is not None and is_number(array.dtype) else None


def _quoted(keys: list[str]) -> str:
    return ", ".join(repr(key) for key in keys)
