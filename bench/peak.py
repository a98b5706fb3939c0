"""The most multiply-adds a second that all cores do: none of them waits for another one, or for memory.

What a product or a convolution reaches stands beside it. A large product of a BLAS is no ceiling: smaller ones, whose
matrices stay in a cache, and convolutions pass it by half.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from tilegrad.bench.clock import wall
from tilegrad.kernels.cpu import team as teams
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.cpu.vectors import vector_unit

share: Any = teams.share  # to a type checker its first argument is what Numba gives it
SUMS = 12  # at a time, in vector registers: two units of four cycles each need 8, and the fewest registers are 16
_STEPS = 1 << 18  # of a timed call: a millisecond or so
_SECONDS, _CALLS = 0.3, 5


def best(dtype: str) -> tuple[float, str]:
    """FLOP a second with float32 or float64, a multiply-add as two, and how they were done."""
    kernel, lanes = _kernel(dtype), vector_unit().nbytes // np.dtype(dtype).itemsize
    n = threads.num_threads()
    y = np.ones((n, SUMS * lanes), dtype)
    threads.share(kernel, n, n, y, _STEPS)
    stop, times = time.perf_counter() + _SECONDS, []
    while len(times) < _CALLS or time.perf_counter() < stop:
        times.append(wall(lambda: threads.share(kernel, n, n, y, _STEPS)))
    return 2.0 * y.size * _STEPS / (min(times) / 1e3), f"multiply-adds in registers, threads: {n}"


def _many(dtype: str) -> Any:
    """many(y, at, steps): SUMS vectors of y from element `at` on are y * 0.5 + 1, `steps` times."""
    element, bits = (ir.FloatType(), 32) if dtype == "float32" else (ir.DoubleType(), 64)
    lanes = 8 * vector_unit().nbytes // bits
    vector = ir.VectorType(element, lanes)

    @intrinsic
    def many(context: Any, y: Any, at: Any, steps: Any) -> Any:
        def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            kind = ir.FunctionType(vector, [vector] * 3)
            fma = cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.v{lanes}f{bits}")
            factor, more = (ir.Constant(vector, [number] * lanes) for number in (0.5, 1.0))
            data = context.make_array(sig.args[0])(context, b, args[0]).data
            where = b.bitcast(b.gep(data, [args[1]]), vector.as_pointer())
            places = [b.gep(where, [ir.IntType(64)(i)]) for i in range(SUMS)]
            sums = [cgutils.alloca_once(b, vector) for _ in places]
            for held, place in zip(sums, places, strict=True):
                b.store(b.load(place, align=bits // 8), held)
            with cgutils.for_range(b, args[2]):
                for held in sums:
                    b.store(b.call(fma, [b.load(held), factor, more]), held)
            for held, place in zip(sums, places, strict=True):
                b.store(b.load(held), place, align=bits // 8)
            return context.get_dummy_value()

        return types.void(y, types.intp, types.intp), codegen

    return many


@cache
def _kernel(dtype: str) -> Callable[..., None]:
    """The rows begin to stop of y, each in registers of its own."""
    many = _many(dtype)

    @njit(nogil=True)
    def multiply_adds(y: Any, steps: int, begin: int, stop: int, part: int, team: int) -> None:
        if team:
            share(begin, stop, part, team)
            return
        for row in range(begin, stop):
            many(y, row * y.shape[1], steps)

    return multiply_adds
