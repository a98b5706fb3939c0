"""What the host pays on a GPU before the GPU does anything.

launch   of a Triton kernel with four pointers and two ints. On a GPU, from call to return, back to back on an idle
         stream. Without one the driver's entry is replaced by a function that does nothing, so that the figure is
         Python's share alone: specialisation key, lookup, packing of the parameters
relu     of 16 numbers through the contract, without the driver and the allocator: checks, the result, the launch
replay   of the captured training step of the CNN, without the driver and CuPy: whether the graph still holds, the
         numbers of the host, the step counts of Adam; not the copy of the result. On the simulated device, whose
         kernels are not run

The last two are Python's share on any machine.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.bench.measure import Times, summary
from tilegrad.bench.nets import cnn
from tilegrad.kernels.capture.cuda_graph import CudaGraph
from tilegrad.kernels.device import gpu
from tilegrad.nn import functional as F

NAME = "Triton launch, host"
NAME_WITHOUT_GPU = "Triton launch, Python's share"
RELU, REPLAY = "relu of 16 numbers on a GPU, Python's share", "captured CNN step on a GPU, Python's share"
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


def relu_times() -> Times:
    """Milliseconds of one relu, over rounds of many."""
    with _without_driver():
        relu = importlib.import_module("tilegrad.kernels.activations.gpu_triton").relu
        x = _Array((16,), np.dtype(np.float32))
        return _timed(lambda: relu(x), lambda: None)


def replay_times() -> Times:
    """Milliseconds of one replay, over rounds of many."""
    from tilegrad.kernels.launch import triton_kernel

    with gpu.simulate(), triton_kernel.collecting():
        model = cnn(nn).to("cuda")
        optimizer = optim.Adam(model.parameters())

        @tg.capture(warmup=1)
        def step(images: Any, labels: Any) -> Any:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        images, labels = tg.zeros(32, 1, 28, 28, device="cuda"), tg.zeros(32, dtype=tg.int64, device="cuda")
        for _ in range(3):
            step(images, labels)
        (account,) = [account for shape in step._shapes.values() for account in shape.accounts]
        account.outputs = None  # nothing to copy
        captured = account.graph
        assert isinstance(captured, CudaGraph)
        captured.leave_to_host([_Array(each.shape, each.dtype) for each in (images.data, labels.data)])
        return _timed(lambda: step(images, labels), lambda: None)


class _Array:
    """As much of a CuPy array as an elementwise kernel's host code asks for. What is written to it is forgotten."""

    flags = SimpleNamespace(c_contiguous=True)
    data = SimpleNamespace(ptr=4096)
    __slots__ = ("shape", "dtype", "size")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype, self.size = shape, dtype, math.prod(shape)

    def __setitem__(self, index: Any, value: Any) -> None:
        return


def _rounds(arrays: list[Any], settle: Callable[[], Any]) -> Times:
    kernel = _kernel()
    return _timed(lambda: kernel((1,), *arrays, 1000, 7, BLOCK=256, num_warps=4), settle)


def _timed(call: Callable[[], Any], settle: Callable[[], Any]) -> Times:
    samples = []
    for i in range(ROUNDS + 1):
        settle()
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            call()
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
    gpu.xp, gpu.capability = lambda: SimpleNamespace(cuda=cuda, empty=_Array), lambda: 90
    try:
        yield
    finally:
        gpu.xp, gpu.capability = before
