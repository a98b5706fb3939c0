"""How many threads the CPU kernels use. The module that runs them is loaded when it is asked for: `import tilegrad`
waits for nothing that a program may not need.
"""

from __future__ import annotations


def get_num_threads() -> int:
    """Threads that a kernel may use: as set, else OMP_NUM_THREADS or NUMBA_NUM_THREADS, else the cores there are."""
    from tilegrad.kernels.cpu import threads

    return threads.num_threads()


def set_num_threads(n: int) -> None:
    """Let kernels use n threads from now on. Raises ValueError unless n >= 1."""
    from tilegrad.kernels.cpu import threads

    threads.set_num_threads(n)
