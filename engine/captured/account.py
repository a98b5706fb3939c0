"""What the host keeps of a captured graph: what to do again before each launch, and whether the graph still holds.

On a GPU a CUDA graph, on the CPU a program (kernels/capture/program.py): what is said of the device here is said of
both.

A graph knows nothing of the host. While a function is captured, whoever changes something on the host, or reads a
number there that will be another one at the next step, says so here:

    number      a number that the device reads: a learning rate, what a step count gives, a place in the random stream
    again       something to be done at each launch: a count that goes up, a schedule that goes on
    undo        what takes it back, for the host does all of that at a launch and not before
    module      one that was called: it must have what it has, in the same mode, with the same hooks
    reads       tensors that it has not made: they must be on the same memory, require grad or not, with the same hooks
    members     tensors, and other objects, that must be the same ones, on the same memory
    holds       anything else that must be as it was, such as an option that is part of the kernels

and `Tensor.grad` says what is read and set (engine/captured/gradients.py). In a program the host has its turns where
the function had them, so that a launch that fails leaves what the function would leave. A CUDA graph has no such
places: up to the last number the host does it all before the graph, the rest behind it.

What nobody says, since Python reads it, is found in the function's code (engine/captured/closure.py).

`current()` is the recording of this thread, None nearly always.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable, Iterable
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

import numpy as np

from tilegrad.captured.gradients import Gradients, materialized
from tilegrad.kernels.device import gpu
from tilegrad.kernels.system.modes import Block

if TYPE_CHECKING:
    from tilegrad.captured.closure import Closure
    from tilegrad.kernels.capture.graph import Graph
    from tilegrad.nn.module import Module
    from tilegrad.tensor import Tensor


READS = "reads values, which are not there yet while a step is captured"


class CaptureError(RuntimeError):
    """Something in a captured function that a graph cannot have: mostly that the host waits for the GPU."""


class NotYet(CaptureError):
    """This call has to be a plain one: it makes what later ones change."""


class _Local(threading.local):
    recording: Recording | None = None
    constants: list[Any] | None = None  # that were made, in order, while that is asked for


_local = _Local()
capturing: list[Block] = []  # in which functions are being captured, or watched before, in any thread


def born(tensor: Tensor) -> None:
    """A tensor has come to be; said while anything is `capturing`."""
    if _local.recording is not None:
        _local.recording.born(tensor)


def gradient(leaf: Tensor) -> Tensor | None:
    """leaf.grad, where that is not what the leaf has."""
    recording = _local.recording
    return materialized(leaf) if recording is None else recording.gradients.read(leaf)


def set_gradient(leaf: Tensor, grad: Tensor | None) -> None:
    """leaf.grad = grad; said while anything is `capturing`."""
    if _local.recording is None:
        leaf._grad = grad
    else:
        _local.recording.set_gradient(leaf, grad)


def operand(tensor: Tensor) -> Tensor:
    """The tensor, or what stands for it where NumPy computes with it; said while anything is `capturing`."""
    recording = on_device(tensor.data)
    return tensor if recording is None or recording.device == "cuda" else recording.operand(tensor)


def constant(tensor: Tensor, *, has_values: bool = True) -> Tensor:
    """The tensor, which was made from numbers of the host's; said while anything is `capturing`.

    It is a part of the program that this thread records, if it does, with the values that it has now.
    """
    if type(tensor.data) is np.ndarray and not _is_for_gpu():
        if has_values:
            _note(tensor.data)
        if _local.recording is not None:
            program = _local.recording.graph.program
            tensor._data = program.constant(tensor._data) if has_values else program.blank(tensor._data)
    return tensor


def existing(array: Any) -> Any:
    """An array of the host's as ops use it; said while anything is `capturing`.

    The program that this thread records, if it does, reads it at each launch.
    """
    if not isinstance(array, np.ndarray) or _is_for_gpu():
        return array
    if type(array) is np.ndarray:
        _note(array)
    return array if _local.recording is None else _local.recording.existing(array)


def _note(array: np.ndarray) -> None:
    if _local.constants is not None:
        memory = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        _local.constants.append((array.shape, array.dtype, hashlib.blake2b(memory).digest()))


def _is_for_gpu() -> bool:
    return _local.recording is not None and _local.recording.device == "cuda"


def values(tensor: Tensor) -> Any:
    """The tensor's array, to look at its values. Raises CaptureError while this thread captures on the CPU, but for a
    constant.
    """
    recording = on_device(tensor.data)
    if recording is None or recording.device == "cuda":
        return tensor.data
    array = recording.graph.program.values(tensor.data)
    if array is None:
        raise CaptureError(READS)
    return array


def assign(tensor: Tensor, index: Any, value: Any, part: Any = None) -> None:
    """tensor.data[index] = value, an array or a number; part of the step that this thread captures, if it does.

    part   a view of tensor.data to index instead
    """
    array = tensor._data if part is None else part
    recording = on_device(array)
    if recording is None or recording.device == "cuda":
        array[index] = value
    else:
        recording.assign(tensor, index, value, array)


def planned(array: Any) -> Any:
    """The array; while this thread captures what the CPU does, one of the program's, so that all that is done with it
    is part of that.
    """
    recording = on_device(array)
    return array if recording is None or recording.device == "cuda" else recording.planned(array)


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


def refuse_of_host(tensor: Tensor) -> None:
    """Raise CaptureError if this thread is capturing what a GPU does: a launch would not write to this tensor again."""
    recording = _local.recording
    if recording is not None and recording.device == "cuda" and not (tensor.is_cuda or recording.is_young(tensor)):
        raise CaptureError("writes to a tensor of the host, once and for all; expected it on the GPU")


class _Same:
    """Members that must be the very objects they were, and tensors; asked at every launch, so in C loops."""

    def __init__(self) -> None:
        self._owners: list[dict[Any, Any]] = []
        self._names: list[Any] = []
        self._members: list[Any] = []
        self._placed: list[Tensor] = []
        self._arrays: list[Any] = []  # what each of those is on
        self._known: set[int] = set()  # ids of those
        self._tensors: list[Tensor] = []
        self._wanting: list[bool] = []  # whether each of those requires grad

    def member(self, owner: dict[Any, Any], name: Any) -> Any:
        member = owner.get(name)
        self._owners.append(owner)
        self._names.append(name)
        self._members.append(member)
        return member

    def memory(self, tensor: Tensor, array: Any = None) -> None:
        """The tensor must be on this memory, without an array on what it is on now."""
        if id(tensor) not in self._known:
            self._known.add(id(tensor))
            self._placed.append(tensor)
            self._arrays.append(tensor.data if array is None else array)

    def wants(self, tensors: Iterable[Tensor], wanted: Callable[[Tensor], bool]) -> list[tuple[Tensor, bool]]:
        """These must require grad or not as `wanted` says. Those that do not now, and what they do."""
        self._tensors = list(tensors)
        self._wanting = list(map(wanted, self._tensors))
        found = zip(self._tensors, self._wanting)
        return [(tensor, tensor._requires_grad) for tensor, wanting in found if tensor._requires_grad is not wanting]

    def holds(self) -> bool:
        return (
            all(map(is_, map(dict.get, self._owners, self._names), self._members))
            and all(map(is_, map(_data, self._placed), self._arrays))
            and all(map(is_, map(_requires_grad, self._tensors), self._wanting))
        )


_data, _requires_grad = map(attrgetter, ("_data", "_requires_grad"))


class Recording:
    """One captured graph's account.

    graph  where what has to live as long as it is kept
    """

    def __init__(self, graph: Graph) -> None:
        from tilegrad.captured.closure import Closure
        from tilegrad.captured.guards import Guard
        from tilegrad.kernels.capture.graph import Slots

        self.graph = graph
        self.inputs: list[Any] = []  # arrays that the arguments are copied to
        self.outputs: Any = None
        self.device = "cuda" if graph.program is None else "cpu"
        self._slots = Slots(graph.program)
        self._made: dict[int, weakref.ref[Tensor]] = {}
        self._young: dict[int, weakref.ref[Tensor]] = {}  # all tensors that came to be
        self._stand_ins: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}  # on the CPU, for tensors from outside
        self.gradients = Gradients(graph, self.is_young)
        self._before: list[tuple[Any, Any]] = []  # parameters that the function read, and copies of them
        self._first: list[Callable[[], None]] = []  # before a CUDA graph is launched
        self._sets: dict[int, Callable[[], None]] = {}  # behind it, the gradient of each leaf
        self._then: list[Callable[[], None]] = []  # and then
        self._holds: list[Callable[[], bool]] = []
        self._undo: list[Callable[[], None]] = []
        self._same = _Same()
        self.guard = Guard()
        self._closure: Closure | None = Closure(self.guard)  # while the function is captured
        self._used: dict[int, tuple[weakref.ref[Tensor], Any]] = {}  # tensors that it read, and their memory by then
        self._switched: list[tuple[Tensor, bool]] = []  # tensors that it leaves requiring grad, or not
        self._called: set[int] = set()  # ids of what was asked about
        self._owners: list[Any] = []  # whose ids are to stay theirs

    # --- while the function is captured

    def enter(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """fn(*args, **kwargs) is about to run: the graph serves as long as what its code reads is as it is."""
        self._closure.enter(fn, args, kwargs)
        self.guard.is_running = True

    def made(self, tensor: Tensor, op: str, is_view: bool = False) -> None:
        """An op of the function made this tensor: its memory is the graph's, and may serve another one when it is gone.

        On the CPU that is checked when it has returned; a view is one of memory that there was before.
        """
        if self.graph.program is not None:
            if not isinstance(tensor.data, np.ndarray):
                raise CaptureError("works on a GPU, in a function whose arguments are on the CPU")
            if is_view:
                tensor._data = self.planned(tensor._data)
            else:
                self.graph.program.plain(tensor.data, op)
        self._made[id(tensor)] = weakref.ref(tensor)

    def reads(self, *tensors: Tensor) -> None:
        """The graph serves as long as these, unless it makes them, are on this memory, want a gradient or not as they
        do, and have the hooks that they have.
        """
        for tensor in tensors:
            if self._keep(tensor) and not self._has_read(tensor):
                self._used[id(tensor)] = weakref.ref(tensor), tensor.data
                if tensor._requires_grad:
                    self._hooks(*((tensor, "_hooks") if tensor._node is None else (tensor._node, "hooks")))

    def _keep(self, tensor: Tensor) -> bool:
        """Let the memory of the tensor live as long as the graph, whatever becomes of it, unless the graph makes it.

        Returns whether it does not.
        """
        program = self.graph.program
        if self._is_made(tensor):
            return False
        self.graph.keep(tensor.data)
        if program is not None and isinstance(tensor.data, np.ndarray):
            program.know(tensor.data)
            if tensor.requires_grad and not any(tensor.data is known for known, _ in self._before):
                self._before.append((tensor.data, tensor.data.copy("K")))
        return True

    def _has_read(self, tensor: Tensor) -> bool:
        return id(tensor) in self._used and self._used[id(tensor)][0]() is tensor

    def _hooks(self, owner: Any, slot: str) -> None:
        hooks = self.guard.attribute(owner, slot, "the hooks of a tensor")
        if hooks is not None:
            self.guard.whole(hooks, "the hooks of a tensor")
            for hook in list(hooks.values()):
                self._closure.enter(hook)

    def _owns(self, tensor: Tensor) -> bool:
        """Whether the function made the tensor, and not as a view of one that there was before."""
        read = [reference() for reference, _ in self._used.values()]
        return self.is_young(tensor) and not any(x is not None and x._storage is tensor._storage for x in read)

    def operand(self, tensor: Tensor) -> Tensor:
        """On the CPU: for a tensor that there was before, one on its memory whose array is the program's: what NumPy
        computes from two of those is a part of the program. To autograd the two are one (`original`).
        """
        if type(tensor.data) is not np.ndarray or self._is_made(tensor):
            return tensor
        self.reads(tensor)
        stand_in = type(tensor).__new__(type(tensor))
        for name in ("_grad", "_requires_grad", "_node", "_storage", "_hooks"):
            setattr(stand_in, name, getattr(tensor, name))
        stand_in._data = self.planned(tensor._data)
        self.born(stand_in)
        self._stand_ins[id(stand_in)] = weakref.ref(stand_in), tensor
        return stand_in

    def original(self, tensor: Tensor) -> Tensor:
        """The tensor that this one stands for; itself if it does for none."""
        reference, original = self._stand_ins.get(id(tensor), (None, None))
        return tensor if reference is None or reference() is not tensor else original

    def _is_made(self, tensor: Tensor) -> bool:
        """Whether the graph makes the tensor: on the CPU all that came to be, on a GPU what ops made."""
        made = self._made if self.graph.program is None else self._young
        found = made.get(id(tensor))
        return found is not None and found() is tensor

    def planned(self, array: np.ndarray) -> np.ndarray:
        """On the CPU: the array as one of the program's, which it must be for its memory."""
        program = self.graph.program
        return array if program.is_planned(array) else program.adopt(program.plain(array, "it"))

    def existing(self, array: np.ndarray) -> np.ndarray:
        """On the CPU: an array of the host's as one of the program's, which reads it at each launch."""
        if not self.graph.program.is_planned(array):
            self.graph.keep(array)
            self.graph.program.know(array)
        return self.planned(array)

    def assign(self, tensor: Tensor, index: Any, value: Any, array: np.ndarray) -> None:
        """On the CPU: array[index] = value, at each launch; the array is the tensor's or a view of it."""
        program, storage = self.graph.program, tensor._storage
        program.assign(array, index, value)
        if program.is_outside(array):
            self.undo(lambda: setattr(storage, "version", storage.version - 1))
            self.again(lambda: setattr(storage, "version", storage.version + 1))

    def born(self, tensor: Tensor) -> None:
        """This tensor has come to be while the function ran."""
        self._young[id(tensor)] = weakref.ref(tensor)

    def is_young(self, tensor: Tensor) -> bool:
        """Whether the tensor has come to be while the function ran."""
        found = self._young.get(id(tensor))
        return found is not None and found() is tensor

    def number(self, value: Callable[[], Any], dtype: Any, shape: tuple[int, ...] = ()) -> Any:
        """A device array of at most 16 bytes that has value() at each launch; called in the order of these calls."""
        device, host = self._slots.take(dtype, shape)

        def read() -> None:
            host[...] = value()

        read()
        if self.graph.program is None:
            self._first += [*self._then, read]
            self._then.clear()
        else:
            self.graph.program.host(read, at_once=True)
        return device

    def again(self, action: Callable[[], None], at_once: bool = False) -> None:
        """Call action() at this place of each launch, in the order of numbers and actions; at_once if it writes to
        memory that kernels may read.
        """
        if self.graph.program is None:
            self._then.append(action)
        else:
            self.graph.program.host(action, at_once)

    def undo(self, action: Callable[[], None]) -> None:
        """Call action() when the function has returned or raised: what it changed on the host has not come about."""
        self._undo.append(action)

    def holds(self, check: Callable[[], bool]) -> None:
        """The graph serves as long as check() is true."""
        self._holds.append(check)

    def members(self, owner: dict[Any, Any], names: Iterable[Any]) -> None:
        """The graph serves as long as `owner` has these very objects by these keys, and tensors are on this memory."""
        for name in names:
            member = self._same.member(owner, name)
            if hasattr(member, "data"):
                self._same.memory(member)
                self._keep(member)

    def module(self, module: Module) -> None:
        """The graph serves as long as the module has what it has, in the mode that it is in, with the same hooks."""
        if self._closure.enter(module):
            for name in module._members:
                member = module.__dict__[name]
                if hasattr(member, "data"):
                    self.reads(member)

    def same(self, owner: Any, items: Callable[[], list[Any]]) -> None:
        """The graph serves as long as items() are these very objects; asked of an owner once."""
        if id(owner) not in self._called:
            self._called.add(id(owner))
            known = items()
            self.holds(lambda: len(now := items()) == len(known) and all(map(is_, now, known)))
            self._owners.append(owner)

    def memory(self, *tensors: Tensor) -> None:
        """As `reads`, of tensors that the function may have made itself: those are passed over."""
        self.reads(*[tensor for tensor in tensors if not self.is_young(tensor)])

    def set_gradient(self, leaf: Tensor, grad: Tensor | None) -> None:
        """leaf.grad = grad, at this place of each launch."""
        action = self.gradients.set(leaf, grad)
        if action is None:
            return
        if self.graph.program is None:
            self._sets[id(leaf)] = action
        else:
            self.graph.program.host(action)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b, of gradients without a graph."""
        program = self.graph.program
        if program is None:
            return a + b
        from tilegrad.tensor import wrap

        return wrap(program.numpy("add", np.add, a.data, b.data))

    def settle(self, outputs: Iterable[Tensor]) -> None:
        """The function has returned: from the first launch on the tensors that it leaves have values.

        Raises PlannedError, on the CPU, for one whose memory no kernel writes.
        """
        self.gradients.settle()
        program = self.graph.program
        if program is None:
            return
        left = [*outputs, *[tensor() for tensor in self._young.values()]]
        for tensor in {id(tensor): tensor for tensor in left if tensor is not None}.values():
            tensor._data = program.plain(tensor._data, "it")
            program.leave(tensor._data)
        program.settle()
        if any(array.tobytes() != copy.tobytes() for array, copy in self._before):
            raise CaptureError("writes to a parameter with NumPy")

    # --- afterwards

    def returned(self) -> None:
        """The function has returned. Raises PlannedError for what it has changed and no launch would."""
        self.guard.settle(self._has_read, self._owns)

    def close(self) -> None:
        """The function has returned: the host is back where it was, and a launch does all of it."""
        used = [(tensor(), array) for tensor, array in self._used.values()]
        used = [(tensor, array) for tensor, array in used if tensor is not None]  # others nobody can change
        for tensor, array in used:
            self._same.memory(tensor, array)
        self._switched = self._same.wants([tensor for tensor, _ in used], self.guard.wanted)
        self.guard.close()
        self._closure = None
        self._used.clear()
        self._before.clear()
        self.roll_back()
        self.gradients.close()
        self._young.clear()
        self._stand_ins.clear()
        self._made.clear()

    def roll_back(self) -> None:
        """Bring the host back to where it was when the function was called."""
        for action in reversed(self._undo):
            action()
        self._undo.clear()
        self.gradients.restore()
        for array, copy in self._before:
            array[...] = copy

    def is_valid(self) -> bool:
        """Whether a launch does what the function would do now, if `finds_gradients`."""
        return self._same.holds() and self.guard.holds() and all(check() for check in self._holds)

    def finds_gradients(self) -> bool:
        """Whether the gradients that the function reads are there, or are not, as they were."""
        return self.gradients.found()

    def launch(self) -> None:
        """Do what the function did: the host its part, and the device, with the numbers and gradients of now."""
        if self.gradients.are_read:
            self.gradients.take()
        try:
            for action in self._first:
                action()
            self._slots.send()
            self.graph.launch()
            for action in (*self._sets.values(), *self._then):
                action()
            for tensor, wanting in self._switched:
                tensor._requires_grad = wanting
            self.guard.switch()
        finally:
            if self.gradients.are_read:
                self.gradients.give_back()
        if self.device == "cuda":
            from tilegrad.kernels.launch import faults

            faults.expect()


def is_watched() -> bool:
    """Whether this thread's constants are noted."""
    return _local.constants is not None


def watched() -> Block:
    """A block in which the constants are noted, in order, that this thread's program makes on the CPU."""
    constants: list[Any] = []
    return Block((_local, "constants", constants), among=capturing, gives=constants)


def recorded_in(recording: Recording | None) -> Block:
    """A block in which `current()` is that recording, or None: then what it makes is no part of the function either."""
    among = None if recording is None else capturing
    return Block((_local, "recording", recording), (_local, "constants", None), among=among)


def on_device(array: Any) -> Recording | None:
    """The current recording, if the array is of the device that is captured."""
    recording = _local.recording
    if recording is None:
        return None
    device = "cpu" if isinstance(array, np.ndarray) else "cuda" if gpu.is_array(array) else None
    return recording if recording.device == device else None
