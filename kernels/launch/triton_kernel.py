"""Compiling and launching Triton kernels, without torch. The only file that knows how.

A kernel is a `@kernel` function, called with its grid, its arguments in order, and its constexprs by name:

    @kernel
    def _scale_kernel(x_ptr, y_ptr, n, factor, BLOCK: tl.constexpr): ...

    _scale_kernel((cdiv(n, 1024),), x, y, n, 0.5, BLOCK=1024, num_warps=4)

What becomes of the call depends on where the arrays are:

    on a GPU     the specialisation is compiled (Triton keeps it on disk: TRITON_CACHE_DIR), loaded and launched through
                 CuPy on its current stream. Safe under stream capture once a specialisation has been launched before
    simulated    TRITON_INTERPRET=1: Triton's interpreter runs every program on host memory, then the guards around
                 the arrays are checked
    executed     TILEGRAD_SIMULATE=ptx: as on a GPU, but the driver is kernels/simulate/ptx, which executes the PTX
    collected    within `collecting()`: the specialisation is noted and nothing runs, for compiling ahead of time

Specialisation, all of it (Triton's own launcher decides the same things out of sight). An argument is

    an array     a pointer to its dtype; whether it is 16-byte aligned is part of the key: only then loads vectorise
    None         a constexpr, so that `if bias_ptr is not None` is decided at compile time
    an int       1 is a constexpr (a stride of 1 is what makes loads coalesce); otherwise i32, or i64 where a tile
                 beyond it does not fit 32 bits (addresses.py), and whether 16 divides it is part of the key. Annotated
                 as `tl.int64` it is that, and never part of the key: for what is another number at each launch
    a float      fp32, never part of the key

The kernel's parameters are its non-constexpr arguments in order, then two pointers to scratch memory that no kernel
here uses: the same in Triton 3.6 and 3.9.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.addresses import fits
from tilegrad.kernels.launch import driver
from tilegrad.kernels.system.modes import Block

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
if INTERPRETED:
    from tilegrad.kernels.simulate import triton_interpreter as interpreter
EXECUTED = gpu.is_executed()
if EXECUTED:
    from tilegrad.kernels.simulate.ptx import driver as executor

_ALIGNED = 16  # bytes, and what an int is divisible by: the widest load of a thread
_DIVISIBLE = [["tt.divisibility", _ALIGNED]]
_TYPES = {
    np.dtype(np.float16): "*fp16",
    bfloat16: "*bf16",
    np.dtype(np.float32): "*fp32",
    np.dtype(np.float64): "*fp64",
    np.dtype(np.uint8): "*u8",
    np.dtype(np.bool_): "*i1",
    np.dtype(np.int32): "*i32",
    np.dtype(np.uint32): "*u32",
    np.dtype(np.int64): "*i64",
    np.dtype(np.uint64): "*u64",
}
# By the dtype's char, which is hashed faster than a dtype; "/16" marks what 16 divides.
_POINTER = {dtype.char: name for dtype, name in _TYPES.items()}
_ALIGNED_POINTER = {char: f"{name}/16" for char, name in _POINTER.items()}
_FORMATS = {"i32": "i", "i64": "q", "fp32": "f"}  # of `struct`; pointers are "P"
_REMEMBERED = 4096  # combinations of sizes, for each kernel

Grid = tuple[int, *tuple[int, ...]]  # at least one axis


class Specialisation(NamedTuple):
    """What one compilation depends on."""

    kernel: Kernel
    key: tuple[Any, ...]  # the kind of each runtime argument: None, 1, or its type, with "/16" where 16 divides it
    constexprs: tuple[tuple[str, Any], ...]
    num_warps: int
    num_stages: int
    default: bool = True  # not one of the alternatives that only autotuning would try

    def compile(self, arch: int) -> CompiledKernel:
        """For that compute capability (90 is 9.0); from Triton's cache on disk where it is there. Needs no GPU."""
        names = self.kernel.arguments
        every = self.kernel.jit.arg_names
        signature = dict.fromkeys(every, "constexpr")
        constants = {(every.index(name),): value for name, value in self.constexprs}
        attributes = {}
        for name, kind in zip(names, self.key, strict=True):
            place = (every.index(name),)
            if kind is None or kind == 1:
                constants[place] = kind
                continue
            signature[name], _, divisible = kind.partition("/")
            if divisible:
                attributes[place] = _DIVISIBLE
        source = ASTSource(self.kernel.jit, signature, constants, attributes)
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}
        return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


class Kernel:
    """A Triton kernel that launches itself; made by `@kernel`.

    Its arguments come in this order: pointers (each named `..._ptr`), then numbers, then constexprs.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.jit = triton.jit(function)
        self.name = function.__name__
        self.__doc__ = function.__doc__
        parameters = inspect.signature(function).parameters.values()
        self.arguments = tuple(p.name for p in parameters if "constexpr" not in str(p.annotation))
        pointers = [name.endswith("_ptr") for name in self.arguments]
        assert pointers == sorted(pointers, reverse=True), f"{self.name}: expected all pointers (..._ptr) first"
        self._pointers = sum(pointers)
        self._plain = {p.name for p in parameters if str(p.annotation).removeprefix("tl.") == "int64"}
        self._number_types: tuple[type, ...] | None = None
        self._integers: _Taking = _nothing  # of the numbers those that a specialisation depends on
        self._launches: dict[Any, _Launch] = {}
        self._loaded: dict[Any, _Loaded] = {}

    def __call__(self, grid: Grid, *args: Any, num_warps: int = 4, num_stages: int = 3, **constexprs: Any) -> None:
        """Launch `grid` programs (up to three axes); a grid with a 0 launches nothing.

        Raises TypeError for arguments that the kernel does not take or a dtype that no kernel takes, ValueError for a
        grid that no GPU takes.
        """
        if len(args) != len(self.arguments):
            raise TypeError(f"{self.name}: got {len(args)} arguments; expected {', '.join(self.arguments)}")
        if 0 in grid:
            return
        if len(grid) > 1 or grid[0] >> 31:
            driver.check_grid(self.name, grid)
        collected = _here.collected
        if INTERPRETED and collected is None:
            interpreter.run(self.name, self.jit, grid, args, constexprs)
            return

        arrays, numbers = args[: self._pointers], args[self._pointers :]
        if collected is not None:
            kinds, is_default = self._kinds_of(arrays, numbers), not _here.alternatives
            collected.append(Specialisation(self, kinds, (*constexprs.items(),), num_warps, num_stages, is_default))
            return

        # This is what an eager launch costs on the host (bench/launch.py): no more than it takes.
        addresses, dtypes, together = [], [], 0
        for a in arrays:
            if a is None:
                dtypes.append(None)
            else:
                address = a.data.ptr
                together |= address
                addresses.append(address)
                dtypes.append(a.dtype.char)
        if together % _ALIGNED:
            dtypes += [address % _ALIGNED for address in addresses]
        options = num_warps, num_stages, *constexprs, *constexprs.values()
        key = driver.device(), self._integers(numbers), *dtypes, *options
        found = self._launches.get(key)
        if found is None:
            kinds = self._kinds_of(arrays, numbers)
            found = self._find(key, Specialisation(self, kinds, (*constexprs.items(),), num_warps, num_stages))
        launch, block, passed = found
        if EXECUTED:
            executor.touches(self.arguments, args)
        launch(grid, block, *addresses, *passed(numbers), 0, 0)

    def _find(self, key: tuple[Any, ...], spec: Specialisation) -> _Launch:
        """What launches the specialisation, remembered by the key: training launches with the same few sizes."""
        device, integers = key[:2]
        loaded = self._loaded.get((device, spec))
        if loaded is None:
            loaded = self._loaded[device, spec] = _Loaded(spec)
        kinds = spec.key[self._pointers :]
        found = loaded.launch, loaded.block, _taking([i for i, kind in enumerate(kinds) if kind != 1])
        if integers is not None:
            if len(self._launches) >= _REMEMBERED:
                self._launches.clear()
            self._launches[key] = found
        else:  # from now on it is known which numbers are
            plain = [name in self._plain for name in self.arguments[self._pointers :]]
            self._integers = _taking([i for i, kind in enumerate(kinds) if kind != "fp32" and not plain[i]])
        return found

    def _kinds_of(self, arrays: tuple[Any, ...], numbers: tuple[int | float, ...]) -> tuple[Any, ...]:
        """The kind of each argument."""
        kinds: list[Any] = []
        for a in arrays:
            if a is None:
                kinds.append(None)
                continue
            try:
                kinds.append((_POINTER if a.data.ptr % _ALIGNED else _ALIGNED_POINTER)[a.dtype.char])
            except KeyError:
                expected = ", ".join(map(str, _TYPES))
                raise TypeError(f"{self.name}: an array is {a.dtype}; expected one of {expected}") from None
        # 2 and 2.0 are one key but two kinds: an argument is always the one or the other.
        types = self._number_types = self._number_types or tuple(map(type, numbers))
        if types != tuple(map(type, numbers)):
            found, expected = ([t.__name__ for t in each] for each in (map(type, numbers), types))
            raise TypeError(f"{self.name}: numbers are {found}; expected {expected} as before")
        for name, number in zip(self.arguments[self._pointers :], numbers, strict=True):
            if type(number) is float:
                kinds.append("fp32")
            elif type(number) is not int:
                raise TypeError(f"{self.name}: {name} is a {type(number).__name__}; expected an int or a float")
            elif name in self._plain:
                kinds.append("i64")
            elif number == 1:
                kinds.append(1)
            else:
                width = "i32" if fits(number) else "i64"
                kinds.append(width if number % _ALIGNED else f"{width}/16")
        return tuple(kinds)


kernel = Kernel  # as a decorator

_Taking = Callable[[tuple[Any, ...]], Any]
_Launch = tuple[Callable[..., None], driver.Block, _Taking]  # the driver's, the block, what takes the numbers to pass


def _nothing(numbers: tuple[Any, ...]) -> None:
    """Of the numbers of a kernel that was not launched yet."""


def _taking(places: Sequence[int]) -> _Taking:
    """What takes the items at these places out of a tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1)) if places else itemgetter(slice(0))


class _Loaded:
    """A specialisation on the current GPU."""

    def __init__(self, spec: Specialisation) -> None:
        compiled = spec.compile(gpu.capability())
        scratch = compiled.metadata.global_scratch_size, compiled.metadata.profile_scratch_size
        assert scratch == (0, 0), f"{spec.kernel.name}: wants {scratch} bytes of scratch memory; none is given"
        passed = (kind.partition("/")[0] for kind in spec.key if kind is not None and kind != 1)
        formats = ["P" if kind[0] == "*" else _FORMATS[kind] for kind in passed]
        code = compiled.asm["ptx"].encode() if EXECUTED else compiled.asm["cubin"]
        name, shared = compiled.metadata.name, compiled.metadata.shared
        self.launch = driver.Function(code, name, [*formats, "P", "P"], shared).launch
        self.block = 32 * compiled.metadata.num_warps, 1, 1


def architecture() -> int:
    """The compute capability that launches are for: of the GPU, or of what is simulated or collected for."""
    is_run = not gpu.is_simulated() or (EXECUTED and _here.collected is None)
    return gpu.capability() if is_run else _here.architecture


class _Local(threading.local):
    """What launches of this thread are for: to be run, or to be collected."""

    collected: list[Specialisation] | None = None
    architecture = 90
    alternatives = False


_here = _Local()


def collecting(arch: int = 90) -> Block:
    """A block that gives a list: this thread's launches within it are collected there, not run.

    arch   the compute capability that they are for
    """
    specs: list[Specialisation] = []
    return Block((_here, "architecture", arch), (_here, "collected", specs), gives=specs)


def is_collecting() -> bool:
    """Whether launches are collected, not run."""
    return _here.collected is not None


def alternatives() -> Block:
    """Launches collected within the block are not the shipped defaults."""
    return Block((_here, "alternatives", True))
