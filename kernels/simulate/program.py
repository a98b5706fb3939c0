"""A user's program on the device that executes PTX: asked for before anything opens the device, then run."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from tilegrad.kernels.device import gpu
from tilegrad.kernels.simulate.ptx.faults import Fault, PtxError

ARCHS = {80: "ptx", 90: "ptx:90"}  # compute capability whose PTX is executed -> what TILEGRAD_SIMULATE says for it


def ask_for(arch: int, kernels: str | None = None) -> None:
    """Make device "cuda" of this process the executor, and its kernels those of that backend.

    Raises ValueError for an architecture that is not executed, or where another simulation is asked for.
    """
    if arch not in ARCHS:
        raise ValueError(f"the PTX of sm_{arch} is not executed; expected {', '.join(map(str, ARCHS))}")
    os.environ["TILEGRAD_SIMULATE"] = ARCHS[arch]
    gpu.is_executed()
    if kernels is not None:
        os.environ["TILEGRAD_KERNELS"] = kernels


def check_program(path: str) -> None:
    """Raise ValueError unless there is a program at that path."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}; expected a Python program")


def run_program(path: str, arguments: Sequence[str]) -> int:
    """Run it as Python would; gives its exit status, or 1 where a kernel did what it must not, which is printed."""
    sys.argv[:] = [path, *arguments]
    sys.path[0] = str(Path(path).resolve().parent)
    try:
        runpy.run_path(path, run_name="__main__")
    except (Fault, PtxError) as error:
        print(error, file=sys.stderr)
        return 1
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
