"""The calls of one thread while it is watched: each is told, with its time, to all who listen.

Nothing is measured, and nothing asked, where nobody listens. While somebody does, functions that everything goes
through are replaced by ones that look at the clock: `kernels.of`, which every op asks for its backend; the CPU's
doors (kernels/cpu/effects.py) and the launchers of Triton and Numba, through which kernels start; the launch of a
captured step.

A call of a primitive is told once, with the kernels that it started as its parts. NumPy's functions that compiled code
computes for large arrays are told like primitives. What NumPy itself does, views, and Python between the calls are not.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from threading import get_ident
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tilegrad import kernels
from tilegrad.kernels.capture import cuda_graph
from tilegrad.kernels.capture.cuda_graph import CudaGraph
from tilegrad.kernels.capture.program import Program
from tilegrad.kernels.contract import DEVICES, PRIMITIVES
from tilegrad.kernels.cpu import effects, threads
from tilegrad.kernels.device import gpu
from tilegrad.kernels.simulate import tape
from tilegrad.kernels.system.clock import now
from tilegrad.kernels.system.modes import Block
from tilegrad.kernels.timing import clocks


class Part(NamedTuple):
    """A kernel that a call started; begin and end are marks of the call's clock."""

    kernel: str
    config: str
    begin: Any
    end: Any


class Told(NamedTuple):
    """A call that has been made. Whoever listens keeps no arrays of it."""

    op: str
    backend: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: Any
    clock: clocks.Host | clocks.Events
    begin: Any
    end: Any
    parts: list[Part]
    captured: bool = False


class Launch(NamedTuple):
    """A captured step that was launched: its nodes were told before."""

    clock: clocks.Host | clocks.Events
    begin: Any
    end: Any
    nodes: int


_listening: list[Block] = []
_thread = 0  # that is watched


class Listening(Block):
    """A block within which `told` is called for each call of this thread.

    spent   nanoseconds that telling took

    Entering it raises RuntimeError while another thread is watched.
    """

    def __init__(self) -> None:
        super().__init__(among=_listening, gives=self, then=self.ended)
        self.spent = 0

    @property
    def is_entered(self) -> bool:
        return self in _listening

    def begun(self) -> None:
        """The block is about to begin; all that it needs is loaded."""

    def told(self, what: Told | Launch) -> None:
        """A call was made."""
        raise NotImplementedError

    def ended(self) -> None:
        """The block has ended, without an exception."""

    def __enter__(self) -> Any:
        global _thread
        if _listening and _thread != get_ident():
            raise RuntimeError("profile: another thread is profiled; expected one thread at a time")
        _thread = get_ident()
        self._settings = () if _listening else _replaced()
        self.begun()
        try:
            return super().__enter__()
        except BaseException:  # an interrupt, when all was set
            self.close()
            raise


def _tell(calls: list[Told | Launch], since: int | None = None) -> None:
    """Tell all who listen of these; what was done since then, in nanoseconds, was done for them."""
    begin = now() if since is None else since
    for block in tuple(_listening):
        if isinstance(block, Listening):
            for call in calls:
                block.told(call)
    spent = now() - begin
    for block in tuple(_listening):
        if isinstance(block, Listening):
            block.spent += spent


def _replaced() -> tuple[tuple[Any, str, Any], ...]:
    """(owner, name, what is there while somebody listens)."""
    kernels.of()  # loads the backend, whose modules have the doors
    if kernels.can_compile():
        importlib.import_module("tilegrad.kernels.capture.calls").play_timed(np.zeros(0, np.int64))  # compiled by now
    if gpu.is_simulated() or gpu.is_available():
        kernels.name("cuda")
    watch = _Watch(kernels.of, threads.share)
    settings: list[tuple[Any, str, Any]] = [
        (kernels, "of", watch.of),
        (threads, "share", watch.share),
        *_everywhere(effects.do, watch.do),
        *_everywhere(effects.whole, watch.do),
        (Program, "launch", _method(watch.program, Program.launch)),
        (CudaGraph, "launch", _method(watch.graph, CudaGraph.launch)),
        (tape.Tape, "launch", _method(watch.tape, tape.Tape.launch)),
    ]
    for language in ("triton", "numba"):
        module: Any = sys.modules.get(f"tilegrad.kernels.launch.{language}_kernel")
        if module is not None:
            settings.append((module.Kernel, "__call__", _method(watch.kernel, module.Kernel.__call__)))
    return tuple(settings)


def _everywhere(plain: Callable[..., Any], watched: Callable[..., Any]) -> list[tuple[Any, str, Any]]:
    """The settings that put watched(plain, ...) in the function's place in each module that has it by its name."""
    name = plain.__name__
    owners = [module for key, module in list(sys.modules.items()) if key.startswith("tilegrad.kernels.")]
    return [(owner, name, partial(watched, plain)) for owner in owners if getattr(owner, name, None) is plain]


def _method(watched: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A method for a class: watched(plain, self, ...) in the thread that is watched, otherwise the plain one."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return watched(plain, self, *args, **kwargs) if get_ident() == _thread else plain(self, *args, **kwargs)

    return method


class _Watch:
    """What stands in for the functions that everything goes through."""

    def __init__(self, of: Callable[..., Any], share: Callable[..., None]) -> None:
        self._of, self._share = of, share
        self._backends: dict[ModuleType, _Backend] = {}
        self._parts: list[Part] = []
        self._clock: clocks.Host | clocks.Events | None = None  # of the call that is being made

    def of(self, *arrays: Any) -> Any:
        found = self._of(*arrays)
        if type(found) is not ModuleType or get_ident() != _thread or _captures():
            return found
        backend = self._backends.get(found)
        if backend is None:
            backend = self._backends[found] = _Backend(self, found)
        return backend

    def call(self, op: str, backend: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """function(*args, **kwargs), told unless it leaves the work to NumPy."""
        clock = self._clock = clocks.of(DEVICES[backend])
        parts = self._parts = []
        begin = clock.mark()
        try:
            results = function(*args, **kwargs)
            end = clock.mark()
        finally:
            self._clock = None
        if results is not None or op in PRIMITIVES:
            _tell([Told(op, backend, args, kwargs, results, clock, begin, end, parts)])
        return results

    def share(self, kernel: Callable[..., None], most: int, items: int, *arguments: Any) -> None:
        clock = self._clock
        if clock is None or get_ident() != _thread or _captures():
            self._share(kernel, most, items, *arguments)
            return
        begin = clock.mark()
        self._share(kernel, most, items, *arguments)
        pieces = max(1, min(threads.num_threads(), most, items))
        self._parts.append(Part(kernel.__name__.strip("_"), f"pieces={pieces}", begin, clock.mark()))

    def do(self, plain: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A function of NumPy's, or of the reference, that a call leaves its work to."""
        clock = self._clock
        if clock is None or get_ident() != _thread or _captures():
            return plain(function, *args, **kwargs)
        begin = clock.mark()
        results = plain(function, *args, **kwargs)
        self._parts.append(Part(function.__name__.strip("_"), "", begin, clock.mark()))
        return results

    def kernel(self, plain: Callable[..., None], kernel: Any, *args: Any, **constants: Any) -> None:
        """A launch of a kernel of either language."""
        clock = self._clock
        if clock is None or _captures():
            plain(kernel, *args, **constants)
            return
        begin = clock.mark()
        plain(kernel, *args, **constants)
        config = " ".join([f"grid={'x'.join(map(str, args[0]))}", *(f"{n}={value}" for n, value in constants.items())])
        self._parts.append(Part(kernel.name.strip("_"), config, begin, clock.mark()))

    def program(self, plain: Callable[[Program], None], program: Program) -> None:
        """The launch of a captured step on the CPU: the nodes of one op follow each other, and are told together."""
        begin, nodes, end = program.launch_timed()
        clock, at = clocks.host, 0
        calls: list[Told | Launch] = []
        while at < len(nodes):
            op, first = nodes[at].op, at
            while at < len(nodes) and nodes[at].op is op:
                at += 1
            own = nodes[first:at]
            parts = [Part(node.node.removesuffix("_kernel"), "", node.begin, node.end) for node in own]
            when = own[0].begin, own[-1].end
            calls.append(Told(op.op, "cpu", op.args, op.kwargs, op.results, clock, *when, parts, captured=True))
        _tell([*calls, Launch(clock, begin, end, len(nodes))], since=end)

    def graph(self, plain: Callable[[CudaGraph], None], graph: CudaGraph) -> None:
        """The launch of a CUDA graph; on the simulated device its nodes are told by `tape`."""
        clock = clocks.of("cuda")
        begin = clock.mark()
        plain(graph)
        end = clock.mark()
        nodes = graph.nodes()
        if clock is not clocks.host:  # the driver does not tell when each node ran
            parts = [Part(name, f"nodes={n}", begin, end) for name, n in nodes.items()]
            _tell([Told("CUDA graph", kernels.name("cuda"), (), {}, None, clock, begin, end, parts, captured=True)])
        _tell([Launch(clock, begin, end, nodes.total())])

    def tape(self, plain: Callable[[tape.Tape], None], tape: tape.Tape) -> None:
        """The nodes of the simulated device's graph."""
        tape.launch_by(self._node)

    def _node(self, name: str, action: Callable[[], None]) -> None:
        clock = clocks.host
        begin = clock.mark()
        action()
        end = clock.mark()
        part = Part(name, "", begin, end)
        op = name.removesuffix("_kernel").strip("_")
        _tell([Told(op, kernels.name("cuda"), (), {}, None, clock, begin, end, [part], captured=True)], since=end)


def _captures() -> bool:
    """Whether this thread captures a step: nothing runs then."""
    return effects.of_thread.program is not None or cuda_graph.capturing() is not None


class _Backend:
    """A backend whose primitives are told."""

    def __init__(self, watch: _Watch, module: ModuleType) -> None:
        self._watch, self._module = watch, module
        self._name = module.__name__.rpartition(".")[2]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name == "UFUNCS":
            found = _Functions(self._watch, self._name, found)
        elif name in PRIMITIVES:
            found = partial(_called, self._watch, name, self._name, found)
        setattr(self, name, found)
        return found


def _called(watch: _Watch, op: str, backend: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return watch.call(op, backend, function, args, kwargs)


class _Functions:
    """NumPy's functions in compiled code (kernels/cpu/ufuncs.py), told by NumPy's names."""

    def __init__(self, watch: _Watch, backend: str, module: ModuleType) -> None:
        self._watch, self._backend, self._module = watch, backend, module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def call(self, function: Any, *arrays: Any, **kwargs: Any) -> Any:
        plain = partial(self._module.call, function)
        return self._watch.call(function.__name__, self._backend, plain, arrays, kwargs)

    def reduce(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        plain = partial(self._module.reduce, function)
        return self._watch.call(function.__name__, self._backend, plain, args, kwargs)
