"""Arrays of a program while it is captured (kernels/capture/program.py): NumPy's, whose values are not there yet.

What looks at memory only is served: shapes, views, and the address for a kernel. A function of NumPy's whose result has
a shape that no value decides becomes a step of the program, as do copies and writes. What would read values, or could,
is refused, so that nothing can be computed beside the program unnoticed.
"""

from __future__ import annotations

import sys
import weakref
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

_LOOKS = frozenset(  # these read no element
    """
    T base device dtype flags itemsize mT nbytes ndim shape size strides
    diagonal setflags squeeze swapaxes transpose view
    """.split()
)
_PASSED = frozenset(("tilegrad", "numba", "functools"))  # packages whose lines are not the program's
_LOOKING = frozenset((np.may_share_memory, np.shares_memory, np.shape, np.ndim, np.size, np.result_type))
_VIEWING = frozenset((np.broadcast_to, np.expand_dims, np.moveaxis, np.squeeze, np.swapaxes, np.transpose))
_ELEMENTWISE = frozenset((np.where, np.clip))  # with three arrays, as a ufunc
_COMPUTING = frozenset(  # new arrays, of shapes that the arguments' shapes decide
    (np.concatenate, np.stack, np.where, np.clip, np.sum, np.prod, np.max, np.min, np.mean, np.cumsum, np.argmax,
     np.argmin, np.argsort, np.round, np.sort, np.flip, np.roll, np.tril, np.triu, np.pad, np.linalg.svd)
)  # fmt: skip
_INTO = frozenset(  # of these, what takes `out` and computes the same with it
    (np.concatenate, np.stack, np.clip, np.sum, np.prod, np.max, np.min, np.cumsum, np.argmax, np.argmin, np.round)
)
_OUT_AT = {np.max: 2, np.min: 2, np.argmax: 2, np.argmin: 2, np.round: 2, np.concatenate: 2, np.stack: 2}  # else 3
_EXTREMA = {"max": np.maximum, "min": np.minimum}
_REDUCING = "all any argmax argmin clip cumprod cumsum max mean min prod round sum".split()  # methods of the same kind


class PlannedError(RuntimeError):
    """Something was asked of a value that is not there yet.

    op, place  who did, and in what line of the program, where that is known better than the traceback tells it
    """

    def __init__(self, what: str, op: str = "", place: str = "") -> None:
        super().__init__(what)
        self.op, self.place = op, place


class Planned(np.ndarray):
    """Memory that a program will have written.

    reference  to the program, a weak one: the program has arrays on the memory of these, and who looks for cycles of
               references does not see what an array is a view of
    """

    reference: weakref.ref[Any]
    __numba_array_subtype_dispatch__ = True  # Numba asks kernels/capture/calls.py, which refuses

    def __array_finalize__(self, source: Any) -> None:
        if type(source) is Planned:
            self.reference = source.reference

    @property
    def program(self) -> Any:
        """The program, while it is captured."""
        program = self.reference()
        if program is None or program.is_closed:
            raise PlannedError("uses an array of a step that was captured before")
        return program

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        if ufunc is np.add and method == "at":
            return self.program.add_at(*args)
        call = ufunc if method == "__call__" else getattr(ufunc, method)
        is_known = method == "__call__" or method == "reduce" and not out
        if not is_known or ufunc.nout != 1 or "where" in kwargs or out and kwargs:
            raise PlannedError(f"computes numpy.{ufunc.__name__}")
        if out:
            return self.program.numpy(ufunc.__name__, ufunc, *args, out=out[0])
        if method == "reduce":
            return self.program.numpy(ufunc.__name__, _called, call, args, kwargs, into=_called_into)
        return self.program.numpy(ufunc.__name__, partial(call, **kwargs) if kwargs else call, *args)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in (np.ones_like, np.zeros_like) and not kwargs and len(args) == 1:
            return self.program.constant(function(args[0].view(np.ndarray)))
        if function in _LOOKING or function in _VIEWING:
            found = function(*[x.view(np.ndarray) if type(x) is Planned else x for x in args], **kwargs)
            return self.program.adopt(found) if function in _VIEWING else found
        into = args[_OUT_AT.get(function, 3) :]  # where a result could be written to now
        is_known = function in _COMPUTING and "out" not in kwargs and not any(isinstance(x, np.ndarray) for x in into)
        if function in _ELEMENTWISE and len(args) == 3 and not kwargs:
            return self.program.numpy(function.__name__, function, *args)
        if is_known and function is not np.where:
            how = _called_into if function in _INTO else None
            return self.program.numpy(function.__name__, _called, function, args, kwargs, into=how)
        raise PlannedError(f"computes {function.__module__}.{function.__name__}")

    def __getitem__(self, index: Any) -> Any:
        source = self.view(np.ndarray)
        parts = index if type(index) is tuple else (index,)
        if any(isinstance(part, (list, np.ndarray)) for part in parts):
            own = self.program.constant
            parts = tuple([own(np.asarray(part)) if type(part) is list else part for part in parts])
            arrays = [part for part in parts if isinstance(part, np.ndarray)]
            if any(array.dtype.kind not in "iu" for array in arrays):
                raise PlannedError("takes elements by a mask")
            first = [np.zeros(part.shape, int) if isinstance(part, np.ndarray) else part for part in parts]
            return self.program.numpy("getitem", _taken, self, parts, like=source[tuple(first)])
        found = source[index]
        if isinstance(found, np.generic):  # a copy of one element
            return self.program.copied(source[(*parts, ...)], np.ndarray.copy)
        if found.size and not np.may_share_memory(found, source):
            raise PlannedError("takes elements")
        return self.program.adopt(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.program.assign(self, index, value)

    def __len__(self) -> int:
        return self.shape[0]

    def reshape(self, *shape: Any, **kwargs: Any) -> Any:
        source = self.view(np.ndarray)
        found = source.reshape(*shape, **kwargs)
        if found.size and not np.may_share_memory(found, source):  # a copy
            return self.program.copied(source, lambda x: x.reshape(*shape, **kwargs))
        return self.program.adopt(found)

    def copy(self, order: Any = "C") -> Any:
        return self.program.copied(self.view(np.ndarray), lambda x: x.copy(order))

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        source = self.view(np.ndarray)
        if source.dtype == dtype and kwargs.get("copy") is False:
            return self
        if not args and kwargs.keys() <= {"copy"}:
            return self.program.cast(source, dtype)
        return self.program.copied(source, lambda x: x.astype(dtype, *args, **kwargs))


def line() -> str:
    """The line of the program that led here."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def is_view(array: np.ndarray) -> bool:
    """Whether the array shares memory with another one; not: whether that memory was lent to it."""
    base: Any = array.base
    return isinstance(base.base if isinstance(array, Planned) else base, np.ndarray)  # a `Planned` is itself a view


def _taken(array: np.ndarray, index: Any) -> np.ndarray:
    try:
        return array[index]
    except IndexError as error:
        raise IndexError(f"getitem: {error} (the tensor is {array.shape})") from None


def _called(function: Any, args: Any, kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _called_into(target: np.ndarray, function: Any, args: Any, kwargs: Any) -> None:
    function(*args, **kwargs, out=target)


def _reducing(name: str) -> Any:
    def method(self: Planned, *args: Any, **kwargs: Any) -> Any:
        into = args[2:] if name == "clip" else args
        if kwargs.keys() & {"out", "where"} or any(isinstance(x, np.ndarray) for x in into):
            raise PlannedError(f"asks for {name}()")
        if name in _EXTREMA and not args and kwargs.keys() == {"axis", "keepdims"}:
            found = self.program.reduced(_EXTREMA[name], self, **kwargs)
            if found is not None:
                return found
        how = None if name == "mean" else _called_into  # which rounds otherwise where it is told where to
        return self.program.numpy(name, _called, getattr(np.ndarray, name), (self, *args), kwargs, into=how)

    return method


def _refusing(name: str) -> Any:
    def refused(self: Planned, *_: Any, **__: Any) -> Any:
        raise PlannedError(f"asks for {name}()")

    return refused


_OF_PYTHON = frozenset(  # what the interpreter asks of any object
    """
    __class__ __delattr__ __dir__ __doc__ __getattribute__ __hash__ __init__ __init_subclass__ __new__ __setattr__
    __sizeof__ __subclasshook__ __array_interface__ __array_struct__ __array_priority__ __array_wrap__
    __class_getitem__
    """.split()
)
for _name in _REDUCING:
    setattr(Planned, _name, _reducing(_name))
for _name in dir(np.ndarray):
    is_ours = _name in vars(Planned) or _name in vars(NDArrayOperatorsMixin)  # operators are __array_ufunc__'s
    if not is_ours and _name not in _LOOKS and _name not in _OF_PYTHON:
        _refused = _refusing(_name)
        setattr(Planned, _name, _refused if callable(getattr(np.ndarray, _name)) else property(_refused))
