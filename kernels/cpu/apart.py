"""Loads and stores of two arrays that do not overlap: one that is read, and a fresh one that is written.

Of a loop that reads one array and writes another, LLVM makes two forms: one of vectors, and a plain one for arrays that
overlap or lie too close together. It chooses by their addresses. Where the loop also sums in any order, the two forms
add in different ones, and the last bits of the sum depend on where the arrays lie. Told that the arrays do not overlap,
LLVM makes the vectors alone (LLVM Language Reference, "noalias and alias.scope Metadata").
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


@intrinsic
def load(context: Any, array: Any, i: Any) -> Any:
    """array[i], i >= 0, of an array that no `store` of the loop writes to."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        value = b.load(_place(context, b, sig, args))
        value.set_metadata("alias.scope", _scope(b))
        return value

    return array.dtype(array, types.intp), codegen


@intrinsic
def store(context: Any, array: Any, i: Any, value: Any) -> Any:
    """array[i] = value, i >= 0, in an array that no `load` of the loop reads."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        b.store(args[2], _place(context, b, sig, args)).set_metadata("noalias", _scope(b))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), codegen


def _place(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    data = context.make_array(sig.args[0])(context, b, args[0]).data
    return b.gep(data, [args[1]], inbounds=True)


def _scope(b: ir.IRBuilder) -> ir.Value:
    domain = b.module.add_metadata(["tilegrad"])
    return b.module.add_metadata([b.module.add_metadata(["tilegrad loads", domain])])
