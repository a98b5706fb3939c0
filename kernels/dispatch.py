"""Which backend serves an array: the one chosen by name, else what TILEGRAD_KERNELS says, else the best there is.

A choice is the context's (contextvars), as NumPy's errstate is: of the thread, or the task of asyncio, that makes it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from operator import call
from types import ModuleType
from typing import Any

import numpy as np

from tilegrad.kernels.contract import BACKENDS, DEVICES
from tilegrad.kernels.cpu import effects
from tilegrad.kernels.device import gpu
from tilegrad.kernels.system import forks
from tilegrad.kernels.system.modes import Undone
from tilegrad.kernels.system.unreached import unreached

_NEEDS = {  # packages to be found, and how they are installed
    "triton": [("triton", "triton")],
    "numba": [("numba", "numba"), ("numba_cuda", "numba-cuda")],
}

_chosen: dict[str, ContextVar[ModuleType | None]] = {  # by device
    device: ContextVar(f"the backend for {device}", default=None) for device in ("cpu", "cuda")
}
chosen_for_cpu = _chosen["cpu"].get  # None where this context has not chosen
_ndarray = np.ndarray
_at_first: dict[str, ModuleType] = {}  # by device, what serves where nothing was chosen: the same in every thread
_modules: dict[str, ModuleType] = {}  # that were imported, by name


def of(*arrays: Any) -> ModuleType:
    """The backend that serves these arrays (None is passed over; no array at all counts as NumPy's).

    Raises TypeError for arrays of two devices, and for what is no array.
    """
    for array in arrays:
        if array is not None and type(array) is not _ndarray:
            break
    else:  # what is asked for by every op of a program on the CPU
        module = chosen_for_cpu()
        if module is not None and effects.of_thread.program is None:
            return module
    device = None
    for array in arrays:
        if array is None:
            continue
        kind = "cpu" if isinstance(array, np.ndarray) else "cuda" if gpu.is_array(array) else None
        if kind is None or kind != (device or kind):
            kinds = ", ".join(type(a).__module__ + "." + type(a).__name__ for a in arrays if a is not None)
            raise TypeError(f"kernels.of: expected arrays of one device, NumPy's or CuPy's; got {kinds}")
        device = kind
    module = _chosen[device or "cpu"].get() or _choose(device or "cpu")
    program = effects.capturing()
    return module if program is None or device == "cuda" else program.primitives(module)


def name(device: str = "cpu") -> str:
    """The name of the backend now chosen for a device, "cpu" or "cuda", as `use` takes it."""
    module = _chosen[device].get() or _choose(device)
    return module.__name__.rpartition(".")[2]


def use(name: str) -> contextlib.AbstractContextManager[None]:
    """Choose a backend for the arrays that it serves, for all that follows in this thread, or for a `with` block.

        kernels.use("reference")
        with kernels.use("reference"): ...

    name   one of BACKENDS; the choice for arrays of the other device stays. Or auto: the best for each device

    Other threads keep their choices, as they do with NumPy's errstate and PyTorch's set_grad_enabled. A thread begins
    with what TILEGRAD_KERNELS says (or, where Python hands contexts on to threads, as its free-threaded build does,
    with the choice of the thread that starts it): set that variable to choose for a whole process.
    A backend that cannot run raises here.
    """
    module = load(_best() if name == "auto" else name)
    choice = {"cpu": module, "cuda": None} if name == "auto" else {DEVICES[name]: module}
    undo = _setting({device: _chosen[device].get() for device in choice})
    block = Undone(undo)
    try:
        _setting(choice)()
    except BaseException:  # an interrupt, when all was set
        undo()
        raise
    return block


def _setting(choice: Mapping[str, ModuleType | None]) -> Callable[[], None]:
    """What makes the choice, once, in C from beginning to end, so that no Ctrl-C comes between.

    list.extend does, for it returns None: what ContextVar.set returns, at the end of a `with` block, would hide errors.
    """
    return partial([].extend, map(call, [partial(_chosen[device].set, module) for device, module in choice.items()]))


def _choose(device: str) -> ModuleType:
    """The backend that serves a device where none was chosen: what TILEGRAD_KERNELS says, or the best."""
    module = _at_first.get(device)
    if module is None:
        asked = os.environ.get("TILEGRAD_KERNELS") or "auto"
        if asked != "auto":
            load(asked)  # a name that cannot be served is an error whichever device comes first
        if DEVICES.get(asked) != device:
            asked = _best() if device == "cpu" else "triton" if gpu.runs("triton") else "numba"
        module = _at_first[device] = load(asked)
    _chosen[device].set(module)
    return module


def load(name: str) -> ModuleType:
    """The backend module called `name`; importing it is what loads its language.

    Raises ValueError for a name that no backend has, ImportError where a package that it needs is missing,
    RuntimeError where a GPU is.
    """
    if name == "cpu" and (lacking := _lacking()) is not None:
        raise ImportError(f"kernels: the backend 'cpu' needs Numba, which {lacking}")
    if name not in BACKENDS:
        raise ValueError(f"kernels: no backend is called {name!r}; expected auto, {', '.join(BACKENDS)}")
    if DEVICES[name] == "cpu":
        return _imported(f"tilegrad.kernels.backends.{name}")
    gpu.xp()
    if not gpu.runs(name):
        expected = f"expected {gpu.SIMULATORS[name]}=1 too"
        raise RuntimeError(f"kernels: the backend {name!r} cannot run on the simulated device; {expected}")
    for package, install in _NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            missing = f"needs {package}, which is not installed: pip install {install}"
            raise ImportError(f"kernels: the backend {name!r} {missing}")
    return importlib.import_module(f"tilegrad.kernels.backends.{name}")


def can_compile() -> bool:
    """Whether Numba is there to compile the CPU's kernels, and to play a program of them."""
    return _lacking() is None


def _best() -> str:
    """The fastest backend for NumPy arrays on this machine; says so once where that is not the one it could be."""
    lacking = _lacking()
    if lacking is None:
        return "cpu"
    warnings.warn(f"kernels: Numba {lacking}; plain NumPy serves, at a fraction of the speed", stacklevel=4)
    return "reference"


def _lacking() -> str | None:
    """What keeps Numba from compiling the kernels of the CPU; None if nothing does."""
    if not _has_numba():
        return "is not installed: pip install numba"
    try:
        _imported("tilegrad.kernels.cpu.code")
    except Exception as error:  # a broken installation raises what it likes
        return f"cannot be used ({type(error).__name__}: {error})"
    return None


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


def _imported(name: str) -> ModuleType:
    module = _modules.get(name)
    if module is None:
        forks.hold()
        module = _modules[name] = _import(name)
    return module


@unreached
def _import(name: str) -> ModuleType:
    with forks.loading:
        return importlib.import_module(name)
