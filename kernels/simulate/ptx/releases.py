"""What one thread knows of another's touches of memory without a barrier between: PTX ISA 8.7 to 8.9, 9.7.13 (fence).

A thread releases by an atomic operation behind a fence, or by one that is a .release itself. A thread acquires by an
atomic operation on the same word that comes later, before a fence, or by one that is an .acquire itself. Then what the
first one knew or did before is ordered before what the second one does from then on, and with a barrier before
what those do that meet it there. Each atomic operation on a word passes on what was released there before it.

Only for kernels that have such instructions; each lane is taken by itself.
"""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.simulate.ptx.machine import WHO_BLOCK, Machine
from tilegrad.kernels.simulate.ptx.parse import Instruction
from tilegrad.kernels.simulate.ptx.races import TIME, WHO

# Whose touches before which time are known: of a thread by its number (Machine.who), of a whole block by ~ its number.
_Known = dict[int, int]
ACQUIRES, RELEASES = frozenset(["acquire", "acq_rel"]), frozenset(["release", "acq_rel"])


def is_ordering(instruction: Instruction) -> bool:
    """Whether the instruction orders memory between threads."""
    return instruction.opcode == "membar" or bool(set(instruction.modifiers) & (ACQUIRES | RELEASES | {"sc"}))


class Releases:
    """Of a launch. `wide` says whether the scope of an operation is more than its block."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}  # to a thread
        self._met: dict[int, _Known] = {}  # by a thread's atomic operations; known with its next fence
        self._fenced: dict[int, tuple[_Known, bool]] = {}  # what a thread's atomic operations release, since its fence
        self._words: dict[tuple[int, int | None], _Known] = {}  # released at an address, to all or to a block

    def fence(self, m: Machine, wide: bool) -> None:
        """A fence by the active lanes."""
        m.shared.time += 1
        for lane in m.lanes_now().tolist():
            who = int(m.who[lane])
            _learn(self._known.setdefault(who, {}), self._met.pop(who, {}))
            self._fenced[who] = self._all(m, lane), wide

    def atomic(self, m: Machine, addresses: np.ndarray, order: str, wide: bool) -> None:
        """An atomic operation by the active lanes, one after another."""
        if order in RELEASES:
            m.shared.time += 1
        for lane, address in zip(m.lanes_now().tolist(), addresses.tolist(), strict=True):
            who = int(m.who[lane])
            places = [(address, who >> WHO_BLOCK), (address, None)][: 1 + wide]
            known = self._known.setdefault(who, {}) if order in ACQUIRES else self._met.setdefault(who, {})
            for place in places:
                _learn(known, self._words.get(place, {}))
            if who in self._fenced:
                released, widely = self._fenced[who]
                for place in places[: 1 + widely]:
                    _learn(self._words.setdefault(place, {}), released)
            if order in RELEASES:
                for place in places:
                    _learn(self._words.setdefault(place, {}), self._all(m, lane))

    def meet(self, m: Machine, lanes: np.ndarray) -> None:
        """These threads have met: what each of them knew, all know."""
        together: _Known = {}
        for who in m.who[lanes].tolist():
            _learn(together, self._known.get(who, {}))
        if together:
            for who in m.who[lanes].tolist():
                _learn(self._known.setdefault(who, {}), together)

    def unordered(self, m: Machine, before: np.ndarray, unordered: np.ndarray) -> np.ndarray:
        """Those touches among the unordered ones (lanes, n) that the active lanes do not know of."""
        left, lanes = unordered.copy(), m.lanes_now()
        for at, k in zip(*np.nonzero(unordered), strict=True):
            who, time = int(before[at, k]) & WHO, int(before[at, k]) >> TIME
            known = self._known.get(int(m.who[lanes[at]]), {})
            left[at, k] = time >= max(known.get(who, 0), known.get(~(who >> WHO_BLOCK), 0))
        return left

    def _all(self, m: Machine, lane: int) -> _Known:
        """What a lane knows or did until now."""
        who, block = int(m.who[lane]), int(m.block_of[lane])
        found = dict(self._known.get(who, {}))
        _learn(found, {who: m.shared.time, ~(who >> WHO_BLOCK): int(m.shared.met[block])})
        return found


def _learn(known: _Known, more: _Known) -> None:
    for whose, time in more.items():
        known[whose] = max(known.get(whose, 0), time)
