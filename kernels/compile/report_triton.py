"""Triton's share of `python -m tilegrad.kernels.compile`: what is shipped, and a row for what became of it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from triton import knobs

from tilegrad.kernels.checks import SERVED
from tilegrad.kernels.compile import launches_triton
from tilegrad.kernels.compile.launches import Functions
from tilegrad.kernels.contract import FAMILIES
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import triton_kernel as launch

DTYPES = sorted(SERVED["triton"], key=lambda dtype: -dtype.itemsize)  # a kernel that knows no dtype is the widest's
TENSOR_CORES = {"wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "mma": "mma.sync"}  # by PTX instruction


def launches(
    arch: int, defaults: bool, functions: Functions | None = None, dtypes: Sequence[np.dtype] | None = None
) -> list[tuple[str, launch.Specialisation]]:
    """(dtype, specialisation) for everything that is launched on that architecture, each once.

    functions   that launch it; None: those of what is shipped
    dtypes      that they are called for; None: all that the backend serves
    """
    functions = functions or [getattr(launches_triton, family) for family in FAMILIES]
    found: dict[launch.Specialisation, tuple[str, launch.Specialisation]] = {}
    with gpu.simulate():
        for dtype in dtypes or DTYPES:

            def empty(*shape: int, dtype: np.dtype = dtype) -> Any:
                return gpu.xp().empty(shape, dtype)

            for function in functions:
                with launch.collecting(arch) as specs:
                    function(empty)
                for spec in specs:
                    key = spec._replace(default=True)
                    if key not in found or spec.default:
                        first_dtype = found[key][0] if key in found else str(dtype)
                        found[key] = first_dtype, spec
    return [(dtype, spec) for dtype, spec in found.values() if spec.default or not defaults]


def row(arch: int, dtype: str, spec: launch.Specialisation) -> dict[str, Any]:
    """Compile it, and say what became of it."""
    compiled = spec.compile(arch)
    cubin, ptx = compiled.asm["cubin"], compiled.asm["ptx"]
    registers, spilled = _resources(cubin)
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages}
    return {
        "kernel": spec.kernel.name.strip("_").removesuffix("_kernel"),
        "backend": "triton",
        "dtype": dtype,
        "config": " ".join(f"{name}={value}" for name, value in (dict(spec.constexprs) | options).items()),
        "arguments": " ".join(map(str, spec.key)),
        "default": spec.default,
        "arch": arch,
        "registers": registers,
        "spill_bytes": spilled,
        "shared_bytes": compiled.metadata.shared,
        "cubin_bytes": len(cubin),
        "tensor_core": next((name for name, instruction in TENSOR_CORES.items() if instruction in ptx), "none"),
        "float64": ".f64" in ptx,
    }


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers a thread, bytes of stack and local memory a thread), which is where spilled registers go."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = knobs.nvidia.cuobjdump.path
        printed = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", printed)}
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]
