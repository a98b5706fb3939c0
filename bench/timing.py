"""Timing rivals on one device: interleaved, cold, medians.

On a GPU a time is between two CUDA events around the call, with the L2 cache flushed before the first; the flush keeps
the GPU busy while the host prepares the launch, so that host time is not in it. On the simulated device it is the wall
clock, which says nothing about a GPU and serves to try the benchmark itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kernels import gpu

FLUSH_BYTES = 256 << 20  # several times any L2 cache
WARM_UPS = 3


class Times(NamedTuple):
    """Milliseconds of one call."""

    median: float
    p20: float
    p80: float


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """Time every call `rounds` times, in turns, so that a change of clock touches all alike."""
    clock = _event_clock() if gpu.is_available() else _wall_clock
    for call in calls.values():
        for _ in range(WARM_UPS if gpu.is_available() else 0):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(clock(call))
    return {name: _summary(each) for name, each in times.items()}


def _summary(times: list[float]) -> Times:
    if len(times) == 1:
        return Times(times[0], times[0], times[0])
    fifths = statistics.quantiles(times, n=5)
    return Times(statistics.median(times), fifths[0], fifths[-1])


def _wall_clock(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _event_clock() -> Callable[[Callable[[], Any]], float]:
    cuda = gpu.xp().cuda
    flush = gpu.xp().zeros(FLUSH_BYTES, np.uint8)

    def clock(call: Callable[[], Any]) -> float:
        start, stop = cuda.Event(), cuda.Event()
        flush.fill(0)
        start.record()
        call()
        stop.record()
        stop.synchronize()
        return cuda.get_elapsed_time(start, stop)

    return clock
