"""What the host pays for one launch of a Triton kernel with four pointers and two ints.

On a GPU, from call to return, back to back on an idle stream. Without one the driver's entry is replaced by a function
that does nothing, so that the figure is Python's share alone: specialisation key, lookup, packing of the parameters.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from tilegrad.bench.measure import Times, summary
from tilegrad.kernels.device import gpu

NAME = "Triton launch, host"
NAME_WITHOUT_GPU = "Triton launch, Python's share"
LAUNCHES, ROUNDS = 2000, 15


def missing() -> str | None:
    """Why no launch can be timed here; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install triton"
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        return "Triton interprets its kernels (TRITON_INTERPRET): none is launched"
    return None


def times() -> Times:
    """Milliseconds of one launch, over rounds of many."""
    if gpu.is_available():
        arrays = [gpu.xp().zeros(1024, np.float32) for _ in range(4)]
        return _rounds(arrays, gpu.xp().cuda.runtime.deviceSynchronize)
    arrays = [SimpleNamespace(data=SimpleNamespace(ptr=4096 * i), dtype=np.dtype(np.float32)) for i in range(1, 5)]
    with _without_driver():
        return _rounds(arrays, lambda: None)


def _rounds(arrays: list[Any], settle: Callable[[], Any]) -> Times:
    kernel = _kernel()
    samples = []
    for i in range(ROUNDS + 1):
        settle()
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            kernel((1,), *arrays, 1000, 7, BLOCK=256, num_warps=4)
        if i:  # the first compiles
            samples.append((time.perf_counter() - start) / LAUNCHES * 1e3)
    return summary(samples)


@cache
def _kernel() -> Any:
    import triton.language as tl

    from tilegrad.kernels.launch.triton_kernel import kernel

    @kernel
    def _four_pointers_kernel(a_ptr, b_ptr, c_ptr, d_ptr, n, m, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
        """a, b, c, d: float32."""
        i = tl.arange(0, BLOCK)
        total = tl.load(a_ptr + i) + tl.load(b_ptr + i) + tl.load(c_ptr + i)
        tl.store(d_ptr + i, total, mask=i < n + m)

    return _four_pointers_kernel


@contextlib.contextmanager
def _without_driver() -> Iterator[None]:
    """A block in which loading and launching a kernel do nothing, as if on a GPU of compute capability 9.0."""
    stream = SimpleNamespace(ptr=0)
    cuda = SimpleNamespace(
        function=SimpleNamespace(Module=lambda: SimpleNamespace(load=len), Function=lambda *_: SimpleNamespace(ptr=1)),
        driver=SimpleNamespace(launchKernel=lambda *_: None),
        get_current_stream=lambda: stream,
        device=SimpleNamespace(get_device_id=lambda: 0),
        Device=lambda: SimpleNamespace(use=lambda: None),
    )
    before = gpu.xp, gpu.capability
    gpu.xp, gpu.capability = lambda: SimpleNamespace(cuda=cuda), lambda: 90
    try:
        yield
    finally:
        gpu.xp, gpu.capability = before
