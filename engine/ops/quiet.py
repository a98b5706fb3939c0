"""Division by zero, overflow and invalid values give inf and nan without a warning, as in PyTorch."""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

import numpy as np


def _what_errstate_sets() -> list[tuple[ContextVar[Any], Any]]:
    """The context variables that `np.errstate(all="ignore")` changes, with the values that it gives them."""
    outside = copy_context()
    with np.errstate(all="ignore"):
        inside = copy_context()
    return [(variable, value) for variable, value in inside.items() if outside.get(variable) is not value]


_changed = _what_errstate_sets()
if len(_changed) == 1:
    _variable, _value = _changed[0]
    _set, _reset = _variable.set, _variable.reset

    class quiet:
        """`np.errstate(all="ignore")` in a third of its time, which every op pays: that makes the value anew."""

        __slots__ = ("_token",)

        def __enter__(self) -> None:
            self._token = _set(_value)

        def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
            _reset(self._token)

else:  # a NumPy that keeps it elsewhere
    quiet = partial(np.errstate, all="ignore")  # type: ignore[assignment,misc]
