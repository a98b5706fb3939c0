"""Which parameters' memory a kernel may write to, read from its text.

A register belongs to the parameters that its value may come from. An address that is written to belongs to one or more
parameters then, or to what was loaded from memory: to any array, as with a table of addresses. It is no proof, as an
address may be computed across arrays; so memory that is written nonetheless is treated as such from then on.
"""

from __future__ import annotations

from tilegrad.kernels.simulate.ptx.operands import registers_of
from tilegrad.kernels.simulate.ptx.parse import Address, Instruction, Kernel, Symbol
from tilegrad.kernels.simulate.ptx.types import WIDTHS

_ELSEWHERE = frozenset(["shared", "shared::cta", "local", "param"])
_STORES = frozenset(["st", "red", "atom"])


def parameters_written(kernel: Kernel) -> frozenset[int] | None:
    """The numbers of these parameters; None: any memory."""
    number = {p.name: 1 << i for i, p in enumerate(kernel.parameters)}
    loaded = 1 << len(number)
    origin: dict[str, int] = {}  # a bit for each parameter, and one for memory
    changed = True
    while changed:
        changed = False
        for each in kernel.instructions:
            if each.opcode in ("st", "red") or not each.operands:
                continue
            first, *others = each.operands
            bits = 0
            if each.opcode in ("ld", "ldmatrix"):
                of = others[0].base if others and isinstance(others[0], Address) else None
                bits = number.get(of.name, 0) if isinstance(of, Symbol) and "param" in each.modifiers else loaded
            else:
                for operand in others:
                    for name in registers_of(operand):
                        bits |= origin.get(name, 0) & (~loaded if _widens(kernel, each, name) else -1)
                bits |= loaded if each.opcode == "atom" else 0
            for name in registers_of(first):
                if kernel.registers.get(name) != "pred" and bits & ~origin.get(name, 0):
                    origin[name] = origin.get(name, 0) | bits
                    changed = True
    found = 0
    for each in kernel.instructions:
        if each.opcode in _STORES and not _ELSEWHERE & set(each.modifiers):
            (address,) = (operand for operand in each.operands if isinstance(operand, Address))
            bits = sum(origin.get(name, 0) for name in registers_of(address))
            if not bits or bits & loaded:
                return None
            found |= bits
    return frozenset(i for i in range(len(number)) if found >> i & 1)


def _widens(kernel: Kernel, instruction: Instruction, name: str) -> bool:
    """Whether a narrow number becomes a wide one here: a distance, as no address has only 32 bits."""
    is_wide = "wide" in instruction.modifiers or instruction.opcode == "cvt"
    return is_wide and WIDTHS.get(kernel.registers.get(name, ""), 64) <= 32
