"""What the code of a captured function reads of the host program, found before it runs; engine/captured/guards.py notes
it.

Code says by what names it reads: globals, cells of closures, attributes of them (`config.loss.smoothing`), items by a
constant (`options["p"]`). They are looked up, and what they lead to as well:

    functions   what their own code reads, and the defaults of their arguments; so with methods of the program's
                classes, partials, and what a decorator has wrapped
    modules     all that a Module has, and those below it: members, hyperparameters, hooks, and what its forward reads
    lists, dicts, sets, tuples
                all that they hold
    objects     the attributes that code names. Where code takes an attribute of something that it alone does not tell,
                such as an argument or a result, the name is looked up in all objects that were met
    optimizers  their groups' options that code names; what a step reads of them they say themselves
    objects of a framework
                all that they have (engine/captured/frameworks.py)

An iterator or a stream of random numbers would go on at each call: PlannedError.

Code of tilegrad, NumPy, a framework and Python's own library is not read, and nothing that is computed is followed: a
name that is put together, `globals()`, the clock, a file. Such values stay as they were.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections import deque
from collections.abc import Container, Iterable, Mapping
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import BuiltinMethodType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, cast

import numpy as np

from tilegrad.captured.frameworks import KNOWN, Framework, framework_of
from tilegrad.captured.guards import MISSING, Guard, is_plain
from tilegrad.kernels.capture.planned import PlannedError
from tilegrad.nn.module import Module
from tilegrad.optim.optimizer import Optimizer
from tilegrad.tensor import Tensor

_OURS = {__name__.partition(".")[0]}
_LIBRARIES = {*sys.stdlib_module_names, "numpy", *_OURS}
_WRITES = frozenset(("append", "extend", "insert", "add", "update", "clear"))  # methods that read nothing
_UNASKED = frozenset(("__new__", "__init__", "__repr__", "__str__", "__setattr__", "__delattr__", "__del__"))
_SKIPPED = frozenset(("CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL", "COPY", "RESUME"))
_GLOBALS = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"))
_CELLS = frozenset(("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"))
_STREAMS = ("random", "secrets", "numpy.random")
_UNKNOWN: Any = object()


def _is_of(module: Any, packages: Container[str]) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in packages


def _is_library(x: Any) -> bool:
    """Whether a module, a class or a function is none of the program's own."""
    name = x.__globals__.get("__name__") if isinstance(x, FunctionType) else getattr(x, "__module__", x)
    name = x.__name__ if isinstance(x, ModuleType) else name
    return _is_of(name, _LIBRARIES) or _is_of(name, KNOWN)


def _in_class(cls: type, name: str) -> tuple[Any, type]:
    """(what the class has by that name, MISSING if nothing, the class among its bases that has it)."""
    return next(((vars(c)[name], c) for c in cls.__mro__ if name in vars(c)), (MISSING, cls))


def _is_stream(x: Any) -> bool:
    """Whether x gives something else each time: an iterator, or random numbers of Python's or NumPy's."""
    x = getattr(x, "__self__", x) if isinstance(x, (BuiltinMethodType, MethodType)) else x
    name = x.__name__ if isinstance(x, ModuleType) else type(x).__module__
    return hasattr(type(x), "__next__") or name in _STREAMS or name.startswith("numpy.random.")


class Closure:
    """One function's."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._entered: dict[int, Any] = {}
        self._met: dict[Any, Any] = {}  # by id, what was looked into
        self._objects: dict[int, tuple[Any, str]] = {}  # with a name for each
        self._names: dict[str, str] = {}  # of attributes taken of what is not known, and in what line
        self._texts: dict[str, str] = {}  # all constants of code: names for getattr, keys
        self._optimizers: list[Optimizer] = []
        self._tried: set[tuple[int, str]] = set()
        self._tried_of = (0, 0, 0)  # so many objects, names and texts
        self._place = ""

    def enter(self, fn: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> bool:
        """Find all that fn(*args, **kwargs) reads. Returns False for a module that was entered before."""
        if id(fn) in self._entered:
            return False
        self._entered[id(fn)] = fn
        self._called(fn, args, kwargs or {}, getattr(fn, "__name__", type(fn).__name__))
        while self._tried_of != (known := (len(self._objects), len(self._names), len(self._texts))):
            self._tried_of = known
            asked = [(x, n) for x in self._objects for n in (*self._names, *self._texts) if (x, n) not in self._tried]
            self._tried.update(asked)
            for key, name in asked:
                self._place = self._names.get(name) or self._texts[name]
                x, told = self._objects[key]
                if self._has(x, name) or name in self._texts and name.isidentifier():
                    self._reached(self._attribute(x, name, told), f"{told}.{name}")
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for key in group.keys() & self._texts.keys():
                    self._guard.item(group, key, f"param_groups[...][{key!r}]", self._texts[key])
        return True

    def _has(self, x: Any, name: str) -> bool:
        if name in getattr(x, "__dict__", ()):
            return True
        return _in_class(x if isinstance(x, type) else type(x), name)[0] is not MISSING

    # --- values

    def _reached(self, x: Any, name: str) -> None:
        """Code has x, and may do anything with it."""
        if x is _UNKNOWN or x is MISSING or is_plain(x) or isinstance(x, (Tensor, np.ndarray)) or id(x) in self._met:
            return
        if _is_stream(x):
            what = "goes on at each call of the function, and at no launch; expected an argument instead"
            raise PlannedError(what, name, self._place)
        if isinstance(x, (FunctionType, MethodType, functools.partial)):
            self._called(x, (), {}, name)
            return
        self._met[id(x)] = x
        if isinstance(x, Module):
            self._module(x, name)
        elif isinstance(x, Optimizer):
            self._optimizers.append(x)
        elif (framework := framework_of(x)) is not None:
            self._of_framework(x, framework, name)
            if _is_library(type(x)):
                return
        elif isinstance(x, (dict, list, deque, set)):
            self._guard.whole(x, name, self._place)
            for key, value in list(x.items() if isinstance(x, dict) else enumerate(x)):
                self._reached(value, f"{name}[{key!r}]" if is_plain(key) else name)
        elif isinstance(x, (tuple, frozenset)):
            for value in x:
                self._reached(value, name)
        elif isinstance(x, (ModuleType, type)):
            if _is_library(x):
                return
            if isinstance(x, type):
                self._called(_in_class(x, "__init__")[0], (), {}, name)
        elif "__wrapped__" in getattr(x, "__dict__", ()):
            self._called(x.__wrapped__, (), {}, name)
            return
        if not isinstance(x, (Module, ModuleType, type)):
            for cls in type(x).__mro__:
                for method, function in [] if _is_library(cls) else list(vars(cls).items()):
                    if method.startswith("__") and method not in _UNASKED and isinstance(function, FunctionType):
                        self._called(function, (x,), {}, f"{name}.{method}")  # by Python itself
        if not _is_library(type(x)) or not isinstance(x, Module) and hasattr(x, "__dict__"):
            self._objects[id(x)] = x, name

    def _module(self, x: Module, name: str) -> None:
        is_own = not all(_is_of(cls.__module__, _OURS) or cls is object for cls in type(x).__mro__)
        self._guard.whole(x.__dict__, name, self._place, free=("training",), has_fixed_keys=not is_own)
        for key, value in list(x.__dict__.items()):
            if key == "_books":
                for hooks in (value.hooks, value.pre_hooks):
                    self._guard.whole(hooks, f"{name}'s hooks", self._place)
                    for hook in list(hooks.values()):
                        self._called(hook, (), {}, f"{name}'s hooks")
            elif isinstance(value, Module) or not is_own:
                self._reached(value, f"{name}.{key}")
        for key in ("forward", "__call__"):
            if is_own and _in_class(type(x), key)[1] is not Module:
                self._reached(self._attribute(x, key, name), f"{name}.{key}")

    def _of_framework(self, x: Any, framework: Framework, name: str) -> None:
        for key, value in framework.state(x).items():
            self._guard.item(x.__dict__, key, f"{name}.{key}", self._place)
            if framework.leads_on(value):
                self._reached(value, f"{name}.{key}")
        for key in framework.methods:
            if not _is_library(_in_class(type(x), key)[1]):
                self._reached(self._attribute(x, key, name), f"{name}.{key}")

    def _attribute(self, x: Any, key: str, name: str) -> Any:
        """What x.key is, or _UNKNOWN; noted."""
        if x is _UNKNOWN or x is MISSING or is_plain(x) or isinstance(x, (Tensor, np.ndarray)):
            return _UNKNOWN
        if isinstance(x, Module) or isinstance(x, (dict, list, deque, set)) and key not in _WRITES:
            self._reached(x, name)
        if framework_of(x) is not None or _is_stream(x):
            self._reached(x, name)
        name, place, note = f"{name}.{key}", self._place, self._guard
        if isinstance(x, ModuleType):
            value = vars(x).get(key) if _is_library(x) else note.item(vars(x), key, name, place)
            return _UNKNOWN if _is_library(x) and not isinstance(value, ModuleType) else value
        if isinstance(x, Optimizer) and key == "param_groups":
            self._reached(x, name)
            return _UNKNOWN
        is_class = isinstance(x, type)
        found, owner = _in_class(x if is_class else type(x), key)
        is_own = not _is_library(owner)
        if isinstance(found, property) and not is_class:
            self._called(found.fget, (x,), {}, name)
            return _UNKNOWN
        own = None if is_class else getattr(x, "__dict__", None)
        if isinstance(own, dict):
            if isinstance(x, Module):  # noted as a whole
                value = own.get(key, MISSING)
            elif key in own or is_own or found is MISSING and not _is_of(type(x).__module__, _OURS):
                value = note.item(own, key, name, place)  # also where it is missing: it may be added
            else:
                value = MISSING
            if value is not MISSING:
                return value
        if found is MISSING or not is_own:
            self._called(_in_class(type(x), "__getattr__")[0], (x,), {}, name)
            return getattr(x, key) if isinstance(x, tuple) and key in getattr(x, "_fields", ()) else _UNKNOWN
        if isinstance(found, functools.cached_property):
            self._called(found.func, (x,), {}, name)
            return _UNKNOWN
        if isinstance(found, MemberDescriptorType):
            return _UNKNOWN if is_class else note.attribute(x, key, name, place)
        if isinstance(found, classmethod):
            return MethodType(found.__func__, x if is_class else type(x))
        if "__wrapped__" in getattr(found, "__dict__", ()) and not isinstance(found, FunctionType):
            wrapped = cast(Any, found).__wrapped__
            return wrapped if is_class else MethodType(wrapped, x)
        if not isinstance(found, (FunctionType, staticmethod)) and hasattr(found, "__get__"):
            self._called(_in_class(type(found), "__get__")[0], (found, x), {}, name)
            return getattr(x, key) if isinstance(x, tuple) and key in getattr(x, "_fields", ()) else _UNKNOWN
        value = note.attribute(x if is_class else type(x), key, name, place)
        if is_class or not isinstance(found, FunctionType):
            return value
        for base in type(x).__mro__:  # also what super() leads to
            self._called(vars(base).get(key, MISSING), (x,), {}, name)
        return MethodType(found, x)

    def _item(self, x: Any, key: Any, name: str) -> Any:
        """What x[key] is, or _UNKNOWN; noted."""
        if type(x) is dict:
            return self._guard.item(x, key, name, self._place)
        self._reached(x, name)
        try:
            return x[key] if type(x) in (list, tuple) else _UNKNOWN
        except (IndexError, TypeError):
            return _UNKNOWN

    # --- code

    def _called(self, fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> None:
        """Code calls fn, with these arguments as far as they are known."""
        if isinstance(fn, functools.partial):
            self._reached(fn.keywords, f"{name}.keywords")
            self._called(fn.func, (*fn.args, *args), {**fn.keywords, **kwargs}, name)
        elif isinstance(fn, MethodType):
            self._called(fn.__func__, (fn.__self__, *args), kwargs, name)
        elif isinstance(fn, (staticmethod, classmethod)):
            self._called(fn.__func__, (), {}, name)
        elif "__wrapped__" in getattr(fn, "__dict__", ()):
            self._function(fn, args, kwargs, name)
            self._called(fn.__wrapped__, args, kwargs, name)
        elif isinstance(fn, FunctionType):
            self._function(fn, args, kwargs, name)
        elif fn is not MISSING:
            self._reached(fn, name)
            if not isinstance(fn, (Module, type)) and not _is_library(type(fn)):
                self._called(_in_class(type(fn), "__call__")[0], (fn, *args), kwargs, name)

    def _function(self, fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> None:
        if not isinstance(fn, FunctionType) or _is_library(fn):
            return
        known = _bound(fn, args, kwargs)
        key = id(fn), *[(argument, id(value)) for argument, value in known.items()]
        if key in self._met:
            return
        self._met[key] = fn, known
        place, self._place = self._place, f"{fn.__code__.co_filename}:{fn.__code__.co_firstlineno}"
        if fn.__defaults__:
            self._reached(self._guard.attribute(fn, "__defaults__", f"{name}.__defaults__", self._place), name)
        if fn.__kwdefaults__:
            self._reached(self._guard.attribute(fn, "__kwdefaults__", f"{name}.__kwdefaults__", self._place), name)
        cells = dict(zip(fn.__code__.co_freevars, fn.__closure__ or ()))
        self._code(fn.__code__, fn.__globals__, cells, known)
        self._place = place

    def _code(self, code: CodeType, names: dict[str, Any], cells: dict[str, Any], known: dict[str, Any]) -> None:
        """Look up what the code loads; `known` has local names, as long as the code binds none of them anew."""
        from dis import get_instructions

        steps = [step for step in get_instructions(code) if step.opname not in _SKIPPED]
        for step in steps:
            for name in _stored(step.opname, step.argval):
                self._reached(known.pop(name, _UNKNOWN), name)
        if "super" in code.co_names and known:
            self._reached(next(iter(known.values())), next(iter(known)))
        has, name = _UNKNOWN, ""  # what the step before has loaded, and how that is called
        for i, step in enumerate(steps):
            op, argument = step.opname, step.argval
            self._place = f"{code.co_filename}:{step.positions.lineno if step.positions else code.co_firstlineno}"
            if op in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"):
                if has is _UNKNOWN:
                    self._names.setdefault(argument, self._place)
                has, name = self._attribute(has, argument, name), f"{name}.{argument}"
                continue
            if op == "LOAD_CONST" and has is not _UNKNOWN and i + 1 < len(steps):
                if _is_subscript(steps[i + 1]):
                    name = f"{name}[{argument!r}]"
                    has = self._item(has, argument, name)
                    continue
                if steps[i + 1].opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
                    if type(has) is dict:
                        self._guard.stored(has, argument)
                    has = _UNKNOWN
                    continue
            if _is_subscript(step) and has is not _UNKNOWN and steps[i - 1].opname == "LOAD_CONST":
                continue  # as above
            if op in ("STORE_ATTR", "DELETE_ATTR"):
                if isinstance(getattr(has, "__dict__", None), dict):
                    self._guard.stored(has.__dict__, argument)
                has = _UNKNOWN
            elif op == "STORE_GLOBAL":
                self._guard.stored(names, argument)
            elif op == "STORE_DEREF" and argument in cells:
                self._guard.stored(cells[argument], "cell_contents")
            self._reached(has, name)
            has = _UNKNOWN
            if op in _GLOBALS:
                name = argument
                if name in names or not hasattr(builtins, name):
                    has = self._guard.item(names, name, name, self._place)
            elif op in _CELLS and argument in cells:
                name = argument
                has = self._guard.attribute(cells[name], "cell_contents", name, self._place)
            elif op == "IMPORT_NAME":
                name, package = argument, names.get("__package__")
                has = sys.modules.get(name) or sys.modules.get(f"{package}.{name}", _UNKNOWN)
            elif "LOAD_FAST" in op or op in _CELLS:
                for name in _tuple(argument):
                    self._reached(has, name)
                    has = known.get(name, _UNKNOWN)
        self._reached(has, name)
        for constant in _constants(code.co_consts):
            if isinstance(constant, str):
                self._texts.setdefault(constant, f"{code.co_filename}:{code.co_firstlineno}")
            elif isinstance(constant, CodeType):
                free = constant.co_freevars
                self._code(
                    constant,
                    names,
                    {name: cells[name] for name in free if name in cells},
                    {name: known[name] for name in free if name in known},
                )


def _bound(fn: FunctionType, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that fn is called with, by the names that its code has for them."""
    code = fn.__code__
    n = code.co_argcount + code.co_kwonlyargcount
    named, rest = code.co_varnames[:n], list(code.co_varnames[n:])
    known = {**dict(zip(named[: code.co_argcount], args)), **{k: v for k, v in kwargs.items() if k in named}}
    if code.co_flags & CO_VARARGS:
        known[rest.pop(0)] = tuple(args[code.co_argcount :])
    if code.co_flags & CO_VARKEYWORDS:
        known[rest.pop(0)] = tuple(v for k, v in kwargs.items() if k not in named)
    return known


def _tuple(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def _stored(op: str, names: Any) -> tuple[str, ...]:
    """The local names that an instruction binds; some load another one, or two, at once."""
    if op in ("STORE_FAST", "STORE_DEREF", "DELETE_FAST", "DELETE_DEREF", "STORE_FAST_STORE_FAST"):
        return _tuple(names)
    return _tuple(names)[:1] if op.startswith("STORE_FAST_") else ()


def _is_subscript(step: Any) -> bool:
    return step.opname == "BINARY_SUBSCR" or step.opname == "BINARY_OP" and step.argrepr == "[]"


def _constants(x: Iterable[Any]) -> Iterable[Any]:
    """The constants, also those in tuples."""
    for constant in x:
        yield from _constants(constant) if isinstance(constant, tuple) else (constant,)
