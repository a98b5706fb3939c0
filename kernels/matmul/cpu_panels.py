"""Laying out a matrix as panels for the register tile; it is transposed in blocks that fit the registers.

    panels[at[j] + k * step[j] + l] = rows[j * LANES + l, k]

A block of LANES x LANES is loaded by rows and transposed in log2(LANES) rounds of shuffles: a round of distance d swaps
the elements that lie d off the diagonal, in pairs of rows d apart. One core with AVX-512, a (128, 784) weight, 401 kB:

    | form                                       | microseconds |
    | Numba loops over 16 terms of every column  |      83      |
    | shuffles in registers                      |      18      |
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.cpu.tile import LANES

_i64, _i32 = ir.IntType(64), ir.IntType(32)
_vector = ir.VectorType(ir.FloatType(), LANES)


@intrinsic
def transpose_block(context: Any, x: Any, x_at: Any, x_step: Any, y: Any, y_at: Any, y_step: Any) -> Any:
    """y[y_at + k * y_step + l] = x[x_at + l * x_step + k] for l, k < LANES; x, y float32. No bounds are checked."""
    index = types.intp
    sig = types.void(x, index, index, y, index, index)

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x, x_at, x_step, y, y_at, y_step = args

        def place(position: int, array: ir.Value, at: ir.Value, step: ir.Value, row: int) -> ir.Value:
            data = context.make_array(sig.args[position])(context, b, array).data
            return b.bitcast(b.gep(data, [b.add(at, b.mul(step, _i64(row)))]), _vector.as_pointer())

        rows = [b.load(place(0, x, x_at, x_step, i), align=4) for i in range(LANES)]
        distance = 1
        while distance < LANES:
            apart = [bool(lane & distance) for lane in range(LANES)]
            low = [LANES + lane - distance if far else lane for lane, far in enumerate(apart)]
            high = [LANES + lane if far else lane + distance for lane, far in enumerate(apart)]
            masks = [ir.Constant(ir.VectorType(_i32, LANES), mask) for mask in (low, high)]
            for i in range(LANES):
                if not i & distance:
                    pair = rows[i], rows[i + distance]
                    rows[i], rows[i + distance] = (b.shuffle_vector(*pair, mask) for mask in masks)
            distance *= 2
        for i in range(LANES):
            b.store(rows[i], place(3, y, y_at, y_step, i), align=4)
        return context.get_dummy_value()

    return sig, codegen


@njit(nogil=True, cache=True)
def lay_out(rows, terms, panels, at, step, begin, stop, part, team):
    """Blocks begin to stop of LANES rows each.

    rows      float32, (rows, terms) as one contiguous dimension
    panels    float32, as many elements
    at, step  intp: where each block's first term goes, and how far apart its terms are
    """
    if team:
        share(begin, stop, part, team)
        return
    whole = terms - terms % LANES
    for j in range(begin, stop):
        first = j * LANES * terms
        for k in range(0, whole, LANES):
            transpose_block(rows, first + k, terms, panels, at[j] + k * step[j], step[j])
        for k in range(whole, terms):
            for lane in range(LANES):
                panels[at[j] + k * step[j] + lane] = rows[first + lane * terms + k]
