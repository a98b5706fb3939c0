"""Dropout: elements zeroed by the bits of the Philox stream."""

from __future__ import annotations

from typing import Any

from tilegrad import kernels
from tilegrad.autograd.record import record
from tilegrad.ops.operands import require_float
from tilegrad.random import Generator, default_generator
from tilegrad.tensor import Tensor


def dropout(input: Tensor, p: float = 0.5, training: bool = True, generator: Generator | None = None) -> Tensor:
    """x / (1 - p) with each element kept with probability 1 - p, else 0 (Srivastava et al. 2014).

    The mask is never stored: the gradient draws the same bits again. Outside of training the result is x itself.
    """
    require_float("dropout", input)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p is {p}; expected 0 <= p <= 1")
    if not training or p == 0.0:
        return input
    return dropped(input, p, *(generator or default_generator).take_for(input.data, input.data.size))


def dropped(x: Tensor, p: float, seed: int, offset: Any) -> Tensor:
    """dropout by the words of the stream (seed, offset)."""
    y = kernels.of(x.data).dropout(x.data, p, seed, offset)
    return record("dropout", y, (x,), lambda dy: (dropped(dy, p, seed, offset),))
