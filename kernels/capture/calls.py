"""Calls of compiled kernels, noted as they lie in registers and made again without Python.

A kernel that gets the address of a `Notepad` where it expects a team does no work: it notes its own call there, as a
row of int64 words,

    thunk, begin, stop, pieces, n, guard | n words of arguments, as they lie in registers and on the stack

`play` makes the calls of many rows, one after the other, in one call of compiled code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import typeof_impl

from tilegrad.kernels.capture.planned import Planned, PlannedError, line
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.nanoseconds import nanoseconds
from tilegrad.kernels.cpu.team import MOST_WORDS, RUN, WORDS, address_of, call_piece, read, run_pieces, write
from tilegrad.kernels.system.clock import IS_POSIX, now

_THUNK, _BEGIN, _STOP, _PIECES, _SIZE, _GUARD, _HEAD = range(7)  # the head of a row is the words before the arguments


@typeof_impl.register(Planned)
def _typeof(array: Any, _: Any) -> None:
    """Numba asks for the type of each argument: a function of the user's would compute with what is not there yet."""
    what = "gets an array whose values are not there yet; expected @tilegrad.kernels.primitive above it"
    raise PlannedError(what, "a function compiled by Numba", line())


class Notepad:
    """Where kernels note one call at a time."""

    def __init__(self) -> None:
        self._memory = np.zeros(WORDS + _HEAD + MOST_WORDS, np.int64)
        self._memory[RUN] = address_of(_note)
        self.address = self._memory.ctypes.data

    def take(self) -> np.ndarray:
        """The call that was noted last: a row of int64, as `play` takes it."""
        noted = self._memory[WORDS:]
        size = _HEAD + int(noted[_SIZE])
        assert size > _HEAD, "no call was noted"
        call = noted[:size].copy()
        noted[_SIZE] = 0
        return call


def _note(notepad, thunk, arguments, words, begin, stop, pieces):
    at = notepad + 8 * WORDS
    for i, word in enumerate((thunk, begin, stop, pieces, words, 0)):
        write(at + 8 * i, word)
    for i in range(words):
        write(at + 8 * (_HEAD + i), read(arguments + 8 * i))


def guard(call: np.ndarray, word: np.ndarray) -> None:
    """Have `play` stop behind this call if it leaves the word, int64 (1,), at 0 or above."""
    call[_GUARD] = word.ctypes.data


def words_of(call: np.ndarray, value: int) -> list[int]:
    """Where a call has that value among its arguments."""
    return [_HEAD + word for word in np.flatnonzero(call[_HEAD:] == value).tolist()]


def words_between(calls: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Where calls have an address from first to stop among their arguments."""
    found = np.flatnonzero((calls >= first) & (calls < stop))
    at, heads = 0, []
    while at < len(calls):
        heads += range(at, at + _HEAD)
        at += _HEAD + int(calls[at + _SIZE])
    return np.setdiff1d(found, heads)


def play(calls: np.ndarray) -> int:
    """Make the calls of these rows in order, with the help of the team unless it helps somebody else.

    Returns where the row begins whose guard stopped it, or -1.
    """
    return threads.helped(_play, calls)


def play_timed(calls: np.ndarray) -> tuple[int, list[int]]:
    """As `play`. Returns also when the first call began, in nanoseconds, and when each call ended."""
    stamps = np.zeros(len(calls) // _HEAD + 2, np.int64)
    if IS_POSIX:
        stopped = threads.helped(lambda calls, team: _play_timed(calls, stamps, team), calls)
        return stopped, stamps[1 : 2 + stamps[0]].tolist()
    found, at = [now()], 0
    while at < len(calls):  # from Python, which is a part of the times then
        stop = at + _HEAD + int(calls[at + _SIZE])
        stopped = play(calls[at:stop])
        found.append(now())
        if stopped >= 0:
            return at, found
        at = stop
    return -1, found


@njit(nogil=True, cache=True)
def _play(calls, team):
    at, place = 0, calls.ctypes.data
    while at < len(calls):
        thunk, begin, stop, pieces, words = calls[at], calls[at + 1], calls[at + 2], calls[at + 3], calls[at + 4]
        guard = calls[at + _GUARD]
        _make(thunk, place + 8 * (at + _HEAD), begin, stop, pieces, team)
        if guard and read(guard) >= 0:
            return at
        at += _HEAD + words
    return -1


@njit(nogil=True, cache=True)
def _play_timed(calls, stamps, team):
    """As `_play`. Behind stamps[0], how many calls were made, are the times around them."""
    at, place = 0, calls.ctypes.data
    stamps[1] = nanoseconds()
    while at < len(calls):
        thunk, begin, stop, pieces, words = calls[at], calls[at + 1], calls[at + 2], calls[at + 3], calls[at + 4]
        guard = calls[at + _GUARD]
        _make(thunk, place + 8 * (at + _HEAD), begin, stop, pieces, team)
        stamps[0] += 1
        stamps[1 + stamps[0]] = nanoseconds()
        if guard and read(guard) >= 0:
            return at
        at += _HEAD + words
    return -1


@njit(nogil=True, cache=True)
def _make(thunk, arguments, begin, stop, pieces, team):
    if team and pieces > 1:
        run_pieces(team, thunk, arguments, begin, stop, pieces)
    else:
        items = stop - begin
        for i in range(pieces):
            call_piece(thunk, arguments, begin + items * i // pieces, begin + items * (i + 1) // pieces, i)
