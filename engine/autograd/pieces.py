"""The gradients of a tensor's pieces, on their way to the node that joins them.

The pieces that `split` and `unbind` make do not overlap. If each had a gradient of the whole tensor's shape, mostly
zeros, these would have to be filled, written and added up: three passes a piece. Here the walk collects them instead,
and the node behind all pieces joins them in one pass.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tilegrad.tensor import Storage, Tensor


class Pieces(Tensor):
    """The gradients of some pieces, by number. It has the shape and dtype of the whole tensor, and no values."""

    __slots__ = ("parts",)

    parts: dict[int, Tensor]

    def join(self, other: Any) -> Pieces:
        """These with those of another `Pieces`, which are of other pieces."""
        self.parts.update(other.parts)
        return self


def piece(number: int, dy: Tensor, shape: tuple[int, ...], dtype: np.dtype | None = None) -> Pieces:
    """dy as the gradient of that piece of a tensor of that shape, and of dy's dtype unless another one is given."""
    found = Pieces.__new__(Pieces)
    found._data = _nothing(shape, dtype or dy._data.dtype)
    found._grad = found._node = found._hooks = None
    found._storage = Storage()
    found._requires_grad = dy._requires_grad
    found.parts = {number: dy}
    return found


@lru_cache(maxsize=256)
def _nothing(shape: tuple[int, ...], dtype: np.dtype) -> Any:
    return np.broadcast_to(np.zeros((), dtype), shape)
