"""setp and selp: PTX ISA 9.7.6 (comparison and selection), 9.7.7 (of halves).

Comparisons of floats are false where one is NaN, `ne` too; with a u behind (equ, ltu, ...) they are true there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx import rounding
from tilegrad.kernels.simulate.ptx.floating import HALVES, PAIRS, halves_of, widened
from tilegrad.kernels.simulate.ptx.integer import BITS, INTEGERS
from tilegrad.kernels.simulate.ptx.operands import Scope, expect, items, unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction
from tilegrad.kernels.simulate.ptx.pure import Pure, Step
from tilegrad.kernels.simulate.ptx.types import dtype_of

_SIGNED: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_UNSIGNED = _SIGNED | {"lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge}
_EQUALITY = {name: _SIGNED[name] for name in ("eq", "ne")}
_FLOATS = _SIGNED | {
    "ne": lambda a, b: (a < b) | (a > b),
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": operator.ne,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}
_COMBINED = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def setp(instruction: Instruction, scope: Scope) -> Step:
    """p, or p|q: of single values q is the opposite, of pairs p is of the lower halves and q of the upper."""
    names, line = list(instruction.modifiers), instruction.line
    if len(names) < 2:
        raise unknown(instruction)
    name, kind = names.pop(0), names.pop()
    combine = _COMBINED[names.pop(0)] if names and names[0] in _COMBINED else None
    ftz = bool(names) and names == ["ftz"] and kind == "f32"
    table = (
        _FLOATS if kind in ("f32", "f64", *HALVES, *PAIRS)
        else _EQUALITY if kind in BITS
        else _UNSIGNED if kind in INTEGERS and kind[0] == "u"
        else _SIGNED if kind in INTEGERS
        else {}
    )  # fmt: skip
    if name not in table or (names and not ftz):
        raise unknown(instruction)
    expect(instruction, 3 if combine is None else 4)
    compare = table[name]
    results = [scope.writes(each, "pred", line) for each in items(instruction.operands[0])]
    a, b = (scope.reads(each, kind, line) for each in instruction.operands[1:3])
    third = scope.reads(instruction.operands[3], "pred", line) if combine is not None else None

    if kind in PAIRS:
        half, dtype = widened(PAIRS[kind]), dtype_of(PAIRS[kind])
        if len(results) != 2 or combine is not None:
            raise unknown(instruction)

        def step_pairs(m: Any) -> None:
            pairs = a(m), b(m)
            for result, shift in zip(results, (0, 16), strict=True):
                result(m, compare(*map(half, halves_of(pairs, dtype, shift))))

        return step_pairs

    wide = widened(kind) if kind in HALVES else rounding.flushed if ftz else None

    def step(m: Any) -> None:
        x, y = a(m), b(m)
        if wide is not None:
            x, y = wide(x), wide(y)
        found = compare(x, y)
        other = None if third is None else third(m)
        results[0](m, found if combine is None else combine(found, other))
        if len(results) == 2:
            results[1](m, ~found if combine is None else combine(~found, other))

    return step


def selp(instruction: Instruction) -> Pure:
    """a where the predicate holds, else b."""
    match instruction.modifiers:
        case [kind] if kind in INTEGERS or kind in BITS or kind in ("f32", "f64"):
            return Pure(kind, (kind, kind, "pred"), lambda a, b, p: np.where(p, a, b))
    raise unknown(instruction)
