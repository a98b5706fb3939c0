"""Which samples an operator is run on: all that torch has, or those of them that reach something new."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch

from tests.conformity.opinfos import our_inplace_form

# float64 with gradients is where values are judged. In the others it is what they do to the result's dtype, to
# integers that wrap round, and to rounding.
DTYPES = ("float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool")


MOST_ELEMENTS = 10_000  # of an everyday sample; some reference inputs have a million


@dataclass
class Sample:
    """One call: op(*args, **kwargs).

    text     the call as differences.txt writes it
    raises   whether torch refuses it
    inplace  whether the form that writes to its first argument is meant
    """

    info: Any
    dtype: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    raises: bool = False
    inplace: bool = False
    text: str = field(init=False)

    def __post_init__(self) -> None:
        named = [f"{name}={described(value)}" for name, value in self.kwargs.items()]
        self.text = ", ".join([*map(described, self.args), *named])


def described(x: Any) -> str:
    """An argument in a few words: a tensor by its dtype and shape, and whether it holds nan or infinity."""
    if isinstance(x, torch.Tensor):
        return f"{str(x.dtype).removeprefix('torch.')}{tuple(x.shape)}{' with nan' * _is_odd(x)}"
    if isinstance(x, (tuple, list)):
        inner = ", ".join(map(described, x))
        return f"({inner})" if isinstance(x, tuple) else f"[{inner}]"
    return repr(x)


def _is_odd(x: torch.Tensor) -> bool:
    """Whether it holds nan or infinity."""
    return x.ndim <= 64 and x.layout == torch.strided and not bool(x.isfinite().all())  # torch counts no further


def samples_of(info: Any, *, exhaustive: bool = False) -> Iterator[Sample]:
    """The samples of one OpInfo in all dtypes, of float64 with reference inputs, and what torch refuses.

    exhaustive: every sample that torch has, with the reference inputs of every dtype.
    """
    for name in DTYPES:
        if getattr(torch, name) in info.dtypes:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = _of_dtype(info, name, exhaustive)
            yield from found if exhaustive else chosen(found)
    if info.error_inputs_func is not None:
        _seed()
        for error in list(info.error_inputs("cpu")):
            s = error.sample_input
            yield Sample(info, "error", (s.input, *s.args), s.kwargs, raises=True)


def _of_dtype(info: Any, name: str, exhaustive: bool) -> list[Sample]:
    dtype = getattr(torch, name)
    _seed()
    gradients = dtype.is_floating_point and info.supports_autograd
    inplace = our_inplace_form(info) is not None
    inputs = list(info.sample_inputs("cpu", dtype, requires_grad=gradients))
    if info.reference_inputs_func is not None and (exhaustive or name == "float64"):
        inputs += _with_gradients(info.reference_inputs("cpu", dtype, requires_grad=False), gradients)
    if not exhaustive:
        inputs = [s for s in inputs if not isinstance(s.input, torch.Tensor) or s.input.numel() <= MOST_ELEMENTS]
    found = []
    for s in inputs:
        found.append(Sample(info, name, (s.input, *s.args), s.kwargs))
        if inplace and not s.broadcasts_input and isinstance(s.input, torch.Tensor):
            found.append(Sample(info, name, (s.input, *s.args), s.kwargs, inplace=True))
    return found


def _with_gradients(inputs: Iterator[Any], wanted: bool) -> Iterator[Any]:
    """Of the reference inputs, which are made without, the first argument requires a gradient."""
    for s in inputs:
        if wanted and isinstance(s.input, torch.Tensor) and s.input.is_floating_point():
            s.input.requires_grad_()
        yield s


def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (the samples draw from NumPy's and Python's global generators too)
    random.seed(0)


def chosen(samples: list[Sample]) -> list[Sample]:
    """Those with a pair of traits that none before has: the combinations of three options and more are left out."""
    seen: set[Any] = set()
    kept = []
    for s in samples:
        traits = [("inplace", s.inplace)]
        traits += [(place, _trait(value)) for place, value in [*enumerate(s.args), *s.kwargs.items()]]
        new = set(combinations(traits, 2)) | {*traits} - seen
        if new - seen:
            kept.append(s)
        seen |= new
    return kept


def _trait(x: Any) -> str:
    """What matters of an argument: of a tensor its dtype, dimensions, whether it is empty, and its layout."""
    if isinstance(x, torch.Tensor):
        return f"{x.dtype} {x.ndim} {x.numel() == 0} {x.is_contiguous()} {1 in x.shape} {_is_odd(x)}"
    if isinstance(x, (tuple, list)):
        return str([_trait(i) for i in x])
    return repr(x)
