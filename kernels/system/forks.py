"""A process that forks while other threads are at work: its child has their locks, but not the threads.

Another thread may be compiling with Numba or importing a backend. Half done, that would stay broken in the child, so a
fork waits for it: it first takes their locks, in the order in which threads take them. The locks of our own objects
guard a few steps each, and nothing is half done between these steps: the child gets new locks.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Iterator
from functools import cache
from typing import Any

loading = threading.RLock()  # held while a backend is imported

_held: list[Any] = []
_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def give_lock(owner: Any) -> None:
    """Let owner._lock be a lock, a new one in each forked child."""
    owner._lock = threading.RLock()
    _owners.add(owner)


def _locks() -> Iterator[Any]:
    yield loading
    compiler = getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)
    if compiler is not None:
        yield compiler
    llvm = getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None)
    llvm = getattr(getattr(llvm, "_lock", None), "_lock", None)
    if llvm is not None:
        yield llvm


def _before() -> None:
    for lock in _locks():
        lock.acquire()
        _held.append(lock)


def _after() -> None:
    while _held:
        _held.pop().release()


@cache
def hold() -> None:
    """Make forks wait from now on. Called before a backend is imported, and before `loading` is taken.

    Before a fork, what was registered last runs first. The two modules imported here take locks for a fork, too. Numba
    logs while it compiles, so its lock has to be taken before theirs, and so they have to be imported before.
    """
    import concurrent.futures.thread
    import logging

    assert concurrent and logging
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)


def _renew() -> None:
    for owner in _owners:
        owner._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
