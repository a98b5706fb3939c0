"""TILEGRAD_DEBUG: what a program's kernels do, without a change to the program.

    1   a table of all calls when the program ends
    2   also a line for each call when it has been made; on a GPU the program waits for each

Calls of the main thread count. Everything goes to the error output.
"""

from __future__ import annotations

import atexit
import sys
from threading import get_ident
from typing import Any

from tilegrad import kernels
from tilegrad.kernels.system.clock import now
from tilegrad.kernels.timing.watch import Launch, Listening, Told
from tilegrad.profiling.recorder import Recorder, Timed
from tilegrad.profiling.table import line, table

_MOST_PENDING = 1 << 12  # marks that a GPU has not been asked about


class _Debug(Listening):
    """From the import of the package to the end of the program."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level
        self._recorder = Recorder(kept=False)
        self._begin = now()

    def told(self, what: Told | Launch) -> None:
        self._recorder.add(what)
        if self._level > 1:
            for timed in self._settle():
                print(line(timed), file=sys.stderr)
        elif self._recorder.pending >= _MOST_PENDING:
            self._settle()

    def _settle(self) -> list[Timed]:
        for clock in self._recorder.clocks():
            clock.settle()
        return self._recorder.settle()

    def report(self) -> None:
        self.close()
        self._settle()
        print(table(self._recorder.by_time(), (now() - self._begin - self.spent) / 1e9), file=sys.stderr)


def begin(asked: str) -> None:
    """Do what the variable's value asks for, from the first op on. Raises ValueError for one that it cannot have."""
    if asked not in ("1", "2"):
        raise ValueError(f"TILEGRAD_DEBUG is {asked!r}; expected 1, 2, or nothing")
    debug, plain, thread = _Debug(int(asked)), kernels.of, get_ident()

    def of(*arrays: Any) -> Any:
        """The first question for a backend. The package is imported by then, so backends can be, in other threads."""
        if get_ident() != thread:
            return plain(*arrays)
        kernels.of = plain
        debug.__enter__()
        atexit.register(debug.report)
        return kernels.of(*arrays)

    kernels.of = of
