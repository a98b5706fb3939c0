"""Device "cuda": whether there is one, waiting for it, and its memory. Names are those of torch.cuda.

Where there is no GPU, `is_available` is False, `device_count` 0, and what needs one raises RuntimeError naming what is
missing. A simulated GPU does not count as available: a program gets it only by asking for "cuda" by name.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tilegrad.capture_hooks import refuse
from tilegrad.device import WAITS
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.memory import OutOfMemoryError, amount, held, listed

__all__ = [
    "OutOfMemoryError",
    "device_count",
    "empty_cache",
    "is_available",
    "is_simulated",
    "memory_allocated",
    "memory_reserved",
    "memory_summary",
    "synchronize",
]


def is_available() -> bool:
    """Whether there is a GPU that can be used."""
    return gpu.is_available()


def is_simulated() -> bool:
    """Whether device "cuda" is simulated on host memory (TRITON_INTERPRET=1, NUMBA_ENABLE_CUDASIM=1)."""
    return gpu.is_simulated()


def device_count() -> int:
    """How many GPUs are visible. Only the first is used. A simulated one counts as one."""
    if gpu.is_simulated():
        return 1
    return gpu.xp().cuda.runtime.getDeviceCount() if gpu.is_available() else 0


def synchronize() -> None:
    """Wait until the GPU has finished its work. Raises what its kernels found wrong in their arguments."""
    xp = gpu.xp()
    refuse(WAITS)
    if not gpu.is_simulated():
        xp.cuda.runtime.deviceSynchronize()
    from tilegrad.kernels.launch import faults

    faults.raise_pending()


def memory_allocated() -> int:
    """Bytes that arrays occupy, including those of captured steps."""
    xp = gpu.xp()
    if gpu.is_simulated():
        return sum(block.nbytes for block in held(xp.ndarray))
    return sum(pool.used_bytes() for pool in _pools(xp))


def memory_reserved() -> int:
    """Bytes taken from the GPU: what arrays occupy, what captured steps need, and what is kept for the next arrays."""
    xp = gpu.xp()
    return memory_allocated() if gpu.is_simulated() else sum(pool.total_bytes() for pool in _pools(xp))


def _pools(xp: ModuleType) -> list[Any]:
    from tilegrad.kernels.capture import cuda_graph

    return [xp.get_default_memory_pool(), *cuda_graph.pools()]


def empty_cache() -> None:
    """Give the memory that is kept for later arrays back to the GPU, for other programs to use."""
    xp = gpu.xp()
    if not gpu.is_simulated():
        xp.get_default_memory_pool().free_all_blocks()


def memory_summary() -> str:
    """A text of a few lines: allocated and reserved bytes, those of the whole GPU, and the largest arrays alive."""
    xp = gpu.xp()
    rows = [("allocated", memory_allocated()), ("reserved", memory_reserved())]
    if not gpu.is_simulated():
        free, total = xp.cuda.runtime.memGetInfo()
        rows += [("free", free), ("total", total)]
    lines = [f"{name:<10} {amount(nbytes):>10}" for name, nbytes in rows]
    return "\n".join([*lines, "the largest arrays:", listed(held(xp.ndarray))])
