"""Whether ops record themselves: of each thread, as a setting or within a block.

Ctrl-C between any two steps leaves a block or has not entered it: kernels/system/modes.py says how.
"""

from __future__ import annotations

import threading
from _io import _IOBase
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import partial
from inspect import isgeneratorfunction
from operator import attrgetter, delitem, setitem
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

Function = TypeVar("Function", bound=Callable)


class _Mode(threading.local):
    """Of a thread: whether ops record themselves, within each of the blocks that it is in; the last counts."""

    def __init__(self) -> None:
        self.stack = [True]
        self.leave = partial(delitem, self.stack, -1)


of_thread = _Mode()


def is_grad_enabled() -> bool:
    """Whether ops record themselves in this thread."""
    return of_thread.stack[-1]


class _Decorator(ContextDecorator, _IOBase):
    """A grad mode for a `with` block or, as decorator, for each call of a function."""

    closed = True  # type: ignore[assignment]  (as in kernels/system/modes.py)

    def __call__(self, function: Function) -> Function:
        if isgeneratorfunction(function):
            raise TypeError(f"{type(self).__name__}: a generator runs outside it; expected a `with` block inside it")
        return super().__call__(function)


class _Prepared(property):
    """A method without arguments that each object has prepared, in C: attrgetter gives it. `with` looks it up in the
    object; contextlib.ExitStack looks in the class, and calls what it finds there.
    """

    def __call__(self, of: Any) -> Any:
        return self.__get__(of)()


class _Setting(_Decorator):
    """What set_grad_enabled returns."""

    if TYPE_CHECKING:

        def __enter__(self) -> None: ...
    else:
        __enter__ = _Prepared(attrgetter("enter"))

    def __init__(self, mode: bool) -> None:
        stack = of_thread.stack
        self.mode = mode
        self.enter = partial(setitem, stack, -1, mode)
        self.close = partial(setitem, stack, -1, stack[-1])

    def __call__(self, function: Function) -> Function:
        self.close()  # a decorator acts within its function only
        return super().__call__(function)

    def _recreate_cm(self) -> _Setting:
        return set_grad_enabled(self.mode)  # each call of a decorated function has its own: threads are apart


def set_grad_enabled(mode: bool) -> _Setting:
    """Turn recording on or off: as a call for all that follows, or as a `with` block or decorator."""
    block = _Setting(mode)
    of_thread.stack[-1] = mode  # no call from here to within the block
    return block


class _Switch(_Decorator):
    mode: bool
    if TYPE_CHECKING:

        def close(self) -> None: ...
    else:
        close = property(partial(getattr, of_thread, "leave"))  # of the thread that leaves the block

    @overload
    def __new__(cls, function: None = None) -> Self: ...
    @overload
    def __new__(cls, function: Function) -> Function: ...
    def __new__(cls, function: Callable | None = None) -> Any:
        """A grad mode, or as bare `@no_grad` the decorated function."""
        return super().__new__(cls) if function is None else cls()(function)

    def _recreate_cm(self) -> _Switch:
        return type(self)()  # as above

    def __enter__(self) -> None:
        stack = of_thread.stack
        stack += (self.mode,)


class no_grad(_Switch):
    """Within this block (or decorated function) nothing is recorded."""

    mode = False


class enable_grad(_Switch):
    """Within this block (or decorated function) ops are recorded, also inside no_grad."""

    mode = True
