"""What every shipped default does: the launches of kernels/compile/launches_*.py, a few blocks of each.

Of launches of one compilation the first is counted, and of its grid the first blocks are run: as many as 256 threads.
The others are not run, unless they are of one block: a launch may fill the table of addresses that the next one reads.
Arrays hold zeros, so that a label, an index or a window's tap is one that there is.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from tilegrad.kernels.device import gpu
from tilegrad.kernels.profile.launches import PLAINLY, Launched, profiled
from tilegrad.kernels.simulate import arrays
from tilegrad.kernels.simulate.ptx import driver

_THREADS = 256  # that are run of a launch, or one block


def defaults(language: str, dtype: np.dtype, family: str) -> list[Launched]:
    """A launch of each compilation of a family, for arrays of that dtype."""
    module = importlib.import_module(f"tilegrad.kernels.compile.launches_{language}")
    seen: set[str] = set()

    def choose(launch: driver.Launch) -> int:
        x, y, z = launch.block
        if launch.program.ptx in seen:
            return PLAINLY if launch.grid == (1, 1, 1) else 0
        seen.add(launch.program.ptx)
        return max(1, _THREADS // (x * y * z))

    def empty(*shape: int, dtype: np.dtype = dtype) -> Any:
        return gpu.xp().empty(shape, dtype)

    with arrays.filled_with(0), profiled(choose) as launched:
        getattr(module, family)(empty)
    return launched
