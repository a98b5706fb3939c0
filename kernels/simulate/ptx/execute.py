"""Executing a kernel's PTX over a grid, in chunks of blocks.

    counts = run(ptx, name, grid, block, shared, parameters, arrays)

parameters  the bytes of each, as the driver gets them: of exactly the sizes that the PTX declares
arrays      what the kernel may touch in global memory (memory.Array), and nothing else
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tilegrad.kernels.simulate.ptx import warpgroups, written
from tilegrad.kernels.simulate.ptx.control import BARRIER, BRANCH, EXIT, Flow, Op, op
from tilegrad.kernels.simulate.ptx.faults import Fault, PtxError
from tilegrad.kernels.simulate.ptx.machine import Axes, Machine
from tilegrad.kernels.simulate.ptx.memory import Array, Global, Rows
from tilegrad.kernels.simulate.ptx.operands import Scope
from tilegrad.kernels.simulate.ptx.parse import Kernel, Variable, parse
from tilegrad.kernels.simulate.ptx.releases import Releases, is_ordering
from tilegrad.kernels.simulate.ptx.target import target_of
from tilegrad.kernels.simulate.ptx.transfer import Copies
from tilegrad.kernels.simulate.ptx.types import WIDTHS

if TYPE_CHECKING:
    from tilegrad.kernels.simulate.ptx.counters.watch import Watch

LANES = 8192  # threads that run together, at least one block
_REMEMBERED = 128  # programs, of 1 or 2 MB each; the one that has gone takes 0.1 s to make again
_MOST_THREADS = 1024  # of a block
_WORD = 16  # bytes: the widest access of one thread


class Counts(NamedTuple):
    """What a run did."""

    instructions: int  # executed by a thread, summed over threads
    barriers: int  # passed by a block, summed over blocks


class Program:
    """A kernel whose instructions are functions. Raises PtxError for a text that cannot be executed."""

    def __init__(self, ptx: str, name: str) -> None:
        module = parse(ptx)
        if name not in module.kernels:
            raise PtxError(1, f"no kernel {name}; there are {', '.join(module.kernels) or 'none'}")
        self.kernel: Kernel = module.kernels[name]
        self.ptx = ptx
        self.target = target_of(ptx, module.target)
        entry = re.search(rf"\.entry\s+{re.escape(name)}(?![\w$])", ptx)
        self.line = ptx.count("\n", 0, entry.start()) + 1 if entry else 1
        for instruction in self.kernel.instructions:
            self.target.check(instruction)
        self.symbols: dict[str, int] = {}
        self.constants: list[Array] = []
        self.static, self.local = 0, 0  # bytes
        variables = self.kernel.variables.values()
        for variable in sorted(variables, key=lambda v: v.size is None):  # the dynamic memory lies behind the static
            self._place(variable)
        scope = Scope(self.kernel, self.symbols)
        self.ops: list[Op] = [op(instruction, scope, self.kernel) for instruction in self.kernel.instructions]
        self.of_products = warpgroups.registers_of_products(self.kernel.instructions)
        if self.of_products:
            self.ops = [o._replace(step=warpgroups.watched(o.step, o.instruction, self.of_products)) for o in self.ops]
        self.written = written.parameters_written(self.kernel)
        self.is_ordering = any(map(is_ordering, self.kernel.instructions))
        self.cells = {space: self._narrowest(space) for space in ("shared", "local")}

    def _place(self, variable: Variable) -> None:
        """Give a variable its address: in shared and local memory from 0 on."""
        if variable.space in ("global", "const"):
            assert variable.size is not None  # only shared memory may be of any size
            memory = np.zeros(variable.size + variable.align, np.uint8)
            start = -memory.__array_interface__["data"][0] % variable.align
            part = memory[start : start + variable.size]
            part[: len(variable.initial)] = np.frombuffer(variable.initial, np.uint8)
            address = part.__array_interface__["data"][0]
            self.constants.append(Array(variable.name, address, variable.size, variable.space == "global", None, part))
        else:
            used = self.static if variable.space == "shared" else self.local
            address = -(-used // variable.align) * variable.align
            stop = address + (variable.size or 0)
            if variable.space == "shared":
                self.static = stop
            else:
                self.local = stop
        self.symbols[variable.name] = address

    def _narrowest(self, space: str) -> int:
        """Bytes of the narrowest access to shared or local memory."""
        widths = [_WORD]
        for each in self.kernel.instructions:
            names = [name.partition("::")[0] for name in each.modifiers]
            if (
                each.opcode in ("ld", "st")
                and (space in names or not {"global", "param", "const"} & set(names))
                or each.opcode in ("atom", "red")
                and "global" not in names
            ):
                widths.append(WIDTHS[each.modifiers[-1]] // 8)
            elif each.opcode == "cp":
                widths.append(4)
        return min(widths)


@lru_cache(maxsize=_REMEMBERED)
def program(ptx: str, name: str) -> Program:
    """The kernel of that name, ready to run; remembered."""
    return Program(ptx, name)


def run(
    ptx: str,
    name: str,
    grid: Axes,
    block: Axes,
    shared: int,
    parameters: Sequence[bytes],
    arrays: Iterable[Array],
) -> Counts:
    """Execute every thread of the grid.

    shared   bytes of dynamic shared memory

    Raises PtxError for a text or a launch that does not fit, Fault for what a thread must not do.
    """
    return run_program(program(ptx, name), grid, block, shared, parameters, arrays)


def run_program(
    made: Program,
    grid: Axes,
    block: Axes,
    shared: int,
    parameters: Sequence[bytes],
    arrays: Iterable[Array],
    watch: Watch | None = None,
) -> Counts:
    """The same of a program that is made already; `watch` counts what it does (counters/watch.py)."""
    kernel = made.kernel
    _check_launch(made, grid, block, parameters)
    packed = bytearray(sum(p.size for p in kernel.parameters) + 8 * len(kernel.parameters))
    for parameter, value in zip(kernel.parameters, parameters):
        packed[parameter.offset : parameter.offset + parameter.size] = value
    threads, blocks = block[0] * block[1] * block[2], grid[0] * grid[1] * grid[2]
    ops, new_memory, new_shared = made.ops, Global, Rows
    if watch is not None:
        ops, new_memory, new_shared = watch.ops(made.ops), watch.memory, watch.shared
        blocks = blocks if watch.blocks is None else min(blocks, watch.blocks)
    if not blocks:
        return Counts(0, 0)
    memory = new_memory([*arrays, *made.constants], Releases() if made.is_ordering else None)
    memory.watch(None if made.written is None else [int.from_bytes(parameters[n], "little") for n in made.written])
    together = max(1, LANES // threads)
    instructions = barriers = 0
    with np.errstate(all="ignore"):  # a GPU does not warn
        for first in range(0, blocks, together):
            m = Machine(kernel, grid, block, first, min(together, blocks - first))
            m.parameters, m.memory, m.copies = bytes(packed), memory, Copies(m.lanes)
            m.shared = new_shared(m, "shared", m.blocks, made.static + shared, made.cells["shared"])
            m.local = Rows(m, "local", m.lanes, made.local, made.cells["local"])
            m.products = warpgroups.Products(m) if made.of_products else None
            instructions += _run_chunk(m, ops)
            barriers += m.barriers
    if watch is not None:
        watch.end(blocks, barriers)
    return Counts(instructions, barriers)


def _check_launch(made: Program, grid: Axes, block: Axes, parameters: Sequence[bytes]) -> None:
    kernel, line = made.kernel, made.line
    sizes, given = [p.size for p in kernel.parameters], [len(p) for p in parameters]
    if sizes != given:
        raise PtxError(line, f"{kernel.name}: parameters of {given} bytes; expected {sizes}")
    threads = block[0] * block[1] * block[2]
    wanted = kernel.threads
    if wanted is not None and (*wanted, 1, 1)[:3] != tuple(block):
        raise PtxError(line, f"{kernel.name}: a block of {block} threads; expected {wanted} (.reqntid)")
    if not 0 < threads <= _MOST_THREADS or min(grid) < 1:
        raise PtxError(
            line, f"{kernel.name}: a grid of {grid} blocks of {block} threads; expected 1 to {_MOST_THREADS} threads"
        )


def _run_chunk(m: Machine, ops: list[Op]) -> int:
    """Run the blocks of a chunk to their end; gives the instructions executed."""
    flow, executed = Flow(m), 0
    while flow.waiting:
        at, lanes = flow.next()
        everyone = None if lanes.size == m.lanes else lanes
        stop = flow.lowest()  # where others stand, whom this group takes in
        while at < stop:
            if at >= len(ops):
                m.fault(int(lanes[0]), "runs beyond the end of the kernel")
            kind, step, guard, m.instruction, target = ops[at]
            m.active = everyone
            who, holds = lanes, None
            if guard is not None:
                holds = guard(m)
                if not holds.all():
                    who = lanes[holds]
                    m.active = who
            executed += who.size
            at += 1
            if not who.size:
                continue
            if step is not None:  # of a PLAIN one
                step(m)
            elif kind == BRANCH:
                if who.size == lanes.size:
                    at = target
                    continue
                flow.put(target, who)
                assert holds is not None
                lanes = lanes[~holds]
                everyone, stop = lanes, flow.lowest()
            elif kind == EXIT:
                if m.products is not None:
                    m.products.ended(m)
                m.alive[who] = False
                lanes = lanes[:0] if holds is None or who.size == lanes.size else lanes[~holds]
                everyone = lanes
            elif kind == BARRIER:
                flow.arrive(target, at, who, m.instruction)
                lanes = lanes[:0] if holds is None or who.size == lanes.size else lanes[~holds]
                everyone, stop = lanes, flow.lowest()
            else:
                _meet_in_warps(m, who)
            if not lanes.size:
                break
        else:
            flow.put(at, lanes)
    flow.end()
    return executed


def _meet_in_warps(m: Machine, lanes: np.ndarray) -> None:
    """bar.warp.sync of all lanes."""
    there = np.bincount(m.warp_of[lanes], minlength=m.blocks * m.warps)
    alive = np.bincount(m.warp_of[m.alive], minlength=m.blocks * m.warps)
    wrong = (there > 0) & (there < alive)
    if wrong.any():
        lane = int(lanes[np.argmax(wrong[m.warp_of[lanes]])])
        m.fault(lane, "not all lanes of the warp execute this together")
    m.shared.warp_barrier(there > 0)
    if m.memory.releases is not None:
        for warp in np.flatnonzero(there):
            m.memory.releases.meet(m, lanes[m.warp_of[lanes] == warp])


__all__ = ["Counts", "Fault", "PtxError", "run"]
