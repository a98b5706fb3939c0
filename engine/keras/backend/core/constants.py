"""Numbers of the host on a GPU: while a step is captured they come from those that a plain step brought there.

A captured step cannot copy from the host: each launch would find there what the program has put in the place by then.
So a small array is kept on the device, by its content, and copied there. One that is new to a captured step is refused
as any copy is: a plain step has not made it, so it is another one at each step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tilegrad import capture_hooks, dtypes
from tilegrad.device import move

_MOST_BYTES, _MOST = 512, 1024  # of an array that is kept; how many are


def is_small(x: Any) -> bool:
    """Whether x, an array or what may become one, is kept."""
    return getattr(x, "nbytes", 0) <= _MOST_BYTES


def on_gpu(array: np.ndarray) -> Any:
    """A new array of the GPU's with these elements."""
    if not is_small(array):
        return move(array, "cuda")
    kept = _kept(array.shape, array.dtype.name, array.tobytes())
    account = capture_hooks.current()
    if account is not None:
        account.graph.keep(kept)
    return kept.copy()


@lru_cache(maxsize=_MOST)
def _kept(shape: tuple[int, ...], dtype: str, content: bytes) -> Any:
    return move(np.frombuffer(content, dtypes.as_dtype(dtype)).reshape(shape), "cuda")
