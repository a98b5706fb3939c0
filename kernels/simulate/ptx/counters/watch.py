"""A run that is watched: its instructions, its accesses of memory and its branches are counted as they happen.

Each instruction is wrapped by one that counts whom it is executed by. Global and shared memory are of classes that keep
the addresses of the instruction in turn; when it has ended, the accesses of each warp are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx.control import BRANCH, Op
from tilegrad.kernels.simulate.ptx.counters import access
from tilegrad.kernels.simulate.ptx.counters.work import Work, work
from tilegrad.kernels.simulate.ptx.machine import WARP, Machine
from tilegrad.kernels.simulate.ptx.memory import Array, Global, Rows
from tilegrad.kernels.simulate.ptx.pure import Step
from tilegrad.kernels.simulate.ptx.releases import Releases

_KNOWN = 64  # accesses of an instruction that are remembered
_ACCESSING = frozenset(["ld", "st", "cp", "atom", "red", "ldmatrix", "stmatrix"])


@dataclass
class Traffic:
    """Accesses of global memory, a warp's access each: of all its lanes together."""

    accesses: int = 0
    bytes: int = 0  # that the warps asked for; what several lanes of a warp ask for counts once
    sectors: int = 0  # that were moved for them

    @property
    def coalescing(self) -> float | None:
        """How much of the moved bytes was asked for, 0 to 1; None if nothing was moved."""
        return self.bytes / (self.sectors * access.SECTOR) if self.sectors else None


@dataclass
class Banks:
    """Accesses of shared memory, a warp's access each."""

    accesses: int = 0
    transactions: int = 0
    least: int = 0  # what they would be without a conflict

    @property
    def conflicts(self) -> int:
        return self.transactions - self.least


@dataclass
class Counters:
    """What the blocks that were run did.

    threads, warps  instructions by class: executed by a thread; issued to a warp, even if its predicate holds nowhere
    flop            floating-point operations by pipe
    loads, stores, atomics       of global memory; a copy to shared memory is a load
    shared_loads, shared_stores  ldmatrix and stmatrix too; a copy from global memory is a store
    read, written   sectors of global memory, each once a run; held: how many there are in the arrays of a run
    branches        conditional ones that a warp came to; divergent: where its lanes parted
    barriers        that a block passed
    """

    blocks: int = 0
    threads: Counter[str] = field(default_factory=Counter)
    warps: Counter[str] = field(default_factory=Counter)
    flop: Counter[str] = field(default_factory=Counter)
    loads: Traffic = field(default_factory=Traffic)
    stores: Traffic = field(default_factory=Traffic)
    atomics: Traffic = field(default_factory=Traffic)
    shared_loads: Banks = field(default_factory=Banks)
    shared_stores: Banks = field(default_factory=Banks)
    read: int = 0
    written: int = 0
    held: int = 0
    branches: int = 0
    divergent: int = 0
    barriers: int = 0

    @property
    def lanes_at_work(self) -> float:
        """Of the lanes of the warps that an instruction is issued to, how many execute it, 0 to 1."""
        issued = self.warps.total()
        return self.threads.total() / (WARP * issued) if issued else 1.0


class Watch:
    """Adds what a run does to `counters`; for one run.

    blocks   only so many of the grid's first blocks are run; None: all
    """

    def __init__(self, counters: Counters, blocks: int | None = None) -> None:
        self.counters, self.blocks = counters, blocks
        self._global: list[tuple[Machine, np.ndarray, np.ndarray, int, bool]] = []  # of the instruction in turn
        self._shared: list[tuple[Machine, np.ndarray, np.ndarray, int, bool]] = []
        self._memory: _Global

    def ops(self, ops: Iterable[Op]) -> list[Op]:
        """The instructions, counted."""
        return [self._counted(op, work(op.instruction)) for op in ops]

    def memory(self, arrays: Iterable[Array], releases: Releases | None) -> Global:
        self._memory = _Global(self._global, arrays, releases)
        return self._memory

    def shared(self, *arguments: Any) -> Rows:
        return _Shared(self._shared, *arguments)

    def end(self, blocks: int, barriers: int) -> None:
        """What is known when the blocks have run."""
        counters, (read, written) = self.counters, self._memory.touched()
        counters.blocks += blocks
        counters.barriers += barriers
        counters.read += read
        counters.written += written
        counters.held = self._memory.held

    def _counted(self, op: Op, of: Work) -> Op:
        step = op.step
        if step is not None and op.instruction.opcode in _ACCESSING:
            step = self._accessing(op, step)
        if step is not None and op.guard is None:
            return op._replace(step=self._plain(of, step))
        return op._replace(step=step, guard=self._guard(op, of))

    def _plain(self, of: Work, step: Step) -> Step:
        """That step, which all lanes that come to it execute."""
        counters, (kind, pipe, flop) = self.counters, of
        threads, warps, flops = counters.threads, counters.warps, counters.flop

        def counted(m: Machine) -> None:
            if m.active is None:
                lanes, of_warps = m.lanes, m.blocks * m.warps
            else:
                lanes, of_warps = m.active.size, _starts(m).size
            threads[kind] += lanes
            warps[kind] += of_warps
            if flop:
                flops[pipe] += flop * lanes
            step(m)

        return counted

    def _guard(self, op: Op, of: Work) -> Callable[[Machine], np.ndarray]:
        """Which lanes execute it, counted."""
        counters, guard, is_branch = self.counters, op.guard, op.kind == BRANCH

        def counted(m: Machine) -> np.ndarray:
            holds = np.ones(m.lanes_now().size, np.bool_) if guard is None else guard(m)
            threads, starts = int(np.count_nonzero(holds)), _starts(m)
            counters.threads[of.kind] += threads
            counters.warps[of.kind] += starts.size
            if of.flop:
                counters.flop[of.pipe] += of.flop * threads
            if is_branch and guard is not None:
                counters.branches += starts.size
                every, some = (f.reduceat(holds, starts) for f in (np.logical_and, np.logical_or))
                counters.divergent += int(np.count_nonzero(some & ~every))
            return holds

        return counted

    def _accessing(self, op: Op, step: Step) -> Step:
        """That step; then what it told of is counted."""
        opcode, counters = op.instruction.opcode, self.counters
        traffic = counters.stores if opcode == "st" else counters.loads
        traffic = counters.atomics if opcode in ("atom", "red") else traffic
        banks = counters.shared_loads if opcode in ("ld", "ldmatrix") else counters.shared_stores
        is_constant = "const" in op.instruction.modifiers
        known: dict[Any, tuple[int, int, int]] = {}  # a loop asks for the same words again and again

        def counted(m: Machine) -> None:
            step(m)
            if self._global:
                if not is_constant:
                    self._count_global(traffic)
                self._global.clear()
            for _, lanes, addresses, size, is_part in self._shared:
                key = addresses.tobytes(), lanes.tobytes() if is_part else m.lanes
                if key not in known:
                    if len(known) >= _KNOWN:
                        known.clear()
                    warps = m.warp_of[lanes]
                    found = access.transactions(warps, m.thread_of[lanes] % WARP, addresses, size)
                    known[key] = np.unique(warps).size, *found
                accesses, needed, least = known[key]
                banks.accesses += accesses
                banks.transactions += needed
                banks.least += least
            self._shared.clear()

        return counted

    def _count_global(self, traffic: Traffic) -> None:
        # An atomic operation loads and stores the same bytes: its load says what it moves.
        parts = [part for part in self._global if not (traffic is self.counters.atomics and part[4])]
        if len({size for _, _, _, size, _ in parts}) > 1:  # a copy of which some lanes bring less: by the byte
            parts = [(m, np.repeat(w, n), (a[:, None] + np.arange(n, dtype=np.uint64)).ravel(), 1, is_store)
                     for m, w, a, n, is_store in parts]  # fmt: skip
        warps = np.concatenate([m.warp_of[lanes] for m, lanes, *_ in parts])
        addresses = np.concatenate([part[2] for part in parts])
        found, asked = access.sectors(warps, addresses, parts[0][3])
        traffic.accesses += np.unique(warps).size
        traffic.bytes += asked
        traffic.sectors += found.size
        self._memory.touch(found, traffic is not self.counters.stores, traffic is not self.counters.loads)


def _starts(m: Machine) -> np.ndarray:
    """Of the lanes in turn, which are the first of their warps."""
    return np.flatnonzero(np.diff(m.warp_of[m.lanes_now()], prepend=-1))


class _Global(Global):
    """Global memory that tells of each access, and remembers which sectors were touched."""

    def __init__(self, told: list[Any], arrays: Iterable[Array], releases: Releases | None) -> None:
        super().__init__(arrays, releases)
        self._told = told
        self._first = np.array([r.start // access.SECTOR for r in self.regions], np.int64)
        counts = [(r.stop - 1) // access.SECTOR + 1 - first for r, first in zip(self.regions, self._first)]
        self._offsets = np.cumsum([0, *counts])
        self.held = int(self._offsets[-1])
        self._read, self._written = (np.zeros(self.held, np.bool_) for _ in range(2))

    def load(self, m: Machine, addresses: np.ndarray, width: int, count: int, *kind: Any) -> list[np.ndarray]:
        self._told.append((m, m.lanes_now(), addresses, width * count, False))
        return super().load(m, addresses, width, count, *kind)

    def store(self, m: Machine, addresses: np.ndarray, values: Any, width: int, *kind: Any) -> None:
        self._told.append((m, m.lanes_now(), addresses, width * len(values), True))
        super().store(m, addresses, values, width, *kind)

    def touch(self, sectors: np.ndarray, reads: bool, writes: bool) -> None:
        numbers = sectors.astype(np.int64)
        region = np.searchsorted(self._first, numbers, "right") - 1
        places = self._offsets[region] + numbers - self._first[region]
        if reads:
            self._read[places] = True
        if writes:
            self._written[places] = True

    def touched(self) -> tuple[int, int]:
        """(sectors read, sectors written)."""
        return int(np.count_nonzero(self._read)), int(np.count_nonzero(self._written))


class _Shared(Rows):
    """Shared memory that tells of each access."""

    def __init__(self, told: list[Any], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._told = told

    def _places(self, m: Machine, rows: np.ndarray, addresses: np.ndarray, size: int) -> np.ndarray:
        self._told.append((m, m.lanes_now(), addresses.astype(np.int64), size, m.active is not None))
        return super()._places(m, rows, addresses, size)
