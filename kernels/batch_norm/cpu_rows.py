"""Loops over rows of numbers whose columns have constants and sums of their own, in vectors.

    for each row, for each column j:   terms, results = body(numbers, constants of j)
                                       sums of j += terms;   results are stored where the numbers lie

A block of columns is a few vectors wide. Its constants and its sums stay in registers while its rows go by, so that a
number costs its load, its arithmetic and its store alone. Four rows are taken at once: their terms are added to each
other before they are added to the sums, which shortens the chain of additions that each sum waits for, and the sums'
error. What a column adds up, and in which order, depends on its rows alone: not on addresses, nor on threads.

LLVM keeps no array of sums in registers by itself, so the blocks are written in its IR through Numba's @intrinsic. What
was measured before, one core with AVX-512, (64, 32, 28, 28) in the third cache, where a copy reaches 105 GB/s:

    | loops of Numba's along 256 numbers, sums in an array               | 29 to 55 GB/s  |
    | vectors along 256 numbers of four rows at once, sums in an array   | 84 to 110 GB/s |
    | blocks of four vectors, sums in registers                          | 80 to 115 GB/s |

The last two differ where the data lie in the second cache: 120 and 180 GB/s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.scalar_math import larger, smaller
from tilegrad.kernels.cpu.tile import LANES, WIDEST

BLOCK = LANES * WIDEST  # columns
_AT_ONCE = 4  # rows
_PANEL = 1 << 13  # numbers: wide rows are taken a few at a time, so that their blocks are read again from the cache

_AHEAD, _AHEAD_WIDE = 8, 1 << 9  # rows that one of two sources is fetched ahead, if they are so wide at most

_float, _index, _i32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_bytes = ir.IntType(8).as_pointer()


class Numbers:
    """A vector of float32, or one of them, whose arithmetic reads as such. Each operation rounds, but for `product`."""

    def __init__(self, b: ir.IRBuilder, value: ir.Value) -> None:
        self.b = b
        self.value = value

    def __add__(self, other: Numbers) -> Numbers:
        """The sum; with a `product` on one side it may be rounded once."""
        return Numbers(self.b, self.b.fadd(self.value, other.value, flags=("contract",)))

    def __sub__(self, other: Numbers) -> Numbers:
        return Numbers(self.b, self.b.fsub(self.value, other.value))

    def __mul__(self, other: Numbers) -> Numbers:
        return Numbers(self.b, self.b.fmul(self.value, other.value))

    def product(self, other: Numbers) -> Numbers:
        """self * other, which a sum that it goes into may take unrounded."""
        return Numbers(self.b, self.b.fmul(self.value, other.value, flags=("contract",)))

    def unless(self, z: Numbers, least: Numbers) -> Numbers:
        """0 where z <= least, otherwise self: also where one of them is NaN."""
        is_low, zero = self.b.fcmp_ordered("<=", z.value, least.value), ir.Constant(z.value.type, None)
        return Numbers(self.b, self.b.select(is_low, zero, self.value))


Body = Callable[[list[Numbers], list[Numbers]], tuple[list[Numbers], list[Numbers]]]


def over_rows(body: Body, constants: int, terms: int = 0) -> Any:
    """A compiled walk(sources, targets, at, n, wide, held, sums) over n numbers, which are rows of `wide`.

    body       (a number of each source, the constants of its column) -> (terms of its sums, a number for each target)
    constants  how many it takes
    terms      how many it returns

    sources    a tuple of float32 arrays of one dimension; the numbers begin at `at` in each
    targets    the same of those that are written
    n          may end with a part of a row
    held       float32 (at least `constants`, wide), in C order
    sums       float32 (at least `terms`, wide), in C order: terms are added to what is there
    """

    @intrinsic(prefer_literal=True)
    def block(
        context: Any, vectors: Any, sources: Any, targets: Any, at: Any, rows: Any, wide: Any, held: Any, sums: Any,
        column: Any, ahead: Any,
    ) -> Any:  # fmt: skip
        """Columns from `column` on: as many as so many vectors hold, or one for 0."""
        numbers = ir.VectorType(_float, LANES) if vectors.literal_value else _float
        columns = range(max(1, vectors.literal_value))

        def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            at, rows, wide, column, ahead = (args[i] for i in (3, 4, 5, 8, 9))

            def data(of: Any, array: ir.Value) -> ir.Value:
                return b.gep(context.make_array(of)(context, b, array).data, [column], inbounds=True)

            def arrays(position: int) -> list[ir.Value]:
                group = zip(sig.args[position], cgutils.unpack_tuple(b, args[position]), strict=True)
                return [b.gep(data(of, array), [at], inbounds=True) for of, array in group]

            def place(array: ir.Value, row: ir.Value, v: int) -> ir.Value:
                there = b.gep(array, [b.add(b.mul(row, wide), _index(v * LANES))], inbounds=True)
                return b.bitcast(there, numbers.as_pointer())

            def load(array: ir.Value, row: ir.Value, v: int) -> Numbers:
                return Numbers(b, b.load(place(array, row, v), align=4))

            def store(number: Numbers, array: ir.Value, row: ir.Value, v: int) -> None:
                b.store(number.value, place(array, row, v), align=4)

            def fetch(there: ir.Value) -> None:
                of = ir.FunctionType(ir.VoidType(), [_bytes, _i32, _i32, _i32])
                prefetch = cgutils.get_or_insert_function(b.module, of, "llvm.prefetch.p0")
                b.call(prefetch, [b.bitcast(there, _bytes), _i32(0), _i32(3), _i32(1)])

            read, written, held, sums = arrays(1), arrays(2), data(sig.args[6], args[6]), data(sig.args[7], args[7])
            fixed = [[load(held, _index(k), v) for k in range(constants)] for v in columns]
            # Stack slots that are only loaded and stored: LLVM turns them into registers.
            slots = [[cgutils.alloca_once(b, numbers) for _ in range(terms)] for _ in columns]
            for v in columns:
                for k in range(terms):
                    b.store(load(sums, _index(k), v).value, slots[v][k])

            def several(first: ir.Value, count: int) -> None:
                for v in columns:
                    found = []
                    for i in range(count):
                        row = b.add(first, _index(i))
                        if len(read) > 1:
                            fetch(place(read[0], b.add(row, ahead), v))
                        own, results = body([load(array, row, v) for array in read], fixed[v])
                        for result, array in zip(results, written, strict=True):
                            store(result, array, row, v)
                        found.append(own)
                    for k in range(terms):
                        added = Numbers(b, b.load(slots[v][k])) + _in_pairs([own[k] for own in found])
                        b.store(added.value, slots[v][k])

            done = b.mul(b.udiv(rows, _index(_AT_ONCE)), _index(_AT_ONCE))
            with cgutils.for_range_slice(b, _index(0), done, _index(_AT_ONCE), _index) as (first, _):
                several(first, _AT_ONCE)
            with cgutils.for_range_slice(b, done, rows, _index(1), _index) as (first, _):
                several(first, 1)
            for v in columns:
                for k in range(terms):
                    store(Numbers(b, b.load(slots[v][k])), sums, _index(k), v)
            return context.get_dummy_value()

        n = types.intp
        return types.void(vectors, sources, targets, n, n, n, held, sums, n, n), codegen

    @njit(nogil=True, inline="always")  # its few callers have its code anyway: it need not be compiled by itself too
    def walk(sources, targets, at, n, wide, held, sums):
        panel = larger(1, _PANEL // (wide * _AT_ONCE)) * _AT_ONCE
        ahead = _AHEAD if wide <= _AHEAD_WIDE else 0
        end = at + n
        while at < end:
            rows, width, column = smaller(panel, (end - at) // wide), wide, 0
            if not rows:  # the part of one that is left
                rows, width = 1, end - at
            while column + BLOCK <= width:
                block(WIDEST, sources, targets, at, rows, wide, held, sums, column, ahead)
                column += BLOCK
            while column + LANES <= width:
                block(1, sources, targets, at, rows, wide, held, sums, column, ahead)
                column += LANES
            while column < width:
                block(0, sources, targets, at, rows, wide, held, sums, column, ahead)
                column += 1
            at += rows * width

    return walk


def _in_pairs(terms: list[Numbers]) -> Numbers:
    """Their sum, neighbours first."""
    while len(terms) > 1:
        terms = [one + other for one, other in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]
