"""Ctrl-C at the end of a step, where a training can be saved whole."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Interrupt:
    """Within the `with` block the first Ctrl-C sets `asked`, and the program goes on until it looks. A second one
    raises KeyboardInterrupt at once, as it does outside of the block."""

    asked = False

    def __enter__(self) -> Interrupt:
        self.before: Any = signal.getsignal(signal.SIGINT)
        if self.before is not signal.SIG_IGN:  # as it is in what a script has put in the background
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)
        if self.asked and kind is None:  # it came after the last look
            raise KeyboardInterrupt

    def _ask(self, signal_number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self.before)
