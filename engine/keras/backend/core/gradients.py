"""What programs say about gradients: where they stop, and what they are instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilegrad.autograd.grad_mode import no_grad
from tilegrad.autograd.record import record
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.tensor import Tensor


def stop_gradient(variable: Any) -> Tensor:
    """The value, through which no gradient passes; memory is shared."""
    return convert_to_tensor(variable).detach()


def custom_gradient(fun: Callable[..., Any]) -> Callable[..., Tensor]:
    """fun(*tensors) -> (result, grad), with grad(upstream) -> one gradient a tensor, or one alone: Keras' own.

    The gradient is not differentiated itself.
    """

    def computed(*args: Any, **kwargs: Any) -> Tensor:
        tensors = [convert_to_tensor(x) for x in args]
        with no_grad():
            result, grad = fun(*tensors, **kwargs)
        y = convert_to_tensor(result)
        if any(y is x or y._storage is x._storage for x in tensors):
            y = y.clone()

        def rule(dy: Tensor) -> tuple:
            found = grad(dy)
            return tuple(found) if isinstance(found, (list, tuple)) else (found,)

        return record("custom_gradient", y.data, tensors, rule)

    return computed


def remat(f: Callable[..., Any]) -> Callable[..., Any]:
    """f itself: what a backward pass needs is kept, not computed anew."""
    return f
