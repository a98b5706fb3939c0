"""What a captured function read of the host program and must find as it was: names, attributes, whole containers.

engine/captured/closure.py finds it. It is noted before the function runs, for that is when a launch is asked for. What
the function itself has changed by its end no launch would change: `settle` refuses it, `restore` takes it back.

Asked at every launch, so in C loops: first whether all are the very objects that they were. A number, a string, a bool,
None, or a tuple of these, may be another object that looks the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, repeat
from operator import eq, is_
from typing import Any, NamedTuple

import numpy as np

from tilegrad import capture_hooks
from tilegrad.autograd.record import Node
from tilegrad.kernels.capture.planned import PlannedError
from tilegrad.tensor import Tensor, wrap

MISSING: Any = object()
PLAIN = (int, float, complex, str, bytes, type(None), type(...), np.generic, np.dtype, range, slice)

_flat = chain.from_iterable


def is_plain(x: Any) -> bool:
    """Whether x is a value without parts that could change."""
    return isinstance(x, PLAIN) or (type(x) is tuple and all(map(is_plain, x)))


def _alike(a: Any, b: Any) -> bool:
    """Whether nothing can tell one from the other: 0.0 and -0.0, 1 and True are different."""
    return a is b or (type(a) is type(b) and is_plain(a) and repr(a) == repr(b))


def _get(x: Any, name: str) -> Any:
    try:
        return getattr(x, name, MISSING)
    except ValueError:  # an empty cell
        return MISSING


class _Slot(NamedTuple):
    """One value, and by what name and where the program reads it."""

    owner: Any
    key: Any
    value: Any
    name: str
    place: str
    of_dict: bool = True

    def put(self, value: Any) -> None:
        """Have the program find this one there, or nothing if it is MISSING."""
        if self.of_dict:
            _put(self.owner, self.key, value)
        elif value is MISSING:
            delattr(self.owner, self.key)
        else:
            setattr(self.owner, self.key, value)


def _is_counted(slot: _Slot) -> bool:
    """Whether `capture_hooks.moves` tells of a change: the hooks of a tensor, which come by one door."""
    return isinstance(slot.owner, (Tensor, Node)) and slot.key in ("_hooks", "hooks")


class _Whole(NamedTuple):
    """All that a container holds.

    keys            of a dict, in order; of a set, what it holds
    free            keys of what the function itself may change
    has_fixed_keys  of a dict: while it has as many values, the same ones in order, it has the same keys
    is_late         the function was running already
    """

    container: Any
    keys: Any
    values: list[Any]
    name: str
    place: str
    free: tuple[str, ...]
    has_fixed_keys: bool
    is_late: bool


class Guard:
    """What the account of one function found."""

    def __init__(self) -> None:
        self.is_running = False
        self._items: dict[Any, _Slot] = {}  # of dicts
        self._attributes: dict[Any, _Slot] = {}
        self._wholes: dict[int, _Whole] = {}
        self._stored: dict[Any, _Slot] = {}  # of dicts and cells, where code puts something
        self._wanting: dict[int, tuple[Tensor, bool]] = {}  # by id, whether a tensor required grad
        self._switched: list[tuple[dict[Any, Any], Any, Any]] = []  # modes, as the function left them
        self._put_down: list[tuple[_Slot, Tensor, bool]] = []  # tensors, and whether the graph makes them
        self._freeze((), (), ())

    # --- while the function is captured

    def item(self, owner: dict[Any, Any], key: Any, name: str, place: str = "") -> Any:
        """Note owner[key], which may be MISSING; returns it."""
        value = dict.get(owner, key, MISSING)
        self._items.setdefault((id(owner), key), _Slot(owner, key, value, name, place))
        self._met(value)
        return value

    def attribute(self, x: Any, key: str, name: str, place: str = "") -> Any:
        """Note x.key, which may be MISSING; returns it."""
        value = _get(x, key)
        self._attributes.setdefault((id(x), key), _Slot(x, key, value, name, place, of_dict=False))
        self._met(value)
        return value

    def stored(self, owner: Any, key: Any) -> None:
        """Note that code puts something by this key, or name of a cell, and does not read it there."""
        of_dict = isinstance(owner, dict)
        value = dict.get(owner, key, MISSING) if of_dict else _get(owner, key)
        self._stored.setdefault((id(owner), key), _Slot(owner, key, value, str(key), "", of_dict))

    def whole(
        self, x: Any, name: str, place: str = "", free: tuple[str, ...] = (), has_fixed_keys: bool = False
    ) -> None:
        """Note everything in a dict, a list or deque, or a set."""
        if id(x) in self._wholes:
            return
        keys = tuple(x) if isinstance(x, dict) else set(x) if isinstance(x, set) else None
        values = list(x.values() if isinstance(x, dict) else () if isinstance(x, set) else x)
        self._wholes[id(x)] = _Whole(x, keys, values, name, place, free, has_fixed_keys, self.is_running)
        for value in values:
            self._met(value)

    def _met(self, value: Any) -> None:
        if isinstance(value, Tensor) and not self.is_running:
            self._wanting.setdefault(id(value), (value, value._requires_grad))

    def wanted(self, tensor: Tensor) -> bool:
        """Whether the tensor required grad when the function was called, as far as that is known."""
        return self._wanting.get(id(tensor), (tensor, tensor._requires_grad))[1]

    # --- when it has returned, or raised

    def settle(self, is_read: Callable[[Tensor], bool], is_made: Callable[[Tensor], bool]) -> None:
        """Keep what is as it was, for `holds` to ask.

        What the function has changed is refused (PlannedError), but for two kinds: the mode of a module, and a tensor
        that it put in a place that it has not read. Each launch leaves these as the function does.
        """
        self._put_down.clear()

        def kept(slot: _Slot, now: Any) -> bool:
            if _alike(now, slot.value):
                return True
            if not (isinstance(now, Tensor) and isinstance(slot.value, Tensor)) or is_read(slot.value):
                what = "is changed by the function that reads it, which no launch does again"
                raise PlannedError(f"{what}; expected a tensor that is written to in place", slot.name, slot.place)
            self._put_down.append((slot, now, is_made(now)))
            return False

        items = [slot for slot in self._items.values() if kept(slot, slot.owner.get(slot.key, MISSING))]
        attributes = [slot for slot in self._attributes.values() if kept(slot, _get(slot.owner, slot.key))]
        wholes = []
        for whole in self._wholes.values():
            if _is_whole(whole):
                wholes.append(whole)
                continue
            x = whole.container
            if not isinstance(x, dict):
                kept(_Slot(x, None, whole.values, whole.name, whole.place), MISSING)
            before = dict(zip(whole.keys, whole.values))
            for key in {**before, **x}:
                slot, now = (
                    _Slot(x, key, before.get(key, MISSING), f"{whole.name}.{key}", whole.place),
                    x.get(key, MISSING),
                )
                if key in whole.free and now is not slot.value:
                    if whole.is_late:
                        continue  # what it was when the function was called is not known
                    self._switched.append((x, key, now))
                    items.append(slot)
                elif kept(slot, now):
                    items.append(slot)
            wholes.append(whole._replace(keys=tuple(x), values=[], has_fixed_keys=False))
        known = {(id(slot.owner), slot.key) for slot, *_ in self._put_down}
        for place, slot in self._stored.items():
            now = dict.get(slot.owner, slot.key, MISSING) if slot.of_dict else _get(slot.owner, slot.key)
            if isinstance(now, Tensor) and now is not slot.value and place not in known:
                self._put_down.append((slot, now, is_made(now)))
        self._freeze(items, attributes, wholes)

    def restore(self) -> None:
        """Everything as it was before the function ran."""
        for owner, key, value, *_ in self._items.values():
            _put(owner, key, value)
        for owner, key, value, *_ in self._attributes.values():
            if _get(owner, key) is not value:
                delattr(owner, key) if value is MISSING else setattr(owner, key, value)
                capture_hooks.moved()
        for whole in self._wholes.values():
            x = whole.container
            if isinstance(x, dict):
                content = dict(zip(whole.keys, whole.values))
                for key in {**content, **x}:
                    if not (whole.is_late and key in whole.free):
                        _put(x, key, content.get(key, MISSING))
            elif not _is_whole(whole):
                x.clear()
                x.update(whole.keys) if isinstance(x, set) else x.extend(whole.values)
        for tensor, wanting in self._wanting.values():
            tensor._requires_grad = wanting
            capture_hooks.moved()

    # --- afterwards

    def _freeze(self, items: Iterable[_Slot], attributes: Iterable[_Slot], wholes: Iterable[_Whole]) -> None:
        """What `holds` asks, in lists side by side."""
        items, attributes = list(items), list(attributes)
        self._owners, self._keys = [x.owner for x in items], [x.key for x in items]
        self._members = [x.value for x in items]
        self._hooked = [x for x in attributes if _is_counted(x)]
        self._moves = -1  # when these were found as they must be
        attributes = [x for x in attributes if not _is_counted(x)]
        self._objects, self._names = [x.owner for x in attributes], [x.key for x in attributes]
        self._found = [x.value for x in attributes]
        self._empty = [x.container for x in wholes if not x.container]
        wholes = [x for x in wholes if x.container]
        sets = [x for x in wholes if isinstance(x.container, set)]
        self._sets, self._copies = [x.container for x in sets], [x.keys for x in sets]
        contents: list[tuple[Any, Any]] = []  # what is iterated over, and what it must give
        self._dicts, self._dict_keys = [], []
        for x in wholes:
            is_dict = isinstance(x.container, dict)
            if is_dict and not x.has_fixed_keys:
                if all(map(is_plain, x.keys)):
                    self._dicts.append(x.container)
                    self._dict_keys.append(x.keys)
                else:  # tensors cannot be compared
                    contents.append((x.container, x.keys))
            if x.values:
                contents.append((x.container.values() if is_dict else x.container, x.values))
        self._contents, self._lengths = [content for content, _ in contents], [len(values) for _, values in contents]
        self._values = [value for _, values in contents for value in values]
        self._all = [*self._values, *self._members, *self._found]

    def close(self) -> None:
        """Nothing else will be taken back: what was put down, for it is the launch that does so."""
        for slot, *_ in self._put_down:
            slot.put(slot.value)
        for kept in (self._items, self._attributes, self._wholes, self._stored, self._wanting):
            kept.clear()

    def holds(self) -> bool:
        """Whether everything is as it was."""
        if any(self._empty) or list(map(len, self._contents)) != self._lengths:
            return False
        now = capture_hooks.moves
        if now != self._moves:
            if not all([getattr(x.owner, x.key) is x.value for x in self._hooked]):
                return False
            self._moves = now
        if self._dicts and not all(map(eq, map(tuple, self._dicts), self._dict_keys)):
            return False
        if self._sets and not all(map(eq, self._sets, self._copies)):
            return False
        try:
            items = map(dict.get, self._owners, self._keys, repeat(MISSING))
            attributes = map(getattr, self._objects, self._names, repeat(MISSING))
            if all(map(is_, chain(_flat(self._contents), items, attributes), self._all)):
                return True
        except ValueError:  # an empty cell
            pass
        return self._looks_alike()

    def _looks_alike(self) -> bool:
        """As `holds`, of values that are not all the same objects; those that look the same are known from then on."""
        values, found = list(_flat(self._contents)), list(map(_get, self._objects, self._names))
        members = list(map(dict.get, self._owners, self._keys, repeat(MISSING)))
        alike = (
            len(values) == len(self._values)
            and all(map(_alike, values, self._values))
            and all(map(_alike, members, self._members))
            and all(map(_alike, found, self._found))
        )
        if alike:
            self._values, self._members, self._found = values, members, found
            self._all = [*values, *members, *found]
        return alike

    def switch(self) -> None:
        """A launch has been told: modules are in the mode, and tensors in the places, that the function leaves.

        A tensor that the graph makes is put down as a copy: the next launch writes its memory again.
        """
        for container, key, value in self._switched:
            container[key] = value
        for slot, tensor, is_made in self._put_down:
            slot.put(wrap(tensor._data.copy(order="K")) if is_made else tensor)


def _put(owner: dict[Any, Any], key: Any, value: Any) -> None:
    if dict.get(owner, key, MISSING) is not value:
        if value is MISSING:
            del owner[key]
        else:
            owner[key] = value


def _is_whole(whole: _Whole) -> bool:
    """Whether the container holds what it held."""
    x = whole.container
    if isinstance(x, set):
        return x == whole.keys
    keys, values = (list(x), list(x.values())) if isinstance(x, dict) else ([], list(x))
    now, before = [*keys, *values], [*(whole.keys or ()), *whole.values]
    return len(now) == len(before) and all(map(_alike, now, before))
