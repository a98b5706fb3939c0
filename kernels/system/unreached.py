"""Work that no Ctrl-C reaches: what it would leave half done could not be made good."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


def unreached(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, done in a thread of its own if the main thread calls it: only there does Python raise for signals.

    For Numba, of which an interrupted import leaves a package that fails ever after, and an interrupted compilation
    half of a function. The main thread waits, and who interrupts it gets on with something else meanwhile; a program
    ends when the work is done.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return function(*args, **kwargs)
        done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def work() -> None:
            try:
                done.put((function(*args, **kwargs), None))
            except BaseException as error:  # raised where it was called
                done.put((None, error))

        try:
            threading.Thread(target=work, name="tilegrad-unreached").start()
        except (RuntimeError, MemoryError):  # no more threads can be started
            work()
        result, error = done.get()
        if error is not None:
            raise error
        return result

    return call
