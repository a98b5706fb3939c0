"""The simulated device's CUDA graph: the actions that the device was given within a block, in order, for every launch.

As under stream capture, nothing is done while actions are collected: kernels do not run, nothing is written. Functions
of the array library are called, but only for the shapes of their results; the values are those of unwritten memory.
Numbers of the host are collected as they are. So a number that should have been in device memory shows in a test: it
stays the same from launch to launch.
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
    """Actions of the device, each with its name: a kernel's, or a function's."""

    def __init__(self) -> None:
        self._actions: list[tuple[str, Action]] = []

    def add(self, name: str, action: Action) -> None:
        self._actions.append((name, action))

    def launch(self) -> None:
        """Do all of them."""
        with np.errstate(all="ignore"):  # a GPU does not warn
            for _, action in self._actions:
                action()

    def launch_by(self, run: Callable[[str, Action], None]) -> None:
        """Do all of them, each by run(its name, it)."""
        with np.errstate(all="ignore"):  # as above
            for name, action in self._actions:
                run(name, action)

    def nodes(self) -> Counter[str]:
        """How many actions there are of each name, in the order of first appearance."""
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
    """Raise RuntimeError while a tape records, as CUDA does where the host would have to wait for a captured stream."""
    if _local.tape is not None:
        raise RuntimeError(f"{what}: operation not permitted when stream is capturing")
