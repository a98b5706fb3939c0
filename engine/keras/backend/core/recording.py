"""When gradients are recorded: in a training step and under a GradientTape. Elsewhere variables ask for none.

So a result of a model is a plain tensor, as in TensorFlow: `numpy()` works, and nothing behind it is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Local(threading.local):
    depth = 0


_local = _Local()


def is_recording() -> bool:
    """Whether what is computed from variables now is recorded."""
    return _local.depth > 0


@contextmanager
def recording() -> Iterator[None]:
    """A block in which what is computed from trainable variables is recorded."""
    _local.depth += 1
    try:
        yield
    finally:
        _local.depth -= 1
