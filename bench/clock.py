"""The time of one call, in milliseconds.

On the CPU it is the wall clock. On a GPU there are three times, which differ, in three columns:

    kernel   CUDA events around one call, the L2 cache flushed by a write before it; the write keeps the GPU busy while
             the host prepares the launch, so that the host's time is not part of it
    graph    a CUDA graph of many calls, each on its own copy of the inputs, replayed: the share of one call
    host     from the call to its return, on an idle stream: what eager code pays before the GPU begins

On the simulated device there is no clock: the call runs once, and nothing is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Call = Callable[[], Any]


def wall(call: Call) -> float:
    """The time of one call on the CPU."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


class Events:
    """The clocks of a GPU, by CuPy.

    xp     CuPy, or what stands in for it
    flush  bytes to write so that L2 holds nothing of the inputs; 0 for four times its size
    """

    def __init__(self, xp: Any, flush: int = 0) -> None:
        self.cuda = xp.cuda
        if not flush:
            device = self.cuda.runtime.getDevice()
            flush = 4 * self.cuda.runtime.getDeviceProperties(device)["l2CacheSize"]
        self.memory = xp.zeros(flush, np.uint8)

    def kernel(self, call: Call) -> float:
        """Device time of one call with cold L2."""
        start, stop = self.cuda.Event(), self.cuda.Event()
        self.memory.fill(0)
        start.record()
        call()
        stop.record()
        stop.synchronize()
        return self.cuda.get_elapsed_time(start, stop)

    def replay(self, launch: Call, calls: int) -> float:
        """Device time of one of the `calls` in a captured graph that `launch` replays."""
        start, stop = self.cuda.Event(), self.cuda.Event()
        self.memory.fill(0)
        start.record()
        launch()
        stop.record()
        stop.synchronize()
        return self.cuda.get_elapsed_time(start, stop) / calls

    def host(self, calls: Sequence[Call]) -> float:
        """Host time of one of the calls, which must be fewer than the stream queues without waiting."""
        self.cuda.runtime.deviceSynchronize()
        start = time.perf_counter()
        for call in calls:
            call()
        elapsed = time.perf_counter() - start
        self.cuda.runtime.deviceSynchronize()
        return elapsed / len(calls) * 1e3


def capture(xp: Any, calls: Sequence[Call]) -> tuple[Call, Any]:
    """A CUDA graph of the calls by CuPy: what replays it, and what must be kept alive with it.

    Memory comes from the graph's own pool, warmed up first: nothing may be allocated while a stream is captured.
    What cannot be captured, such as cuBLAS under CuPy, raises here.
    """
    pool = xp.cuda.MemoryPool()
    stream = xp.cuda.Stream(non_blocking=True)
    with xp.cuda.using_allocator(pool.malloc), stream:
        for call in calls:
            call()
        stream.synchronize()
        stream.begin_capture()
        try:
            for call in calls:
                call()
        finally:
            graph = stream.end_capture()
    return graph.launch, (pool, stream)
