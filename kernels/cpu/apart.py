"""Loads and stores of arrays that do not overlap: those that are read, and fresh ones that are written or added to.

Of a loop that reads one array and writes another, LLVM makes two forms: one of vectors, and a plain one for arrays that
overlap or lie too close together. It chooses by their addresses. Where the loop also sums in any order, the two forms
add in different ones, and the last bits of the sum depend on where the arrays lie. Told that the arrays do not overlap,
LLVM makes the vectors alone (LLVM Language Reference, "noalias and alias.scope Metadata").

A loop that writes to several arrays would compare the addresses of each two of them, and beyond some number of pairs it
is not made of vectors at all. `add_to_one` and `add_to_other` are for sums that a loop adds to beside its result.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_LOADS, _ONE, _OTHER = "loads", "one sum", "other sum"  # scopes: which accesses are told to be apart from which


@intrinsic
def load(context: Any, array: Any, i: Any) -> Any:
    """array[i], i >= 0, of an array that no `store` of the loop writes to."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        value = b.load(_place(context, b, sig, args))
        value.set_metadata("alias.scope", _scopes(b, _LOADS))
        return value

    return array.dtype(array, types.intp), codegen


@intrinsic
def store(context: Any, array: Any, i: Any, value: Any) -> Any:
    """array[i] = value, i >= 0, in an array that no `load` of the loop reads, and that is none of its sums."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        b.store(args[2], _place(context, b, sig, args)).set_metadata("noalias", _scopes(b, _LOADS, _ONE, _OTHER))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), codegen


@intrinsic
def add_to_one(context: Any, array: Any, i: Any, value: Any) -> Any:
    """array[i] += value, i >= 0, in an array that the loop neither loads nor stores, and that is not its other sum."""
    return types.void(array, types.intp, array.dtype), _adds(_ONE, _OTHER)


@intrinsic
def add_to_other(context: Any, array: Any, i: Any, value: Any) -> Any:
    """As add_to_one, in the other sum."""
    return types.void(array, types.intp, array.dtype), _adds(_OTHER, _ONE)


def _adds(own: str, other: str) -> Any:
    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        place = _place(context, b, sig, args)
        before = b.load(place)
        after = b.store(b.fadd(before, args[2]), place)
        for each in (before, after):
            each.set_metadata("alias.scope", _scopes(b, own))
            each.set_metadata("noalias", _scopes(b, _LOADS, other))
        return context.get_dummy_value()

    return codegen


def _place(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    data = context.make_array(sig.args[0])(context, b, args[0]).data
    return b.gep(data, [args[1]], inbounds=True)


def _scopes(b: ir.IRBuilder, *names: str) -> ir.Value:
    domain = b.module.add_metadata(["tilegrad"])
    return b.module.add_metadata([b.module.add_metadata([f"tilegrad {name}", domain]) for name in names])
