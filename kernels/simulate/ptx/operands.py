"""Operands as functions: one gives an operand's lanes as the type that an instruction takes, another takes a result.

PTX ISA 6 (operands) and 9.4 (operands wider than the instruction's type: a source is cut off, the result of ld and cvt
is extended by its sign or by zeros).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.machine import Machine
from tilegrad.kernels.simulate.ptx.parse import (
    Address,
    Float,
    Instruction,
    Integer,
    Kernel,
    Operand,
    Register,
    Special,
    Symbol,
    Vector,
)
from tilegrad.kernels.simulate.ptx.types import STORED, WIDTHS, dtype_of

Read = Callable[[Machine], Any]
Write = Callable[[Machine, Any], None]

SHARED_WINDOW, LOCAL_WINDOW = 1 << 56, 2 << 56  # generic addresses of shared and local memory, beyond any of a process
UNWRITTEN = 0xFFFFFFFFFFFFFFFF  # what a register holds that nothing was written to


class Scope:
    """What the names of a kernel stand for, while its instructions become functions."""

    def __init__(self, kernel: Kernel, symbols: dict[str, int]) -> None:
        self.kernel = kernel
        self.symbols = symbols  # addresses of variables
        self.numbers = {name: number for number, name in enumerate(kernel.registers)}

    def width(self, name: str, line: int) -> int:
        """Bits of a register."""
        if name not in self.kernel.registers:
            raise PtxError(line, f"register {name} is not declared")
        return WIDTHS[self.kernel.registers[name]]

    def reads(self, operand: Operand | None, kind: str, line: int) -> Read:
        """What gives the lanes of a register, or the value of a number, as that type."""
        dtype, width = dtype_of(kind), WIDTHS[kind]
        if isinstance(operand, Register):
            return self._reads_register(operand.name, dtype, width, line)
        if isinstance(operand, Special):
            name = operand.name
            if width == 1:
                raise PtxError(line, f"{name} is no predicate")

            def read_special(m: Machine) -> Any:
                values = m.special(name)
                return (values if m.active is None else values[m.active]).astype(STORED[width]).view(dtype)

            return read_special
        constant = self.constant(operand, kind, line)
        return lambda m: constant

    def _reads_register(self, name: str, dtype: np.dtype, width: int, line: int) -> Read:
        has = self.width(name, line)
        if has < width or (has == 1) != (width == 1):
            raise PtxError(line, f"register {name} has {has} bits; expected {width}")
        number, stored = self.numbers[name], STORED[has]
        narrow = STORED[width] if has != width else None

        def read(m: Machine) -> Any:
            values = m.registers[number]
            if values is None:
                values = m.registers[number] = np.full(m.lanes, UNWRITTEN & (1 << has) - 1, np.uint64).astype(stored)
            if m.active is not None:
                values = values[m.active]
            if narrow is not None:
                values = values.astype(narrow)
            return values.view(dtype)

        return read

    def constant(self, operand: Operand | None, kind: str, line: int) -> Any:
        """A number, or the address of a variable, as a NumPy scalar of that type."""
        dtype, width = dtype_of(kind), WIDTHS[kind]
        if isinstance(operand, Integer) and dtype.kind != "f":
            if width == 1:
                return np.bool_(operand.value & 1)
            if not -(1 << width - 1) <= operand.value < 1 << max(width, 32):
                raise PtxError(line, f"{operand.value} is no number of {width} bits")
            bits = operand.value & (1 << width) - 1
        elif isinstance(operand, Float) and operand.width == width:
            bits = operand.bits
        elif isinstance(operand, Symbol) and operand.name in self.symbols:
            bits = self.symbols[operand.name]
            if width < 32 or bits >> width:
                raise PtxError(line, f"the address of {operand.name} does not fit {width} bits")
        else:
            raise PtxError(line, f"an operand is {operand}; expected a register or a number of type .{kind}")
        return STORED[width].type(bits).view(dtype)

    def writes(self, operand: Operand | None, kind: str, line: int, extends: bool = False) -> Write:
        """What puts lanes of that type into a register; None, for _, takes them and forgets.

        extends   a wider register takes them extended: of signed types by their sign
        """
        if operand is None:
            return lambda m, values: None
        if not isinstance(operand, Register):
            raise PtxError(line, f"a result goes to {operand}; expected a register")
        has, width = self.width(operand.name, line), WIDTHS[kind]
        if has != width and not (extends and has > width > 1):
            raise PtxError(line, f"register {operand.name} has {has} bits; expected {width}")
        number, stored = self.numbers[operand.name], STORED[has]
        signed = np.dtype(f"i{has // 8}") if has != width and kind[0] == "s" else None
        dtype = dtype_of(kind)

        def write(m: Machine, values: Any) -> None:
            if type(values) is not np.ndarray:
                values = np.asarray(values)
            assert values.dtype == dtype, f"{operand.name}: {values.dtype} is no .{kind}"
            if signed is not None:
                values = values.astype(signed).view(stored)
            elif has != width:
                values = values.view(STORED[width]).astype(stored)
            else:
                values = values.view(stored)
            if m.active is None:
                m.registers[number] = values if values.ndim else np.full(m.lanes, values, stored)
                return
            old = m.registers[number]  # never written into: it may be another register's array too
            if old is None:
                new = np.full(m.lanes, UNWRITTEN & (1 << has) - 1, np.uint64).astype(stored)
            else:
                new = old.copy()
            new[m.active] = values
            m.registers[number] = new

        return write


def registers_of(operand: Operand | None) -> tuple[str, ...]:
    """The names of the registers in an operand, also in its address."""
    if isinstance(operand, Vector):
        return tuple(name for each in operand.items for name in registers_of(each))
    if isinstance(operand, Address):
        operand = operand.base
    return (operand.name,) if isinstance(operand, Register) else ()


def items(operand: Operand | None) -> tuple[Operand | None, ...]:
    """Of a vector; another operand is the only one."""
    return operand.items if isinstance(operand, Vector) else (operand,)


def expect(instruction: Instruction, count: int) -> None:
    """Raise PtxError for another number of operands."""
    if len(instruction.operands) != count:
        raise PtxError(
            instruction.line, f"{instruction.form} has {len(instruction.operands)} operands; expected {count}"
        )


def unknown(instruction: Instruction) -> PtxError:
    return PtxError(instruction.line, f"{instruction.form}: unknown instruction or modifier")
