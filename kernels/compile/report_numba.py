"""Numba-CUDA's share of `python -m tilegrad.kernels.compile`: PTX by NVVM, then code by the ptxas of Triton's wheel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilegrad.kernels.checks import SERVED
from tilegrad.kernels.compile import launches_numba, ptxas
from tilegrad.kernels.compile.launches import Functions
from tilegrad.kernels.contract import FAMILIES
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import numba_kernel as launch_numba

DTYPES = sorted(SERVED["numba"], key=lambda dtype: -dtype.itemsize)  # a kernel that knows no dtype is the widest's


def launches(
    arch: int, defaults: bool, functions: Functions | None = None, dtypes: Sequence[np.dtype] | None = None
) -> list[tuple[str, launch_numba.Specialisation]]:
    """(dtype, specialisation) for everything that is launched, each once; nothing here is autotuned.

    functions, dtypes   as in report_triton.py
    """
    functions = functions or [getattr(launches_numba, family) for family in FAMILIES]
    found: dict[launch_numba.Specialisation, str] = {}
    with gpu.simulate():
        for dtype in dtypes or DTYPES:

            def empty(*shape: int, dtype: np.dtype = dtype) -> Any:
                return gpu.xp().empty(shape, dtype)

            for function in functions:
                with launch_numba.collecting() as specs:
                    function(empty)
                for spec in specs:
                    found.setdefault(spec, str(dtype))
    return [(dtype, spec) for spec, dtype in found.items()]


def row(arch: int, dtype: str, spec: launch_numba.Specialisation) -> dict[str, Any]:
    """Compile it, and say what became of it."""
    ptx, _ = spec.compile(arch)
    made = ptxas.assemble(ptx)
    return {
        "kernel": spec.kernel.name.strip("_").removesuffix("_kernel"),
        "backend": "numba",
        "dtype": dtype,
        "config": f"threads={spec.threads}",
        "arguments": " ".join(spec.kinds),
        "default": True,
        "arch": arch,
        "registers": made.registers,
        "spill_bytes": made.spilled,
        "shared_bytes": made.shared,
        "cubin_bytes": made.size,
        "tensor_core": "none",
        "float64": ".f64" in ptx,
    }
