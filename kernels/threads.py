"""The threads of the CPU kernels: one pool, and one owner of the cores at a time.

The kernels release the GIL, so plain Python threads serve: a call is cut into as many contiguous parts as there are
threads, the caller computes the first one. Numba's own layers were passed over: GNU OpenMP forbids fork, the work
queue forbids two callers, TBB is one more package; and a parallel function takes seconds to compile. Handing a part to
a second thread and waiting for it costs 31 to 53 microseconds here, most of it the system's waking of the thread, so
that a kernel is shared out only from about twice that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

_count = 0
_queues: list[SimpleQueue] = []
_lock = threading.Lock()


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


WORTH_SHARING = 1 << 20  # bytes moved by a kernel that memory bounds: some 90 microseconds of one core


def parallel(kernel: Callable[..., None], most: int, items: int, *arguments: Any) -> None:
    """Share range(items) out: kernel(*arguments, start, stop, i) for the i-th of at most `most` contiguous pieces.

    There are as many pieces as threads, and no empty one. An exception in a piece is raised here once all have ended.
    """
    pieces = min(num_threads(), most, items)
    if pieces <= 1:
        kernel(*arguments, 0, items, 0)
        return
    bounds = [items * i // pieces for i in range(pieces + 1)]
    queues = _workers(pieces - 1)
    done: SimpleQueue = SimpleQueue()
    for i in range(1, pieces):
        queues[i - 1].put((kernel, (*arguments, bounds[i], bounds[i + 1], i), done))
    error = None
    try:
        kernel(*arguments, 0, bounds[1], 0)
    except BaseException as raised:
        error = raised
    for _ in range(1, pieces):
        error = done.get() or error
    if error is not None:
        raise error


def _workers(n: int) -> list[SimpleQueue]:
    """The queues of at least n running threads."""
    if len(_queues) < n:
        with _lock:
            while len(_queues) < n:
                queue: SimpleQueue = SimpleQueue()
                threading.Thread(target=_work, args=(queue,), name="tilegrad-kernels", daemon=True).start()
                _queues.append(queue)
    return _queues


def _work(queue: SimpleQueue) -> None:
    while True:
        kernel, arguments, done = queue.get()
        error = None
        try:
            kernel(*arguments)
        except BaseException as raised:
            error = raised
        done.put(error)
        del kernel, arguments, done, error  # an idle thread keeps no array alive


def _forget() -> None:
    """In a forked child there are no threads: start anew."""
    global _lock
    _queues.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
