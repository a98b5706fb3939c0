"""The threads of the CPU kernels: how many there are, and the team that helps whoever calls one.

The kernels release Python's lock, so plain Python threads serve: they wait in compiled code (kernels/share_cpu.py) for
a millisecond after their last piece, asleep from then on. Numba's own layers were passed over: GNU OpenMP
forbids fork, the work queue forbids two callers, TBB is one more package; and a parallel function takes seconds to
compile. What a shared call costs beyond its work, two threads, microseconds:

    | how a piece is handed over                                            |       |
    | a queue of Python's: the system wakes the thread                      | 31-53 |
    | the thread waits in compiled code, but calls the kernel from Python   | 10-19 |
    | and calls it from there                                               |  2-4  |
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.program import recording

_count = 0
_lock = threading.Lock()  # held by the caller whom the team helps
_team: np.ndarray | None = None
_address = 0  # of the team
_ended = False
_workers: list[threading.Thread] = []
_asleep: list[threading.Lock] = []  # what wakes each thread that sleeps


def num_threads() -> int:
    """Threads that a kernel may use: as set, else OMP_NUM_THREADS or NUMBA_NUM_THREADS, else the cores there are."""
    global _count
    if not _count:
        for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
            value = os.environ.get(variable, "").split(",")[0].strip()
            if value.isdigit() and int(value) > 0:
                _count = int(value)
                break
        else:
            _count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _count


def set_num_threads(n: int) -> None:
    """Let kernels use n threads from now on. Raises ValueError unless n >= 1."""
    global _count
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"set_num_threads: n is {n!r}; expected an int >= 1")
    _count = n


WORTH_SHARING = 1 << 17  # bytes that a kernel writes which memory bounds: some 10 to 20 microseconds of one core


def share(kernel: Callable[..., None], most: int, items: int, *arguments: Any) -> None:
    """kernel(*arguments, begin, stop, part, team) for range(items), cut into at most `most` contiguous pieces.

    There are as many pieces as threads, and no empty one. `kernel` is one of kernels/share_cpu.py's kind, and raises
    nothing. Results may depend on what the pieces are, never on which thread does them: while the team helps another
    caller, this one does all of its own.
    """
    pieces = min(num_threads(), most, items)
    recorded = recording()
    if recorded is not None:
        recorded.kernel(kernel, pieces, items, arguments)
    elif pieces <= 1:
        kernel(*arguments, 0, items, 0, 0)
    elif _lock.acquire(blocking=False):
        try:
            kernel(*arguments, 0, items, pieces, _address_of_team(pieces))
        finally:
            _lock.release()
    else:
        bounds = [items * i // pieces for i in range(pieces + 1)]
        for i in range(pieces):
            kernel(*arguments, bounds[i], bounds[i + 1], i, 0)


def play(calls: np.ndarray) -> int:
    """share_cpu.play of calls that a recorder noted, with the team's help unless that is somebody else's."""
    from kernels import share_cpu

    if num_threads() > 1 and _lock.acquire(blocking=False):
        try:
            return share_cpu.play(calls, _address_of_team(num_threads()))
        finally:
            _lock.release()
    else:
        return share_cpu.play(calls, 0)


def _address_of_team(threads: int) -> int:
    """The team, after that many threads, the caller's included, were started or woken."""
    global _team, _address
    if len(_workers) < threads - 1:
        from kernels import share_cpu

        if _team is None:
            _team = share_cpu.new_team()
            _address = _team.ctypes.data
        while len(_workers) < threads - 1:
            worker = threading.Thread(target=_work, args=(_address,), name="tilegrad-kernels", daemon=True)
            _workers.append(worker)
            worker.start()
    while _asleep:
        _asleep.pop().release()
    return _address


def _work(address: int) -> None:
    from kernels.share_cpu import serve

    wake = threading.Lock()
    wake.acquire()
    while not _ended:
        serve(address)
        _asleep.append(wake)
        wake.acquire()


def _end() -> None:
    """Before the interpreter goes, its threads do: callers are alone from now on."""
    global _ended
    _ended = _lock.acquire()
    if _team is not None:
        from kernels.share_cpu import stop

        stop(_team)
    while any(worker.is_alive() for worker in _workers):
        while _asleep:
            _asleep.pop().release()
        for worker in _workers:
            worker.join(1e-3)


def _forget() -> None:
    """In a forked child there are no threads: start anew."""
    global _lock, _team
    _lock = threading.Lock()
    _team = None
    _workers.clear()
    _asleep.clear()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
