"""Instructions that compute a result from registers and touch nothing else: a function of arrays, lane by lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.simulate.ptx.machine import Machine
from tilegrad.kernels.simulate.ptx.operands import Scope, expect
from tilegrad.kernels.simulate.ptx.parse import Instruction

Step = Callable[[Machine], None]


class Refusal(NamedTuple):
    """Sources for which the manual leaves the result open: a fault."""

    of: Callable[..., Any]  # the sources, to whether a lane's are such
    message: str


class Pure(NamedTuple):
    """What an instruction computes."""

    result: str  # type
    sources: tuple[str, ...]  # types
    function: Callable[..., Any]  # of arrays of the sources' types, to one of the result's
    extends: bool = False  # a wider register takes the result, extended
    refuses: Refusal | None = None


def step_of(pure: Pure, instruction: Instruction, scope: Scope) -> Step:
    expect(instruction, 1 + len(pure.sources))
    line = instruction.line
    write = scope.writes(instruction.operands[0], pure.result, line, pure.extends)
    reads = [scope.reads(operand, kind, line) for operand, kind in zip(instruction.operands[1:], pure.sources)]
    function, refuses = pure.function, pure.refuses
    if refuses is not None:

        def step(m: Machine) -> None:
            sources = [read(m) for read in reads]
            wrong = np.asarray(refuses.of(*sources))
            if wrong.any():
                m.fault(int(m.lanes_now()[np.argmax(wrong)]), refuses.message)
            write(m, function(*sources))

        return step
    if len(reads) == 1:
        (first,) = reads
        return lambda m: write(m, function(first(m)))
    if len(reads) == 2:
        first, second = reads
        return lambda m: write(m, function(first(m), second(m)))
    return lambda m: write(m, function(*[read(m) for read in reads]))
