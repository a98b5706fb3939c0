"""mma, ldmatrix and stmatrix: PTX ISA 9.7.15 (matrix multiply-accumulate with registers).

All threads of a warp execute them together: a warp of which some lanes do not is a fault. What they compute is
tensor_cores/'s. ldmatrix reads for the whole warp: each row of 16 bytes is watched as a read by the lane that gives its
address.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.machine import WARP, Machine
from tilegrad.kernels.simulate.ptx.operands import Scope, expect, items, unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction
from tilegrad.kernels.simulate.ptx.pure import Step
from tilegrad.kernels.simulate.ptx.tensor_cores import ldmatrix, mma
from tilegrad.kernels.simulate.ptx.tensor_cores.faults import SharedFault
from tilegrad.kernels.simulate.ptx.transfer import addresses_of

_ROW = 16  # bytes


def product(instruction: Instruction, scope: Scope) -> Step:
    """mma.sync: d = a b + c, of fragments that the lanes of a warp hold together."""
    line = instruction.line
    try:
        form = mma.read(instruction.form)
    except ValueError:
        raise unknown(instruction) from None
    expect(instruction, 4)
    d, a, b, c = map(items, instruction.operands)
    counts = tuple(map(len, (a, b, c)))
    if counts != form.registers or len(d) != len(c):
        raise PtxError(line, f"{instruction.form} of {counts} registers; expected {form.registers}")
    reads = [[scope.reads(each, "b32", line) for each in operand] for operand in (a, b, c)]
    writes = [scope.writes(each, "b32", line) for each in d]

    def step(m: Machine) -> None:
        _whole_warps(m)
        found = mma.mma(form, *([_by_warp(m, read(m)) for read in operand] for operand in reads))
        for write, values in zip(writes, found, strict=True):
            write(m, values.reshape(-1))

    return step


def load(instruction: Instruction, scope: Scope) -> Step:
    """ldmatrix: 8 x 8 matrices from shared memory, a row from the address of each lane."""
    form = _form(instruction)
    expect(instruction, 2)
    targets = items(instruction.operands[0])
    if len(targets) != form.count:
        raise PtxError(instruction.line, f"{instruction.form} fills {len(targets)} registers; expected {form.count}")
    writes = [scope.writes(each, "b32", instruction.line) for each in targets]
    addresses = addresses_of(instruction.operands[1], scope, instruction.line, "shared")

    def step(m: Machine) -> None:
        _whole_warps(m)
        given = addresses(m)
        _rows(m, given, form.count, lambda places: m.shared.note_read(m, places, _ROW))
        shared, block = _shared(m)
        found = ldmatrix.ldmatrix(form, shared, block, given.reshape(-1, WARP))
        for write, values in zip(writes, found, strict=True):
            write(m, values.reshape(-1))

    return step


def store(instruction: Instruction, scope: Scope) -> Step:
    """stmatrix: the reverse of ldmatrix."""
    form = _form(instruction)
    expect(instruction, 2)
    sources = items(instruction.operands[1])
    if len(sources) != form.count:
        raise PtxError(instruction.line, f"{instruction.form} of {len(sources)} registers; expected {form.count}")
    reads = [scope.reads(each, "b32", instruction.line) for each in sources]
    addresses = addresses_of(instruction.operands[0], scope, instruction.line, "shared")

    def step(m: Machine) -> None:
        _whole_warps(m)
        given = addresses(m)

        def note(places: np.ndarray) -> None:
            cells, stamps = m.shared.note_write(m, places, _ROW)
            m.shared.written[cells] = stamps

        _rows(m, given, form.count, note)
        shared, block = _shared(m)
        registers = [_by_warp(m, read(m)) for read in reads]
        try:
            ldmatrix.stmatrix(form, shared, block, given.reshape(-1, WARP), registers)
        except SharedFault as error:
            m.fault(int(m.lanes_now()[error.warp * WARP + (error.lane or 0)]), str(error))

    return step


def _form(instruction: Instruction) -> Any:
    try:
        return ldmatrix.read(instruction.form)
    except ValueError:
        raise unknown(instruction) from None


def _whole_warps(m: Machine) -> None:
    """Raise Fault if a warp has lanes that do not execute this with the others."""
    lanes = m.lanes_now()
    number, count = np.unique(m.warp_of[lanes], return_counts=True)
    if (count != WARP).any():
        at = int(np.argmax(count != WARP))
        lane = int(lanes[m.warp_of[lanes] == number[at]][0])
        m.fault(lane, f"executed by {count[at]} lanes of the warp; expected all {WARP}")


def _by_warp(m: Machine, values: Any) -> np.ndarray:
    """A register of the active lanes as (warps, 32)."""
    values = np.asarray(values).astype(np.uint32, copy=False)
    return np.broadcast_to(values, m.lanes_now().shape).reshape(-1, WARP)


def _rows(m: Machine, addresses: np.ndarray, matrices: int, note: Any) -> None:
    """note(places) for the rows of the lanes that give an address: the first 8 for each matrix."""
    active, lanes = m.active, m.lanes_now()
    giving = m.thread_of[lanes] % WARP < 8 * matrices
    m.active = lanes[giving]
    note(m.shared._places(m, m.block_of[m.active], addresses[giving], _ROW))
    m.active = active


def _shared(m: Machine) -> tuple[np.ndarray, np.ndarray]:
    """(the shared memory of each block, the block of each warp)."""
    return m.shared.by_block(), m.block_of[m.lanes_now()][::WARP]
