"""Frameworks on the engine, such as Keras: packages whose code a captured function calls, and whose objects have the
state.

Their code is not read. It is long, and what it reads is in the objects: all of that is noted, but for what
calling an object changes.
"""

from __future__ import annotations

import functools
from types import FunctionType, MethodType
from typing import Any, NamedTuple


class Framework(NamedTuple):
    """What is known of one.

    kinds    the classes of objects that are looked into, wherever one is found, each with the attributes that count; ()
             are all
    free     attributes that do not count: a call changes them, or none reads them
    methods  what the framework calls on objects, where a class of the program's own defines it
    """

    kinds: dict[type, tuple[str, ...]]
    free: frozenset[str]
    methods: tuple[str, ...]

    def state(self, x: Any) -> dict[str, Any]:
        """The attributes of such an object that count."""
        names = next(names for kind, names in self.kinds.items() if isinstance(x, kind))
        return {key: value for key, value in vars(x).items() if (key in names if names else key not in self.free)}

    def leads_on(self, value: Any) -> bool:
        """Whether an attribute is, or holds, a function or another such object."""
        if isinstance(value, (*self.kinds, FunctionType, MethodType, functools.partial)):
            return True
        if isinstance(value, dict):
            return any(map(self.leads_on, value.values()))
        return isinstance(value, (list, tuple, set)) and any(map(self.leads_on, value))


KNOWN: dict[str, Framework] = {}  # by the name of the package; each registers itself when it is imported


def framework_of(x: Any) -> Framework | None:
    """The framework that x is an object of."""
    return next((each for each in KNOWN.values() if isinstance(x, tuple(each.kinds))), None)
