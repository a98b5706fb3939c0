"""Where the arrays of a program lie: those that do not live at the same time share memory.

A program knows all its calls before the first launch, and so the lifetime of each array that only they use: from the
first call that has it among its arguments to the last. An allocator that serves one array after the other keeps blocks
of each size apart. Planned as a whole, the arrays of a residual net's step take 128 MiB of one piece of memory where
blocks took 195.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.capture.extents import address, owner
from tilegrad.kernels.capture.relative import Relative
from tilegrad.kernels.cpu.buffers import LINE
from tilegrad.kernels.sizes import cdiv

_BEYOND = np.iinfo(np.int64).max


class Life(NamedTuple):
    """When an array is in use: the numbers of the first call and of the last one. And its bytes."""

    first: int
    last: int
    nbytes: int


def offsets(lives: list[Life]) -> tuple[list[int], int]:
    """(where each array begins, bytes of all memory): multiples of a cache line's bytes.

    Arrays are placed one after the other, each in the smallest gap between those that live at the same time (Pisarchyk
    and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference": "Greedy by Size for Offset Calculation").
    The order decides how much memory that takes, and no order is the best for every net: of three the best one counts.
    """
    orders = (lambda life: -life.nbytes, lambda life: life.first - life.last, lambda life: life.first)
    return min([_placed(lives, order) for order in orders], key=lambda found: found[1])


def _placed(lives: list[Life], order: Callable[[Life], int]) -> tuple[list[int], int]:
    """`offsets` where the array with the least order(life) is placed first."""
    placed = np.zeros((4, len(lives)), np.int64)  # a column an array: its first call and its last, its bytes' bounds
    found = [0] * len(lives)
    for k, i in enumerate(sorted(range(len(lives)), key=lambda i: order(lives[i]))):
        first, last, nbytes = lives[i]
        nbytes = cdiv(nbytes, LINE) * LINE
        firsts, lasts, *_ = before = placed[:, :k]
        begins, stops = before[2:, (firsts <= last) & (lasts >= first)]
        in_memory = np.argsort(begins)
        gaps_stop = np.append(begins[in_memory], _BEYOND)
        gaps_begin = np.append(0, np.maximum.accumulate(stops[in_memory]))
        sizes = gaps_stop - gaps_begin
        found[i] = int(gaps_begin[np.argmin(np.where(sizes >= nbytes, sizes, _BEYOND))])
        placed[:, k] = first, last, found[i], found[i] + nbytes
    return found, int(placed[3].max(initial=0))


class Piece:
    """Memory that was lent to one array while a program was captured, and to all views of it.

    at      the address that it had then
    nbytes  of the array
    first, last
            the numbers of the first and the last call that use it
    start   the address that it has at launches
    """

    __slots__ = ("at", "nbytes", "first", "last", "start", "_lease")

    def __init__(self, lease: Any, nbytes: int, call: int) -> None:
        self._lease = weakref.ref(lease)
        self.at = self.start = lease.block.address
        self.nbytes = nbytes
        self.first = self.last = call

    @property
    def is_held(self) -> bool:
        """Whether somebody has the array still: then its memory stays where it is, and is its own."""
        return self._lease() is not None


class OnPiece(NamedTuple):
    """An array on a piece, as it lies from the piece's start on."""

    piece: Piece
    array: Relative

    def placed(self) -> np.ndarray:
        """The array where it is at launches."""
        return self.array.at(self.piece.start)


def piece_of(array: np.ndarray, call: int) -> Piece:
    """The piece on which a lent array lies, which that call uses."""
    whole = owner(array)
    lease: Any = whole.base
    piece = getattr(lease, "piece", None)
    if piece is None:
        piece = lease.piece = Piece(lease, whole.nbytes, call)
    piece.last = call
    return piece


def is_used(array: np.ndarray) -> bool:
    """Whether a call uses the piece on which a lent array lies."""
    return hasattr(owner(array).base, "piece")


def planned(pieces: list[Piece]) -> np.ndarray:
    """New memory, on which each of these pieces has its start."""
    places, nbytes = offsets([Life(piece.first, piece.last, piece.nbytes) for piece in pieces])
    memory = np.empty(nbytes + LINE, np.uint8)
    begin = cdiv(address(memory), LINE) * LINE
    for piece, place in zip(pieces, places, strict=True):
        piece.start = begin + place
    return memory
