"""The launches that happen within a block of code, each counted: of either language, eager or from a captured step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilegrad.kernels.compile import ptxas
from tilegrad.kernels.launch import triton_kernel
from tilegrad.kernels.profile.bound import bounds
from tilegrad.kernels.profile.cards import Card
from tilegrad.kernels.profile.occupancy import Occupancy, occupancy
from tilegrad.kernels.simulate.ptx import driver
from tilegrad.kernels.simulate.ptx.counters.watch import Counters, Watch
from tilegrad.kernels.simulate.ptx.machine import WARP, Axes
from tilegrad.kernels.system.modes import Block

_configs: dict[str, str] = {}  # PTX of a Triton kernel -> what it was compiled with


@dataclass
class Launched:
    """A kernel, and what all its launches with this grid did together."""

    kernel: str
    config: str
    grid: Axes
    threads: int  # of a block
    static: int  # bytes of shared memory
    dynamic: int
    ptx: str
    counters: Counters
    launches: int = 0

    @property
    def blocks(self) -> int:
        """Of a launch."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def warps(self) -> int:
        """Of a block."""
        return -(-self.threads // WARP)

    def assembled(self) -> ptxas.Assembled:
        return ptxas.assemble(self.ptx)

    def occupancy(self, card: Card, registers: int) -> Occupancy:
        return occupancy(card, self.warps, registers, self.static + self.dynamic)

    def bounds(self, card: Card) -> dict[str, float]:
        """Of one launch; of several their mean."""
        return bounds(self.counters, self.blocks, card)


Choose = Callable[[driver.Launch], int | None]  # how many of the grid's first blocks are run; None: all
PLAINLY = -1  # in its place: all of them, and they are not counted


def profiled(choose: Choose = lambda launch: None) -> Block:
    """A block that gives a list of what is launched within it, in the order of the first launches.

    choose   how much of a launch is run; one of 0 blocks is not run, and not in the list
    """
    found: dict[Any, Launched] = {}
    listed: list[Launched] = []

    def observe(launch: driver.Launch) -> Watch | None:
        blocks = choose(launch)
        if blocks == PLAINLY:
            return None
        if blocks == 0:
            return Watch(Counters(), 0)
        program, threads = launch.program, launch.block[0] * launch.block[1] * launch.block[2]
        key = program.ptx, launch.grid, launch.block, launch.shared
        if key not in found:
            config = _configs.get(program.ptx, f"threads={threads}")
            name = driver.plain(program.kernel.name)
            shared = program.static, launch.shared
            made = Launched(name, config, launch.grid, threads, *shared, program.ptx, Counters())
            found[key] = made
            listed.append(made)
        found[key].launches += 1
        return Watch(found[key].counters, blocks)

    return driver.observed_by(observe, (triton_kernel.Specialisation, "compile", _compile), gives=listed)


_compile_plainly = triton_kernel.Specialisation.compile


def _compile(spec: triton_kernel.Specialisation, arch: int) -> Any:
    """Specialisation.compile, with a note of what became of which configuration."""
    compiled = _compile_plainly(spec, arch)
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages}
    _configs[compiled.asm["ptx"]] = " ".join(f"{n}={value}" for n, value in (dict(spec.constexprs) | options).items())
    return compiled
