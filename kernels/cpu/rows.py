"""Rows of a flat array, without a count of who refers to them.

A slice in compiled code counts a reference to its array, up and down again, by two atomic additions, and compares its
bounds with the array's: some 5 nanoseconds a slice on one core with AVX-512. Rows of a hundred numbers lost a sixth
to a third of a kernel's time to that, where one thread called it; a team's arguments have no count (cpu/team.py).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


@intrinsic
def row(context: Any, array: Any, start: Any, size: Any) -> Any:
    """array[start : start + size] of a contiguous array of one dimension, 0 <= start <= start + size <= array.size.

    Nobody checks that. The row is borrowed: it is for the kernel that was given the array, and not for its results.
    """

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        whole = context.make_array(sig.args[0])(context, b, args[0])
        found = context.make_array(sig.return_type)(context, b)
        found.data = b.gep(whole.data, [args[1]], inbounds=True)
        found.shape = cgutils.pack_array(b, [args[2]])
        found.strides = whole.strides
        found.itemsize, found.nitems = whole.itemsize, args[2]
        found.meminfo = ir.Constant(found.meminfo.type, None)
        found.parent = ir.Constant(found.parent.type, None)
        return found._getvalue()

    if not isinstance(array, types.Array) or array.ndim != 1 or array.layout != "C":
        return None
    return array(array, types.intp, types.intp), codegen
