"""Rounds of calls, in turns: whatever else the machine does affects every provider alike.

A provider's turn is a run of calls. Before it there is a pause, in which the threads of the previous library go to
sleep: OpenBLAS's threads spin for a while after their last product. Where there are as many threads as cores, torch's
then get only every other time slice. Measured on 2 cores: 8 ms for a product of 0.6 ms, in half of the turns without a
pause or with 20 ms, in one of eight with 50 ms, in none with 100 ms. The first calls of a turn are not counted, as the
caches hold other data. Each call takes the next copy of the inputs.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tilegrad.bench.clock import Events, wall

Call = Callable[[], Any]
SETTLE = 0.1  # seconds of the pause
WARM_UP = 0.2  # the part of a turn that is not counted
GRAPH_CALLS = 20
HOST_CALLS = 50  # far fewer launches than a stream queues


class Effort(NamedTuple):
    """How long to measure."""

    turns: int
    seconds: float  # of a turn
    calls: int  # in a turn at least: 2 or more, as the first does not count


FULL = Effort(5, 0.1, 5)
QUICK = Effort(2, 0.04, 3)


class Times(NamedTuple):
    """Milliseconds of one call."""

    median: float
    p20: float
    p80: float
    samples: int


class Measured(NamedTuple):
    """The columns of a row. On the CPU only the first is filled; on the simulated device none."""

    ms: Times | None = None
    graph_ms: float | None = None
    host_ms: float | None = None
    no_graph: str | None = None  # why there is no graph_ms on a GPU


def summary(samples: Sequence[float]) -> Times:
    """Median with the 20th and the 80th percentile."""
    p20, p80 = np.percentile(samples, [20, 80])
    return Times(statistics.median(samples), float(p20), float(p80), len(samples))


def interleaved(
    rivals: Mapping[str, Sequence[Call]],
    effort: Effort,
    clock: Callable[[Call], float] = wall,
    enter: dict[str, Call] | None = None,
) -> dict[str, Times]:
    """Time every rival's calls, one after the other and round again.

    clock  gives the milliseconds of one call
    enter  what is called before a rival's turn, if anything
    """
    turns = {name: itertools.cycle(calls) for name, calls in rivals.items()}
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    gc.collect()
    for _ in range(effort.turns):
        for name, calls in turns.items():
            if enter and name in enter:
                enter[name]()
            if len(turns) > 1:
                time.sleep(SETTLE)
            turn: list[float] = []
            stop = time.perf_counter() + effort.seconds
            while len(turn) < effort.calls or time.perf_counter() < stop:
                turn.append(clock(next(calls)))
            samples[name] += turn[max(1, int(WARM_UP * len(turn))) :]
    return {name: summary(each) for name, each in samples.items()}


def on_gpu(
    rivals: Mapping[str, Sequence[Call]], effort: Effort, events: Events, capture: dict[str, Callable]
) -> dict[str, Measured]:
    """The three columns of a GPU; `capture` makes of a rival's calls a replayable graph."""
    times = interleaved(rivals, effort, events.kernel)
    found = {}
    for name, calls in rivals.items():
        some = list(itertools.islice(itertools.cycle(calls), GRAPH_CALLS))
        graph_ms, reason = None, None
        try:
            launch, keep = capture[name](some)
            launch()
            graph_ms = statistics.median(events.replay(launch, len(some)) for _ in range(5))
            del keep
        except Exception as e:  # capture fails with all kinds of errors; the row says which
            reason = f"{type(e).__name__}: {e}".splitlines()[0]
        some = list(itertools.islice(itertools.cycle(calls), HOST_CALLS))
        host_ms = min(events.host(some) for _ in range(3))
        found[name] = Measured(times[name], graph_ms, host_ms, reason)
    return found
