"""A graph of a GPU: a CUDA graph, launched on the current stream; on the simulated device a tape.

kernels/capture/graph.py says what a graph is, and what its methods are for.
"""

from __future__ import annotations

import contextlib
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

from tilegrad.kernels.capture.slots import Slots
from tilegrad.kernels.device import gpu, memory
from tilegrad.kernels.system.modes import Block

Action = Callable[[], None]

_NODE = re.compile(r'"graph_\d+_node_\d+"\s*\[[^\]]*?label="(.*?)"\s*\]', re.DOTALL)  # of CUDA's DOT text


class CudaGraph:
    """A graph of a GPU, or of the simulated one. The host has its turns before and behind it."""

    device = "cuda"

    def __init__(self) -> None:
        self._launch: Action | None = None
        self._nodes: Callable[[], Counter[str]] = Counter
        self._nbytes: Callable[[], int] = int
        self._inputs: list[Any] = []
        self._slots = Slots()
        self._before: list[Action] = []
        self._last: dict[Any, Action] = {}
        self._behind: list[Action] = []
        self._launched: dict[Any, Action] = {}
        self._kept: list[Any] = []
        self.written_inputs: list[int] = []  # launches write to copies
        self.pool: Any = None  # on a GPU, where its memory is from

    @property
    def xp(self) -> ModuleType:
        return gpu.xp()

    def inputs(self, arrays: list[Any]) -> list[Any]:
        self._inputs = [gpu.xp().empty(array.shape, array.dtype) for array in arrays]
        return list(self._inputs)

    def capturing(self) -> AbstractContextManager[CudaGraph]:
        """What the host would have to wait for raises in the block (RuntimeError, or CuPy's own)."""
        if _local.graph is not None:
            raise RuntimeError("capture: a graph is being captured already; expected one at a time")
        return _on_tape(self) if gpu.is_simulated() else _on_stream(self)

    def number(self, value: Callable[[], Any], dtype: Any, shape: tuple[int, ...] = ()) -> Any:
        device, host = self._slots.take(dtype, shape)

        def read() -> None:
            host[...] = value()

        read()
        self._before += [*self._behind, read]
        self._behind.clear()
        return device

    def host(self, action: Action, at_once: bool = False) -> None:
        self._behind.append(action)

    def host_last(self, key: Any, action: Action) -> None:
        self._last[key] = action

    def launched(self, action: Action) -> None:
        """Call action() behind each launch, once however often it is said."""
        self._launched[action] = action

    # Arrays are on the device, captured or not: what is done with them is part of the graph without more.

    def reads(self, array: Any, is_parameter: bool) -> None:
        self._kept.append(array)

    def made(self, array: Any, op: str, is_view: bool) -> Any:
        return array

    def planned(self, array: Any) -> Any:
        return array

    def is_planned(self, array: Any) -> bool:
        return True

    def constant(self, array: Any, has_values: bool = True) -> Any:
        return array

    def values(self, array: Any) -> Any:
        return array

    def check(self, test: Callable[..., None], *arguments: Any) -> None:
        test(*arguments)

    def assign(self, target: Any, index: Any, value: Any) -> bool:
        target[index] = value
        return False

    def own(self, array: Any) -> Any:
        return array

    def leave(self, array: Any) -> Any:
        return array

    def require_here(self, array: Any, tracking: bool) -> None:
        return

    def settle(self) -> None:
        return

    def restore(self) -> None:
        return

    def keep(self, *things: Any) -> None:
        self._kept += things

    def take(self, arrays: list[Any]) -> bool:
        for mine, array in zip(self._inputs, arrays, strict=True):
            mine[...] = array
        return True

    def launch(self) -> None:
        assert self._launch is not None, "the capture has not ended"
        for action in self._before:
            action()
        self._slots.send()
        self._launch()
        for actions in (self._last.values(), self._behind, self._launched.values()):
            for action in actions:
                action()

    def leave_to_host(self, inputs: list[Any]) -> None:
        """From now on a launch does the host's part alone, to measure that: nothing is sent to the device or run there.

        inputs  what arguments are assigned to, in place of the graph's memory
        """
        self._launch = self._slots.send = _nothing
        self._inputs = inputs

    def nodes(self) -> Counter[str]:
        return self._nodes()

    @property
    def nbytes(self) -> int:
        return sum([each.nbytes for each in self._inputs]) + self._nbytes()


def _nothing() -> None:
    """In the device's place."""


_with_pools: weakref.WeakSet[CudaGraph] = weakref.WeakSet()


class _Local(threading.local):
    graph: CudaGraph | None = None


_local = _Local()


def capturing() -> CudaGraph | None:
    """The CUDA graph that this thread captures."""
    return _local.graph


def capture() -> AbstractContextManager[CudaGraph]:
    """Capture what this thread tells device "cuda" within the block; after an exception there is no graph.

    What the host would have to wait for raises (RuntimeError, or CuPy's own). Kernels should have been launched once
    before: compiling and measuring configurations is for then.
    """
    return CudaGraph().capturing()


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Within the block work is done at once, and is not part of the graph that is being captured, if one is."""
    if _local.graph is None:
        yield
    elif gpu.is_simulated():
        from tilegrad.kernels.simulate import tape

        with tape.collected_on(None):
            yield
    else:
        stream = gpu.xp().cuda.Stream(non_blocking=True)
        with stream:
            yield
        stream.synchronize()


def _on_tape(graph: CudaGraph) -> Block:
    from tilegrad.kernels.simulate import tape

    onto = tape.Tape()

    def end() -> None:
        graph._launch, graph._nodes = lambda: onto.launch(), onto.nodes  # asked for at each launch

    return Block((_local, "graph", graph), tape.collecting_on(onto), gives=graph, quiet=True, then=end)


@contextlib.contextmanager
def _on_stream(graph: CudaGraph) -> Iterator[CudaGraph]:
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
