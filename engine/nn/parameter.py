"""Parameter: a tensor that a Module counts among its parameters."""

from __future__ import annotations

from typing import Any

from tilegrad.tensor import Tensor


class Parameter(Tensor):
    """A leaf tensor that is to be trained: assigned to an attribute of a Module, it is registered there.

    data           a tensor or an array; its memory is shared
    requires_grad  whether it wants a gradient. Raises RuntimeError if it does and data is not floating-point

    In-place writes to the tensor it was made from are seen by autograd as writes to the parameter.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()
