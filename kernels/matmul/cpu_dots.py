"""Matrix products whose terms are contiguous in both operands, y = act(a b^T + bias): a layer's forward pass.

    y[i, j] = bias[j] + sum over k of  a[i, k] * b[j, k]

The tile of kernels/cpu/tile.py reads b by vectors of columns, so this b, a weight as it is stored, would have to be
transposed first at every call. Here the vectors run along the terms instead: ROWS * COLUMNS sums, each a vector of
LANES partial sums, live in registers from a tile's first term to its last. LANES terms cost ROWS + COLUMNS loads and
ROWS * COLUMNS fused multiply-adds. At the end the vectors are summed across their lanes: 24 of them take some 40
cycles, as long as 50 terms. Lanes beyond the last term are masked, rows beyond the last are the last row again, columns
beyond the last are not written.

An item is COLUMNS rows of b and _ITEM_ROWS rows of a. The rows of b stay in the first cache, at most _BLOCK terms at a
time, while the rows of a are read one after the other. Neighbouring items share their rows of a, and each thread reads
its own part of a weight.

One core with AVX-512, shared with another program; GFLOP/s of one call at (m, n, k), medians taken in turns:

    | rows of a x rows of b a tile      | 32,128,784 | 512,128,784 | 64,64,1600 | 128,64,128 | 128,10,128 |
    | 4 x 4                             |     98     |      96     |     83     |     55     |     39     |
    | 4 x 5                             |    102     |     102     |     91     |     58     |     46     |
    | 4 x 6                             |    103     |     103     |     91     |     60     |     43     |
    | 5 x 5                             |     94     |     101     |     88     |     57     |     46     |
    | matmul.cpu, b transposed per call |     61     |      82     |     50     |     40     |      8     |
    | NumPy's sgemm                     |     45     |      83     |     49     |     52     |     21     |

With many rows the sums across lanes cost more than transposing b once. On a newer core, GFLOP/s at (m, n, k), the best
of calls in turns; matmul.cpu transposes from 192 rows on:

    | rows of a, m      |  64 | 128 | 192 | 256 | 512 | 1024 |
    | 384, 384          | 201 | 228 | 226 | 211 | 213 |  217 |
    | the same, laid out| 201 | 230 | 242 | 243 | 251 |  256 |
    | 512, 2048         | 209 | 207 | 192 | 202 | 190 |  198 |
    | the same, laid out| 211 | 232 | 238 | 240 | 236 |  247 |

Dropped: 8 x 3 and 6 x 4, 6 to 19 % slower than 4 x 6; rows of a fetched ahead by hand, -12 %; 400 terms a block, -8 %;
all 1600 at once, -10 %.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.scalar_math import smaller
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.cpu.tile import BIAS, LANES
from tilegrad.kernels.sizes import cdiv, next_power_of_2

ROWS, COLUMNS = {16: (4, 6), 8: (3, 4), 4: (3, 4)}[LANES]  # as many sums as registers have room for
_ITEM_ROWS = 16 * ROWS
_BLOCK = 1024  # terms
_STEP = _BLOCK + LANES  # floats from row to row of a copy: rows a power of two apart would compete for the same lines
_FEW = 4 * ROWS  # rows of a for which copying those of b does not pay
_LINE = 64  # bytes of a cache line

_f32, _i64, _i32, _i1 = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(1)


def items(m: int, n: int) -> int:
    """How many items `dots` shares out for y (m, n)."""
    return cdiv(m, _ITEM_ROWS) * cdiv(n, COLUMNS)


def _floats(lanes: int) -> ir.VectorType:
    return ir.VectorType(_f32, lanes)


def _each(kind: ir.Type, values: list) -> ir.Constant:
    return ir.Constant(ir.VectorType(kind, len(values)), values)


def _broadcast(b: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    return b.shuffle_vector(b.insert_element(undefined, scalar, _i32(0)), undefined, _each(_i32, [0] * lanes))


def _first_lanes(b: ir.IRBuilder, lanes: int, count: ir.Value) -> ir.Value:
    """The mask of the first `count` lanes."""
    return b.icmp_signed("<", _each(_i64, list(range(lanes))), _broadcast(b, count, lanes))


def _masked_load(b: ir.IRBuilder, place: ir.Value, mask: ir.Value) -> ir.Value:
    """The lanes in the mask, and 0 for the others, whose memory is not read."""
    vector = _floats(mask.type.count)
    kind = ir.FunctionType(vector, [vector.as_pointer(), _i32, mask.type, vector])
    load = cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.load.v{vector.count}f32.p0")
    return b.call(load, [place, _i32(4), mask, _each(_f32, [0.0] * vector.count)])


def _masked_store(b: ir.IRBuilder, value: ir.Value, place: ir.Value, mask: ir.Value) -> None:
    kind = ir.FunctionType(ir.VoidType(), [value.type, value.type.as_pointer(), _i32, mask.type])
    store = cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.store.v{mask.type.count}f32.p0")
    b.call(store, [value, place, _i32(4), mask])


def _add_across(b: ir.IRBuilder, vectors: list[ir.Value], one: ir.Value) -> tuple[ir.Value, int]:
    """Each vector's sum, of at most LANES vectors: vector i's in lane i * spread of one. Returns that and `spread`.

    Round d adds to every lane the one d away, and makes one vector of a pair: the lanes without bit d are the first's,
    those with it the second's. A vector without a partner is a pair by itself. The order of additions is the same for
    all vectors, so that a sum does not depend on its place in the tile.

    `one` is 1, which LLVM must not know: with AVX-512 it would select lanes by shuffles, which only one port executes,
    instead of by masks (3 to 5 % of a product of 128 terms).
    """
    spread = LANES // next_power_of_2(len(vectors))
    sums: list[ir.Value | None] = [None] * LANES
    sums[: len(vectors) * spread : spread] = vectors
    distance = LANES // 2
    while distance:
        far = [lane // distance % 2 for lane in range(LANES)]
        here = _each(_i32, [lane + LANES * f for lane, f in enumerate(far)])
        away = _each(_i32, [lane + LANES - distance if f else lane + distance for lane, f in enumerate(far)])
        for i in range(distance):
            first, second = sums[i], sums[i + distance]
            if first is None:
                continue
            if second is None:
                kept, second = first, first
            elif LANES == 16:
                kept = b.select(b.icmp_signed("<", _each(_i32, far), _broadcast(b, one, LANES)), first, second)
            else:
                kept = b.shuffle_vector(first, second, here)
            sums[i] = b.fadd(kept, b.shuffle_vector(first, second, away))
        distance //= 2
    return sums[0], spread


@intrinsic
def _address(context: Any, array: Any) -> Any:
    """Where an array's elements begin."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return b.ptrtoint(context.make_array(sig.args[0])(context, b, args[0]).data, _i64)

    return types.int64(array), codegen


@intrinsic
def _copy_floats(context: Any, to: Any, source: Any, count: Any) -> Any:
    """Copy that many floats between two addresses."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        to, source = (b.inttoptr(address, _f32.as_pointer()) for address in args[:2])
        cgutils.raw_memcpy(b, to, source, args[2], 4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _allocate(context: Any, size: Any) -> Any:
    """The address of that many bytes, 0 if there are none left. Some 0.3 s less to compile than numpy.empty."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return b.ptrtoint(context.nrt.allocate_unchecked(b, args[0]), _i64)

    return types.int64(types.int64), codegen


@intrinsic
def _free(context: Any, address: Any) -> Any:
    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        context.nrt.free(b, b.inttoptr(args[0], cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _dot_tile(
    context: Any,
    y: Any,
    a: Any,
    b_at: Any,
    b_step: Any,
    b_rows: Any,
    bias: Any,
    m: Any,
    n: Any,
    k: Any,
    row: Any,
    column: Any,
    term: Any,
    stop: Any,
    start: Any,
    relu: Any,
) -> Any:
    """Add terms `term` to `stop` to y's rows from `row` and columns from `column` on, as many as there are.

    y, a, bias    float32 arrays, their elements taken as one row of memory
    b_at, b_step, b_rows  the address of b's element (column, term), and how far apart and how many its rows are
    start         what the first terms, those from 0 on, are added to: BIAS, or ZERO, then bias is COLUMNS zeros
    relu          whether negative sums are written as 0 (NaN stays)
    """
    sig = types.void(y, a, *[types.intp] * 3, bias, *[types.intp] * 9)

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        y, a, bias = (context.make_array(sig.args[i])(context, b, args[i]).data for i in (0, 1, 5))
        b_at, b_step, b_rows = args[2:5]
        m, n, k, row, column, term, stop, start, relu = args[6:]
        width = next_power_of_2(COLUMNS)
        vector, narrow = _floats(LANES), _floats(width)
        fma = cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32")

        def rows_of(matrix: ir.Value, count: int, rows: ir.Value, step: ir.Value) -> list[ir.Value]:
            """Where each row begins, the last one's again for those behind it."""
            last = b.sub(rows, _i64(1))
            numbers = [b.select(b.icmp_signed("<", _i64(i), last), _i64(i), last) for i in range(count)]
            return [b.gep(matrix, [b.mul(number, step)]) for number in numbers]

        def add_products(load: Any, at: ir.Value) -> None:
            xs, ws = ([b.bitcast(b.gep(r, [at]), vector.as_pointer()) for r in rows] for rows in (a_rows, b_rows))
            xs = [load(x) for x in xs]
            for q, w in enumerate(ws):
                w = load(w)
                for p, x in enumerate(xs):
                    b.store(b.call(fma, [x, w, b.load(sums[p][q])]), sums[p][q])

        rows_left = b.sub(m, row)
        a_rows = rows_of(b.gep(a, [b.add(b.mul(row, k), term)]), ROWS, rows_left, k)
        b_rows = rows_of(b.inttoptr(b_at, _f32.as_pointer()), COLUMNS, b_rows, b_step)
        # Stack slots that are only loaded and stored: LLVM turns them into registers.
        zero = _each(_f32, [0.0] * LANES)
        sums = [[cgutils.alloca_once_value(b, zero) for _ in range(COLUMNS)] for _ in range(ROWS)]

        rest = b.and_(b.sub(stop, term), _i64(LANES - 1))
        whole = b.sub(b.sub(stop, term), rest)
        with cgutils.for_range_slice(b, _i64(0), whole, _i64(LANES), _i64) as (at, _):
            add_products(lambda place: b.load(place, align=4), at)
        with b.if_then(b.icmp_signed("!=", rest, _i64(0))):
            mask = _first_lanes(b, LANES, rest)
            add_products(lambda place: _masked_load(b, place, mask), whole)

        one = b.trunc(b.select(b.icmp_signed("<", k, _i64(1)), k, _i64(1)), _i32)
        slots = [slot for row_sums in sums for slot in row_sums]
        groups, lane_of = [], []  # vectors of whole sums, and in which of all their lanes each is
        for i in range(0, len(slots), LANES):
            group, spread = _add_across(b, [b.load(slot) for slot in slots[i : i + LANES]], one)
            groups.append(group)
            lane_of += range(i, i + LANES, spread)

        columns = b.sub(n, column)  # that are left; those beyond the tile are another item's, maybe another thread's
        columns = b.select(b.icmp_signed("<", columns, _i64(COLUMNS)), columns, _i64(COLUMNS))
        there = _first_lanes(b, width, columns)
        y_rows = rows_of(b.gep(y, [b.add(b.mul(row, n), column)]), ROWS, rows_left, n)
        y_rows = [b.bitcast(place, narrow.as_pointer()) for place in y_rows]
        above = b.select(b.icmp_signed("==", start, _i64(BIAS)), column, _i64(0))
        above = _masked_load(b, b.bitcast(b.gep(bias, [above]), narrow.as_pointer()), there)
        begins = [cgutils.alloca_once_value(b, above) for _ in range(ROWS)]
        with b.if_then(b.icmp_signed("!=", term, _i64(0))):
            for place, begin in zip(y_rows, begins):
                b.store(_masked_load(b, place, there), begin)
        floor = b.select(b.icmp_signed("!=", relu, _i64(0)), _f32(0.0), _f32(float("-inf")))
        floor = _broadcast(b, floor, width)
        results = []
        for p in range(ROWS):
            lanes = lane_of[p * COLUMNS : (p + 1) * COLUMNS]
            first = lanes[0] // LANES
            pair = groups[first], groups[min(first + 1, len(groups) - 1)]
            lanes = [lane - first * LANES for lane in lanes] + [0] * (width - COLUMNS)
            value = b.fadd(b.shuffle_vector(*pair, _each(_i32, lanes)), b.load(begins[p]))
            results.append(b.select(b.fcmp_ordered("<", value, floor), floor, value))
        for value, place in zip(results, y_rows):  # after all were read: the last row may be there several times
            _masked_store(b, value, place, there)
        return context.get_dummy_value()

    return sig, codegen


@njit(nogil=True, cache=True)
def dots(a, b, bias, y, m, n, k, start, relu, begin, stop, part, team):
    """Items begin to stop of y = act(a @ b^T + bias); see `items`. Every sum's bits are the same however they are cut.

    a, b, y  float32, (m, k), (n, k) and (m, n) as one contiguous dimension; m, n, k >= 1
    bias     float32, n elements where start is BIAS, and NO_BIAS where it is ZERO
    relu     whether negative results are written as 0 (NaN stays)
    """
    if team:
        share(begin, stop, part, team)
        return
    # If the vectors of both operands lie across two cache lines, a quarter of the speed is lost; if those of one do,
    # little. So if both do, the rows of b are copied to places where lines begin.
    ragged = k * 4 % _LINE != 0
    copied = m > _FEW and (ragged or _address(a) % _LINE != 0) and (ragged or _address(b) % _LINE != 0)
    memory = _allocate(4 * COLUMNS * _STEP + _LINE) if copied else 0
    copied = memory != 0
    copy_at = (memory + _LINE - 1) // _LINE * _LINE
    across = -(-n // COLUMNS)
    blocks = -(-k // _BLOCK)
    for item in range(begin, stop):
        first, column = item // across * _ITEM_ROWS, item % across * COLUMNS
        for block in range(blocks):
            # Whole vectors of terms, but for the last block's last.
            term = k * block // blocks // LANES * LANES
            end = k * (block + 1) // blocks // LANES * LANES if block < blocks - 1 else k
            b_at, b_step, b_rows = _address(b) + 4 * (column * k + term), k, n - column
            if copied:
                for q in range(COLUMNS):
                    at = b_at + 4 * smaller(q, n - column - 1) * k
                    _copy_floats(copy_at + 4 * q * _STEP, at, end - term)
                b_at, b_step, b_rows = copy_at, _STEP, COLUMNS
            for row in range(first, smaller(first + _ITEM_ROWS, m), ROWS):
                _dot_tile(
                    y, a, b_at, b_step, b_rows, bias, m, n, k, row, column, term, end, start, relu if end == k else 0
                )
    if copied:
        _free(memory)
