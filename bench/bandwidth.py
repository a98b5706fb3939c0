"""The most bytes a second that memory gives to what one call of a row touches: a compiled copy, triad, sum or fill.

Bytes are counted by STREAM's rules (McCalpin 1995): what is read and what is written, not the lines that a store has
fetched before it. Which of them a row is compared with says the share of its bytes that it writes; between two shares
the better one counts:

    sum      of x           0
    triad    y = a + 3 b    1/3
    copy     y = x          1/2
    fill     y = 3          1

They move as many bytes as the row does, and lie in memory as its arrays do: what is read is one of several copies in
turn (see inputs.copies), what is written is the same memory each time, unless the row writes to what it read. So what
stays in a cache for the row stays there for the ceiling. The best of all thread counts, of plain and of streaming
stores counts. No call's overhead is in it: the loop over the copies is compiled too.

Streaming stores are LLVM's: "!nontemporal" on stores of whole vectors. It drops the mark where it makes vectors itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from tilegrad.bench.clock import wall
from tilegrad.bench.inputs import Traffic
from tilegrad.kernels.cpu import team as teams
from tilegrad.kernels.cpu import threads

share: Any = teams.share  # to a type checker its first argument is what Numba gives it
LINE = 64  # bytes of a line of the caches, and of the vectors
_FLOATS = LINE // 4
_LEAST = 1 << 25  # bytes that a timed call moves at least: a millisecond or so
_SECONDS, _CALLS = 0.03, 3  # calls are timed for so long, and so many at least


class Pattern(NamedTuple):
    """A loop that rows are compared with: arrays that it reads, and arrays that it writes, of the same size."""

    name: str
    sources: int
    writes: int

    @property
    def share(self) -> float:
        """Of its bytes, those that it writes."""
        return self.writes / (self.sources + self.writes)


PATTERNS = (Pattern("sum", 8, 0), Pattern("triad", 2, 1), Pattern("copy", 1, 1), Pattern("fill", 0, 1))
_NEAR = 0.02  # a row whose share is that close to a loop's is compared with it alone


class Bandwidth(NamedTuple):
    """The best that was measured: bytes a second, and how."""

    value: float
    how: str


def best(traffic: Traffic) -> Bandwidth:
    """The ceiling of a row that moves so much."""
    moved = traffic.read + traffic.written
    share = traffic.written / moved if moved else 0.0
    near = [p for p in PATTERNS if abs(p.share - share) <= _NEAR]
    beside = max(p.share for p in PATTERNS if p.share <= share), min(p.share for p in PATTERNS if p.share >= share)
    return max(found for p in near or [p for p in PATTERNS if p.share in beside] for found in _by(p, traffic))


def _by(pattern: Pattern, traffic: Traffic) -> Iterator[Bandwidth]:
    """What the loop reaches with each kind of stores and each number of threads."""
    arrays = pattern.sources + pattern.writes
    lines = max(1, (traffic.read + traffic.written) // (arrays * LINE))  # of each
    held = lines * pattern.sources
    x = _aligned(traffic.copies * held)
    x.fill(1.0)
    in_place = traffic.in_place and pattern.sources == 1
    y, y_next = (x, held) if in_place else (_aligned(lines), 0)
    y.fill(1.0)
    turns = traffic.copies * -(-_LEAST // (arrays * lines * LINE * traffic.copies))
    stride, apart = (1, lines) if pattern.writes else (pattern.sources, 1)
    for streaming in (False, True) if pattern.writes else (False,):
        kernel = _kernel(pattern.sources, streaming)
        for n in _thread_counts():

            def call(kernel: Any = kernel, n: int = n) -> None:
                walk = y, y_next, pattern.writes, x, held, stride, apart, traffic.copies, turns
                threads.share(kernel, n, lines, *walk)

            call()
            how = f"{pattern.name}{', in place' * in_place}{', streaming stores' * streaming}, threads: {n}"
            yield Bandwidth(turns * arrays * lines * LINE / _least(call), how)


def _least(call: Callable[[], None]) -> float:
    """Seconds of the fastest of some calls."""
    stop = time.perf_counter() + _SECONDS
    times = [wall(call) for _ in range(_CALLS)]
    while time.perf_counter() < stop:
        times.append(wall(call))
    return min(times) / 1e3


def _thread_counts() -> Iterator[int]:
    """Powers of two, and all."""
    most, n = threads.num_threads(), 1
    while n < most:
        yield n
        n *= 2
    yield most


def _aligned(lines: int) -> np.ndarray:
    """float32 (lines, 16), one in a line of the caches."""
    memory = np.empty((lines + 1) * LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + lines * LINE].view(np.float32)


def _move(sources: int, streaming: bool) -> Any:
    """move(y, j, x, i, apart): y's line j = x's line i + 3 times each of its lines i + apart, i + 2 apart, ...

    Without sources it is 3. Lines are aligned.
    """
    vector = ir.VectorType(ir.FloatType(), _FLOATS)

    @intrinsic
    def move(context: Any, y: Any, j: Any, x: Any, i: Any, apart: Any) -> Any:
        def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            def line(array: int, number: Any) -> ir.Value:
                data = context.make_array(sig.args[array])(context, b, args[array]).data
                return b.gep(b.bitcast(data, vector.as_pointer()), [number], inbounds=True)

            three = ir.Constant(vector, [3.0] * _FLOATS)
            number: Any = args[3]
            value = b.load(line(2, number), align=LINE) if sources else three
            for _ in range(sources - 1):
                number = b.add(number, args[4])
                value = b.fadd(value, b.fmul(b.load(line(2, number), align=LINE), three))
            store = b.store(value, line(0, args[1]), align=LINE)
            if streaming:
                store.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            return context.get_dummy_value()

        return types.void(y, types.intp, x, types.intp, types.intp), codegen

    return move


@cache
def _kernel(sources: int, streaming: bool) -> Callable[..., None]:
    """Lines begin to stop of each copy in turn, `turns` times in all.

    y, y_next, y_step   what is written: where the next turn's begins, lines from one to the next
    x, x_next, x_step, apart    the same of what is read; lines between the sources of one
    """
    move = _move(sources, streaming)

    @njit(nogil=True)
    def moving(
        y: Any, y_next: int, y_step: int, x: Any, x_next: int, x_step: int, apart: int, copies: int, turns: int,
        begin: int, stop: int, part: int, team: int,
    ) -> None:  # fmt: skip
        if team:
            share(begin, stop, part, team)
            return
        for turn in range(turns):
            to = turn % copies * y_next + begin
            first = turn % copies * x_next + begin * x_step
            for i in range(stop - begin):
                move(y, to + i * y_step, x, first + i * x_step, apart)

    return moving
