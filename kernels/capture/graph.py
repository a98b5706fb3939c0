"""A captured step: work that is told once and launched again as a whole.

A graph is captured within a block and launched any number of times:

    graph = graph.new("cpu")
    with graph.capturing():
        ...                          nothing is done; memory comes from a pool of the graph's own
    graph.launch()                   all of it, with what is in memory by then

On a GPU it is a CUDA graph (kernels/capture/cuda_graph.py), on the CPU a program of kernels' calls
(kernels/capture/program.py). Arrays that were made within the block belong to the graph: a launch writes to them again,
and their memory is used for nothing else as long as the graph lives. Arrays from outside are read and written where
they lie; whoever has the graph keeps them alive. Numbers of the host are part of the graph: one that changes has to be
a `number`.

Capture is of one thread. Two launches of a graph must be in order, as those on one stream are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Protocol

from tilegrad.kernels.capture.cuda_graph import CudaGraph
from tilegrad.kernels.capture.program import Program

Action = Callable[[], None]


class Graph(Protocol):
    """What a captured step is to whoever captures and launches it: `CudaGraph` or `Program`.

    device          "cuda" or "cpu"
    xp              the array library of that device
    written_inputs  once it is captured, the numbers of the arguments that a launch is known to write to
    """

    @property
    def device(self) -> str: ...
    @property
    def xp(self) -> ModuleType: ...
    @property
    def written_inputs(self) -> list[int]: ...

    def inputs(self, arrays: list[Any]) -> list[Any]:
        """Before the capture: arrays that stand for these arguments, laid out alike."""
        ...

    def capturing(self) -> AbstractContextManager[Graph]:
        """The block within which this thread captures."""
        ...

    # --- while it is captured: the host's part

    def number(self, value: Callable[[], Any], dtype: Any, shape: tuple[int, ...] = ()) -> Any:
        """An array of at most 16 bytes that has value() at each launch; called in the order of these calls."""
        ...

    def host(self, action: Action, at_once: bool = False) -> None:
        """The host calls action() at each launch: a program at this place, or later where at_once is False; a CUDA
        graph, which has no such places, before it up to the last number, and behind it the rest.
        """
        ...

    def host_last(self, key: Any, action: Action) -> None:
        """As `host`; of the actions of one key the last one counts."""
        ...

    # --- while it is captured: arrays

    def reads(self, array: Any, is_parameter: bool) -> None:
        """The function reads an array that there was before."""
        ...

    def made(self, array: Any, op: str, is_view: bool) -> Any:
        """The result of an op, as the graph has it."""
        ...

    def planned(self, array: Any) -> Any:
        """The array as the graph's own, so that all that is done with it is part of the graph."""
        ...

    def is_planned(self, array: Any) -> bool:
        """Whether the array is that already."""
        ...

    def constant(self, array: Any, has_values: bool = True) -> Any:
        """An array that the host made, as the graph's own."""
        ...

    def values(self, array: Any) -> Any:
        """The array, to look at its values; None where it will have them at a launch only."""
        ...

    def check(self, test: Callable[..., None], *arguments: Any) -> None:
        """test(*arguments), which looks at values and may raise, at this place of each launch of a program.

        A CUDA graph has no such places: it is called now, and raises if the host would have to wait.
        """
        ...

    def assign(self, target: Any, index: Any, value: Any) -> bool:
        """target[index] = value. Returns whether that is known to write to memory that there was before."""
        ...

    def own(self, array: Any) -> Any:
        """An array of whoever captures, as the graph has it: launches read it and write to it."""
        ...

    def leave(self, array: Any) -> Any:
        """The array as whoever keeps it beyond the capture has it."""
        ...

    def require_here(self, array: Any, tracking: bool) -> None:
        """Raise for a write that cannot be part of the graph; tracking: for one that a gradient passes through."""
        ...

    def settle(self) -> None:
        """The function has returned. Raise if what it did is not what launches would do."""
        ...

    def restore(self) -> None:
        """The capture is over: what the function wrote beside the graph is as before."""
        ...

    # --- afterwards

    def keep(self, *things: Any) -> None:
        """Let these live as long as the graph does."""
        ...

    def take(self, arrays: list[Any]) -> bool:
        """Have the next launch read these for the inputs; False where it cannot."""
        ...

    def launch(self) -> None:
        """Do all of it."""
        ...

    def nodes(self) -> Counter[str]:
        """How many there are of each kind of node: kernels by name, copies and fills."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that are the graph's own. The simulated device knows those of arguments only."""
        ...


def new(device: str) -> Graph:
    """A graph of that device, "cuda" or "cpu", that is still to be captured."""
    return Program() if device == "cpu" else CudaGraph()
