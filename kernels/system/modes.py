"""Values that hold within a `with` block, and are taken back whatever interrupts it.

Ctrl-C raises KeyboardInterrupt in the main thread, wherever Python looks for signals: when one of its functions begins,
after a call of one in C, and when a loop goes round. So an `__exit__` that is written in Python may be left before it
has done anything, as may be what contextlib makes of a generator; and a block may not be begun although its `__enter__`
has done everything, if that ended with a call. Here what takes a value back is in C from beginning to end, where Python
does not look: `_IOBase.__exit__` calls self.close(), and that is made of C's functions. And what sets a value is
followed by nothing, or has the way back prepared.
"""

from __future__ import annotations

import sys
from _io import _IOBase
from collections.abc import Callable
from functools import partial
from operator import call
from typing import Any

import numpy as np


class Block(_IOBase):
    """A `with` block within which each setting, (owner, name, value), holds: owner.name is the value.

    among   a list that the block is in as long as it lasts, to count those of all threads
    gives   what `with ... as` names
    quiet   whether NumPy warns of no values within the block
    then    what is called behind the block, where the settings are taken back, unless an exception led there

    It may be entered again when it was left, not within itself.
    """

    closed = True  # type: ignore[assignment]  (else the destructor of _IOBase would close())

    def __init__(
        self,
        *settings: tuple[Any, str, Any],
        among: list[Block] | None = None,
        gives: Any = None,
        quiet: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._among = among
        self._gives = gives
        self._quiet = quiet
        self._then = then

    def __enter__(self) -> Any:
        ways_back: list[Callable[[], None]] = []
        for owner, name, _ in self._settings:
            ways_back.append(partial(setattr, owner, name, getattr(owner, name)))
        among = self._among if self._among is not None else []
        ways_back.append(partial(among.remove, self))
        if self._quiet:
            quiet = np.errstate(all="ignore")
            quiet.__enter__()
            ways_back.append(partial(quiet.__exit__, None, None, None))
        if self._then is not None:
            ways_back.append(partial(self._end, sys.exc_info()[1]))
        # One after the other, as each returns None.
        self.close = partial(any, map(call, ways_back))  # type: ignore[method-assign]
        among += (self,)
        try:
            for owner, name, value in self._settings:
                setattr(owner, name, value)
        except BaseException:
            self.close()
            raise
        return self._gives

    def _end(self, handled_before: BaseException | None) -> None:
        if self._then is not None and sys.exc_info()[1] is handled_before:
            self._then()


class Undone(_IOBase):
    """A `with` block at whose end undo() is called, a function of C that returns None. What is to be undone was done
    before: on entry nothing is, which nothing can interrupt.
    """

    closed = True  # type: ignore[assignment]
    __enter__ = object.__init__  # type: ignore[assignment]

    def __init__(self, undo: Callable[[], None]) -> None:
        self.close = undo  # type: ignore[method-assign]
