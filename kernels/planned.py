"""Arrays of a program that is being recorded (kernels/program.py): NumPy's, whose values are not there yet.

What looks at memory only is served: shapes, views, and the address for a kernel. What would read or compute values is
refused, so that nothing can be computed beside the program unnoticed; a copy becomes a part of the program.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

_LOOKS = frozenset(  # these read no element
    """
    T base ctypes data device dtype flags itemsize mT nbytes ndim shape size strides
    diagonal squeeze swapaxes transpose view
    """.split()
)


_LOOKING = frozenset((np.may_share_memory, np.shares_memory, np.shape, np.ndim, np.size, np.result_type))
_VIEWING = frozenset((np.broadcast_to, np.expand_dims, np.moveaxis, np.squeeze, np.swapaxes, np.transpose))


class PlannedError(RuntimeError):
    """Something was asked of a value that is not there yet.

    op, place  who did, and in what line of the program, where that is known better than the traceback tells it
    """

    def __init__(self, what: str, op: str = "", place: str = "") -> None:
        super().__init__(what)
        self.op, self.place = op, place


class Planned(np.ndarray):
    """Memory that a program will have written. `program` is the one."""

    program: Any

    def __array_finalize__(self, source: Any) -> None:
        if type(source) is Planned:
            self.program = source.program

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        raise PlannedError(f"computes numpy.{ufunc.__name__}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in (np.ones_like, np.zeros_like) and not kwargs and len(args) == 1:
            return self.program.constant(function(args[0].view(np.ndarray)))
        if function in _LOOKING or function in _VIEWING:
            found = function(*[x.view(np.ndarray) if type(x) is Planned else x for x in args], **kwargs)
            return self.program.adopt(found) if function in _VIEWING else found
        raise PlannedError(f"computes {function.__module__}.{function.__name__}")

    def __getitem__(self, index: Any) -> Any:
        source = self.view(np.ndarray)
        found = source[index]
        if not isinstance(found, np.ndarray) or found.size and not np.may_share_memory(found, source):
            raise PlannedError("takes elements")
        return self.program.adopt(found)

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
        return self.program.copied(source, lambda x: x.astype(dtype, *args, **kwargs))


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
for _name in dir(np.ndarray):
    is_ours = _name in vars(Planned) or _name in vars(NDArrayOperatorsMixin)  # operators are __array_ufunc__'s
    if not is_ours and _name not in _LOOKS and _name not in _OF_PYTHON:
        setattr(Planned, _name, _refusing(_name))
