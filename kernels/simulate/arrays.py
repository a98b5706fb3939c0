"""A stand-in for CuPy on host memory: device "cuda" on a machine that has none.

The Triton interpreter runs the real kernels on host addresses. Everything around them (the engine, the checks, the
launchers) must then run as on a GPU. So the arrays here are not NumPy arrays, and do not become NumPy arrays by
accident. Where NumPy and CuPy differ, they behave as CuPy's do:

    a NumPy array beside one of these   TypeError, as for two devices
    np.asarray(x)                       TypeError; x.get() copies to the host
    x.sum(), x[0]                       0-d arrays, not NumPy scalars; x[0] is a view
    x.data.ptr, x.data.mem              the address, and the allocation that it lies in
    x.base                              the array that x is a view of; None for an array with memory of its own
    x.flags                             do not say whether x is read-only
    x.max(initial=), x.ravel("K")       errors: CuPy lacks some of NumPy's options

While a graph is captured, the device's actions are collected (kernels/simulate/tape.py). Actions
that the host would have to wait for, and copies from host memory, are refused.

Unwritten memory is filled with bytes 0xFF (NaN, or -1), and lies between two guards of the same bytes. `assert_guards`
finds a kernel that wrote beyond an array, also if the kernel got the array from a table of addresses. Functions are
NumPy's, by `__getattr__`.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tilegrad.kernels.simulate import tape
from tilegrad.kernels.system.modes import Block

GUARD = 256  # bytes before and behind every allocation; keeps the alignment that CuPy's memory has
_FILL = 0xFF
_LEAST_ADDRESS, _MOST_ADDRESS = 1 << 20, 1 << 48  # of a process
_allocations: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()  # by id

_foreign: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()  # owners that NumPy made

_METHODS = """
    all any argmax argmin argsort astype clip conj copy cumprod cumsum dot fill flatten max mean min nonzero
    prod put ravel repeat reshape round sort squeeze std sum swapaxes take trace transpose var view
""".split()
_ATTRIBUTES = "shape dtype ndim size itemsize nbytes strides".split()
_WRITING = frozenset("at copyto fill fill_diagonal place put put_along_axis putmask".split())  # to an argument
_WAITING = frozenset(  # for values: the result's shape depends on them, or it is on the host
    "allclose argwhere array_equal bincount compress extract flatnonzero histogram nonzero unique".split()
)
_Order = Literal["A", "C", "F"]
_OrderOrKept = Literal["K", "A", "C", "F"]


class Memory(NamedTuple):
    """Where an array begins, as cupy.cuda.MemoryPointer tells it: the address, and the allocation it lies in."""

    ptr: int
    mem: Allocation


class Allocation(NamedTuple):
    ptr: int
    size: int


class Flags(NamedTuple):
    c_contiguous: bool
    f_contiguous: bool
    owndata: bool


class ndarray(NDArrayOperatorsMixin):  # noqa: N801 - CuPy's and NumPy's name for it
    """An array of the simulated device. Made by the functions of this module, never directly."""

    __slots__ = ("_host", "base", "__weakref__")
    __array_priority__ = 100

    if TYPE_CHECKING:  # of _ATTRIBUTES
        shape: tuple[int, ...]
        dtype: np.dtype
        ndim: int
        size: int
        itemsize: int
        nbytes: int
        strides: tuple[int, ...]

    def __init__(self, host: np.ndarray, base: ndarray | None = None) -> None:
        self._host = host
        self.base = base
        if base is None:
            _know(host)

    # --- what it is

    @property
    def data(self) -> Memory:
        owner = _owner(self._host)
        size = owner.nbytes - (3 * GUARD if _is_allocation(owner) else 0)
        return Memory(_address(self._host), Allocation(_address(owner), size))

    @property
    def flags(self) -> Flags:
        flags = self._host.flags
        return Flags(flags.c_contiguous, flags.f_contiguous, self.base is None)

    @property
    def T(self) -> ndarray:  # noqa: N802
        return _wrap(self._host.T, (self,))

    def diagonal(self, *axes: int) -> ndarray:
        host = self._host.diagonal(*axes)
        host.flags.writeable = self._host.flags.writeable  # CuPy's can be written to
        return _wrap(host, (self,))

    def __len__(self) -> int:
        return len(self._host)

    def __repr__(self) -> str:
        return f"simulated.{self._host!r}"

    # --- to and from the host, always by name

    def get(self) -> np.ndarray:
        """A copy on the host."""
        tape.refuse("get")
        return self._host.copy(order="K")

    def set(self, host: np.ndarray) -> None:
        """Overwrite with a host array of the same shape and dtype."""
        if host.shape != self.shape or host.dtype != self.dtype:
            raise ValueError(f"set: got {host.shape} {host.dtype}; expected {self.shape} {self.dtype}")
        tape.refuse("set")
        self._host[...] = host

    def item(self, *index: int) -> Any:
        tape.refuse("item")
        return self._host.item(*index)

    def tolist(self) -> Any:
        tape.refuse("tolist")
        return self._host.tolist()

    def __dlpack_device__(self) -> tuple[int, int]:
        raise BufferError("a simulated array is not in the memory of a GPU; expected x.get()")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion of a device array to a NumPy array is not allowed; expected x.get()")

    def __bool__(self) -> bool:
        tape.refuse("bool")
        return bool(self._host)

    def __int__(self) -> int:
        tape.refuse("int")
        return int(self._host)

    def __float__(self) -> float:
        tape.refuse("float")
        return float(self._host)

    def __index__(self) -> int:
        tape.refuse("index")
        return operator.index(self._host)

    # --- elements

    def __getitem__(self, index: Any) -> Any:
        parts = index if type(index) is tuple else (index,)
        if len(parts) == self.ndim and all(isinstance(i, (int, np.integer)) for i in parts):
            index = (*parts, ...)  # one element is a view of it, as CuPy has it
        if tape.collecting() is None:
            return _wrap(self._host[_unwrap(index)], (self,))
        if any(i.dtype == bool for i in _flat((index,))):
            tape.refuse("an index of booleans")
        return _call(self._host.__getitem__, (index,), {}, self)

    def __setitem__(self, index: Any, value: Any) -> None:
        index, value = _unwrap(index), _unwrap(value)
        tape.do("setitem", lambda: self._host.__setitem__(index, value))

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    # --- NumPy's functions, on arrays of this device only

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if not all(isinstance(x, (ndarray, np.ndarray, np.generic, bool, int, float, complex)) for x in args):
            return NotImplemented  # the other type may answer
        return _call(ufunc if method == "__call__" else getattr(ufunc, method), args, kwargs)

    def __array_function__(self, function: Callable, types: Any, args: Any, kwargs: Any) -> Any:
        return _call(function, args, kwargs)


def _method(name: str) -> Callable:
    def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        foreign = kwargs.keys() & {"initial", "where"}
        if foreign:
            raise TypeError(f"{name}() got an unexpected keyword argument '{foreign.pop()}'")
        if name == "ravel" and "K" in (*args, *kwargs.values()):
            raise NotImplementedError("ravel with order='K' not yet implemented.")
        return _call(getattr(self._host, name), args, kwargs, self)

    call.__name__ = name
    return call


for _name in _METHODS:
    setattr(ndarray, _name, _method(_name))
for _name in _ATTRIBUTES:
    setattr(ndarray, _name, property(operator.attrgetter(f"_host.{_name}")))


# --- making arrays


def empty(shape: Any, dtype: Any = float, order: _Order = "C") -> ndarray:
    """Memory between guards, all of it filled with NaN or -1, so that elements that are never written show."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    owner = np.full(size + 2 * GUARD + GUARD, _FILL, np.uint8)
    _allocations[id(owner)] = owner
    start = _start(owner)
    return ndarray(owner[start : start + size].view(dtype).reshape(shape, order=order))


def filled_with(byte: int) -> Block:
    """A block within which unwritten memory, and the guards around it, are of such bytes."""
    return Block((sys.modules[__name__], "_FILL", byte))


def zeros(shape: Any, dtype: Any = float, order: _Order = "C") -> ndarray:
    x = empty(shape, dtype, order)
    x[...] = 0
    return x


def ones(shape: Any, dtype: Any = float) -> ndarray:
    x = empty(shape, dtype)
    x[...] = 1
    return x


def full(shape: Any, value: Any, dtype: Any = None) -> ndarray:
    x = empty(shape, np.asarray(_unwrap(value)).dtype if dtype is None else dtype)
    x[...] = value
    return x


def empty_like(x: ndarray, dtype: Any = None, order: _OrderOrKept = "K", shape: Any = None) -> ndarray:
    """In x's memory order, as NumPy's."""
    dtype, shape = dtype or x.dtype, x.shape if shape is None else shape
    if order != "K" or shape != x.shape:
        return empty(shape, dtype, "C" if order == "K" else order)
    axes = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    return ndarray(empty([shape[axis] for axis in axes], dtype)._host.transpose(np.argsort(axes)))


def zeros_like(x: ndarray, dtype: Any = None) -> ndarray:
    y = empty_like(x, dtype)
    y[...] = 0
    return y


def asarray(x: Any, dtype: Any = None, order: _OrderOrKept | None = None) -> ndarray:
    """x on the device: x itself if it is there already, else a copy."""
    if isinstance(x, ndarray):
        return _call(np.asarray, (x, dtype), {"order": order})
    tape.refuse("asarray: a copy from memory of the host")
    host = np.asarray(x, dtype, order=order)
    y = empty_like(ndarray(host))
    y._host[...] = host
    return y


def array(x: Any, dtype: Any = None, copy: bool = True, order: _OrderOrKept = "K") -> ndarray:
    if isinstance(x, ndarray):
        return _call(np.array, (x, dtype), {"copy": copy, "order": order})
    return asarray(np.array(x, dtype, copy=copy, order=order))


def asnumpy(x: Any) -> np.ndarray:
    return x.get() if isinstance(x, ndarray) else np.asarray(x)


def adopt(host: np.ndarray) -> ndarray:
    """A device array on the memory of a host array, for tests that watch the memory around it; CuPy has none."""
    return ndarray(host)


def view_in(memory: ndarray, offset: int, like: ndarray) -> ndarray:
    """What cupy.ndarray(shape, dtype, memory.data + offset, strides) makes; the simulated class does not take these."""
    flat = memory._host.ravel(order="K").view(np.uint8)
    return ndarray(np.ndarray(like.shape, like.dtype, flat, offset, like.strides), memory)


def __getattr__(name: str) -> Any:
    found = getattr(np, name)
    if not callable(found) or isinstance(found, type):
        return found

    def function(*args: Any, **kwargs: Any) -> Any:
        return _call(found, args, kwargs)

    if isinstance(found, np.ufunc):
        function.at = lambda *args: _call(found.at, args, {})
    return function


# --- the two worlds


def assert_guards(op: str, *arrays: ndarray) -> None:
    """Raise AssertionError if memory before or behind one of these arrays' allocations was written to.

    An array of int64 may be a table of addresses: the allocations that these addresses lie in are looked at too.
    """
    for i, x in enumerate(arrays):
        owner = _owner(x._host)
        if _is_allocation(owner):  # else adopted, or made by a function of NumPy
            _assert_guard(owner, op, f"array {i} of shape {x.shape}")
        if x.dtype == np.int64:
            for owner in _pointed_at(x._host):
                _assert_guard(owner, op, f"an array of {owner.size - 3 * GUARD} bytes that array {i} points to")


def pointed_at(x: ndarray) -> Iterator[np.ndarray]:
    """The memory, without guards, of every array that an element of x, a table of addresses, points into."""
    for owner in _pointed_at(x._host):
        start = _start(owner)
        yield owner[start : owner.size - 3 * GUARD + start]
    for owner in list(_foreign.values()):
        low, high = np.lib.array_utils.byte_bounds(owner)
        if ((x._host >= low) & (x._host < high)).any():
            yield owner


def host_of(x: ndarray) -> np.ndarray:
    """The array of the host that x is, for what plays the device: it sees what is written, and writes."""
    return x._host


def _assert_guard(owner: np.ndarray, op: str, what: str) -> None:
    start = _start(owner)
    stop = owner.size - 3 * GUARD + start
    for name, guard in (("before", owner[start - GUARD : start]), ("behind", owner[stop : stop + GUARD])):
        assert (guard == _FILL).all(), f"{op}: wrote {name} {what}"


def _pointed_at(numbers: np.ndarray) -> Iterator[np.ndarray]:
    """The allocations that one of these numbers is an address in; labels, indices and sizes are no addresses."""
    addresses = np.unique(numbers[(numbers >= _LEAST_ADDRESS) & (numbers < _MOST_ADDRESS)])
    if addresses.size:
        for owner in list(_allocations.values()):
            start = _address(owner)
            first = np.searchsorted(addresses, start)
            if first < addresses.size and addresses[first] < start + owner.size:
                yield owner


def _call(function: Callable, args: Any, kwargs: Any, *self: ndarray) -> Any:
    hosts, named = _unwrap(args), {k: _unwrap(v) for k, v in kwargs.items()}
    sources = (*self, *_flat(args), *_flat(tuple(kwargs.values())))
    collecting = tape.collecting()
    if collecting is not None:
        return _collected(collecting, lambda: function(*hosts, **named), function.__name__, kwargs.get("out"), sources)
    return _wrap(function(*hosts, **named), sources)


def _collected(onto: tape.Tape, call: Callable, name: str, out: Any, sources: tuple[ndarray, ...]) -> Any:
    """The result of a call that is collected: the arrays that it writes to or makes are written at each launch."""
    if name in _WAITING:
        tape.refuse(name)
    if out is not None or name in _WRITING:
        onto.add(name, call)
        return out[0] if type(out) is tuple else out
    wrapped = _wrap(call(), sources)
    arrays = list(_flat((wrapped,)))
    made = [(i, x) for i, x in enumerate(arrays) if x.base is None and not any(x is s for s in sources)]
    if made:

        def make() -> None:
            results = list(_flat_host(call()))
            for i, x in made:
                x._host[...] = results[i]

        for _, x in made:  # its values were computed from values that do not exist yet
            x._host = np.array(x._host)
            _know(x._host)
            x._host[...] = np.frombuffer(bytes([_FILL] * x.itemsize), x.dtype)[0] if x.dtype != bool else False
        onto.add(name, make)
    return wrapped


def _wrap(x: Any, sources: tuple[ndarray, ...]) -> Any:
    """NumPy's result as an array of this device: a view if it is a view of one of the sources."""
    if type(x) is np.ndarray:
        for source in sources:
            if x is source._host:
                return source
            if x.base is not None and (x.base is source._host or x.base is source._host.base):
                return ndarray(x, source if source.base is None else source.base)
        return ndarray(x)
    if isinstance(x, np.generic):
        return ndarray(np.asarray(x))
    if type(x) in (tuple, list):
        return type(x)(_wrap(item, sources) for item in x)
    return x


def _flat(x: Any) -> Iterator[ndarray]:
    """The arrays in nested tuples and lists."""
    if type(x) is ndarray:
        yield x
    elif type(x) in (tuple, list):
        for item in x:
            yield from _flat(item)


def _flat_host(x: Any) -> Iterator[Any]:
    """The arrays and scalars of NumPy in nested tuples and lists, in the order of `_flat`."""
    if isinstance(x, (np.ndarray, np.generic)):
        yield x
    elif type(x) in (tuple, list):
        for item in x:
            yield from _flat_host(item)


def _unwrap(x: Any) -> Any:
    if type(x) is ndarray:
        return x._host
    if type(x) in (tuple, list):
        return type(x)(map(_unwrap, x))
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}: a NumPy array of shape {x.shape} beside arrays of device cuda")
    return x


def _know(host: np.ndarray) -> None:
    """A table of addresses may point into this array's memory."""
    owner = _owner(host)
    if not _is_allocation(owner):
        _foreign[id(owner)] = owner


def _owner(host: np.ndarray) -> np.ndarray:
    """The array that owns the memory of this one."""
    while isinstance(host.base, np.ndarray):
        host = host.base
    return host


def _address(host: np.ndarray) -> int:
    return host.__array_interface__["data"][0]


def _is_allocation(x: Any) -> bool:
    return _allocations.get(id(x)) is x


def _start(allocation: np.ndarray) -> int:
    """Where the array begins in its allocation: aligned, behind the first guard."""
    return -_address(allocation) % GUARD + GUARD
