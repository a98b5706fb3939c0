"""What a kernel is compiled for, and what that has: PTX ISA 11.1.2 (.target), the "Target ISA Notes" of instructions.

A driver refuses code for a newer architecture than the GPU's. Every other GPU than sm_90 refuses code for sm_90a, whose
instructions no later one has. ptxas refuses an instruction that the target does not have. All of these are errors here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.parse import Instruction

_TARGET = re.compile(r"^\s*\.target\b[^\n]*", re.M)
_KNOWN = re.compile(r"sm_(\d+)(a?)")
_OLDEST = 80
_NEEDS = {"stmatrix": 90, "fence.proxy": 90}  # beyond what sm_80 has
_ONLY = {"wgmma": "sm_90a"}


class Target(NamedTuple):
    """sm_`number`, with `a` if it is that architecture's alone."""

    name: str
    line: int
    number: int
    is_exact: bool

    def check_device(self, number: int) -> None:
        """Raise PtxError if a device of that compute capability cannot run it."""
        if number != self.number if self.is_exact else number < self.number:
            raise PtxError(self.line, f"target {self.name}; the device that executes it is sm_{number}")

    def check(self, instruction: Instruction) -> None:
        """Raise PtxError for an instruction that the target does not have."""
        short = ".".join((instruction.opcode, *instruction.modifiers[:1]))
        needs = _NEEDS.get(instruction.opcode, _NEEDS.get(short, 0))
        only = _ONLY.get(instruction.opcode, self.name)
        if self.number < needs or self.name != only:
            wanted = f"sm_{needs}" if needs else only
            raise PtxError(instruction.line, f"{instruction.form}: needs {wanted}; the target is {self.name}")


def target_of(ptx: str, name: str) -> Target:
    """That of a module which names it so. Raises PtxError for one that is not known."""
    known, directive = _KNOWN.fullmatch(name), _TARGET.search(ptx)
    line = ptx.count("\n", 0, directive.start()) + 1 if directive else 1
    if known is None or int(known[1]) < _OLDEST:
        raise PtxError(line, f"target {name!r}; expected sm_{_OLDEST} or a later one")
    return Target(name, line, int(known[1]), bool(known[2]))
