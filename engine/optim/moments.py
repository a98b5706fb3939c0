"""What an optimizer remembers of a parameter: averages of gradients beside it, and how many steps it has made."""

from __future__ import annotations

import numpy as np

from tilegrad.device import array_module, move
from tilegrad.kernels.checks import accumulator
from tilegrad.tensor import Tensor, wrap


def new_step(param: Tensor) -> Tensor:
    """A count of steps, 0: on the CPU and float32 as in PyTorch, exact up to 2^24 steps."""
    return wrap(np.zeros((), np.float32))


def new_moment(param: Tensor) -> Tensor:
    """Zeros of the parameter's shape and memory order, at least float32."""
    data = param.data
    return wrap(array_module(data).zeros_like(data, dtype=accumulator(data.dtype)))


def follow(state: dict[str, Tensor], param: Tensor) -> None:
    """Move what is remembered of a parameter, in `state`, to the device that the parameter was moved to."""
    for name, x in state.items():
        if name != "step":
            state[name] = wrap(move(x.data, param.device))
