"""Work that Ctrl-C must not interrupt, because what it leaves half done stays broken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


def unreached(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; called by the main thread, it runs in a thread of its own. Python raises for signals only in the
    main thread.

    Made for Numba: an interrupted import leaves a package that fails from then on, an interrupted compilation half of a
    function. The main thread waits and can be interrupted; the work goes on meanwhile, and the program ends after it.
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
