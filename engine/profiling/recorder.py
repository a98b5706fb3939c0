"""Calls of primitives as they were told, and their sums by op and shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.contract import DEVICES
from tilegrad.kernels.described import Call, Layout, key_of
from tilegrad.kernels.timing.watch import Launch, Told
from tilegrad.kernels.timing.work import Work, work


class Part(NamedTuple):
    """A kernel of a call; times in nanoseconds by the host's clock."""

    kernel: str
    config: str
    begin: int
    end: int


class Timed(NamedTuple):
    """A call that was made, or as `of` None the launch of a captured step around its calls."""

    of: Group | None
    begin: int
    end: int
    parts: list[Part]
    nodes: int = 0


class Group:
    """Calls of one op on arrays of the same shapes and dtypes.

    op        a primitive, a function of NumPy's, or on a GPU the kernel of a captured step
    backend   that served it
    captured  whether it was part of a captured step
    calls     how many there were
    seconds   that they took together
    kernels   that they started, by name
    config    of the last of these: on the CPU the pieces that threads shared, on a GPU grid, tile sizes and warps
    """

    def __init__(self, call: Call, backend: str, captured: bool) -> None:
        self._call = call
        self.op, self.backend, self.captured = call.op, backend, captured
        self.calls, self._nanoseconds = 0, 0
        self.kernels: Counter[str] = Counter()
        self.config = ""

    def add(self, begin: int, end: int, parts: list[Part]) -> None:
        self.calls += 1
        self._nanoseconds += end - begin
        for part in parts:
            self.kernels[part.kernel] += 1
            self.config = part.config

    @property
    def device(self) -> str:
        return DEVICES[self.backend]

    @property
    def seconds(self) -> float:
        return self._nanoseconds / 1e9

    @cached_property
    def layouts(self) -> list[Layout]:
        """Of the arrays that it takes; where it takes none, of those that it gives."""
        return self._call.layouts() or list(self._call.results)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [layout.shape for layout in self.layouts]

    @cached_property
    def dtype(self) -> np.dtype | None:
        """Of its first array of floating-point numbers, or of its first one."""
        dtypes = [layout.dtype for layout in self.layouts]
        return next((d for d in dtypes if d.kind not in "iub"), dtypes[0] if dtypes else None)

    @cached_property
    def work(self) -> Work | None:
        """The bytes and FLOP of one call; None where no arrays are known."""
        return work(self._call) if self.layouts else None


class Recorder:
    """Keeps the sums of what it is told and, if `kept`, each call."""

    def __init__(self, kept: bool) -> None:
        self.groups: dict[Any, Group] = {}
        self.timed: list[Timed] = []
        self._kept = kept
        self._of_node: dict[int, tuple[Any, Group]] = {}  # by id of a captured node's arguments, which it keeps
        self._pending: list[tuple[Group | None, Told | Launch, int]] = []  # whose marks a GPU has not come to

    def add(self, what: Told | Launch) -> None:
        """A call was made."""
        if isinstance(what, Launch):
            self._pending.append((None, what, what.nodes))
        else:
            group = self._group(what)
            what = what._replace(args=(), kwargs={}, results=None)
            self._pending.append((group, what, 0))

    def _group(self, told: Told) -> Group:
        known = self._of_node.get(id(told.args)) if told.captured and told.args else None
        if known is not None:
            return known[1]
        key = told.op, told.backend, told.captured, key_of(told.args), *map(key_of, told.kwargs.items())
        group = self.groups.get(key)
        if group is None:
            call = Call.of(told.op, told.args, told.kwargs, told.results)
            group = self.groups[key] = Group(call, told.backend, told.captured)
        if told.captured and told.args:
            self._of_node[id(told.args)] = told.args, group
        return group

    def settle(self) -> list[Timed]:
        """Read the times of all that was told since. A GPU must have come to them."""
        found = []
        for group, what, nodes in self._pending:
            clock = what.clock
            begin, end = clock.times(what.begin, what.end)
            parts = []
            if isinstance(what, Told):
                parts = [Part(p.kernel, p.config, *clock.times(p.begin, p.end)) for p in what.parts]
            if group is not None:
                group.add(begin, end, parts)
            found.append(Timed(group, begin, end, parts, nodes))
        self._pending.clear()
        if self._kept:
            self.timed += found
        return found

    @property
    def pending(self) -> int:
        return len(self._pending)

    def clocks(self) -> Iterable[Any]:
        """Those of what is pending."""
        return {id(what.clock): what.clock for _, what, _ in self._pending}.values()

    def by_time(self) -> list[Group]:
        """The slowest first."""
        return sorted(self.groups.values(), key=lambda group: -group.seconds)
