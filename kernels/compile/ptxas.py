"""ptxas, the assembler of Triton's wheel: PTX to machine code, and what a thread needs there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from triton import knobs

_READ_BY_THE_OLDER = 8, 8  # the newest PTX that Triton itself gives to the older of its two assemblers


class Assembled(NamedTuple):
    """What became of a PTX text."""

    registers: int  # a thread
    spilled: int  # bytes of stack and of spilled registers a thread
    shared: int  # bytes of static shared memory a block
    size: int  # bytes of code


def assemble(ptx: str) -> Assembled:
    """For the target that it names. Raises CalledProcessError for a text that ptxas refuses."""
    version = tuple(map(int, re.findall(r"^\.version (\d+)\.(\d+)", ptx, re.M)[0]))
    tool = knobs.nvidia.ptxas if version <= _READ_BY_THE_OLDER else knobs.nvidia.ptxas_blackwell
    (target,) = re.findall(r"^\.target (\w+)", ptx, re.M)
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        command = [tool.path, "-v", f"-arch={target}", "-o", str(cubin), str(source)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        size = cubin.stat().st_size
    (registers,) = map(int, re.findall(r"Used (\d+) registers", printed))
    frames = [sum(map(int, each)) for each in re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", printed)]
    return Assembled(registers, sum(frames), sum(map(int, re.findall(r"(\d+) bytes smem", printed))), size)
