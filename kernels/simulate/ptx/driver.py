"""The driver of a device that executes PTX: what the launcher uses of `cupy.cuda`, under CuPy's names.

The launcher (kernels/launch/driver.py) hands over what a GPU's driver would get: code, a grid, and pointers to the
bytes of each parameter. Beside that it says which arrays the launch is about (`touches`). The kernel may touch these
arrays, what their elements point to if they are tables of addresses, and nothing else. While a graph is captured,
launches are collected with the bytes of their parameters.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilegrad.kernels.device import gpu
from tilegrad.kernels.simulate import arrays, tape
from tilegrad.kernels.simulate.ptx import execute
from tilegrad.kernels.simulate.ptx.machine import Axes
from tilegrad.kernels.simulate.ptx.memory import Array, array_of, arrays_of
from tilegrad.kernels.system.modes import Block

if TYPE_CHECKING:
    from tilegrad.kernels.simulate.ptx.counters.watch import Watch


class Launch(NamedTuple):
    """What is about to run."""

    program: execute.Program
    grid: Axes
    block: Axes
    shared: int  # bytes of dynamic shared memory


Observer = Callable[[Launch], "Watch | None"]


class _Here(threading.local):
    touched: tuple[tuple[str, Any], ...] = ()


_here = _Here()
# (PTX, name) by the number that stands for a loaded function, which is never unloaded. Made into a program, it is some
# megabytes: execute.program keeps the latest.
loaded: list[tuple[str, str]] = []
_everywhere = SimpleNamespace(observer=None)  # in every thread


def observed_by(observer: Observer, *settings: tuple[Any, str, Any], gives: Any = None) -> Block:
    """A block within which the observer is told of each launch before it runs; a Watch that it gives counts it."""
    return Block((_everywhere, "observer", observer), *settings, gives=gives)


def plain(entry: str) -> str:
    """The name of a kernel: Numba mangles it with its module and the types of its arguments (Itanium C++ ABI)."""
    rest, name = entry.removeprefix("_ZN"), entry
    while rest != entry and (found := re.match(r"\d+", rest)):
        stop = found.end() + int(found[0])
        name, rest = rest[found.end() : stop], rest[stop:]
    return name


def touches(names: Iterable[str], arguments: Iterable[Any]) -> None:
    """What this thread launches next is about the arrays among these arguments."""
    _here.touched = tuple((name, a) for name, a in zip(names, arguments, strict=True) if hasattr(a, "dtype"))


class Module:
    def load(self, code: bytes) -> None:
        self.text = code.decode()


class Function:
    def __init__(self, module: Module, name: str) -> None:
        execute.program(module.text, name).target.check_device(gpu.capability())
        self.ptr = len(loaded)
        loaded.append((module.text, name))


class Device:
    def use(self) -> None:
        pass


def get_current_stream() -> SimpleNamespace:
    return SimpleNamespace(ptr=0)


def _launch(function: int, *rest: int) -> None:
    """cuLaunchKernel: grid, block, bytes of dynamic shared memory, stream, address of the parameters' addresses."""
    x, y, z, block_x, block_y, block_z, shared, _, pointers, *_ = rest
    grid, block = (x, y, z), (block_x, block_y, block_z)
    (text, name), touched = loaded[function], _here.touched
    sizes = [parameter.size for parameter in execute.program(text, name).kernel.parameters]
    addresses = (ctypes.c_void_p * len(sizes)).from_address(pointers)
    values = [ctypes.string_at(address, size) for address, size in zip(addresses, sizes)]

    def launch() -> None:
        observer: Observer | None = _everywhere.observer
        program = execute.program(text, name)
        watch = None if observer is None else observer(Launch(program, grid, block, shared))
        execute.run_program(program, grid, block, shared, values, _arrays(touched), watch)

    tape.do(name, launch)


def _arrays(touched: tuple[tuple[str, Any], ...]) -> Iterator[Array]:
    for name, x in touched:
        host = arrays.host_of(x)
        yield from arrays_of(name, host, host.flags.writeable)
        if x.dtype == np.int64:
            for i, memory in enumerate(arrays.pointed_at(x)):
                yield array_of(f"allocation {i} that {name} points to", memory)


driver = SimpleNamespace(launchKernel=_launch, funcSetAttribute=lambda *_: None)
function = SimpleNamespace(Module=Module, Function=Function)
device = SimpleNamespace(get_device_id=lambda: 0)
