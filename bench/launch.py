"""What the host pays for one eager launch: python -m bench.launch

On a GPU, the time from call to return of a kernel with four pointers and two ints, launched back to back on an idle
stream. Without one, the same call with the driver's entry replaced by a function that does nothing, so that the figure
is Python's share alone: specialisation key, lookup, packing of the parameters.
"""

from __future__ import annotations

import statistics
import time
from types import SimpleNamespace

import numpy as np
import triton.language as tl

from kernels import gpu, launch
from kernels.launch import kernel

LAUNCHES, ROUNDS = 2000, 15


@kernel
def _four_pointers_kernel(a_ptr, b_ptr, c_ptr, d_ptr, n, m, BLOCK: tl.constexpr):
    """a, b, c, d: float32."""
    i = tl.arange(0, BLOCK)
    total = tl.load(a_ptr + i) + tl.load(b_ptr + i) + tl.load(c_ptr + i)
    tl.store(d_ptr + i, total, mask=i < n + m)


def microseconds() -> float:
    """The median over rounds of the time of one launch."""
    if gpu.is_available():
        arrays = [gpu.xp().zeros(1024, np.float32) for _ in range(4)]
        settle = gpu.xp().cuda.Device().synchronize
    else:
        arrays = [SimpleNamespace(data=SimpleNamespace(ptr=4096 * i), dtype=np.dtype(np.float32)) for i in range(1, 5)]
        settle = _replace_the_driver(arrays)
    times = []
    for _ in range(ROUNDS):
        settle()
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            _four_pointers_kernel((1,), *arrays, 1000, 7, BLOCK=256, num_warps=4)
        times.append((time.perf_counter() - start) / LAUNCHES)
    return statistics.median(times) * 1e6


def _replace_the_driver(arrays: list[SimpleNamespace]) -> None:
    stream = SimpleNamespace(ptr=0)
    cuda = SimpleNamespace(
        function=SimpleNamespace(Module=lambda: SimpleNamespace(load=len), Function=lambda *_: SimpleNamespace(ptr=1)),
        driver=SimpleNamespace(launchKernel=lambda *_: None),
        get_current_stream=lambda: stream,
        device=SimpleNamespace(get_device_id=lambda: 0),
    )
    gpu.xp = lambda: SimpleNamespace(cuda=cuda)  # for the life of this process, which does nothing else
    gpu.capability = lambda: 90
    return lambda: None


if __name__ == "__main__":
    cost = microseconds()
    if gpu.is_available():
        print(f"{cost:.2f} us a launch at four pointers, on {launch.architecture()}")
    else:
        print(f"{cost:.2f} us of Python a launch at four pointers; no GPU here, the driver's share is not in it")
