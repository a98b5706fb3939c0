"""How a loop of NumPy's kind runs over arrays that broadcast: in what order, in how few runs.

A run is the longest stretch over which every operand goes on by one step, which may be 0. So two arrays that lie alike
are one run, and a matrix with a bias has a run for each row. Where rows are short, and all else lies without gaps, the
row is written a few times into a buffer of its own first, so that its runs are long (`filled`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tilegrad.kernels.sizes import cdiv

MOST_OUTER = 4  # dimensions around a run
MOST_OPERANDS = 4  # the result among them
LONG = 1 << 10  # elements of a run whose call costs nothing to speak of
_SHORT = LONG >> 1

Shape = tuple[int, ...]
Strides = tuple[int, ...]


class Walk(NamedTuple):
    """Where the operands of each run begin.

    size     elements of the result
    run      elements of a run; the last one ends with the result
    outer    sizes of the dimensions around it, outermost first
    steps    by operand, the result last: bytes from element to element of a run
    strides  by operand: bytes along each dimension of `outer`
    filled   by operand, the result left out: elements of its row, where a buffer has to hold that several times; else 0
    """

    size: int
    run: int
    outer: Shape
    steps: Shape
    strides: tuple[Strides, ...]
    filled: Shape


def memory_order(strides: Sequence[Strides]) -> list[int]:
    """The axes in the order of memory, outermost first, as NumPy lays out the result of operands with these strides.

    Of two axes the one with the longer strides is outside. Where operands disagree C order wins, as it does where
    strides are equal. A stride of 0, for what is broadcast, has no say.
    """
    inward: list[int] = []
    for axis in reversed(range(len(strides[0]))):
        place = len(inward)
        for i in reversed(range(len(inward))):
            pairs = [(abs(s[axis]), abs(s[inward[i]])) for s in strides if s[axis] and s[inward[i]]]
            if not pairs:
                continue
            if any(mine >= other for mine, other in pairs):
                break
            place = i
        inward.insert(place, axis)
    return inward[::-1]


def walk(shape: Shape, strides: Sequence[Strides], itemsizes: Shape, fill_scalars: bool) -> Walk | None:
    """The runs over operands of these strides, the result's last; None where there are too many dimensions.

    shape    of the result, its axes in the order of memory
    strides  of each operand along the same axes, 0 where it is broadcast
    fill_scalars  whether the loop is slow where an operand is one number
    """
    dims: list[tuple[int, Strides]] = []  # outermost first
    for n, *each in zip(shape, *strides, strict=True):
        if n == 1:
            continue
        if dims and all(outer == n * inner for outer, inner in zip(dims[-1][1], each, strict=True)):
            dims[-1] = dims[-1][0] * n, tuple(each)
        else:
            dims.append((n, tuple(each)))
    if not dims:
        dims = [(1, (0,) * len(strides))]
    size = math.prod(shape)
    long = _filled(size, dims, itemsizes, fill_scalars)
    if long is not None:
        return long
    (run, steps), outer = dims[-1], dims[:-1]
    if len(outer) > MOST_OUTER:
        return None
    along = tuple(tuple([each[k] for _, each in outer]) for k in range(len(strides)))
    return Walk(size, run, tuple([n for n, _ in outer]), steps, along, (0,) * (len(strides) - 1))


def _filled(size: int, dims: list[tuple[int, Strides]], itemsizes: Shape, fill_scalars: bool) -> Walk | None:
    """Longer runs over copies of a short row, or of single numbers; None where nothing is gained or it cannot be."""
    period = dims[-1][0] if len(dims) == 2 else 1
    if len(dims) > 2 or period > _SHORT or size < 2 * LONG:
        return None
    rows, steps = [], []
    for k, itemsize in enumerate(itemsizes):
        inner = dims[-1][1][k]
        outer = dims[0][1][k] if len(dims) == 2 else 0
        if len(dims) == 2 and inner == itemsize and outer == 0:
            rows.append(period)
        elif inner == 0 and outer == 0:
            rows.append(1 if fill_scalars else 0)
        elif inner == itemsize and outer in (0, itemsize * period):
            rows.append(0)
        else:
            return None
        steps.append(itemsize if rows[-1] or inner else 0)
    if not any(rows):
        return None
    run = period * cdiv(LONG, period)
    strides = tuple([(0,) if row or not step else (step * run,) for row, step in zip(rows, steps, strict=True)])
    return Walk(size, run, (cdiv(size, run),), tuple(steps), strides, tuple(rows[:-1]))
