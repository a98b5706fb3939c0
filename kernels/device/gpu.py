"""Device "cuda": whose arrays they are, and whether there is one.

`xp()` is the array library of the device: CuPy on an NVIDIA GPU, or kernels/simulate/arrays.py where a simulation is
asked for: by TRITON_INTERPRET=1, by NUMBA_ENABLE_CUDASIM=1, or by TILEGRAD_SIMULATE=ptx. With the last of these kernels
are compiled for sm_80, with ptx:90 for sm_90, and their PTX is executed (kernels/simulate/ptx). It is decided on first
use, once in a process, and nothing here imports CuPy before. From then on kernels/device/memory.py decides what happens
when the GPU's memory is used up.
"""

from __future__ import annotations

import importlib
import os
import threading
from functools import cache
from types import ModuleType
from typing import Any

from tilegrad.kernels.system.modes import Block

SIMULATORS = {"triton": "TRITON_INTERPRET", "numba": "NUMBA_ENABLE_CUDASIM"}  # the variables that ask for them
EXECUTED = {"ptx": 80, "ptx:80": 80, "ptx:90": 90}  # TILEGRAD_SIMULATE -> the compute capability compiled for


class _Local(threading.local):
    simulated: ModuleType | None = None  # the array library of `simulate`, within its block


_local = _Local()
_found: ModuleType | None = None


def is_simulated() -> bool:
    """Whether device "cuda" is simulated on host memory."""
    return _local.simulated is not None or is_executed() or any(map(_is_set, SIMULATORS.values()))


def is_executed() -> bool:
    """Whether device "cuda" executes the kernels' PTX on host memory: TILEGRAD_SIMULATE is one of EXECUTED.

    Raises ValueError for another value, or where a simulator is asked for too.
    """
    asked = os.environ.get("TILEGRAD_SIMULATE", "0")
    if asked in ("", "0"):
        return False
    if asked not in EXECUTED:
        raise ValueError(f"TILEGRAD_SIMULATE is {asked!r}; expected one of {', '.join(EXECUTED)}, or nothing")
    others = [variable for variable in SIMULATORS.values() if _is_set(variable)]
    if others:
        raise ValueError(f"TILEGRAD_SIMULATE={asked} beside {others[0]}=1: expected one way to simulate")
    return True


def runs(language: str) -> bool:
    """Whether kernels of that language can run here: on a simulated device those that are simulated too."""
    return _local.simulated is not None or not is_simulated() or is_executed() or _is_set(SIMULATORS[language])


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


def is_available() -> bool:
    """Whether there is a GPU that can be used; a simulated one does not count."""
    return not is_simulated() and _missing() is None


def xp() -> ModuleType:
    """The array library of device "cuda". Raises RuntimeError naming what is missing, and the install line."""
    return _local.simulated or _found or _find()


def is_array(x: Any) -> bool:
    """Whether x is an array of device "cuda"."""
    # By the name first: no library is imported to look at an array of another.
    module = type(x).__module__
    return module == "tilegrad.kernels.simulate.arrays" or (module[:4] == "cupy" and isinstance(x, xp().ndarray))


@cache
def capability() -> int:
    """The compute capability of the current GPU as one number, 90 for 9.0."""
    return EXECUTED[os.environ["TILEGRAD_SIMULATE"]] if is_executed() else int(xp().cuda.Device().compute_capability)


def cuda() -> Any:
    """CuPy's way to the driver, `cupy.cuda`; where PTX is executed, what stands in its place. Asked at each launch."""
    return _executor() or xp().cuda


@cache
def _executor() -> Any:
    """What stands in the driver's place, decided once in a process as `xp` is; None where there is a driver."""
    return importlib.import_module("tilegrad.kernels.simulate.ptx.driver") if is_executed() else None


def simulate() -> Block:
    """Device "cuda" is simulated for this thread within the block, whatever the machine has: to compile, not to run."""
    return Block((_local, "simulated", importlib.import_module("tilegrad.kernels.simulate.arrays")))


def view_in(memory: Any, offset: int, like: Any) -> Any:
    """An array of like's shape, dtype and strides, `offset` bytes behind where the array `memory` begins."""
    if is_simulated():
        return xp().view_in(memory, offset, like)
    return xp().ndarray(like.shape, like.dtype, memory.data + offset, like.strides)


def _find() -> ModuleType:
    global _found
    if is_simulated():
        _found = importlib.import_module("tilegrad.kernels.simulate.arrays")
        return _found
    missing = _missing()
    if missing is not None:
        raise RuntimeError(f'device "cuda": {missing}')
    _found = importlib.import_module("cupy")
    importlib.import_module("tilegrad.kernels.device.memory").install(_found)
    return _found


@cache
def _missing() -> str | None:
    """What keeps this machine from using a GPU, with the remedy; None if nothing does."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as e:
        return f'CuPy cannot be imported ({e}); expected: pip install "tilegrad[cuda13]" (or [cuda12], as the driver)'
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
        driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    except Exception as e:  # CuPy's own error types cannot be named without importing it
        return f"no NVIDIA GPU can be reached ({e}); expected a driver, or TRITON_INTERPRET=1 to simulate one"
    if devices == 0:
        return "no NVIDIA GPU is visible; expected one (CUDA_VISIBLE_DEVICES), or TRITON_INTERPRET=1 to simulate one"
    if driver // 1000 < runtime // 1000:
        found = f"the driver serves CUDA {driver // 1000} but CuPy is built for CUDA {runtime // 1000}"
        return f'{found}; expected a newer driver, or pip install "tilegrad[cuda{driver // 1000}]"'
    return None
