"""The four backends, as modules of flat functions. Each is made from the contract; no kernel is here.

`contract.module_of` says which file a function is from, and `grep -rn "def softmax_xent(" kernels` finds them all.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from tilegrad.kernels.contract import PRIMITIVES, module_of

Functions = dict[str, Callable[..., Any]]


def functions(backend: str, otherwise: Mapping[str, Callable[..., Any]] | None = None) -> Functions:
    """A backend's function of every primitive, by name.

    otherwise  the functions of primitives for which the backend has none of its own

    Raises ImportError for a primitive that has neither.
    """
    return {primitive: _function(backend, primitive, otherwise or {}) for primitive in PRIMITIVES}


def _function(backend: str, primitive: str, otherwise: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    place = module_of(primitive, backend)
    module = None if importlib.util.find_spec(place) is None else importlib.import_module(place)
    function = getattr(module, primitive, otherwise.get(primitive))
    if function is None:
        raise ImportError(f"kernels: the backend {backend!r} has no {primitive!r}; expected a function in {place}")
    return function
