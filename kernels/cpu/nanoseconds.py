"""The clock of kernels/system/clock.py, read by compiled code: some 25 ns a call."""

from __future__ import annotations

import time
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_i32, _i64 = ir.IntType(32), ir.IntType(64)
_TIME = ir.LiteralStructType([_i64, _i64])  # seconds and nanoseconds


@intrinsic
def nanoseconds(context: Any) -> Any:
    """now(), by POSIX's clock_gettime."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = ir.FunctionType(_i32, [_i32, _TIME.as_pointer()])
        place = cgutils.alloca_once(b, _TIME)
        b.call(cgutils.get_or_insert_function(b.module, kind, "clock_gettime"), [_i32(time.CLOCK_MONOTONIC), place])
        seconds, rest = (b.load(cgutils.gep_inbounds(b, place, 0, i)) for i in range(2))
        total: Any = b.add(b.mul(seconds, _i64(10**9)), rest)
        return total

    return types.int64(), codegen
