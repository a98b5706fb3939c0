"""Compile every kernel ahead of time, on a machine without a GPU, and show what became of it.

    python -m kernels.compile --arch 80,90,100,120 [--kernels triton] [--json PATH] [--defaults] [--jobs N]

A row for each compilation: kernel, dtype, configuration, architecture, registers a thread, bytes spilled, shared memory
a program, size of the cubin, and which tensor-core instructions the code uses. What is compiled are the launches of
kernels/shipped_triton.py with every configuration that autotuning may choose; --defaults leaves out all but the
shipped defaults. Compiled code lands in Triton's cache, where a later run on a GPU finds it.

Exits with 1 if a default spills or a configuration needs more shared memory than the architecture has.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

# Shared memory one program may have: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
SHARED_LIMIT = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10, 120: 99 << 10}
TENSOR_CORES = {"wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "mma": "mma.sync"}  # by PTX instruction
COLUMNS = (
    "kernel", "dtype", "config", "arch", "registers", "spill_bytes", "shared_bytes", "cubin_bytes", "tensor_core",
)  # fmt: skip

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m kernels.compile", description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="80,90", help="compute capabilities, 90 for 9.0 (default: 80,90)")
    parser.add_argument("--kernels", default="triton", choices=["triton"], help="which backend's kernels")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--defaults", action="store_true", help="only the shipped defaults, not their alternatives")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: the number of cores)")
    flags = parser.parse_args(arguments)
    try:
        archs = [int(arch) for arch in flags.arch.split(",")]
        unknown = [arch for arch in archs if arch not in SHARED_LIMIT]
    except ValueError:
        unknown = [flags.arch]
    if unknown:
        parser.error(f"--arch: got {unknown[0]}; expected a list of {', '.join(map(str, SHARED_LIMIT))}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        parser.error("TRITON_INTERPRET is set: the interpreter replaces the compiler; expected it to be unset")

    rows = compile_all(archs, flags.defaults, max(1, flags.jobs))
    _show(rows)
    if flags.json is not None:
        partial = flags.json.with_name(f".{flags.json.name}.part")
        partial.write_text(json.dumps(rows, indent=1) + "\n")
        os.replace(partial, flags.json)
    faults = [fault for row in rows for fault in _faults(row)]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(rows)} compilations of {len({row['kernel'] for row in rows})} kernels, {len(faults)} faults")
    return 1 if faults else 0


def compile_all(archs: list[int], defaults: bool, jobs: int) -> list[Row]:
    """A row for every compilation, in the order of architecture, kernel, dtype and configuration."""
    shares = [(archs, defaults, first, jobs) for first in range(jobs)]
    if jobs == 1:
        rows = _compile_share(*shares[0])
    else:
        # Not forked: Triton and LLVM have threads of their own.
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            rows = [row for share in pool.map(_compile_share, *zip(*shares, strict=True)) for row in share]
    return sorted(rows, key=lambda row: (row["arch"], row["kernel"], row["dtype"], not row["default"], row["config"]))


def _compile_share(archs: list[int], defaults: bool, first: int, step: int) -> list[Row]:
    """Every step-th compilation from the first: processes share the work without talking."""
    work = [(arch, dtype, spec) for arch in archs for dtype, spec in _launches(arch) if spec.default or not defaults]
    return [_row(*each) for each in work[first::step]]


def _launches(arch: int) -> list[tuple[str, Any]]:
    """(dtype, specialisation) for everything shipped, each once."""
    from kernels import gpu, launch
    from kernels.checks import bfloat16

    with gpu.simulate():
        from kernels import shipped_triton

        found: dict[Any, Any] = {}
        for dtype in (np.dtype(np.float32), np.dtype(np.float16), bfloat16):

            def empty(*shape: int, dtype: np.dtype = dtype) -> Any:
                return gpu.xp().empty(shape, dtype)

            for family in shipped_triton.FAMILIES:
                with launch.recording(arch) as specs:
                    family(empty)
                for spec in specs:
                    key = spec._replace(default=True)
                    if key not in found or spec.default:
                        first_dtype = found[key][0] if key in found else str(dtype)
                        found[key] = first_dtype, spec
        return list(found.values())


def _row(arch: int, dtype: str, spec: Any) -> Row:
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
    }


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers a thread, bytes of stack and local memory a thread), which is where spilled registers go."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        printed = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", printed)}
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]


def _faults(row: Row) -> list[str]:
    what = f"{row['kernel']} {row['dtype']} sm_{row['arch']} {row['config']}"
    faults = []
    if row["default"] and row["spill_bytes"]:
        faults.append(f"{what}: spills {row['spill_bytes']} bytes a thread; a default must not")
    limit = SHARED_LIMIT[row["arch"]]
    if row["shared_bytes"] > limit:
        faults.append(f"{what}: {row['shared_bytes']} bytes of shared memory; sm_{row['arch']} has {limit}")
    return faults


def _show(rows: list[Row]) -> None:
    widths = {name: max([len(name), *(len(str(row[name])) for row in rows)]) for name in COLUMNS}
    numbers = {"arch", "registers", "spill_bytes", "shared_bytes", "cubin_bytes"}
    for row in [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]:
        cells = (str(row[n]).rjust(widths[n]) if n in numbers else str(row[n]).ljust(widths[n]) for n in COLUMNS)
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    sys.exit(main())
