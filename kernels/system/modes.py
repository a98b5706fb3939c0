"""Values that hold within a `with` block, and are taken back whatever interrupts it.

Ctrl-C raises KeyboardInterrupt in the main thread wherever Python looks for signals: when a Python function begins,
after a call of a function in C, and when a loop goes round. So an `__exit__` written in Python may be interrupted
before it has done anything; contextlib's are no different. And if an `__enter__` ends with a call, it may be
interrupted when all is done, and the block then never begins. Here a value is taken back in C from beginning to end,
where Python does not look for signals: `_IOBase.__exit__` calls self.close(), which is made of functions in C. And when
a value is set, either nothing comes after it or the way back is prepared.
"""

from __future__ import annotations

import sys
from _io import _IOBase
from collections.abc import Callable
from functools import partial
from operator import call
from typing import TYPE_CHECKING, Any

import numpy as np


class Block(_IOBase):
    """A `with` block within which each setting, (owner, name, value), holds: owner.name is the value.

    among   a list that the block is in as long as it lasts, to count those of all threads
    gives   what `with ... as` names
    quiet   whether NumPy's warnings about values are off within the block
    then    called at the end of the block, when the settings are taken back, unless an exception ended it

    A block may be entered again after its end, but not within itself.
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
    """A `with` block at whose end undo() is called, a function in C that returns None.

    What it undoes was done before the block: the entry itself does nothing, so that nothing can interrupt it.
    """

    closed = True  # type: ignore[assignment]
    if TYPE_CHECKING:

        def __enter__(self) -> None: ...
    else:
        __enter__ = object.__init__

    def __init__(self, undo: Callable[[], None]) -> None:
        self.close = undo  # type: ignore[method-assign]
