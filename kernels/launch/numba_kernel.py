"""Compiling and launching Numba-CUDA kernels: all of it is in this file.

A kernel is a `@kernel` function, called with grid and block (each up to three axes, x first) and its arguments:

    @kernel
    def _scale_kernel(x, y, factor):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = factor * x[i]

    _scale_kernel((cdiv(n, 256),), (256,), x, y, 0.5)

An argument is an array of the device (any strides), an int (int64) or a float (float32). Facts that are known when a
kernel is made - tile sizes, an activation, a reduction - are variables of the function around it, and are compiled in:

    @functools.cache
    def _tile_kernel(size): ... @kernel ... return _kernel

What becomes of the call, as in launch/triton_kernel.py:

    on a GPU     Numba compiles to PTX for the card, the driver compiles that, and CuPy launches it. Numba's launcher is
                 not used: it synchronises the stream for every array, and takes 88 us
    simulated    NUMBA_ENABLE_CUDASIM=1: the kernel runs as Python on host memory, an OS thread for each CUDA thread
    executed     TILEGRAD_SIMULATE=ptx: as on a GPU, but the driver is kernels/simulate/ptx, which executes the PTX
    collected    within `collecting()`: the specialisation is noted and nothing runs

A kernel is compiled for each combination of dtype, axes and contiguity (C or any) of its arrays. Numba passes an array
as 5 + 2 ndim words of 8 bytes: meminfo, parent (null here), elements, itemsize, address, shape, strides in bytes.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import driver, numba_target
from tilegrad.kernels.system.modes import Block

if numba_target.SIMULATED:
    from tilegrad.kernels.simulate import numba_simulator
EXECUTED = gpu.is_executed()
if EXECUTED:
    from tilegrad.kernels.simulate.ptx import driver as executor

Axes = tuple[int, *tuple[int, ...]]  # at least one


class Specialisation(NamedTuple):
    """What one compilation depends on."""

    kernel: Kernel
    kinds: tuple[str, ...]  # of the arguments, as numba_target.compile_ptx takes them
    threads: int  # of a block

    def compile(self, arch: int) -> tuple[str, str]:
        """(PTX, name of its entry) for that compute capability. Needs no GPU."""
        return numba_target.compile_ptx(self.kernel.function, self.kinds, arch)


class Kernel:
    """A Numba-CUDA kernel that launches itself; made by `@kernel`."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__
        self._loaded: dict[Any, driver.Function] = {}
        self._simulated: Any = None

    def __call__(self, grid: Axes, block: Axes, *args: Any) -> None:
        """Launch; a grid with a 0 launches nothing.

        Raises TypeError for arguments of other kinds, ValueError for a grid that no GPU takes.
        """
        if 0 in grid:
            return
        if len(grid) > 1 or grid[0] >> 31:
            driver.check_grid(self.name, grid)
        collected = _here.collected
        if collected is None and numba_target.SIMULATED:
            self._simulated = self._simulated or numba_target.cuda.jit(self.function)
            numba_simulator.run(self.name, self._simulated, grid, block, args)
            return
        kinds: list[str] = []
        values: list[int | float] = []
        for a in args:
            if type(a) is int:
                kinds.append("int64")
                values.append(a)
            elif type(a) is float:
                kinds.append("float32")
                values.append(a)
            elif hasattr(a, "dtype") and hasattr(a, "data"):
                kinds.append(numba_target.kind_of(a))
                values += (0, 0, a.size, a.itemsize, a.data.ptr, *a.shape, *a.strides)
            else:
                raise TypeError(
                    f"{self.name}: an argument is a {type(a).__name__}; expected an array, an int or a float"
                )
        x, y, z = (*block, 1, 1)[:3]
        if collected is not None:
            collected.append(Specialisation(self, tuple(kinds), x * y * z))
            return
        key = (driver.device(), *kinds)
        function = self._loaded.get(key)
        if function is None:
            ptx, name = numba_target.compile_ptx(self.function, kinds, gpu.capability())
            formats = "".join(map(_formats, kinds))
            function = self._loaded[key] = driver.Function(ptx.encode(), name, formats, 0)
        if EXECUTED:
            executor.touches(inspect.signature(self.function).parameters, args)
        function.launch(grid, (x, y, z), *values)


kernel = Kernel  # as a decorator


def _formats(kind: str) -> str:
    """The kernel parameters of an argument of that kind, in the letters of `struct`."""
    return {"int64": "q", "float32": "f"}.get(kind) or "q" * numba_target.fields(kind)


class _Local(threading.local):
    collected: list[Specialisation] | None = None


_here = _Local()


def collecting() -> Block:
    """This thread's launches within the block are collected in the list it gives instead of being run."""
    specs = list[Specialisation]()
    return Block((_here, "collected", specs), gives=specs)


def is_collecting() -> bool:
    """Whether launches are collected, not run."""
    return _here.collected is not None
