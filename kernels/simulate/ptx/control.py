"""Branches, barriers and the end of threads: PTX ISA 9.7.12 (control flow), 9.7.13 (barriers).

Lanes wait in groups, by the instruction that they stand before. The group that stands lowest goes on, and takes in the
groups that it meets: the two ways of a branch meet again at the first instruction that they share. A block's threads
wait at a barrier until all of them have come. A barrier that some of them never reach, because they ended or wait at
another one, is a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.machine import Machine
from tilegrad.kernels.simulate.ptx.operands import Scope, expect, unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction, Integer, Kernel, Register, Symbol
from tilegrad.kernels.simulate.ptx.pure import Step
from tilegrad.kernels.simulate.ptx.table import step as plain_step

PLAIN, BRANCH, EXIT, BARRIER, WARP_BARRIER = range(5)


class Op(NamedTuple):
    """An instruction, ready to run."""

    kind: int
    step: Step | None  # of a PLAIN one
    guard: Callable[[Machine], Any] | None  # which of the active lanes execute it
    instruction: Instruction
    target: int = 0  # of a BRANCH; of a BARRIER its number


def op(instruction: Instruction, scope: Scope, kernel: Kernel) -> Op:
    """Raises PtxError for an instruction that is not known, or a name that is not declared."""
    guard = None
    if instruction.guard is not None:
        read = scope.reads(Register(instruction.guard.register), "pred", instruction.line)
        negated = instruction.guard.negated
        guard = (lambda m: ~read(m)) if negated else read
    opcode, modifiers = instruction.opcode, instruction.modifiers
    if opcode == "bra":
        if modifiers not in ((), ("uni",)):
            raise unknown(instruction)
        expect(instruction, 1)
        (label,) = instruction.operands
        if not isinstance(label, Symbol) or label.name not in kernel.labels:
            raise PtxError(instruction.line, f"no label {label}")
        return Op(BRANCH, None, guard, instruction, kernel.labels[label.name])
    if opcode in ("ret", "exit"):
        if modifiers:
            raise unknown(instruction)
        expect(instruction, 0)
        return Op(EXIT, None, guard, instruction)
    if opcode in ("bar", "barrier"):
        if modifiers not in (("sync",), ("warp", "sync"), ("sync", "aligned")):
            raise unknown(instruction)
        expect(instruction, 1)
        (number,) = instruction.operands
        if not isinstance(number, Integer):
            raise PtxError(instruction.line, f"barrier {number}; expected a number")
        if modifiers == ("warp", "sync"):
            if number.value & 0xFFFFFFFF != 0xFFFFFFFF:
                raise PtxError(instruction.line, f"member mask {number.value}; expected all lanes, -1")
            return Op(WARP_BARRIER, None, guard, instruction)
        return Op(BARRIER, None, guard, instruction, number.value)
    return Op(PLAIN, plain_step(instruction, scope), guard, instruction)


class Flow:
    """Where each lane of a chunk stands."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.waiting: dict[int, list[np.ndarray]] = {0: [np.arange(m.lanes)]}
        self.parked: dict[
            int, np.ndarray
        ] = {}  # by barrier: the instruction behind it that a lane waits to go to, or -1
        self.parked_at: dict[int, Instruction] = {}

    def next(self) -> tuple[int, np.ndarray]:
        """The lowest instruction that lanes stand before, and these lanes."""
        at = min(self.waiting)
        groups = self.waiting.pop(at)
        return at, groups[0] if len(groups) == 1 else np.sort(np.concatenate(groups))

    def put(self, at: int, lanes: np.ndarray) -> None:
        if lanes.size:
            self.waiting.setdefault(at, []).append(lanes)

    def lowest(self) -> int:
        """The lowest instruction that other lanes stand before."""
        return min(self.waiting) if self.waiting else 1 << 62

    def arrive(self, number: int, at: int, lanes: np.ndarray, instruction: Instruction) -> None:
        """These lanes wait at a barrier, to go on at instruction `at`; who is complete goes on."""
        m = self.m
        parked = self.parked.setdefault(number, np.full(m.lanes, -1))
        parked[lanes] = at
        self.parked_at[number] = instruction
        arrived = (parked >= 0).reshape(m.blocks, m.threads)
        complete = arrived.all(1)
        if not complete.any():
            return
        m.shared.barrier(complete)
        if m.memory.releases is not None:
            for block in np.flatnonzero(complete):
                m.memory.releases.meet(m, np.arange(block * m.threads, (block + 1) * m.threads))
        m.barriers += int(complete.sum())
        released = np.flatnonzero(np.repeat(complete, m.threads))
        for behind in np.unique(parked[released]):
            self.put(int(behind), released[parked[released] == behind])
        parked[released] = -1

    def end(self) -> None:
        """Raise Fault if lanes still wait."""
        m = self.m
        for number, parked in self.parked.items():
            waits = np.flatnonzero(parked >= 0)
            if waits.size:
                lane = int(waits[0])
                block = slice(lane // m.threads * m.threads, (lane // m.threads + 1) * m.threads)
                here = int((parked[block] >= 0).sum())
                absent = block.start + int(np.argmin(parked[block] >= 0))
                message = f"{here} of {m.threads} threads of the block wait here; thread {absent - block.start} "
                message += "has ended" if not m.alive[absent] else "waits at another barrier"
                m.fault(lane, message, self.parked_at[number])
