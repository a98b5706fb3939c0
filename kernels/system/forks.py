"""A process that forks while other threads are at work: its child has their locks, but not the threads.

What another thread is in the middle of when Numba compiles, or when a backend is imported, has no meaning in the child
half done, so a fork waits until it is done: it takes those locks first, in the order in which threads take them. The
locks of our objects guard a few steps each, between none of which anything is half done: the child gets new ones.
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
    """From now on a fork waits; called before a backend is imported, and `loading` taken.

    What was registered last goes first before a fork. Numba logs while it compiles, so its locks have to be taken
    before those that these two take for a fork, and they are imported before.
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
