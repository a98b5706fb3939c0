"""Running Numba-CUDA kernels in Numba's simulator, on the host memory of kernels/simulate/arrays.py.

Imported if NUMBA_ENABLE_CUDASIM=1. The threads of a block are threads of this process. Where the simulator differs from
a GPU, it is corrected here and not in the kernels (numba-cuda 0.30, cuda/simulator):

    arrays with any strides    NumPy arrays are refused unless they are dense, and copied; the simulator's own array
                               class takes any strides and copies nothing
    cuda.shared.array          finds or makes the block's array in two steps, so that two threads can get two arrays
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

from tilegrad.kernels.simulate import arrays, tape

_SWITCH = 1e-4  # seconds before a running thread lets another run; with Python's 5e-3 barriers take thrice the time


def run(name: str, function: Any, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
    """Run every block of the grid, one after another, then check the guards around the arrays; or record that."""
    tape.do(name, lambda: _run(name, function, grid, block, args))


def _run(name: str, function: Any, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
    host = [_host(a) for a in args]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        with warnings.catch_warnings():  # a GPU does not warn, and np.errstate does not reach other threads
            warnings.simplefilter("ignore", RuntimeWarning)
            function[grid, block](*host)
    finally:
        sys.setswitchinterval(interval)
    arrays.assert_guards(name, *(a for a in args if isinstance(a, arrays.ndarray)))


def _host(a: Any) -> Any:
    """An argument as the simulator takes it: a float is a float32, as numba_kernel.py passes it to a GPU."""
    if isinstance(a, arrays.ndarray):
        return FakeCUDAArray(a._host)
    return np.float32(a) if type(a) is float else a


def _shared_array(self: Any, shape: Any, dtype: Any, alignment: int | None = None) -> np.ndarray:
    """The block's array for the calling line: the same for all threads, because it is made in one atomic step."""
    caller = sys._getframe(1)
    api: Any = kernelapi  # has these from numba-cuda
    if isinstance(dtype, api.types.Type):
        dtype = api.numpy_support.as_dtype(dtype)
    return self._allocations.setdefault((caller.f_code.co_filename, caller.f_lineno), np.empty(shape, dtype))


kernelapi.FakeCUDAShared.array = _shared_array
