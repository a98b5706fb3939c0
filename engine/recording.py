"""What the host keeps of a captured graph: what to do again before each launch, and whether the graph still holds.

On a GPU a CUDA graph, on the CPU a program (kernels/program.py): what is said of the device here is said of both.

A graph knows nothing of the host. While a function is captured, whoever changes something on the host, or reads a
number there that will be another one at the next step, says so here:

    number      a number that the device reads: a learning rate, what a step count gives, a place in the random stream
    again       something to be done at each launch: a count that goes up, a schedule that goes on
    module      one that was called: it must be in the same mode, with the same members
    members     tensors, and other objects, that must be the same ones, on the same memory
    holds       anything else that must be as it was, such as an option that is part of the kernels
    leaf        a parameter whose gradient is accumulated

`current()` is the recording of this thread, None nearly always.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter, eq, is_
from typing import TYPE_CHECKING, Any

import numpy as np

from kernels import gpu
from kernels.modes import Block

if TYPE_CHECKING:
    from engine.nn.module import Module
    from engine.tensor import Tensor
    from kernels.graph import Graph


class CaptureError(RuntimeError):
    """Something in a captured function that a graph cannot have: mostly that the host waits for the GPU."""


class _Local(threading.local):
    recording: Recording | None = None


_local = _Local()
on_cpu: list[Block] = []  # in which functions are being captured on the CPU, in any thread


def born(tensor: Tensor) -> None:
    """A tensor has come to be; said while there are any `on_cpu`."""
    recording = _local.recording
    if recording is not None and recording.device == "cpu":
        recording.born(tensor)


def reads(*tensors: Tensor | None) -> None:
    """The function that this thread captures, if it does, reads these (None is passed over)."""
    recording = _local.recording
    if recording is not None:
        recording.reads(*[tensor for tensor in tensors if tensor is not None])


def current() -> Recording | None:
    """The recording of the function that this thread is capturing."""
    return _local.recording


def refuse(what: str) -> None:
    """Raise CaptureError if this thread is capturing: `what` cannot be part of a graph."""
    if _local.recording is not None:
        raise CaptureError(what)


def refuse_on_cpu(what: str) -> None:
    """Raise CaptureError if this thread is capturing what the CPU does: `what` cannot be part of a program."""
    if _local.recording is not None and _local.recording.device == "cpu":
        raise CaptureError(what)


class _Same:
    """Attributes and members that must be the very objects they were; asked at every launch, so in C loops."""

    def __init__(self) -> None:
        self._owners: list[dict[Any, Any]] = []
        self._names: list[Any] = []
        self._members: list[Any] = []
        self._tensors: list[Tensor] = []
        self._arrays: list[Any] = []
        self._wanting: list[bool] = []  # whether each tensor requires grad
        self._modules: list[Module] = []
        self._training: list[bool] = []
        self._sized: list[Any] = []
        self._sizes: list[int] = []

    def member(self, owner: dict[Any, Any], name: Any) -> None:
        member = owner.get(name)
        self._owners.append(owner)
        self._names.append(name)
        self._members.append(member)
        if hasattr(member, "data"):
            self.tensor(member)
            reads(member)

    def tensor(self, tensor: Tensor) -> None:
        if any(tensor is known for known in self._tensors):
            return
        self._tensors.append(tensor)
        self._arrays.append(tensor.data)
        self._wanting.append(tensor._requires_grad)

    def module(self, module: Module) -> None:
        self._modules.append(module)
        self._training.append(module.training)
        self._sized.append(module._members)
        self._sizes.append(len(module._members))

    def forget_switched(self) -> None:
        """Ask no longer for the mode of modules that the function itself has put into another one since their call."""
        kept = [(m, t) for m, t in zip(self._modules, self._training) if m.training is t]
        self._modules, self._training = [m for m, _ in kept], [t for _, t in kept]

    def holds(self) -> bool:
        return (
            all(map(is_, map(_training, self._modules), self._training))
            and all(map(eq, map(len, self._sized), self._sizes))
            and all(map(is_, map(dict.get, self._owners, self._names), self._members))
            and all(map(is_, map(_data, self._tensors), self._arrays))
            and all(map(is_, map(_requires_grad, self._tensors), self._wanting))
        )


_training, _data, _requires_grad = map(attrgetter, ("training", "data", "_requires_grad"))


class Recording:
    """One captured graph's account.

    graph    where what has to live as long as it is kept
    entered  by id, the leaves that are known to have had a gradient when the function was called
    """

    def __init__(self, graph: Graph, entered: Mapping[int, Any]) -> None:
        from kernels.graph import Slots

        self.graph = graph
        self.inputs: list[Any] = []  # arrays that the arguments are copied to
        self.outputs: Any = None
        self.device = "cuda" if graph.program is None else "cpu"
        self._slots = Slots(graph.program)
        self._made: dict[int, weakref.ref[Tensor]] = {}
        self._young: dict[int, weakref.ref[Tensor]] = {}  # on the CPU, all tensors that came to be
        self._before: list[tuple[Any, Any]] = []  # parameters that the function read, and copies of them
        self._again: list[Callable[[], None]] = []
        self._holds: list[Callable[[], bool]] = []
        self._finds: list[tuple[Tensor, Tensor | None]] = []  # leaves, and the gradient that each must have before
        self._undo: list[Callable[[], None]] = []
        self._same = _Same()
        self._called: set[int] = set()  # ids of modules
        self._entered = entered
        self._grads: dict[int, tuple[Tensor, Tensor | None]] = {}  # leaves, with the gradient found at first
        self._left: list[tuple[Tensor, Tensor | None]] = []  # leaves, with the gradient at the end

    # --- while the function is captured

    def made(self, tensor: Tensor, op: str) -> None:
        """An op of the function made this tensor: its memory is the graph's, and may serve another one when it is gone.

        On the CPU that is checked when it has returned.
        """
        if self.graph.program is not None:
            if not isinstance(tensor.data, np.ndarray):
                raise CaptureError("works on a GPU, in a function whose arguments are on the CPU")
            self.graph.program.plain(tensor.data, op)
        self._made[id(tensor)] = weakref.ref(tensor)

    def reads(self, *tensors: Tensor) -> None:
        """Let the memory of these live as long as the graph, whatever becomes of them, unless the graph makes it."""
        program = self.graph.program
        made = self._made if program is None else self._young
        for tensor in tensors:
            found = made.get(id(tensor))
            if found is not None and found() is tensor:
                continue
            self.graph.keep(tensor.data)
            if program is not None and isinstance(tensor.data, np.ndarray):
                program.know(tensor.data)
                if tensor.requires_grad and not any(tensor.data is known for known, _ in self._before):
                    self._before.append((tensor.data, tensor.data.copy("K")))

    def born(self, tensor: Tensor) -> None:
        """On the CPU: this tensor has come to be while the function ran."""
        self._young[id(tensor)] = weakref.ref(tensor)

    def number(self, value: Callable[[], Any], dtype: Any, shape: tuple[int, ...] = ()) -> Any:
        """A device array of at most 16 bytes that has value() at each launch; called in the order of these calls."""
        device, host = self._slots.take(dtype, shape)

        def read() -> None:
            host[...] = value()

        read()
        self._again.append(read)
        return device

    def again(self, action: Callable[[], None]) -> None:
        """Call action() before each later launch, after the numbers and actions that were told before it."""
        self._again.append(action)

    def undo(self, action: Callable[[], None]) -> None:
        """Call action() if the function raises: what was changed on the host has not come about."""
        self._undo.append(action)

    def holds(self, check: Callable[[], bool]) -> None:
        """The graph serves as long as check() is true."""
        self._holds.append(check)

    def members(self, owner: dict[Any, Any], names: Iterable[Any]) -> None:
        """The graph serves as long as `owner` has these very objects by these keys, and tensors are on this memory."""
        for name in names:
            self._same.member(owner, name)

    def module(self, module: Module) -> None:
        """The graph serves as long as the module trains (or evaluates), with the members that it has."""
        if id(module) not in self._called:
            self._called.add(id(module))
            self._same.module(module)
            self.members(module.__dict__, module._members)

    def leaf(self, leaf: Tensor) -> bool:
        """A gradient of this leaf is about to be accumulated. Returns whether the one it has lies outside of the graph:
        then it must be added to in place.
        """
        key = id(leaf)
        if key in self._grads:
            found = self._grads[key][1]
            return found is not None and leaf.grad is found
        found = leaf.grad
        self._grads[key] = leaf, found
        self._same.tensor(leaf)
        self.reads(leaf, *([] if found is None else [found]))
        if found is not None or self._entered.get(key) is None:
            self._finds.append((leaf, found))
        return found is not None

    def add(self, total: Any, array: Any) -> None:
        """total += array, at each launch."""
        program = self.graph.program
        if program is None:
            total += array
        else:
            total, array = program.plain(total, "add"), program.plain(array, "add")
            program.function("add", np.add, (total, array, total))

    def forgets(self, leaf: Tensor) -> None:
        """The gradient of this leaf is about to be dropped by the function itself."""
        self._grads.setdefault(id(leaf), (leaf, leaf.grad))

    def settle(self, outputs: Iterable[Tensor]) -> None:
        """The function has returned, on the CPU: from the first launch on the tensors that it leaves have values.

        Raises PlannedError for one whose memory no kernel writes.
        """
        program = self.graph.program
        left = [*outputs, *[tensor() for tensor in self._young.values()]]
        for tensor in {id(tensor): tensor for tensor in left if tensor is not None}.values():
            tensor.data = program.plain(tensor.data, "it")
            program.fix(tensor.data)
        program.settle()
        if any(array.tobytes() != copy.tobytes() for array, copy in self._before):
            raise CaptureError("writes to a parameter with NumPy")

    # --- afterwards

    def close(self) -> None:
        """The function has returned."""
        self._undo.clear()
        self._young.clear()
        self._before.clear()
        self._same.forget_switched()
        self._left = [(leaf, leaf.grad) for leaf, _ in self._grads.values()]
        self._made.clear()
        self._grads.clear()

    def roll_back(self) -> None:
        """The function has raised: bring the host back to where it was."""
        for action in reversed(self._undo):
            action()
        for leaf, grad in self._grads.values():
            leaf.grad = grad
        for array, copy in self._before:
            array[...] = copy

    def is_valid(self) -> bool:
        """Whether a launch does what the function would do now, if `finds_gradients`."""
        return self._same.holds() and all([check() for check in self._holds])

    def finds_gradients(self) -> bool:
        """Whether the gradients that the function adds to, or begins with, are those that the graph knows."""
        return all([leaf.grad is grad for leaf, grad in self._finds])

    def leaves(self) -> dict[int, Tensor | None]:
        """By id, the leaves of which gradients were accumulated, with the gradient that each has now."""
        return {id(leaf): leaf.grad for leaf, _ in self._left}

    def launch(self, again: bool = True) -> None:
        """Send the device its numbers and launch; the host does again what it did, unless it has just done so."""
        if again:
            for action in self._again:
                action()
        self._slots.send()
        self.graph.launch()
        for leaf, grad in self._left:
            leaf.grad = grad
        if self.device == "cuda":
            from kernels import faults

            faults.expect()


def recorded_in(recording: Recording | None) -> Block:
    """A block in which `current()` is that recording, or None."""
    is_on_cpu = recording is not None and recording.device == "cpu"
    return Block((_local, "recording", recording), among=on_cpu if is_on_cpu else None)


def on_device(array: Any) -> Recording | None:
    """The current recording, if the array is of the device that is captured."""
    recording = _local.recording
    if recording is None:
        return None
    device = "cpu" if isinstance(array, np.ndarray) else "cuda" if gpu.is_array(array) else None
    return recording if recording.device == device else None
