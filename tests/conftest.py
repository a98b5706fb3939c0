"""Where there is no GPU, device "cuda" is simulated: Triton's interpreter and Numba's simulator run the kernels.

They have to be asked for before a kernel is decorated, so here. On a machine with a GPU nothing is simulated, and what
runs on it is marked `gpu`.
"""

import os
import sys

import pytest

from tilegrad.kernels.device import gpu

if "TRITON_INTERPRET" not in os.environ and not gpu.is_executed() and not gpu.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

if gpu.is_available():
    os.environ.setdefault("TILEGRAD_AUTOTUNE", "0")  # configurations compute the same; measuring them takes minutes

if os.environ.get("TILEGRAD_TEST_RAW_MEMORY"):  # for compute-sanitizer: every array an allocation of its own
    gpu.xp().cuda.set_allocator(None)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test begins at the same place of the same random numbers: a draw that fails one does so every time."""
    import tilegrad as tg

    tg.manual_seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
