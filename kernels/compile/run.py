"""Compile every kernel ahead of time, or those of a file, on a machine without a GPU, and show what became of it.

    python -m tilegrad.kernels.compile --arch 80,90,100,120 [--kernels triton] [--json PATH] [--defaults] [--jobs N]
    python -m tilegrad.kernels.compile my_kernel.py [--dtype float32,bfloat16] ...

A row for each compilation: kernel, dtype, configuration, architecture, registers a thread, bytes spilled, shared memory
a program, size of the cubin, and which tensor-core instructions the code uses. What is compiled are the launches of
kernels/compile/launches_*.py with every configuration that autotuning may choose; --defaults leaves out all but the
shipped defaults. Of a user's file they are the launches of its function `launches` (kernels/compile/program.py), in
every language that is installed. What Triton compiles lands in its cache, where a later run on a GPU finds it.

Exits with 1 if a default spills, a configuration needs more shared memory than the architecture has, or a kernel of
narrower arrays computes in float64.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.compile import program
from tilegrad.kernels.contract import DTYPES
from tilegrad.kernels.simulate.program import check_program
from tilegrad.kernels.system.files import write_whole
from tilegrad.kernels.system.paths import user_path

# Shared memory one program may have: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
SHARED_LIMIT = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10, 120: 99 << 10}
LANGUAGES = {"triton": "TRITON_INTERPRET", "numba": "NUMBA_ENABLE_CUDASIM"}  # and what simulates them
COLUMNS = (
    "kernel", "dtype", "config", "arch", "registers", "spill_bytes", "shared_bytes", "cubin_bytes", "tensor_core",
)  # fmt: skip

Row = dict[str, Any]
BY_NAME = {name: np.dtype(name) for name in DTYPES["reference"]}


class Source(NamedTuple):
    """A user's file, and the dtypes that it is compiled for."""

    path: str
    dtypes: Sequence[str]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tilegrad.kernels.compile", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument(
        "program", nargs="?", help="a Python file with a function launches(empty); else what is shipped"
    )
    parser.add_argument("--arch", default="80,90", help="compute capabilities, 90 for 9.0 (default: 80,90)")
    parser.add_argument("--kernels", choices=LANGUAGES, help="of one language (default: triton; of a file, all)")
    parser.add_argument("--dtype", help="of a file's arrays, by commas (default: float32)")
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
    try:
        source = _source(flags)
    except ValueError as error:
        parser.error(str(error))
    languages = [flags.kernels] if flags.kernels else ["triton"] if source is None else program.installed()
    for variable in (LANGUAGES[language] for language in languages):
        if os.environ.get(variable, "0") not in ("", "0"):
            parser.error(f"{variable} is set: kernels would be simulated, not compiled; expected it to be unset")

    jobs = max(1, flags.jobs) if source is None else 1
    try:
        rows = [row for language in languages for row in compile_all(language, archs, flags.defaults, jobs, source)]
    except program.NoLaunchesError as error:
        parser.error(str(error))
    if not rows:
        print(f"{flags.program}: launches(empty) launched no kernel of tilegrad.kernels.launch", file=sys.stderr)
        return 1
    _show(rows)
    if flags.json is not None:
        write_whole(flags.json, json.dumps(rows, indent=1) + "\n")
    faults = [fault for row in rows for fault in _faults(row)]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(rows)} compilations of {len({row['kernel'] for row in rows})} kernels, {len(faults)} faults")
    return 1 if faults else 0


def _source(flags: argparse.Namespace) -> Source | None:
    """The file whose kernels are compiled, and for which dtypes. Raises ValueError for what cannot be compiled."""
    if flags.program is None:
        if flags.dtype:
            raise ValueError("--dtype is of a file; what is shipped is compiled for every dtype")
        return None
    check_program(flags.program)
    dtypes = (flags.dtype or "float32").split(",")
    for dtype in dtypes:
        if dtype not in BY_NAME:
            raise ValueError(f"--dtype: got {dtype!r}; expected some of {', '.join(BY_NAME)}")
    return Source(flags.program, dtypes)


def compile_all(language: str, archs: list[int], defaults: bool, jobs: int, source: Source | None = None) -> list[Row]:
    """A row for every compilation, in the order of architecture, kernel, dtype and configuration."""
    shares = [(language, archs, defaults, first, jobs, source) for first in range(jobs)]
    if jobs == 1:
        rows = _compile_share(*shares[0])
    else:
        # Not forked: the compilers have threads of their own.
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            rows = [row for share in pool.map(_compile_share, *zip(*shares, strict=True)) for row in share]
    return sorted(rows, key=lambda row: (row["arch"], row["kernel"], row["dtype"], not row["default"], row["config"]))


def _compile_share(
    language: str, archs: list[int], defaults: bool, first: int, step: int, source: Source | None
) -> list[Row]:
    """Every step-th compilation from the first: processes share the work without talking."""
    module = importlib.import_module(f"tilegrad.kernels.compile.report_{language}")
    if source is None:
        what: tuple[Any, ...] = ()
    else:
        what = [program.launches_of(source.path, language)], [BY_NAME[dtype] for dtype in source.dtypes]
    work = [(arch, dtype, spec) for arch in archs for dtype, spec in module.launches(arch, defaults, *what)]
    return [module.row(*each) for each in work[first::step]]


def _faults(row: Row) -> list[str]:
    what = f"{row['kernel']} {row['dtype']} sm_{row['arch']} {row['config']}"
    faults = []
    if row["default"] and row["spill_bytes"]:
        faults.append(f"{what}: spills {row['spill_bytes']} bytes a thread; a default must not")
    if row["float64"] and row["dtype"] != "float64":
        faults.append(f"{what}: computes in float64, at a fraction of the speed; expected float32 literals and results")
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
