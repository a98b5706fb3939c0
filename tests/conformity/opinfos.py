"""torch's operator samples, by the operator's name, and the function of ours that each is to be run on."""

from __future__ import annotations

import inspect
import sys
import types
import unittest
from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from hypothesis import settings

import tilegrad as tg
from tilegrad.nn import functional as F

# Where torch's wrapper has its arguments in another order than the function that it wraps, or wraps an attribute.
ADAPTERS: dict[str, Callable[..., Any]] = {
    "where": lambda x, condition, other: tg.where(condition, x, other),
    "einsum": lambda tensors, equation: tg.einsum(equation, *tensors),
    "nn.functional.embedding": lambda weight, index, **options: F.embedding(index, weight, **options),
    "nn.functional.embedding_bag": lambda weight, index, **options: F.embedding_bag(index, weight, **options),
    "broadcast_tensors": tg.broadcast_tensors,
    "zero_": lambda x: tg.Tensor.zero_(x.clone()),
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
}


@cache
def op_infos() -> dict[str, list[Any]]:
    """torch's OpInfos by name; a name may have several variants.

    Importing them has effects on the whole process, which are undone: other tests run in it too.
    """
    profile = settings.get_current_profile_name()
    stand_in = types.ModuleType("expecttest")  # torch derives its TestCase from this package's, and needs no more of it
    stand_in.TestCase = unittest.TestCase
    missing = "expecttest" not in sys.modules
    if missing:
        sys.modules["expecttest"] = stand_in
    try:
        from torch.testing._internal.common_methods_invocations import op_db
    finally:
        if missing:
            del sys.modules["expecttest"]
        settings.load_profile(profile)
        torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True
    found = defaultdict(list)
    for info in op_db:
        found[info.name].append(info)
    return found


def our_function(name: str) -> Callable[..., Any] | None:
    """Ours for an operator's name: an adapter, a function of nn.functional or of engine, or a method of Tensor."""
    if name in ADAPTERS:
        return ADAPTERS[name]
    if name.startswith("nn.functional."):
        return getattr(F, name.removeprefix("nn.functional."), None)
    found = (getattr(place, name, None) for place in (tg, tg.Tensor))
    return next((f for f in found if callable(f) and "." not in name), None)


def our_inplace_form(info: Any) -> Callable[..., Any] | None:
    """Ours for the in-place form that an OpInfo names: Tensor.add_ for add, relu(x, inplace=True) in nn.functional."""
    if info.inplace_variant is None:
        return None
    if isinstance(info.inplace_variant, partial):
        function = our_function(info.name)
        return partial(function, inplace=True) if "inplace" in inspect.signature(function).parameters else None
    return getattr(tg.Tensor, info.inplace_variant.__name__, None)
