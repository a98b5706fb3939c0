"""Numba's CUDA target. Only this module and simulate/numba_simulator.py import it, so that a successor can replace it.

    cuda                     what kernels are written with: cuda.grid, cuda.shared.array, cuda.syncthreads, ...
    device                   decorator of functions that kernels call
    array_at(address, n, dtype)  device function: an array of n elements at an address
    SIMULATED                NUMBA_ENABLE_CUDASIM=1: kernels run as Python on NumPy arrays, an OS thread for each thread
    compile_ptx(f, kinds, arch)  PTX of a kernel for a compute capability, without a GPU

numba-cuda, Numba's CUDA target since it left Numba, compiles through NVVM to PTX; the driver or ptxas does the rest.
"""

from __future__ import annotations

import ctypes
import os
import re
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tilegrad.kernels.system.modes import Block

with warnings.catch_warnings():  # of names that NumPy 2.5 will drop: a user can do nothing about it
    warnings.simplefilter("ignore", DeprecationWarning)
    from numba import cuda as _cuda
cuda: Any = _cuda  # a checker finds Numba's own, whose place numba-cuda takes when Numba is imported

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")

device: Callable[[Callable], Any] = cuda.jit(device=True)

if SIMULATED or TYPE_CHECKING:

    def array_at(address: int, n: int, dtype: Any) -> np.ndarray:
        """An array of n elements at this address: for kernels that read addresses from memory."""
        memory: Any = (ctypes.c_char * (int(n) * np.dtype(dtype).itemsize)).from_address(int(address))
        return np.ndarray(int(n), dtype, memory)

else:
    from numba.cuda.extending import intrinsic

    # numba-cuda 0.30 asks for numpy.row_stack, an alias of vstack that NumPy 2.5 has no more.
    is_gone = not hasattr(np, "row_stack")
    if is_gone:
        setattr(np, "row_stack", np.vstack)  # noqa: B010 - a checker knows the name no more
    try:
        from numba.cuda.np.arrayobj import make_array, populate_array
    finally:
        if is_gone:
            delattr(np, "row_stack")

    @intrinsic
    def array_at(typing: Any, address: Any, n: Any, dtype: Any) -> Any:
        """An array of n elements at this address: for kernels that read addresses from memory."""
        from numba.cuda import types

        kind = types.Array(dtype.dtype, 1, "C")

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = make_array(kind)(context, builder)
            itemsize = context.get_abi_sizeof(context.get_data_type(kind.dtype))
            data = builder.inttoptr(args[0], array.data.type)
            strides = (context.get_constant(types.intp, itemsize),)
            populate_array(array, data, (args[1],), strides, itemsize, meminfo=None)
            return array._getvalue()

        return kind(types.int64, types.int64, dtype), generate


def compile_ptx(function: Callable, kinds: Sequence[str], arch: int) -> tuple[str, str]:
    """(PTX, name of the entry) of a kernel for that compute capability, 90 for 9.0.

    kinds   of the arguments, in order: "float32[2C]" is an array of two axes, C-contiguous ("A": any strides);
            "int64", "float32" a number
    """
    signature = tuple(map(_numba_type, kinds))
    cc = divmod(arch, 10)
    # The functions that a kernel calls are compiled for "the current device", which there need not be.
    from numba.cuda import dispatcher

    with Block((dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=cc))):
        ptx, _ = cuda.compile_ptx(function, signature, cc=cc)
    (entry,) = re.findall(r"\.visible \.entry (\w+)\(", ptx)
    return ptx, entry


def _numba_type(kind: str) -> Any:
    from numba import types

    name, _, axes = kind.partition("[")
    if name == "bfloat16":
        raise TypeError("a Numba kernel gets an array of bfloat16; expected one of the types that Numba compiles")
    scalar = cuda.types.float16 if name == "float16" else types.bool_ if name == "bool" else getattr(types, name)
    return types.Array(scalar, int(axes[:-2]), axes[-2], aligned=True) if axes else scalar


def fields(kind: str) -> int:
    """How many 8-byte parameters an array is passed as: meminfo, parent, elements, itemsize, data, shape, strides."""
    return 5 + 2 * int(kind.partition("[")[2][:-2])


def kind_of(array: Any) -> str:
    """The kind of an array, as compile_ptx takes it."""
    layout = "C" if array.flags.c_contiguous else "A"
    return f"{np.dtype(array.dtype).name}[{array.ndim}{layout}]"
