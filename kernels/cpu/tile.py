"""The register tile: the one inner loop of every matrix product and convolution on the CPU.

    y[p, :] = start[p, :] + sum over runs s and steps k of  x[x_at[p] + run_at[s] + k * x_step] * w[j, :]

for `rows` rows p of `vectors` vectors each. w moves on by w_step with each term j = s * run + k. The rows * vectors
sums live in vector registers from the first term to the last; a term costs `vectors` loads of w, `rows` broadcast loads
of x and rows * vectors fused multiply-adds. That is the scheme of Goto & van de Geijn ("Anatomy of high-performance
matrix multiplication", ACM TOMS 2008); the table of row offsets makes it a direct convolution without im2col.

`tiles` runs the tile along a `Walk`, a nest of loops whose steps are numbers. One loop nest serves all products and
convolutions, because its three tiles take long to compile: kernels with loops and tiles of their own each took 1.0 to
1.6 seconds on first use, for every type of array.

NumPy's sgemm cannot take its rows from a table, and LLVM does not keep a block of sums in registers by itself, so the
tile is written in LLVM's IR through Numba's @intrinsic. Tried before, one core with AVX-512 and 96 GFLOP/s of sgemm:

    | form                                                          | GFLOP/s |
    | Numba loops over four pixels, eight terms unrolled            |    36   |
    | sgemm on im2col's (15488, 288) @ (288, 64), copying not counted |  54   |
    | this tile, 6 rows x 4 vectors of 16                           |   103   |

Another such core, whose peak is 268 GFLOP/s; products and convolutions whose data are in its caches:

    | how the loop finds its rows            | 16 outputs | 32 outputs | 64 outputs | (1024, 512) @ (512, 128) |
    | LLVM moves a pointer for each          |    220     |    217     |    237     |           204            |
    | offsets from one that it cannot follow |    226     |    255     |    255     |           254            |
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import typeof
from numba.core import cgutils, types
from numba.extending import intrinsic

from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.scalar_math import smaller
from tilegrad.kernels.cpu.team import call_by_address, piece_of, share
from tilegrad.kernels.cpu.vectors import vector_unit

_UNIT = vector_unit()
LANES = _UNIT.nbytes // 4  # floats a vector holds
# A tile's sums, its factors and a broadcast value must fit the registers. WIDEST: vectors a tile is wide at most. ROWS:
# those that go with 1, 2 and 4 vectors; three are left out, as few nets have 48 channels. A tile of one vector is bound
# by its loads, one a row.
WIDEST, ROWS = (4, {1: 12, 2: 12, 4: 6}) if _UNIT.registers == 32 else (2, {1: 12, 2: 6, 4: 2})
_ROWS_1, _ROWS_2, _ROWS_4 = (ROWS[v] for v in (1, 2, 4))
ROW_BLOCK = max(ROWS.values())  # rows that all tiles fill exactly

HELD, BIAS, ZERO = 0, 1, 2  # what a tile's sums start from
ONE_RUN = np.zeros(1, np.intp)  # run_at of rows whose terms are one run
NO_BIAS = np.zeros(WIDEST * LANES, np.float32)


def tile_shape(columns: int) -> tuple[int, int]:
    """(rows, vectors) of the tiles for a matrix of that many columns, a multiple of LANES."""
    vectors = next(v for v in (4, 2, 1) if v <= WIDEST and columns // LANES % v == 0)
    return ROWS[vectors], vectors


_f32, _i64, _i32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_vector = ir.VectorType(_f32, LANES)
_bytes = ir.IntType(8).as_pointer()
_FLOAT = 4  # bytes


def _unknown(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The value, as one that LLVM knows nothing about: what an assembler that is given no instructions leaves."""
    return b.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)


@intrinsic(prefer_literal=True)
def register_tile(
    context: Any,
    rows: Any,
    vectors: Any,
    y: Any,
    y_at: Any,
    y_base: Any,
    first: Any,
    last: Any,
    x: Any,
    x_at: Any,
    x_base: Any,
    run_at: Any,
    run: Any,
    x_step: Any,
    w: Any,
    w_base: Any,
    w_step: Any,
    ahead: Any,
    bias: Any,
    bias_base: Any,
    start: Any,
    relu: Any,
) -> Any:
    """One tile (see the module), to be called from njit code with literal `rows` and `vectors`.

    y, x, w, bias  float32 arrays, their elements taken as one row of memory; offsets are counted in elements
    y_at, x_at     intp, offsets of rows, to which y_base and x_base are added; the tile's rows begin at entry `first`
    last           where the rows end that are asked for: a tile of half the height does where it reaches that far
    run_at, run    intp, where each run of x begins, from its row's offset; the number of terms in a run
    ahead          how far ahead of each term a line of w is fetched into the first cache; not for tiles of one vector
    start          what the sums start from: HELD, what y holds; BIAS, bias[bias_base:], the same for all rows; ZERO
    relu           whether negative sums are written as 0 (NaN stays)

    Rows may repeat: all are read before any is written, so a repeated row is only written twice.
    No bounds are checked.
    """
    n_vectors = vectors.literal_value
    index = types.intp
    sig = types.void(
        rows, vectors, y, y_at, index, index, index, x, x_at, index, run_at, index, index,
        w, index, index, index, bias, index, index, index,
    )  # fmt: skip

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        y, y_at, y_base, first, last, x, x_at, x_base, run_at, run, x_step = args[2:13]
        w, w_base, w_step, ahead, bias, bias_base, start, relu = args[13:]

        def pointer(position: int, value: ir.Value) -> ir.Value:
            return context.make_array(sig.args[position])(context, b, value).data

        runs = b.extract_value(context.make_array(sig.args[10])(context, b, run_at).shape, 0)
        y, y_at, x, x_at, run_at, w, bias = (
            pointer(i, v) for i, v in ((2, y), (3, y_at), (7, x), (8, x_at), (10, run_at), (13, w), (17, bias))
        )
        fetch = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(ir.VoidType(), [_bytes, _i32, _i32, _i32]), "llvm.prefetch.p0"
        )
        fma = cgutils.get_or_insert_function(b.module, ir.FunctionType(_vector, [_vector] * 3), f"llvm.fma.v{LANES}f32")

        x_bytes, w_bytes, ahead = (b.mul(step, _i64(_FLOAT)) for step in (x_step, w_step, ahead))

        def load(at: ir.Value, v: int) -> ir.Value:
            place = b.bitcast(b.gep(at, [_i64(v * LANES)]), _vector.as_pointer())
            return b.load(place, align=4)

        def broadcast(scalar: ir.Value) -> ir.Value:
            undefined = ir.Constant(_vector, ir.Undefined)
            first = b.insert_element(undefined, scalar, _i32(0))
            return b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_i32, LANES), [0] * LANES))

        def tile(n_rows: int) -> None:
            y_rows = [b.gep(y, [b.add(y_base, b.load(b.gep(y_at, [b.add(first, _i64(p))])))]) for p in range(n_rows)]
            x_rows = [b.gep(x, [b.add(x_base, b.load(b.gep(x_at, [b.add(first, _i64(p))])))]) for p in range(n_rows)]
            # Stack slots that are only loaded and stored: LLVM turns them into registers.
            sums = [[cgutils.alloca_once(b, _vector) for _ in range(n_vectors)] for _ in range(n_rows)]
            places = [(p, v) for p in range(n_rows) for v in range(n_vectors)]

            zero = ir.Constant(_vector, [0.0] * LANES)
            for p, v in places:
                b.store(zero, sums[p][v])
            with b.if_then(b.icmp_signed("==", start, _i64(HELD))):
                for p, v in places:
                    b.store(load(y_rows[p], v), sums[p][v])
            with b.if_then(b.icmp_signed("==", start, _i64(BIAS))):
                row = b.gep(bias, [bias_base])
                for v in range(n_vectors):
                    value = load(row, v)
                    for p in range(n_rows):
                        b.store(value, sums[p][v])

            # One pointer moves from term to term; the other rows are offsets from it, which do not change. LLVM would
            # have every row's pointer move, more of them than there are registers for: so it may not see how this one
            # does.
            first_row = b.ptrtoint(x_rows[0], _i64)
            apart = [_unknown(b, b.sub(b.ptrtoint(row, _i64), first_row)) for row in x_rows[1:]]
            here, term = cgutils.alloca_once(b, _bytes), cgutils.alloca_once(b, _bytes)
            b.store(b.bitcast(b.gep(w, [w_base]), _bytes), term)
            with cgutils.for_range(b, runs) as of_run:
                b.store(b.bitcast(b.gep(x_rows[0], [b.load(b.gep(run_at, [of_run.index]))]), _bytes), here)
                with cgutils.for_range(b, run):
                    row, factors_at = b.load(here), b.load(term)
                    if n_vectors > 1:  # a tile of one vector is bound by its loads
                        b.call(fetch, [b.gep(factors_at, [ahead]), _i32(0), _i32(3), _i32(1)])
                    factors = [load(b.bitcast(factors_at, _f32.as_pointer()), v) for v in range(n_vectors)]
                    for p, place in enumerate([row, *(b.gep(row, [offset]) for offset in apart)]):
                        value = broadcast(b.load(b.bitcast(place, _f32.as_pointer())))
                        for v in range(n_vectors):
                            b.store(b.call(fma, [value, factors[v], b.load(sums[p][v])]), sums[p][v])
                    b.store(b.gep(factors_at, [w_bytes]), term)
                    b.store(_unknown(b, b.gep(row, [x_bytes])), here)

            with b.if_then(b.icmp_signed("!=", relu, _i64(0))):
                for p, v in places:
                    value = b.load(sums[p][v])
                    b.store(b.select(b.fcmp_ordered("<", value, zero), zero, value), sums[p][v])
            for p, v in places:
                place = b.bitcast(b.gep(y_rows[p], [_i64(v * LANES)]), _vector.as_pointer())
                b.store(b.load(sums[p][v]), place, align=4)

        half = rows.literal_value // 2
        with b.if_else(b.icmp_signed("<=", b.sub(last, first), _i64(half))) as (are_enough, are_not):
            with are_enough:
                tile(half)
            with are_not:
                tile(rows.literal_value)
        return context.get_dummy_value()

    return sig, codegen


class Walk(NamedTuple):
    """The tiles of one call of `tiles`, and how far apart they lie, in elements.

        for each item n, shift s, panel i and tile of rows p, in this order:
            y begins at  n y_item + part y_part + shift_at[s] + i y_panel + y_base,  its rows at y_at[p] from there
            x begins at  n x_item + x_base,  its rows at x_at[p] from there, and from each row its runs at run_at
            w begins at  (n w_item + s w_shift + i w_panel) + w_base

    Item n has the rows from n item_rows on, at most `rows` of them, of `total_rows` in all. The same holds for panels.
    """

    vectors: int  # a tile's width; the rows that go with it are ROWS[vectors]
    panels: int
    rows: int
    run: int  # terms a run
    w_step: int
    x_step: int = 1
    item_rows: int = 0
    total_rows: int = -1  # -1: `rows`
    item_panels: int = 0
    total_panels: int = -1  # -1: `panels`
    fetch: int = 0  # how far beyond w's panel the next one lies, if that is not in the caches yet
    clear: int = 0  # elements of y from n y_item on that are zeroed first
    y_item: int = 0
    y_part: int = 0
    y_panel: int = 0
    y_base: int = 0
    x_item: int = 0
    x_base: int = 0
    w_item: int = 0
    w_shift: int = 0
    w_panel: int = 0
    w_base: int = 0
    bias_panel: int = 0
    bias_base: int = 0
    start: int = ZERO
    relu: int = 0


NO_SHIFT = np.zeros(1, np.intp)  # shift_at of a walk without shifts
_WALK = np.dtype([(name, np.int64) for name in Walk._fields])


def walk_array(*walks: Walk) -> np.ndarray:
    """Walks as `tiles` takes them: an array of records. Every item goes along all of them, in order."""
    whole = [w if w.total_rows >= 0 else w._replace(total_rows=w.rows) for w in walks]
    return np.array([w if w.total_panels >= 0 else w._replace(total_panels=w.panels) for w in whole], _WALK)


def row_table(offsets: np.ndarray) -> np.ndarray:
    """Offsets of rows as `tiles` takes them: the last one is repeated, so that a tile may begin at any row."""
    return np.pad(offsets, (0, max(ROWS.values())), mode="edge").astype(np.intp)


@njit(nogil=True, cache=True)
def tiles(walks, y, y_at, shift_at, x, x_at, run_at, w, bias, begin, stop, part, team):
    """All tiles of items begin to stop.

    walks          what walk_array gave
    y, x, w, bias  float32, one-dimensional and contiguous
    y_at, x_at     what row_table gave
    shift_at, run_at  intp
    """
    if team:
        share(begin, stop, part, team)
        return
    for n in range(begin, stop):
        for k in range(len(walks)):
            walk = walks[k]
            first = n * walk.item_rows
            last = smaller(first + walk.rows, walk.total_rows)
            first_panel = n * walk.item_panels
            last_panel = smaller(first_panel + walk.panels, walk.total_panels)
            x_begin = n * walk.x_item + walk.x_base
            y_begin = n * walk.y_item + part * walk.y_part + walk.y_base
            for j in range(y_begin, y_begin + walk.clear):
                y[j] = 0
            for s in range(len(shift_at)):
                for i in range(first_panel, last_panel):
                    y_panel = y_begin + shift_at[s] + i * walk.y_panel
                    panel = n * walk.w_item + s * walk.w_shift + i * walk.w_panel + walk.w_base
                    above = i * walk.bias_panel + walk.bias_base
                    if walk.vectors == 4:
                        for p in range(first, last, _ROWS_4):
                            line = (p - first) // _ROWS_4  # tile by tile, a vector of every row of the next panel
                            ahead = walk.fetch + line * LANES if walk.fetch and line < 4 else 0
                            register_tile(
                                _ROWS_4, 4, y, y_at, y_panel, p, last, x, x_at, x_begin, run_at, walk.run, walk.x_step,
                                w, panel, walk.w_step, ahead, bias, above, walk.start, walk.relu,
                            )  # fmt: skip
                    elif walk.vectors == 2:
                        for p in range(first, last, _ROWS_2):
                            line = (p - first) // _ROWS_2  # tile by tile, a vector of every row of the next panel
                            ahead = walk.fetch + line * LANES if walk.fetch and line < 2 else 0
                            register_tile(
                                _ROWS_2, 2, y, y_at, y_panel, p, last, x, x_at, x_begin, run_at, walk.run, walk.x_step,
                                w, panel, walk.w_step, ahead, bias, above, walk.start, walk.relu,
                            )  # fmt: skip
                    else:
                        for p in range(first, last, _ROWS_1):
                            register_tile(
                                _ROWS_1, 1, y, y_at, y_panel, p, last, x, x_at, x_begin, run_at, walk.run, walk.x_step,
                                w, panel, walk.w_step, 0, bias, above, walk.start, walk.relu,
                            )  # fmt: skip


# Arrays of the types that `tiles` takes, in their order.
_ARRAYS = walk_array(), NO_BIAS, ONE_RUN, NO_SHIFT, NO_BIAS, ONE_RUN, ONE_RUN, NO_BIAS, NO_BIAS


@cache
def tiles_address() -> int:
    """Where `tiles` is, for kernels that call it by `call_tiles`."""
    return piece_of(tiles, *_ARRAYS)


@intrinsic
def call_tiles(
    context: Any,
    address: Any,
    walks: Any,
    y: Any,
    y_at: Any,
    shift_at: Any,
    x: Any,
    x_at: Any,
    run_at: Any,
    w: Any,
    bias: Any,
    begin: Any,
    stop: Any,
    part: Any,
) -> Any:
    """tiles(walks, ..., part, 0) with tiles_address(): a copy of it in each kernel would take long to compile."""
    arrays, span = (walks, y, y_at, shift_at, x, x_at, run_at, w, bias), [types.int64] * 3
    if arrays != tuple(map(typeof, _ARRAYS)):
        return None

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        call_by_address(context, b, args[0], sig.args[1:-3], args[1:-3], args[-3:])
        return context.get_dummy_value()

    return types.void(types.int64, *arrays, *span), codegen
