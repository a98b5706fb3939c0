"""Functions that the engine has no op for, from the arrays' own library: NumPy, or CuPy on a GPU.

What NumPy computes the record does not see. So each such function says what its gradient is, or that it has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.autograd.record import record
from tilegrad.device import array_module, device_of, on_host
from tilegrad.kernels.device import gpu
from tilegrad.tensor import Tensor, wrap

Rule = Callable[[Tensor], "tuple[Tensor | None, ...]"]


def library(x: Tensor) -> Any:
    """The module whose functions serve the tensor's array."""
    return array_module(x.data)


def constant(array: Any) -> Tensor:
    """A tensor of what depends on no gradient: places, counts, truth."""
    return wrap(array)


def differentiable(name: str, array: Any, parents: list[Tensor], rule: Rule) -> Tensor:
    """A tensor of an array that was computed from parents; rule(dy) gives a gradient for each."""
    return record(name, array, parents, rule)


def undifferentiated(name: str, array: Any, parents: list[Tensor]) -> Tensor:
    """A tensor of an array that was computed from parents; asking for its gradient raises NotImplementedError."""

    def rule(dy: Tensor) -> tuple:
        raise NotImplementedError(f"{name}: its gradient is not implemented in the tilegrad backend")

    return record(name, array, parents, rule)


def host(x: Tensor) -> np.ndarray:
    """The values in NumPy's array; on a GPU a copy."""
    return on_host(x.data)


def like(array: np.ndarray, x: Tensor) -> Any:
    """An array of the host on x's device."""
    return array if device_of(x.data) == "cpu" else gpu.xp().asarray(array)
