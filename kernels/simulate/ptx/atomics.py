"""red and atom on global and shared memory: PTX ISA 9.7.13 (atom, red).

Lanes act one after another, in the order of their numbers: one of the orders that the manual allows. Without a scope
they are of the GPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx import rounding
from tilegrad.kernels.simulate.ptx.machine import Machine
from tilegrad.kernels.simulate.ptx.operands import SHARED_WINDOW, Scope, expect, unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction
from tilegrad.kernels.simulate.ptx.pure import Step
from tilegrad.kernels.simulate.ptx.transfer import addresses_of, in_space
from tilegrad.kernels.simulate.ptx.types import STORED, WIDTHS, dtype_of

_ORDERS, _SCOPES = frozenset(["relaxed", "acquire", "release", "acq_rel"]), frozenset(["cta", "gpu", "sys"])
_SPACES = {"global": "global", "shared": "shared", "shared::cta": "shared"}
_INTEGERS = frozenset(["u32", "s32", "u64", "s64"])
_BITS = frozenset(["b32", "b64"])


def _inc(old: Any, b: Any) -> Any:
    return old.dtype.type(0) if old >= b else old + old.dtype.type(1)


def _dec(old: Any, b: Any) -> Any:
    return b if old == 0 or old > b else old - old.dtype.type(1)


_COMBINE: dict[str, tuple[Callable[..., Any], frozenset[str]]] = {
    "add": (lambda old, b: old + b, _INTEGERS - {"s64"} | {"f32"}),
    "min": (np.minimum, _INTEGERS),
    "max": (np.maximum, _INTEGERS),
    "and": (np.bitwise_and, _BITS),
    "or": (np.bitwise_or, _BITS),
    "xor": (np.bitwise_xor, _BITS),
    "exch": (lambda old, b: b, _BITS),
    "cas": (lambda old, b, c: c if old == b else old, _BITS),
    "inc": (_inc, frozenset(["u32"])),
    "dec": (_dec, frozenset(["u32"])),
}
_AT = {"min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def atomic(instruction: Instruction, scope: Scope) -> Step:
    """red [a], b; atom d, [a], b (, c for cas), where d is what was there before."""
    if len(instruction.modifiers) < 2:
        raise unknown(instruction)
    *names, name, kind = instruction.modifiers
    line, is_red = instruction.line, instruction.opcode == "red"
    said = [[each for each in names if each in known] for known in (_ORDERS, _SCOPES, _SPACES)]
    if any(len(each) > 1 for each in said) or sum(map(len, said)) != len(names):
        raise unknown(instruction)
    order, extent, space = ((each or [""])[0] for each in said)
    space, is_wide = _SPACES.get(space, ""), extent != "cta"
    if name not in _COMBINE or kind not in _COMBINE[name][1] or (is_red and name in ("exch", "cas")):
        raise unknown(instruction)
    expect(instruction, (2 if is_red else 3) + (name == "cas"))
    operands = instruction.operands if is_red else instruction.operands[1:]
    write = None if is_red else scope.writes(instruction.operands[0], kind, line)
    addresses = addresses_of(operands[0], scope, line, space)
    sources = [scope.reads(each, kind, line) for each in operands[1:]]
    combine, dtype, stored = _COMBINE[name][0], dtype_of(kind), STORED[WIDTHS[kind]]

    def act(m: Machine, name_of_space: str, places: np.ndarray) -> None:
        lanes = m.lanes_now()
        values = [np.broadcast_to(read(m), lanes.shape) for read in sources]
        block = m.block_of[lanes].astype(np.uint64) << np.uint64(32)
        words = places if name_of_space == "global" else places + block + np.uint64(SHARED_WINDOW)
        if m.memory.releases is not None:
            m.memory.releases.atomic(m, words, order, is_wide)

        def change(found: np.ndarray) -> np.ndarray:
            slots, inverse = np.unique(words, return_inverse=True)
            now = np.zeros(slots.size, stored)
            now[inverse] = found
            now = now.view(dtype)
            if is_red and name in _AT:
                _AT[name].at(now, inverse, values[0])
                return now.view(stored)[inverse]
            before = np.empty(lanes.size, dtype)
            for lane, slot in enumerate(inverse):
                before[lane] = now[slot]
                result = combine(now[slot], *(each[lane] for each in values))
                now[slot] = rounding.flushed(result) if kind == "f32" else result  # the manual: it flushes
            if write is not None:
                write(m, before)
            return now.view(stored)[inverse]

        if name_of_space == "global":
            m.memory.change(m, places, dtype.itemsize, is_wide, change)
        elif name_of_space == "shared":
            m.shared.change(m, m.block_of[lanes], places, dtype.itemsize, change)
        else:
            m.fault(int(lanes[0]), "an atomic operation on local memory; expected global or shared memory")

    return lambda m: in_space(space, m, addresses(m), lambda name, places: act(m, name, places))
