"""Where the rows of a recurrent layer's steps lie, and what was before each of them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

Sizes = tuple[int, ...]  # how many rows each step has


class Step(NamedTuple):
    """One step's rows, and those of the step that went before."""

    first: int
    rows: int
    before: int  # where the rows of the step before begin
    known: int  # how many of the rows have one; the others come from h0 and c0


@lru_cache(maxsize=64)
def steps_of(sizes: Sizes, reverse: bool) -> tuple[Step, ...]:
    """The steps in the order that the layer goes in."""
    firsts = [0]
    for n in sizes:
        firsts.append(firsts[-1] + n)
    order = list(range(len(sizes)))
    if reverse:
        order.reverse()
    found, before, known = [], 0, 0
    for t in order:
        found.append(Step(firsts[t], sizes[t], before, min(known, sizes[t])))
        before, known = firsts[t], sizes[t]
    return tuple(found)


def states_before(sizes: Sizes, reverse: bool) -> np.ndarray:
    """int64 (N,): where the state before each row's step is among the rows of h0 and then y: of (B + N, H)."""
    start = sizes[0]
    found = np.empty(sum(sizes), np.int64)
    for first, rows, before, known in steps_of(sizes, reverse):
        found[first : first + known] = np.arange(start + before, start + before + known)
        found[first + known : first + rows] = np.arange(known, rows)
    return found
