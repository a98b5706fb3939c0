"""An object of dicts, lists and tuples taken apart into tensors with names, and put together again.

The structure is JSON: a number, a string, a bool or None is itself, and

    {"tensor": name}    {"dict": [[key, value], ...]}    {"list": [...]}    {"tuple": [...]}

A tensor's name is the keys on the way to it, joined by dots, so a state dict keeps its names. Tensors that are the same
memory, such as tied weights, have one name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilegrad.device import is_array
from tilegrad.dtypes import DTYPES
from tilegrad.tensor import Tensor

_RESERVED = "__metadata__"  # the one name that safetensors keeps for itself
_LEAVES = str, bool, int, float, type(None)


def take_apart(obj: Any) -> tuple[Any, dict[str, Any]]:
    """(structure, arrays by name) of an object.

    Raises TypeError for what is none of those, saying where it is, ValueError for an object that contains itself.
    """
    arrays: dict[str, Any] = {}
    names: dict[Any, str] = {}  # by what makes two tensors the same

    def structure(x: Any, path: tuple[Any, ...], around: tuple[int, ...]) -> Any:
        if isinstance(x, Tensor) or is_array(x):
            return {"tensor": name_of(x.data if isinstance(x, Tensor) else x, path)}
        if isinstance(x, np.generic):
            x = x.item()
        if isinstance(x, _LEAVES):
            return x
        if id(x) in around:
            raise ValueError(f"save: {_place(path)} contains itself; expected a tree")
        around = (*around, id(x))
        if isinstance(x, Mapping):
            for key in x:
                if not isinstance(key, _LEAVES):
                    raise TypeError(
                        f"save: {_place(path)} has a key of type {type(key).__name__}; "
                        "expected strings, numbers, bools or None"
                    )
            return {"dict": [[key, structure(value, (*path, key), around)] for key, value in x.items()]}
        if isinstance(x, list | tuple):
            kind = "list" if isinstance(x, list) else "tuple"
            return {kind: [structure(value, (*path, i), around) for i, value in enumerate(x)]}
        raise TypeError(
            f"save: {_place(path)} is {type(x).__name__}; "
            "expected tensors, numbers, strings, bools or None, in dicts, lists and tuples"
        )

    def name_of(array: Any, path: tuple[Any, ...]) -> str:
        if array.dtype not in DTYPES:
            raise TypeError(f"save: {_place(path)} has dtype {array.dtype}; expected {', '.join(map(str, DTYPES))}")
        same = _identity(array)
        if same not in names:
            name = base = ".".join(map(str, path)) or "tensor"
            number = 1
            while name in arrays or name == _RESERVED:
                number += 1
                name = f"{base}#{number}"
            names[same], arrays[name] = name, array
        return names[same]

    return structure(obj, (), ()), arrays


def put_together(structure: Any, tensors: Mapping[str, Tensor | None]) -> Any:
    """The object of a structure. Places with one name have the same tensor.

    Raises ValueError for what `take_apart` does not make.
    """
    if isinstance(structure, _LEAVES):
        return structure
    if isinstance(structure, dict) and len(structure) == 1:
        ((kind, parts),) = structure.items()
        if kind == "tensor" and isinstance(parts, str) and parts in tensors:
            return tensors[parts]
        if kind == "list" and isinstance(parts, list):
            return [put_together(part, tensors) for part in parts]
        if kind == "tuple" and isinstance(parts, list):
            return tuple(put_together(part, tensors) for part in parts)
        if kind == "dict" and isinstance(parts, list) and all(_is_item(part) for part in parts):
            return {key: put_together(value, tensors) for key, value in parts}
    raise ValueError(f"the structure has {str(structure)[:80]}; expected tensors, numbers and strings in containers")


def _is_item(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and isinstance(part[0], _LEAVES)


def _identity(array: Any) -> Any:
    if not array.size:
        return id(array)
    address = array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr
    return address, array.shape, array.strides, array.dtype


def _place(path: tuple[Any, ...]) -> str:
    return "the object" + "".join(f"[{key!r}]" for key in path)
