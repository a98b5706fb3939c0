"""The state of a chunk of blocks: registers with one lane a thread, and which lanes the instruction is executed by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tilegrad.kernels.simulate.ptx.faults import Fault

if TYPE_CHECKING:
    from tilegrad.kernels.simulate.ptx.memory import Global, Rows
    from tilegrad.kernels.simulate.ptx.parse import Instruction, Kernel
    from tilegrad.kernels.simulate.ptx.transfer import Copies
    from tilegrad.kernels.simulate.ptx.warpgroups import Products

WARP = 32
WARPGROUP = 4 * WARP
WHO_BLOCK, WHO_WARP = 10, 5  # the first bit of the block, and of the warp, in the number of a thread
Axes = tuple[int, int, int]


class Machine:
    """Lanes are the threads of `blocks` consecutive blocks, in the order of their numbers.

    active      the lanes that execute the current instruction, ascending; None: all
    registers   by number, an array over all lanes; None where nothing was written yet
    """

    def __init__(self, kernel: Kernel, grid: Axes, block: Axes, first: int, blocks: int) -> None:
        self.kernel, self.grid, self.block, self.first, self.blocks = kernel, grid, block, first, blocks
        self.threads = block[0] * block[1] * block[2]
        self.lanes = self.threads * blocks
        self.warps = -(-self.threads // WARP)  # of a block
        lanes = np.arange(self.lanes, dtype=np.int64)
        self.block_of = lanes // self.threads  # within the chunk
        self.thread_of = lanes % self.threads
        self.warp_of = self.block_of * self.warps + self.thread_of // WARP  # within the chunk
        self.who = first + self.block_of << WHO_BLOCK | self.thread_of  # the thread's number in the whole grid
        self.active: np.ndarray | None = None
        self.registers: list[Any] = [None] * len(kernel.registers)
        self.instruction: Instruction | None = None
        self.parameters = b""
        self.memory: Global
        self.shared: Rows
        self.local: Rows
        self.copies: Copies
        self.products: Products | None = None  # of a kernel that has some
        self.alive = np.ones(self.lanes, np.bool_)  # has not ended
        self.barriers = 0  # that blocks have passed
        self._special: dict[str, np.ndarray] = {}

    def special(self, name: str) -> np.ndarray:
        """A special register's lanes, 32 bits (PTX ISA 10)."""
        found = self._special.get(name)
        if found is None:
            base, _, axis = name[1:].partition(".")
            if base == "laneid":
                values = self.thread_of % WARP
            elif base == "warpid":
                values = self.thread_of // WARP
            elif base in ("ntid", "nctaid"):
                values = np.full(self.lanes, (self.block if base == "ntid" else self.grid)["xyz".index(axis)])
            else:
                numbers = self.thread_of if base == "tid" else self.first + self.block_of
                values = place(numbers, self.block if base == "tid" else self.grid)["xyz".index(axis)]
            found = self._special[name] = values.astype(np.uint32)
        return found

    def lanes_now(self) -> np.ndarray:
        """The lanes that execute the current instruction."""
        return np.arange(self.lanes) if self.active is None else self.active

    def alive_in_warps(self) -> np.ndarray:
        """(warps, 32): the lanes that exist and have not ended."""
        found = np.zeros((self.blocks * self.warps, WARP), np.bool_)
        found[self.warp_of, self.thread_of % WARP] = self.alive
        return found

    def fault(self, lane: int | None, message: str, instruction: Instruction | None = None) -> NoReturn:
        """Raise Fault for the current instruction, or that one, in that lane."""
        instruction = instruction or self.instruction
        assert instruction is not None
        where = f"{self.kernel.name}, PTX line {instruction.line}"
        if instruction.source is not None:
            file, line = instruction.source
            where += f" ({self.kernel.files.get(file, '?')}:{line})"
        if lane is not None:
            block = tuple(int(n) for n in place(self.first + self.block_of[lane], self.grid))
            thread = tuple(int(n) for n in place(self.thread_of[lane], self.block))
            where += f", block {block}, thread {thread}"
        raise Fault(f"{where}: {instruction.form}: {message}")


def place(number: Any, extents: Axes) -> tuple[Any, Any, Any]:
    """(x, y, z) of what is counted along x first."""
    x, y, _ = extents
    return number % x, number // x % y, number // (x * y)
