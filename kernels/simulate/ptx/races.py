"""Two threads that meet in a byte of global memory, one of them writing, with nothing that orders them: a race.

PTX ISA 8 (memory consistency model). Threads of a block are ordered by bar.sync, those of a warp by bar.warp.sync too.
Threads of two blocks are not ordered within a launch, but by a release of the one and an acquire of the other
(releases.py). Strong operations (atom, red, volatile) do not race with each other while their scope takes in both
threads. Lanes of one warp that store one value in one instruction do not race.

A touch is known by its stamp: the time, counted in barriers, and the thread. Of reads and of strong operations, which
need not be in an order, two are kept for each cell: the last one, and another that is not ordered before it, of another
block if there is one. So a write that races with any of them races with one of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilegrad.kernels.simulate.ptx.machine import WHO_BLOCK, WHO_WARP, Machine, place

if TYPE_CHECKING:
    from tilegrad.kernels.simulate.ptx.releases import Releases

TIME = 34  # a stamp: the time from this bit on, below it the thread (Machine.who)
WHO = (1 << TIME) - 1
_BLOCKS, _WARPS = WHO >> WHO_BLOCK << WHO_BLOCK, WHO >> WHO_WARP << WHO_WARP  # which bits say the block, or the warp
READ, WRITE, STRONG_READ, STRONG_WRITE = range(4)
_CONFLICTS = {
    READ: (WRITE, STRONG_WRITE),
    WRITE: (READ, WRITE, STRONG_READ, STRONG_WRITE),
    STRONG_READ: (WRITE,),
    STRONG_WRITE: (READ, WRITE),
}
_DID = {READ: "read it", WRITE: "wrote it", STRONG_READ: "read it", STRONG_WRITE: "changed it atomically"}

_WIDEST = 16  # bytes: the widest access of one thread
_NARROW = "changed it atomically, one of them with the scope of its block"


class Races:
    """The touches of a piece of global memory, by the cell: as many bytes as the narrowest access so far.

    start   address of its first byte
    stop    address behind its last byte
    """

    def __init__(self, start: int, stop: int, releases: Releases | None) -> None:
        self.cell, self.base, self.releases = _WIDEST, start // _WIDEST * _WIDEST, releases
        self.cells = -(-(stop - self.base) // _WIDEST)
        self._last: dict[int, np.ndarray] = {}  # by kind of touch; absent where there was none
        self._other: dict[int, np.ndarray] = {}
        self._narrow: np.ndarray | None = None  # the last strong write of the scope of a block

    def touch(self, m: Machine, addresses: np.ndarray, size: int, kind: int, narrow: bool = False) -> np.ndarray:
        """The active lanes touch `size` bytes each. Raises Fault for a race; gives the cells (lanes, n).

        narrow   of a strong one: whether its scope is the block
        """
        if size < self.cell:
            self._split(size)
        cells = ((addresses - np.uint64(self.base)) // np.uint64(self.cell)).astype(np.intp)[:, None]
        if size > self.cell:
            cells = cells + np.arange(size // self.cell)
        stamps = self._stamps(m)
        for other in _CONFLICTS[kind]:
            for seen in (self._last.get(other), self._other.get(other)):
                if seen is not None:
                    self._check(m, cells, seen[cells], stamps, _DID[other])
        if kind >= STRONG_READ:
            self._check_scopes(m, cells, stamps, narrow)
        last = self._of(self._last, kind)
        if kind == WRITE:  # writes come one after another, or they race
            last[cells] = stamps
            return cells
        self._keep(m, cells, last[cells], stamps, kind)
        last[cells] = stamps
        now = last[cells]
        self._keep_lost(cells, now, stamps, kind)
        if kind == STRONG_WRITE and narrow:
            self._refuse(m, cells, (now ^ stamps) & _BLOCKS != 0, now, _NARROW)
            self._narrow = np.zeros(self.cells, np.int64) if self._narrow is None else self._narrow
            self._narrow[cells] = stamps
        return cells

    def _split(self, size: int) -> None:
        """Cells of that size from now on: what touched a cell touched all of its parts."""
        parts, self.cell = self.cell // size, size
        self.cells *= parts
        for by_kind in (self._last, self._other):
            for kind, seen in by_kind.items():
                by_kind[kind] = np.repeat(seen, parts)
        self._narrow = None if self._narrow is None else np.repeat(self._narrow, parts)

    def together(self, m: Machine, cells: np.ndarray, kept: Callable[[], list[Any]]) -> None:
        """After a write: raises Fault if lanes met in it. `kept` says whether memory is what each lane wrote."""
        stamps, now = self._stamps(m), self._last[WRITE][cells]
        met = now != stamps
        if met.any():
            met &= ~np.all(kept(), 0)[:, None] | ((now ^ stamps) & _WARPS != 0)
            self._refuse(m, cells, met, now, "wrote it in the same instruction")

    def _stamps(self, m: Machine) -> np.ndarray:
        """(lanes, 1): those of the active lanes now."""
        who = m.who if m.active is None else m.who[m.active]
        return (who | m.shared.time << TIME)[:, None]

    def _check(self, m: Machine, cells: np.ndarray, before: np.ndarray, stamps: np.ndarray, did: str) -> None:
        if before.any() and (before != stamps).any():  # mostly nobody was here, or the same thread
            unordered = self._unordered(m, before, stamps)
            if unordered.any():
                if self.releases is not None:
                    unordered = self.releases.unordered(m, before, unordered)
                self._refuse(m, cells, unordered, before, did)

    def _check_scopes(self, m: Machine, cells: np.ndarray, stamps: np.ndarray, narrow: bool) -> None:
        """A scope that does not take in both threads makes strong operations race like others."""
        for seen in (self._narrow, self._last.get(STRONG_WRITE) if narrow else None):
            if seen is not None:
                before = seen[cells]
                apart = (before != 0) & ((before ^ stamps) & _BLOCKS != 0)
                self._refuse(m, cells, apart, before, _NARROW)

    def _unordered(self, m: Machine, before: np.ndarray, stamps: np.ndarray) -> np.ndarray:
        """Which of these touches are another thread's, and not ordered before what the active lanes do now."""
        apart = (before ^ stamps) & WHO
        differs = (before != 0) & (apart != 0)
        if differs.any():
            lanes, time = m.lanes_now(), before >> TIME
            ordered = (apart & _BLOCKS == 0) & (time < m.shared.met[m.block_of[lanes]][:, None])
            ordered |= (apart & _WARPS == 0) & (time < m.shared.warp_met[m.warp_of[lanes]][:, None])
            differs &= ~ordered
        return differs

    def _keep(self, m: Machine, cells: np.ndarray, before: np.ndarray, stamps: np.ndarray, kind: int) -> None:
        """What was the last touch becomes the other one, where the new one is not ordered behind it."""
        if before.any() and (before != stamps).any():
            kept = self._unordered(m, before, stamps)
            if kept.any():
                other = self._of(self._other, kind)
                known = other[cells]
                kept &= (known == 0) | ((known ^ stamps) & _BLOCKS == 0)
                other[cells[kept]] = before[kept]

    def _keep_lost(self, cells: np.ndarray, now: np.ndarray, stamps: np.ndarray, kind: int) -> None:
        """Of lanes that touch a cell at once, one is the last one and one the other."""
        lost = now != stamps
        if lost.any():
            other, mine = self._of(self._other, kind), np.broadcast_to(stamps, cells.shape)
            near, known = (now ^ stamps) & _BLOCKS == 0, other[cells]
            near &= (known == 0) | ((known ^ stamps) & _BLOCKS == 0)  # another block's stays
            for which in (lost & near, lost & ((now ^ stamps) & _BLOCKS != 0)):
                other[cells[which]] = mine[which]

    def _of(self, by_kind: dict[int, np.ndarray], kind: int) -> np.ndarray:
        if kind not in by_kind:
            by_kind[kind] = np.zeros(self.cells, np.int64)
        return by_kind[kind]

    def _refuse(self, m: Machine, cells: np.ndarray, wrong: np.ndarray, before: np.ndarray, did: str) -> None:
        if not wrong.any():
            return
        at, k = (int(n[0]) for n in np.nonzero(wrong))
        who, lane = int(before[at, k]) & WHO, int(m.lanes_now()[at])
        block, thread = place(who >> WHO_BLOCK, m.grid), place(who & (1 << WHO_BLOCK) - 1, m.block)
        same = who >> WHO_BLOCK == m.first + int(m.block_of[lane])
        where = m.memory.name(int(cells[at, k]) * self.cell + self.base)
        between = "no barrier between" if same else "nothing orders two blocks"
        m.fault(lane, f"{where}: a race with block {block}, thread {thread}, which {did}; {between}")
