"""The simulated device's CUDA graph: what the device was told within a block, in order, to be done at each launch.

As under stream capture nothing is done while actions are collected: kernels do not run, nothing is written. Functions
of the array library are called for the shapes of their results alone, whose values are those of memory that nobody has
written. Numbers of the host are collected as they are, so that what the host should have put into device memory shows:
it does not change from launch to launch.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.system.modes import Block

Action = Callable[[], None]


class Tape:
    """Actions of the device by the names of what does them."""

    def __init__(self) -> None:
        self._actions: list[tuple[str, Action]] = []

    def add(self, name: str, action: Action) -> None:
        self._actions.append((name, action))

    def launch(self) -> None:
        """Do it all."""
        with np.errstate(all="ignore"):  # a GPU does not warn
            for _, action in self._actions:
                action()

    def nodes(self) -> Counter[str]:
        """How many there are of each name, in the order of their first."""
        return Counter(name for name, _ in self._actions)


class _Local(threading.local):
    tape: Tape | None = None


_local = _Local()


def collecting() -> Tape | None:
    """The tape on which this thread's actions are collected."""
    return _local.tape


def collected_on(tape: Tape | None) -> Block:
    """A block within which this thread's actions are collected on that tape; with None they are done at once."""
    return Block(collecting_on(tape))


def collecting_on(tape: Tape | None) -> tuple[Any, str, Any]:
    """The setting of such a block."""
    return _local, "tape", tape


def do(name: str, action: Action) -> None:
    """Do it, or collect it."""
    tape = _local.tape
    if tape is None:
        action()
    else:
        tape.add(name, action)


def refuse(what: str) -> None:
    """Raise RuntimeError, as CUDA does, for what a stream that is captured cannot do: have the host wait for it."""
    if _local.tape is not None:
        raise RuntimeError(f"{what}: operation not permitted when stream is capturing")
