"""NumPy's elementwise functions on the CPU for large arrays, and for all arrays of a captured step: with its bits.

NumPy computes with one thread, and takes fresh memory from the system for each large result. Here NumPy's own loops are
called from compiled code (kernels/cpu/numpy_structs.py), so that threads share the work, results take memory from the
pool, and a captured step needs no Python for them. One kernel serves all functions, dtypes and ways to broadcast.

Traffic: reads each operand and writes the result once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.cpu import buffers, formulas, threads
from tilegrad.kernels.cpu import cpu_loops as loops
from tilegrad.kernels.cpu.broadcast import LONG, MOST_OPERANDS, MOST_OUTER, Walk, memory_order, walk
from tilegrad.kernels.cpu.code import cfunc
from tilegrad.kernels.cpu.cpu_extrema import KERNELS
from tilegrad.kernels.cpu.effects import capturing
from tilegrad.kernels.cpu.numpy_structs import Loop, address, loop_of
from tilegrad.kernels.cpu.reductions import reduced
from tilegrad.kernels.sizes import cdiv

_SLOW_FOR_SCALARS = frozenset((np.maximum, np.minimum, np.where))  # whose loops have vectors for arrays only
_bool, _float32 = np.dtype(bool), np.dtype(np.float32)
_Layout = tuple[tuple[int, ...], tuple[int, ...], np.dtype]  # shape, strides, dtype

_OURS: dict[Any, Callable[..., None]] = {  # by function and dtypes: what is no ufunc
    (np.clip, (_float32,) * 3): loops.clip_32,
    (formulas.rsqrt, (_float32,)): loops.rsqrt_32,
    (formulas.cube, (_float32,)): loops.cube_32,
    **{(np.where, (_bool, np.dtype(kind), np.dtype(kind))): loops.where_32 for kind in "fiI"},
    **{(np.where, (_bool, np.dtype(kind), np.dtype(kind))): loops.where_64 for kind in "dlLqQ"},
}


class _Cast(NamedTuple):
    """The function x -> x.astype(to)."""

    to: str


_CASTS = [
    *itertools.permutations(("int32", "int64", "float32"), 2),
    *itertools.product(("bool", "uint8"), ("int32", "int64", "float32")),
]
_OURS |= {(_Cast(to), (np.dtype(source),)): cache(partial(loops.cast, source, to)) for source, to in _CASTS}
_FUNCTIONS = frozenset(function for function, _ in _OURS)


class _Call(NamedTuple):
    """A function on arrays of certain layouts: what is the same for all of them.

    plan    the walk in words, as the kernel reads it
    shape   of the result in the order of memory
    axes    that bring it back; None if that is C order
    filled  by operand: elements of its row, and of the buffer that holds it several times; None if there is none
    """

    loop: Loop
    plan: np.ndarray
    items: int
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    filled: tuple[tuple[int, int] | None, ...]


def call(function: Any, *arrays: Any, out: np.ndarray | None = None) -> np.ndarray | None:
    """function(*arrays), of a ufunc, numpy.where, numpy.clip or a formula; None where it is left to NumPy.

    Served are arrays of dtypes that the function has a loop for: of one dtype of 4 or 8 bytes for where, of float32 for
    clip and the formulas (kernels/cpu/formulas.py). The result is laid out as NumPy's.

    out  where the result goes, as a ufunc's `out`
    """
    if not isinstance(function, np.ufunc) and function not in _FUNCTIONS:
        return None
    for array in arrays:
        if type(array) is not np.ndarray or not array.flags.aligned:
            return None
    asked = None if out is None else (out.shape, out.strides, out.dtype)
    found = _call(function, asked, *[(array.shape, array.strides, array.dtype) for array in arrays])
    if found is None or out is not None and not _may_go_to(out, arrays):
        return None
    y = buffers.empty(found.shape, found.loop.result) if out is None else out
    _run(found, [_filled(x, *how) if how else x for x, how in zip(arrays, found.filled, strict=True)], y)
    return y if out is not None or found.axes is None else y.transpose(found.axes)


def cast(x: np.ndarray, dtype: Any) -> np.ndarray | None:
    """x.astype(dtype), of int32, int64 and float32, and of bool and uint8 to these; None where it is left to NumPy."""
    return call(_Cast(np.dtype(dtype).name), x)


def copy(target: np.ndarray, source: np.ndarray) -> bool:
    """target[...] = source, of one dtype. Returns False, and does nothing, where it is left to NumPy."""
    if source.dtype != target.dtype or not source.size:
        return False
    source = np.broadcast_to(source, target.shape)
    return call(np.absolute if source.dtype == _bool else np.positive, source, out=target) is not None


def sum_of_few(x: np.ndarray) -> np.ndarray | None:
    """numpy.add.reduce of all elements of x, of at most one dimension; None where it is left to NumPy.

    It is 0 and what NumPy's loop adds to it in one call, as NumPy does it.
    """
    loop = loop_of(np.add, (x.dtype, x.dtype))
    if loop is None or x.dtype != loop.result or not 0 < x.size <= LONG or x.ndim > 1 or not x.flags.aligned:
        return None
    y = np.empty((), x.dtype)
    copy(y, _zero(x.dtype))
    steps = 0, x.strides[0] if x.ndim else x.itemsize, 0
    plan = _plan(Walk(x.size, x.size, (), steps, ((),) * 3, (0, 0)))
    addresses = [address(each) for each in (y, x, y, y)]
    threads.share(loops.elementwise, 1, 1, loop.address, loop.data, plan, *addresses)
    program = capturing()
    if program is not None:
        program.holds(x, y)
    return y


@cache
def _zero(dtype: np.dtype) -> np.ndarray:
    return np.zeros((), dtype)


def reduce(ufunc: np.ufunc, x: Any, axes: tuple[int, ...], keepdims: bool = False) -> np.ndarray | None:
    """ufunc.reduce(x, axes, keepdims=keepdims), of maximum or minimum; None where it is left to NumPy.

    Served are large dense arrays of float32. Which of 0 and -0 is the result is left open, as it is by NumPy.
    Traffic: reads x once.
    """
    if type(x) is not np.ndarray or x.dtype != _float32:
        return None
    return reduced(KERNELS[ufunc], x, axes, keepdims)


def _run(found: _Call, operands: Sequence[np.ndarray], y: np.ndarray) -> None:
    addresses = [address(x) for x in (*operands, y)]
    addresses += addresses[-1:] * (MOST_OPERANDS - len(addresses))
    most = found.items if y.nbytes > threads.WORTH_SHARING else 1
    threads.share(loops.elementwise, most, found.items, found.loop.address, found.loop.data, found.plan, *addresses)
    program = capturing()
    if program is not None:
        program.holds(*operands, y)


def _may_go_to(out: np.ndarray, arrays: Sequence[np.ndarray]) -> bool:
    """Whether the loop reads every element of the arrays before it writes there."""
    if not (out.flags.writeable and out.flags.aligned):
        return False
    place = address(out), out.strides, out.shape
    return all([not np.may_share_memory(x, out) or (address(x), x.strides, x.shape) == place for x in arrays])


def _filled(x: np.ndarray, row: int, size: int) -> np.ndarray:
    """The first `row` elements in the memory of x, again and again."""
    y = np.empty((size // row, row), x.dtype)
    copying = np.absolute if x.dtype == _bool else np.positive
    found = _call(copying, (y.shape, y.strides, y.dtype), (y.shape, (0, y.itemsize), y.dtype))
    assert found is not None
    _run(found, [x], y)
    return y


@lru_cache(maxsize=1 << 12)
def _call(function: Any, asked: _Layout | None, *layouts: _Layout) -> _Call | None:
    """What `call` knows by the layouts; `asked` is that of `out`."""
    loop = _loop(function, tuple([dtype for _, _, dtype in layouts]))
    if loop is None or asked is not None and asked[2] != loop.result:
        return None
    shape = _common([shape for shape, _, _ in layouts])
    if shape is None or 0 in shape or asked is not None and asked[0] != shape:
        return None
    strides = [_broadcast(layout, shape) for layout in (layouts if asked is None else (*layouts, asked))]
    order = memory_order(strides)
    inside = tuple([shape[axis] for axis in order])
    strides = [tuple([each[axis] for axis in order]) for each in strides]
    if asked is None:
        strides.append(_dense(inside, loop.result.itemsize))
    itemsizes = (*[dtype.itemsize for _, _, dtype in layouts], loop.result.itemsize)
    if any(step < 0 or step % size for each, size in zip(strides, itemsizes, strict=True) for step in each):
        return None
    how = walk(inside, strides, itemsizes, function in _SLOW_FOR_SCALARS)
    if how is None:
        return None
    axes = None if order == sorted(order) else tuple(np.argsort(order).tolist())
    filled = tuple([(row, how.run) if row else None for row in how.filled])
    return _Call(loop, _plan(how), cdiv(how.size, LONG), inside, axes, filled)


def _loop(function: Any, dtypes: tuple[np.dtype, ...]) -> Loop | None:
    if isinstance(function, np.ufunc):
        return loop_of(function, dtypes)
    ours = _OURS.get((function, dtypes))
    if isinstance(function, _Cast):
        return None if ours is None else Loop(_compiled(ours()).address, 0, np.dtype(function.to))
    return None if ours is None else Loop(_compiled(ours).address, 0, dtypes[-1])


@cache
def _compiled(function: Any) -> Any:
    return cfunc(loops.SIGNATURE, function)


def _common(shapes: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape that these broadcast to, if they do."""
    ndim = max(map(len, shapes))
    axes = zip(*[(1,) * (ndim - len(shape)) + shape for shape in shapes], strict=True)
    sizes = [set(axis) - {1} or {1} for axis in axes]
    return None if any(len(each) > 1 for each in sizes) else tuple([each.pop() for each in sizes])


def _broadcast(layout: _Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of an array that is broadcast to the shape, 0 along what is repeated."""
    own, strides, _ = layout
    along = [0 if n == 1 else stride for n, stride in zip(own, strides, strict=True)]
    return (0,) * (len(shape) - len(own)) + tuple(along)


def _dense(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    return tuple([itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))])


def _plan(how: Walk) -> np.ndarray:
    plan = np.zeros(loops.PLAN_WORDS, np.int64)
    around = MOST_OUTER - len(how.outer)
    plan[loops.SIZE], plan[loops.RUN] = how.size, how.run
    plan[loops.OUTER : loops.OPERANDS] = (1,) * around + how.outer
    for k in range(MOST_OPERANDS):
        last = min(k, len(how.steps) - 1)  # the result stands in for operands that there are not
        words = plan[loops.OPERANDS + k * loops.STRIDE :]
        words[0] = how.steps[last]
        words[1 + around : loops.STRIDE] = how.strides[last]
    return plan
