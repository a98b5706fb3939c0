"""When gradients are recorded: in a training step and under a GradientTape. Elsewhere variables ask for none.

So a result of a model is a plain tensor, as in TensorFlow: `numpy()` works, and nothing behind it is kept.
"""

from __future__ import annotations

import threading
from typing import Any


class _Local(threading.local):
    depth = 0


_local = _Local()


def is_recording() -> bool:
    """Whether what is computed from variables now is recorded."""
    return _local.depth > 0


class recording:  # a class, for a step of a small net counts microseconds
    """A block in which what is computed from trainable variables is recorded."""

    def __enter__(self) -> None:
        _local.depth += 1

    def __exit__(self, *_: Any) -> None:
        _local.depth -= 1
