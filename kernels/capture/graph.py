"""Work of the device recorded once and launched again as a whole: a CUDA graph, on the simulated device a tape, on the
CPU a program.

    with graph.capture() as recorded:
        ...                          nothing is done; memory comes from a pool of the graph's own
    recorded.launch()                all of it, on the current stream, with what is in memory by then

Arrays that were made within the block belong to the graph: a launch writes to them again, and their memory is used for
nothing else as long as the graph lives. Arrays from outside are read and written where they lay; whoever has the graph
keeps them alive. Numbers of the host are part of the graph: those that change have to be in device memory (`Slots`).

Capture is of one thread. Two launches of a graph must be in order, as those on one stream are.
"""

from __future__ import annotations

import contextlib
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tilegrad.kernels.capture.program import Program, recorded
from tilegrad.kernels.device import gpu, memory
from tilegrad.kernels.system.modes import Block

_NODE = re.compile(r'"graph_\d+_node_\d+"\s*\[[^\]]*?label="(.*?)"\s*\]', re.DOTALL)  # of CUDA's DOT text
_SLOTS = 512  # in one block of memory, 8 KB: so little goes with the command that copies it
_SLOT = 16  # bytes: every slot has the alignment that kernels are compiled for


_with_pools: weakref.WeakSet[Graph] = weakref.WeakSet()


class Graph:
    """What `capture` recorded."""

    def __init__(self) -> None:
        self._launch: Callable[[], None] | None = None
        self._nodes: Callable[[], Counter[str]] = Counter
        self._nbytes: Callable[[], int] = int
        self._kept: list[Any] = []
        self.pool: Any = None  # on a GPU, where its memory is from
        self.program: Program | None = None  # on the CPU, while it is recorded and afterwards

    def launch(self) -> None:
        """Tell the device to do all of it, on the current stream."""
        assert self._launch is not None, "the capture has not ended"
        self._launch()

    def keep(self, *things: Any) -> None:
        """Let these live as long as the graph does."""
        self._kept += things

    def nodes(self) -> Counter[str]:
        """How many there are of each kind of node: kernels by name, copies and fills."""
        return self._nodes()

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that are the graph's own. The simulated device has no pools: 0."""
        return self._nbytes()


class _Local(threading.local):
    graph: Graph | None = None


_local = _Local()


def capturing() -> Graph | None:
    """The graph that this thread is recording."""
    return _local.graph


def capture() -> contextlib.AbstractContextManager[Graph]:
    """Record what this thread tells device "cuda" within the block; after an exception there is no graph.

    What the host would have to wait for raises (RuntimeError, or CuPy's own). Kernels should have been launched once
    before: compiling and measuring configurations is for then.
    """
    if _local.graph is not None:
        raise RuntimeError("capture: a graph is being captured already; expected one at a time")
    return _on_tape(Graph()) if gpu.is_simulated() else _on_stream(Graph())


def capture_cpu() -> contextlib.AbstractContextManager[Graph]:
    """Record what this thread has the kernels of the CPU do within the block, as kernels/capture/program.py says."""
    graph = Graph()
    graph.program = program = Program()
    graph._launch, graph._nodes, graph._nbytes = program.launch, program.nodes, lambda: program.nbytes
    return recorded(program, graph)


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Within the block work is done at once, and is not part of the graph that is being captured, if one is."""
    if _local.graph is None:
        yield
    elif gpu.is_simulated():
        from tilegrad.kernels.simulate import tape

        with tape.recorded_on(None):
            yield
    else:
        stream = gpu.xp().cuda.Stream(non_blocking=True)
        with stream:
            yield
        stream.synchronize()


def _on_tape(graph: Graph) -> Block:
    from tilegrad.kernels.simulate import tape

    onto = tape.Tape()

    def end() -> None:
        graph._launch, graph._nodes = onto.launch, onto.nodes

    return Block((_local, "graph", graph), tape.recording_on(onto), gives=graph, quiet=True, then=end)


@contextlib.contextmanager
def _on_stream(graph: Graph) -> Iterator[Graph]:
    cuda = gpu.xp().cuda
    pool = cuda.MemoryPool()
    stream = cuda.Stream(non_blocking=True)  # the default stream cannot be captured
    allocate = memory.allocator(gpu.xp(), pool.malloc)
    with Block((_local, "graph", graph)), stream, cuda.using_allocator(allocate):
        stream.begin_capture()
        try:
            yield graph
        except BaseException:
            with contextlib.suppress(Exception):  # what was captured may be invalid: the exception says why
                stream.end_capture()
            raise
        captured = stream.end_capture()
    graph._launch, graph._nbytes = captured.launch, pool.total_bytes
    graph._nodes = lambda: names_in(captured.debug_dot_str())
    graph.pool = pool
    _with_pools.add(graph)


def pools() -> list[Any]:
    """The memory pools of all CUDA graphs that are kept."""
    return [graph.pool for graph in list(_with_pools)]


def names_in(dot: str) -> Counter[str]:
    """The nodes in CUDA's DOT text of a graph, by what their labels say beneath the node's number."""
    lines = (label.replace("\\n", "\n").strip().split("\n") for label in _NODE.findall(dot))
    return Counter(re.split(r"\\?<|\(", line[min(1, len(line) - 1)])[0].strip() for line in lines)


class Slots:
    """Numbers that a graph reads, in device memory, and their values on the host: `send` them before a launch.

    On the CPU the two are one, and what a program is told of.
    """

    def __init__(self, program: Program | None = None) -> None:
        self._program = program
        self._blocks: list[tuple[Any, np.ndarray]] = []
        self._used = _SLOTS

    def take(self, dtype: Any, shape: tuple[int, ...] = ()) -> tuple[Any, np.ndarray]:
        """(an array of at most 16 bytes in device memory, the host's array that is sent there)."""
        if self._used == _SLOTS:
            size = _SLOTS * _SLOT
            host = np.zeros(size, np.uint8)
            device = gpu.xp().empty(size, np.uint8) if self._program is None else host
            self._blocks.append((device, host))
            self._used = 0
        start = self._used * _SLOT
        stop = start + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        assert stop <= start + _SLOT, f"a slot has {_SLOT} bytes"
        self._used += 1
        device, host = (memory[start:stop].view(dtype).reshape(shape) for memory in self._blocks[-1])
        return device if self._program is None else self._program.number(device), host

    def send(self) -> None:
        """Copy the host's values, in order with what the current stream was told; nobody waits."""
        if self._program is not None:
            return
        last = len(self._blocks) - 1
        for i, (device, host) in enumerate(self._blocks):
            n = self._used * _SLOT if i == last else host.size
            if gpu.is_simulated():
                device[:n].set(host[:n])
            else:
                # From memory that is not pinned: such a copy is staged before the call returns, and waits for nothing
                # (CUDA Runtime API, "API synchronization behavior"). So the host may write the next values at once.
                device.data.copy_from_host_async(host.ctypes.data, n)
