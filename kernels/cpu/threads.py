"""The threads of the CPU kernels: how many there are, and the team that helps whoever calls one.

The kernels release Python's lock, so plain Python threads serve: they wait in compiled code (kernels/cpu/team.py) for
a millisecond after their last piece, asleep from then on. Numba's own layers were passed over: GNU OpenMP
forbids fork, the work queue forbids two callers, TBB is one more package; and a parallel function takes seconds to
compile. What a shared call costs beyond its work, two threads, microseconds:

    | how a piece is handed over                                            |       |
    | a queue of Python's: the system wakes the thread                      | 31-53 |
    | the thread waits in compiled code, but calls the kernel from Python   | 10-19 |
    | and calls it from there                                               |  2-4  |
"""

from __future__ import annotations

import _thread
import atexit
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.cpu import effects

_MOST = 1024  # threads that may be asked for
_A_CORE = 4  # threads at most for each core, whatever the environment asks for: more only wait for one another

_count = 0
_user: dict[None, object] = {}  # the call that the team helps, if there is one (see `share`)
_team: np.ndarray | None = None
_address = 0  # of the team
_ended = False
_started: list[int] = []  # the threads of the team
_refused = 0  # how many threads there were when the system would not start another one; -1 for none
_alive: list[threading.Lock] = []  # what wakes each of them, as long as it lives
_asleep: list[threading.Lock] = []  # and of those that sleep


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads() -> int:
    """Threads that a kernel may use: as set, else OMP_NUM_THREADS or NUMBA_NUM_THREADS, else the cores there are.

    The environment gets at most four for each core.
    """
    global _count
    if not _count:
        for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
            value = os.environ.get(variable, "").split(",")[0].strip()
            if value.isdecimal() and int(value) > 0:
                _count = min(int(value), _A_CORE * _cores())
                break
        else:
            _count = _cores()
    return _count


def set_num_threads(n: int) -> None:
    """Let kernels use n threads from now on. Raises ValueError unless n >= 1; more than 1024 are not used."""
    global _count, _refused
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"set_num_threads: n is {n!r}; expected an int >= 1")
    _count = min(n, _MOST)
    _refused = 0


WORTH_SHARING = 1 << 17  # bytes that a kernel writes which memory bounds: some 10 to 20 microseconds of one core


def share(kernel: Callable[..., None], most: int, items: int, *arguments: Any) -> None:
    """kernel(*arguments, begin, stop, part, team) for range(items), cut into at most `most` contiguous pieces.

    There are as many pieces as threads, and no empty one. `kernel` is one of kernels/cpu/team.py's kind, and raises
    nothing. Results may depend on what the pieces are, never on which thread does them: while the team helps another
    caller, this one does all of its own.
    """
    program = effects.of_thread.program
    if most <= 1 and program is None:
        kernel(*arguments, 0, items, 0, 0)
        return
    pieces = min(num_threads(), most, items)
    if program is not None:
        program.kernel(kernel, pieces, items, arguments)
        return
    if pieces <= 1:
        kernel(*arguments, 0, items, 0, 0)
        return
    # Whose the team is, is a matter of who is in the dict, so that Ctrl-C between any two steps loses nothing: the
    # `finally` looks whether it is this call, and has no calls of its own, after which an exception could rise.
    me = object()
    try:
        if _user.setdefault(None, me) is me:
            kernel(*arguments, 0, items, pieces, _address_of_team(pieces))
            return
    finally:
        if None in _user and _user[None] is me:
            del _user[None]
    bounds = [items * i // pieces for i in range(pieces + 1)]
    for i in range(pieces):
        kernel(*arguments, bounds[i], bounds[i + 1], i, 0)


def helped(compiled: Callable[[np.ndarray, int], int], calls: np.ndarray) -> int:
    """compiled(calls, address of the team), or compiled(calls, 0) while the team helps another caller."""
    me = object()
    try:
        if num_threads() > 1 and _user.setdefault(None, me) is me:  # as above
            return compiled(calls, _address_of_team(num_threads()))
    finally:
        if None in _user and _user[None] is me:
            del _user[None]
    return compiled(calls, 0)


def _address_of_team(threads: int) -> int:
    """The team, after that many threads, the caller's included, were started, if the system lets them, or woken."""
    if len(_started) < threads - 1:
        _start(threads - 1)
    if _asleep:
        _wake()
    return _address


def _start(most: int) -> None:
    global _team, _address, _refused
    from tilegrad.kernels.cpu.team import new_team

    if _team is None:
        team = new_team()
        _address, _team = team.ctypes.data, team
    while len(_started) < most and (not _refused or len(_started) < _refused):
        try:
            _started.append(_thread.start_new_thread(_work, (_team,)))
        except (RuntimeError, MemoryError):  # no more threads, or no memory for one; those that there are do it all
            _refused = len(_started) or -1
            return


def _wake() -> None:
    """Wake all that sleep. Each takes itself off the list, so that whoever is interrupted here has lost nobody."""
    for wake in tuple(_asleep):
        if wake.locked():
            wake.release()


def _work(team: np.ndarray) -> None:
    """What a thread of the team does. Signals are the main thread's: nothing interrupts this."""
    from tilegrad.kernels.cpu.team import serve

    address = team.ctypes.data
    wake = threading.Lock()
    wake.acquire()
    _alive.append(wake)
    while not _ended:
        serve(address)
        _asleep.append(wake)
        wake.acquire()
        _asleep.remove(wake)
    _alive.remove(wake)


def _end() -> None:
    """Before the interpreter goes, its threads do: callers are alone from now on."""
    global _ended
    me = object()
    while _user.setdefault(None, me) is not me:
        time.sleep(1e-3)
    _ended = True
    if _team is not None:
        from tilegrad.kernels.cpu.team import stop

        stop(_team)
    while _alive:
        _wake()
        time.sleep(1e-4)


def _forget() -> None:
    """In a forked child there are no threads: start anew."""
    global _team, _refused
    _team, _refused = None, 0
    for each in (_user, _started, _alive, _asleep):
        each.clear()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
