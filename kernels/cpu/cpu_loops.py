"""Kernels that call loops of NumPy's kind (kernels/cpu/numpy_structs.py), run by run; and such loops of our own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray
from numba.core import types
from numba.extending import intrinsic

from tilegrad.kernels.cpu.broadcast import LONG, MOST_OPERANDS, MOST_OUTER
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.scalar_math import smaller
from tilegrad.kernels.cpu.team import read, share

_void, _i8, _i64 = ir.VoidType(), ir.IntType(8), ir.IntType(64)
_bytes, _words = _i8.as_pointer(), _i64.as_pointer()
_LOOP = ir.FunctionType(_void, [_bytes.as_pointer(), _words, _words, _bytes]).as_pointer()

_ONE = np.float32(1)

SIGNATURE = types.void(*[types.int64] * 4)  # of such a loop, addresses being integers

# Words of a plan: the walk (kernels/cpu/broadcast.py) as a kernel reads it. Of each operand the step comes first.
SIZE, RUN, OUTER = range(3)
OPERANDS = OUTER + MOST_OUTER
STRIDE = 1 + MOST_OUTER
PLAN_WORDS = OPERANDS + MOST_OPERANDS * STRIDE


@intrinsic
def _call(context: Any, loop: Any, data: Any, size: Any, places: Any, steps: Any) -> Any:
    """loop(places, &size, steps, data), places and steps being tuples of as many integers."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        loop, data, size, places, steps = args
        with b.goto_entry_block():
            n, at, by = [b.alloca(_i64, count) for count in (1, MOST_OPERANDS, MOST_OPERANDS)]
        b.store(size, n)
        for k in range(MOST_OPERANDS):
            b.store(b.extract_value(places, k), b.gep(at, [_i64(k)]))
            b.store(b.extract_value(steps, k), b.gep(by, [_i64(k)]))
        at = b.bitcast(at, _bytes.as_pointer())
        b.call(b.inttoptr(loop, _LOOP), [at, n, by, b.inttoptr(data, _bytes)])
        return context.get_dummy_value()

    four = types.UniTuple(types.int64, MOST_OPERANDS)
    return types.void(types.int64, types.int64, types.int64, four, four), codegen


@njit(nogil=True, cache=True)
def elementwise(loop, data, plan, p, q, r, s, begin, stop, part, team):
    """The loop over operands at p, q, r and s, which the plan tells how to walk; an item is LONG elements.

    A loop with fewer than four operands reads the first ones.
    """
    if team:
        share(begin, stop, part, team)
        return
    run, rows = plan[RUN], plan[OUTER + MOST_OUTER - 1]
    at, end = begin * LONG, smaller(stop * LONG, plan[SIZE])
    a, b, c, d = OPERANDS, OPERANDS + STRIDE, OPERANDS + 2 * STRIDE, OPERANDS + 3 * STRIDE
    steps = plan[a], plan[b], plan[c], plan[d]
    while at < end:
        row = at // run
        first = at - row * run
        left = rows - row % rows  # runs until one of the outer dimensions goes on, too
        p0, q0, r0, s0 = p + first * steps[0], q + first * steps[1], r + first * steps[2], s + first * steps[3]
        for k in range(MOST_OUTER, 0, -1):
            n = plan[OUTER + k - 1]
            i = row % n
            row //= n
            p0, q0, r0, s0 = p0 + i * plan[a + k], q0 + i * plan[b + k], r0 + i * plan[c + k], s0 + i * plan[d + k]
        for _ in range(left):
            n = smaller(run - first, end - at)
            _call(loop, data, n, (p0, q0, r0, s0), steps)
            at += n
            if at == end:
                break
            back = first
            first = 0
            p0 += plan[a + MOST_OUTER] - back * steps[0]
            q0 += plan[b + MOST_OUTER] - back * steps[1]
            r0 += plan[c + MOST_OUTER] - back * steps[2]
            s0 += plan[d + MOST_OUTER] - back * steps[3]


# --- loops that NumPy does not have, or not under a public name -----------------------------------------------------


def _pointer_to(kind: Any) -> Any:
    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return b.inttoptr(args[0], context.get_value_type(types.CPointer(kind)))

        return types.CPointer(kind)(types.int64), codegen

    return pointer


_POINTERS = {
    kind.name: _pointer_to(kind) for kind in (types.int8, types.uint8, types.int32, types.int64, types.float32)
}
_int8, _int32, _int64, _float32 = [_POINTERS[name] for name in ("int8", "int32", "int64", "float32")]


@njit(nogil=True)
def _four(words):
    return read(words), read(words + 8), read(words + 16), read(words + 24)


@njit(nogil=True)
def _where(mask, a, b, y, n, mask_step, a_step, b_step, y_step):
    """y = a where the mask is not 0, else b; steps in elements."""
    if mask_step == a_step == b_step == y_step == 1:
        mask, a, b, y = carray(mask, n), carray(a, n), carray(b, n), carray(y, n)
        for i in range(n):
            yes, no = a[i], b[i]
            y[i] = yes if mask[i] else no
    else:
        for i in range(n):
            y[i * y_step] = a[i * a_step] if mask[i * mask_step] else b[i * b_step]


def where_32(places, size, steps, data):
    """The loop of numpy.where for elements of 32 bits."""
    mask, a, b, y = _four(places)
    by_mask, by_a, by_b, by_y = _four(steps)
    _where(_int8(mask), _int32(a), _int32(b), _int32(y), read(size), by_mask, by_a // 4, by_b // 4, by_y // 4)


def where_64(places, size, steps, data):
    """The loop of numpy.where for elements of 64 bits."""
    mask, a, b, y = _four(places)
    by_mask, by_a, by_b, by_y = _four(steps)
    _where(_int8(mask), _int64(a), _int64(b), _int64(y), read(size), by_mask, by_a // 8, by_b // 8, by_y // 8)


@njit(nogil=True)
def _cut(x, low, high):
    """NaN if one of them is; the bound where x equals it."""
    x = x if (x > low) | (x != x) else low
    return x if (x < high) | (x != x) else high


def clip_32(places, size, steps, data):
    """The loop of numpy.clip for float32."""
    x, low, high, y = _four(places)
    by_x, by_low, by_high, by_y = _four(steps)
    n, x, low, high, y = read(size), _float32(x), _float32(low), _float32(high), _float32(y)
    if by_x == by_y == 4 and by_low == by_high == 0:
        x, y, least, most = carray(x, n), carray(y, n), low[0], high[0]
        for i in range(n):
            y[i] = _cut(x[i], least, most)
    else:
        for i in range(n):
            y[i * by_y // 4] = _cut(x[i * by_x // 4], low[i * by_low // 4], high[i * by_high // 4])


@njit(nogil=True, error_model="numpy")
def _rsqrt(x):
    return _ONE / math.sqrt(x)


def rsqrt_32(places, size, steps, data):
    """The loop of 1 / sqrt(x) for float32."""
    x, y, _, _ = _four(places)
    by_x, by_y, _, _ = _four(steps)
    n, x, y = read(size), _float32(x), _float32(y)
    if by_x == by_y == 4:
        x, y = carray(x, n), carray(y, n)
        for i in range(n):
            y[i] = _rsqrt(x[i])
    else:
        for i in range(n):
            y[i * by_y // 4] = _rsqrt(x[i * by_x // 4])


def cast(source: str, to: str) -> Any:
    """The loop of a cast between dtypes of these names. As NumPy does, it leaves open what becomes of a float that an
    integer dtype does not hold.
    """
    x_at, y_at, converted = _POINTERS["uint8" if source == "bool" else source], _POINTERS[to], getattr(types, to)
    x_size, y_size = np.dtype(source).itemsize, np.dtype(to).itemsize

    def loop(places, size, steps, data):
        x, y, _, _ = _four(places)
        by_x, by_y, _, _ = _four(steps)
        n, x, y = read(size), x_at(x), y_at(y)
        if by_x == x_size and by_y == y_size:
            x, y = carray(x, n), carray(y, n)
            for i in range(n):
                y[i] = converted(x[i])
        else:
            for i in range(n):
                y[i * by_y // y_size] = converted(x[i * by_x // x_size])

    loop.__qualname__ = f"cast_{source}_{to}"  # its code on disk is known by that
    return loop


def cube_32(places, size, steps, data):
    """The loop of x x x for float32."""
    x, y, _, _ = _four(places)
    by_x, by_y, _, _ = _four(steps)
    n, x, y = read(size), _float32(x), _float32(y)
    if by_x == by_y == 4:
        x, y = carray(x, n), carray(y, n)
        for i in range(n):
            y[i] = x[i] * x[i] * x[i]
    else:
        for i in range(n):
            v = x[i * by_x // 4]
            y[i * by_y // 4] = v * v * v
