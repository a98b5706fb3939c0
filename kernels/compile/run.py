"""Compile every kernel ahead of time, on a machine without a GPU, and show what became of it.

    python -m tilegrad.kernels.compile --arch 80,90,100,120 [--kernels triton] [--json PATH] [--defaults] [--jobs N]

A row for each compilation: kernel, dtype, configuration, architecture, registers a thread, bytes spilled, shared memory
a program, size of the cubin, and which tensor-core instructions the code uses. What is compiled are the launches of
kernels/compile/launches_*.py with every configuration that autotuning may choose; --defaults leaves out all but the
shipped defaults. What Triton compiles lands in its cache, where a later run on a GPU finds it.

Exits with 1 if a default spills or a configuration needs more shared memory than the architecture has.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tilegrad.kernels.system.files import write_whole
from tilegrad.kernels.system.paths import user_path

# Shared memory one program may have: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
SHARED_LIMIT = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10, 120: 99 << 10}
LANGUAGES = {"triton": "TRITON_INTERPRET", "numba": "NUMBA_ENABLE_CUDASIM"}  # and what simulates them
COLUMNS = (
    "kernel", "dtype", "config", "arch", "registers", "spill_bytes", "shared_bytes", "cubin_bytes", "tensor_core",
)  # fmt: skip

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tilegrad.kernels.compile", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--arch", default="80,90", help="compute capabilities, 90 for 9.0 (default: 80,90)")
    parser.add_argument("--kernels", default="triton", choices=LANGUAGES, help="which backend's kernels")
    parser.add_argument("--json", type=user_path, help="also write the rows to this file")
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
    variable = LANGUAGES[flags.kernels]
    if os.environ.get(variable, "0") not in ("", "0"):
        parser.error(f"{variable} is set: kernels would be simulated, not compiled; expected it to be unset")

    rows = compile_all(flags.kernels, archs, flags.defaults, max(1, flags.jobs))
    _show(rows)
    if flags.json is not None:
        write_whole(flags.json, json.dumps(rows, indent=1) + "\n")
    faults = [fault for row in rows for fault in _faults(row)]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(rows)} compilations of {len({row['kernel'] for row in rows})} kernels, {len(faults)} faults")
    return 1 if faults else 0


def compile_all(language: str, archs: list[int], defaults: bool, jobs: int) -> list[Row]:
    """A row for every compilation, in the order of architecture, kernel, dtype and configuration."""
    shares = [(language, archs, defaults, first, jobs) for first in range(jobs)]
    if jobs == 1:
        rows = _compile_share(*shares[0])
    else:
        # Not forked: the compilers have threads of their own.
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            rows = [row for share in pool.map(_compile_share, *zip(*shares, strict=True)) for row in share]
    return sorted(rows, key=lambda row: (row["arch"], row["kernel"], row["dtype"], not row["default"], row["config"]))


def _compile_share(language: str, archs: list[int], defaults: bool, first: int, step: int) -> list[Row]:
    """Every step-th compilation from the first: processes share the work without talking."""
    module = importlib.import_module(f"tilegrad.kernels.compile.report_{language}")
    work = [(arch, dtype, spec) for arch in archs for dtype, spec in module.launches(arch, defaults)]
    return [module.row(*each) for each in work[first::step]]


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
