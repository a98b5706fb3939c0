"""What calls are timed by: the host's clock, or the events of a GPU.

A mark is taken before and after a call. On a GPU that is an event on the current stream, which tells its time when the
GPU has come to it: marks cost the program no waiting.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tilegrad.kernels.device import gpu
from tilegrad.kernels.system.clock import now


class Host:
    """Of what the CPU does; also of a simulated device, whose kernels the CPU runs."""

    mark = staticmethod(now)

    def times(self, begin: int, end: int) -> tuple[int, int]:
        """The nanoseconds of two marks, by the host's clock."""
        return begin, end

    def settle(self) -> None:
        """Wait until all marks have their times."""


class Events:
    """Of a GPU. CUDA Driver API, "Event Management": an event's time is exact to half a microsecond."""

    def __init__(self) -> None:
        self._cuda = gpu.xp().cuda
        self._first = self.mark()
        self.settle()
        self._zero = now()

    def mark(self) -> Any:
        event = self._cuda.Event()
        event.record()
        return event

    def times(self, begin: Any, end: Any) -> tuple[int, int]:
        since = self._cuda.get_elapsed_time  # milliseconds
        first, last = (self._zero + int(1e6 * since(self._first, event)) for event in (begin, end))
        return first, last

    def settle(self) -> None:
        self._cuda.Device().synchronize()


host = Host()


def of(device: str) -> Host | Events:
    """The clock of what runs on "cpu" or "cuda"."""
    return host if device == "cpu" or gpu.is_simulated() else _events()


@cache
def _events() -> Events:
    return Events()
