"""One run of the benchmarks: on which device, with whom, how long, and under which ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tilegrad.bench import ceilings
from tilegrad.bench.clock import Events
from tilegrad.bench.inputs import Traffic
from tilegrad.bench.measure import Effort, Measured, Times, interleaved, on_gpu, wall
from tilegrad.bench.providers import Provider
from tilegrad.bench.results import Row, known
from tilegrad.kernels.device import gpu

Call = Callable[[], Any]
COLD_CPU = 32 << 20  # bytes between two uses of an input: beyond the L2 cache of any core


@dataclass
class Session:
    """What every measurement needs to know.

    device     "cpu" or "cuda"; simulated: everything runs once and is checked, nothing is timed
    providers  those that are measured, by name
    ceilings   from bench/ceilings.py, by name; empty: rows are compared with none
    events     the clocks of the GPU; None without one
    footprints the ceilings of the CPU's memory that were asked for so far
    """

    device: str
    simulated: bool
    effort: Effort
    providers: dict[str, Provider]
    ceilings: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: Events | None = None
    footprints: dict[Traffic, dict[str, Any]] = field(default_factory=dict)

    @property
    def cold_bytes(self) -> int:
        """Bytes of all of a provider's copies of the inputs, at least, if that takes not too many copies."""
        if self.simulated:
            return 1
        return COLD_CPU if self.events is None else self.events.memory.nbytes // 2  # twice its L2

    def kernels_of(self, rivals: Mapping[str, Sequence[Call]]) -> dict[str, Measured]:
        """Time calls of a kernel or two: by wall clock on the CPU, by events on a GPU."""
        if self.simulated:
            return self._unmeasured(rivals)
        if self.events is None:
            return {name: Measured(t) for name, t in interleaved(rivals, self.effort).items()}
        return on_gpu(rivals, self.effort, self.events, {name: self.providers[name].capture for name in rivals})

    def programs(self, rivals: dict[str, Call], enter: dict[str, Call]) -> dict[str, Measured]:
        """Time calls of whole programs, with what the host does in them, by wall clock.

        A call ends with a synchronisation of its own. `enter` is called before a rival's turn.
        """
        if self.simulated:
            return self._unmeasured({name: [call] for name, call in rivals.items()}, enter)
        calls = {name: [call] for name, call in rivals.items()}
        return {name: Measured(t) for name, t in interleaved(calls, self.effort, wall, enter).items()}

    def _unmeasured(self, rivals: Mapping[str, Sequence[Call]], enter: dict[str, Call] | None = None) -> dict:
        for name, calls in rivals.items():
            (enter or {}).get(name, lambda: None)()
            calls[0]()
        return dict.fromkeys(rivals, Measured())

    def of_memory(self, traffic: Traffic | None, again: bool = False) -> float | None:
        """GB/s at most for this traffic: on the CPU the best that was measured for it; again: measured once more."""
        if self.events is not None or not self.ceilings or traffic is None:
            return self.ceilings.get("copy", {}).get("value")
        if again or traffic not in self.footprints:
            self._raised(self.footprints, traffic, ceilings.of_memory(traffic))
        return self.footprints.get(traffic, {}).get("value")

    def of_arithmetic(self, name: str, again: bool = False) -> float | None:
        """GFLOP/s at most: as found, or the most after it was measured again."""
        if again and name in self.ceilings:
            self._raised(self.ceilings, name, ceilings.of_cpu([name], True).get(name))
        return self.ceilings.get(name, {}).get("value")

    @staticmethod
    def _raised(known: dict, key: Any, found: dict[str, Any] | None) -> None:
        if found is not None and found["value"] > known.get(key, {}).get("value", 0):
            known[key] = found

    def synchronize(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.events is not None:
            gpu.xp().cuda.runtime.deviceSynchronize()


class Deadline:
    """The time until which an op may run: each op left gets an even share of the minutes left."""

    def __init__(self, minutes: float | None) -> None:
        self.end = None if minutes is None else time.monotonic() + 60 * minutes
        self.of_op = self.end

    def start(self, ops_left: int) -> None:
        """An op begins; ops_left counts it and those after it."""
        if self.end is not None:
            now = time.monotonic()
            self.of_op = now + (self.end - now) / ops_left

    def passed(self) -> bool:
        return self.of_op is not None and time.monotonic() > self.of_op


def filled(row: Row, found: Measured) -> Row:
    """The row with what was measured; "unmeasured" where nothing was."""
    times: Times | None = found.ms
    if times is None:
        row.status = "unmeasured"
        return row
    row.ms, row.p20, row.p80, row.samples = times
    row.graph_ms, row.host_ms = found.graph_ms, found.host_ms
    if found.no_graph:
        row.reason = f"no graph: {found.no_graph}"
    return row


def compared(rows: list[Row]) -> list[Row]:
    """The rows of one case, each with its ratio to the fastest rival among them."""
    rivals = [row for row in rows if row.rival and row.ms]
    if rivals:
        best = min(rivals, key=lambda row: known(row.ms))
        for row in rows:
            if row.ms:
                row.times_rival, row.best_rival = known(best.ms) / row.ms, best.provider
    return rows
