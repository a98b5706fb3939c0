"""What the host keeps of a captured graph: what to do again before each launch, and whether the graph still holds.

A graph (kernels/capture/graph.py) knows nothing of tensors. While a function is captured, whoever changes something on
the host, or reads a number there that will be another one at the next step, says so here:

    number      a number that the device reads: a learning rate, what a step count gives, a place in the random stream
    again       something to be done at each launch: a count that goes up, a schedule that goes on
    undo        what takes it back, for the host does all of that at a launch and not before
    runs        functions that it calls: what their code reads must be as it was
    module      one that was called: it must have what it has, in the same mode, with the same hooks
    reads       tensors that it has not made: they must be on the same memory, require grad or not, with the same hooks
    members     tensors, and other objects, that must be the same ones, on the same memory
    listed      a list that must be the very same one, of the same objects
    holds       anything else that must be as it was, such as an option that is part of the kernels

and `Tensor.grad` says what is read and set (engine/captured/gradients.py). Ops say it by engine/capture_hooks.py.

What nobody says, since Python reads it, is found in the function's code (engine/captured/closure.py).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np

from tilegrad import capture_hooks
from tilegrad.captured.closure import Closure
from tilegrad.captured.gradients import Gradients
from tilegrad.captured.guards import Guard
from tilegrad.captured.placement import Placement
from tilegrad.kernels.capture.program import Program
from tilegrad.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tilegrad.kernels.capture.graph import Graph
    from tilegrad.nn.module import Module


class Account:
    """Of one captured graph.

    graph   where what has to live as long as the graph is kept
    device  the graph's
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.device = graph.device
        self.outputs: Any = None
        self._young: dict[int, weakref.ref[Tensor]] = {}  # all tensors that came to be
        # What the graph makes: on a GPU what ops made, in a program all that came to be, for it is checked.
        self._made: dict[int, weakref.ref[Tensor]] = {} if graph.device == "cuda" else self._young
        self._stand_ins: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}  # on the CPU, for tensors from outside
        self.gradients = Gradients(graph, self.is_young, self._is_left)
        self._holds: list[Callable[[], bool]] = []
        self._undo: list[Callable[[], None]] = []
        self._placement = Placement()
        self.guard = Guard()
        self._closure = Closure(self.guard)  # while the function is captured
        self._used: dict[int, tuple[weakref.ref[Tensor], Any]] = {}  # tensors that it read, and their memory by then
        self._switched: list[tuple[Tensor, bool]] = []  # tensors that it leaves requiring grad, or not
        self._asked: set[int] = set()  # ids of owners of which that was said already
        self._owners: list[Any] = []  # which live on, so that their ids stay theirs

    # --- while the function is captured

    def enter(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """fn(*args, **kwargs) is about to run: the graph serves as long as what its code reads is as it is."""
        self._closure.enter(fn, args, kwargs)
        self.guard.is_running = True

    def born(self, tensor: Tensor) -> None:
        """This tensor has come to be while the function ran."""
        self._young[id(tensor)] = weakref.ref(tensor)

    def is_young(self, tensor: Tensor) -> bool:
        """Whether the tensor has come to be while the function ran."""
        found = self._young.get(id(tensor))
        return found is not None and found() is tensor

    def made(self, tensor: Tensor, op: str, is_view: bool = False) -> None:
        """An op of the function made this tensor: its memory is the graph's, and may serve another one when it is gone.

        A view is one of memory that there was before.
        """
        tensor._data = self.graph.made(tensor._data, op, is_view)
        self._made[id(tensor)] = weakref.ref(tensor)

    def _is_made(self, tensor: Tensor) -> bool:
        """Whether the graph makes the tensor."""
        found = self._made.get(id(tensor))
        return found is not None and found() is tensor

    def reads(self, *tensors: Tensor) -> None:
        """The graph serves as long as these, unless it makes them, are on this memory, want a gradient or not as they
        do, and have the hooks that they have.
        """
        for tensor in tensors:
            if self._keep(tensor) and not self._has_read(tensor):
                self._used[id(tensor)] = weakref.ref(tensor), tensor.data
                if tensor._requires_grad:
                    self._hooks(*((tensor, "_hooks") if tensor._node is None else (tensor._node, "hooks")))

    def memory(self, *tensors: Tensor) -> None:
        """As `reads`, of tensors that the function may have made itself: those are passed over."""
        self.reads(*[tensor for tensor in tensors if not self.is_young(tensor)])

    def _keep(self, tensor: Tensor) -> bool:
        """Let the memory of the tensor live as long as the graph, whatever becomes of it, unless the graph makes it.

        Returns whether it does not.
        """
        if self._is_made(tensor):
            return False
        self.graph.reads(tensor.data, tensor.requires_grad)
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
        stand_in._data = self.graph.planned(tensor._data)
        self.born(stand_in)
        self._stand_ins[id(stand_in)] = weakref.ref(stand_in), tensor
        return stand_in

    def original(self, tensor: Tensor) -> Tensor:
        """The tensor that this one stands for; itself if it does for none."""
        found = self._stand_ins.get(id(tensor))
        return tensor if found is None or found[0]() is not tensor else found[1]

    def existing(self, array: np.ndarray) -> np.ndarray:
        """An array of the host's as the graph has it, which reads it at each launch."""
        if not self.graph.is_planned(array):
            self.graph.reads(array, is_parameter=False)
        return self.graph.planned(array)

    def assign(self, tensor: Tensor, index: Any, value: Any, array: Any) -> None:
        """array[index] = value, at each launch; the array is the tensor's or a view of it."""
        storage = tensor._storage
        if self.graph.assign(array, index, value):
            self.undo(lambda: setattr(storage, "version", storage.version - 1))
            self.again(lambda: setattr(storage, "version", storage.version + 1))

    def number(self, value: Callable[[], Any], dtype: Any, shape: tuple[int, ...] = ()) -> Any:
        """A device array of at most 16 bytes that has value() at each launch; called in the order of these calls."""
        return self.graph.number(value, dtype, shape)

    def again(self, action: Callable[[], None], at_once: bool = False) -> None:
        """Call action() at this place of each launch, in the order of numbers and actions; at_once if it writes to
        memory that kernels may read.
        """
        self.graph.host(action, at_once)

    def undo(self, action: Callable[[], None]) -> None:
        """Call action() when the function has returned or raised: what it changed on the host has not come about."""
        self._undo.append(action)

    def holds(self, check: Callable[[], bool], of: Any = None) -> None:
        """The graph serves as long as check() is true; said of an owner, if there is one, once."""
        if of is None or id(of) not in self._asked:
            self._holds.append(check)
        if of is not None and id(of) not in self._asked:
            self._asked.add(id(of))
            self._owners.append(of)

    def members(self, owner: dict[Any, Any], names: Iterable[Any]) -> None:
        """The graph serves as long as `owner` has these very objects by these keys, and tensors are on this memory."""
        for name in names:
            member = self.guard.item(owner, name, f"a {type(owner).__name__}'s member")
            if hasattr(member, "data"):
                self._placement.memory(member)
                self._keep(member)

    def module(self, module: Module) -> None:
        """The graph serves as long as the module has what it has, in the mode that it is in, with the same hooks."""
        if self._closure.enter(module):
            for name in module._members:
                member = module.__dict__[name]
                if hasattr(member, "data"):
                    self.reads(member)

    def runs(self, *functions: Callable[..., Any]) -> None:
        """The graph serves as long as what the code of these reads is as it is."""
        for function in functions:
            self._closure.enter(function)

    def listed(self, owner: Any, name: str) -> None:
        """The graph serves as long as owner[name] of a dict, or owner.name, is this very list, of the same objects."""
        find = self.guard.item if isinstance(owner, dict) else self.guard.attribute
        self.guard.whole(find(owner, name, name), name)

    def same(self, owner: Any, items: Callable[[], list[Any]]) -> None:
        """The graph serves as long as items() are these very objects; asked of an owner once."""
        if id(owner) not in self._asked:
            known = items()
            self.holds(lambda: len(now := items()) == len(known) and all(map(is_, now, known)), owner)

    def set_gradient(self, leaf: Tensor, grad: Tensor | None) -> None:
        """leaf.grad = grad, at this place of each launch."""
        action = self.gradients.set(leaf, grad)
        if action is not None:
            self.graph.host_last(id(leaf), action)

    def _is_left(self, grad: Tensor) -> bool:
        """Whether a gradient that the function set lies in memory that each launch writes again."""
        graph = self.graph
        return graph.makes(grad.data) if isinstance(graph, Program) else self.is_young(grad)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b, of gradients without a graph of their own."""
        graph = self.graph
        return wrap(graph.numpy("add", np.add, a.data, b.data)) if isinstance(graph, Program) else a + b

    def settle(self, outputs: Iterable[Tensor]) -> None:
        """The function has returned: from the first launch on the tensors that it leaves have values.

        Raises CaptureError or PlannedError for what it did and no launch would.
        """
        self.guard.settle(self._has_read, self._owns)
        self.gradients.settle()
        left = [*outputs, *[tensor() for tensor in self._young.values()]]
        for tensor in {id(tensor): tensor for tensor in left if tensor is not None}.values():
            tensor._data = self.graph.leave(tensor._data)
        self.graph.settle()

    # --- afterwards

    def close(self) -> None:
        """The function is captured: the host is back where it was, and a launch does all of it."""
        used = [(tensor(), array) for tensor, array in self._used.values()]
        used = [(tensor, array) for tensor, array in used if tensor is not None]  # others nobody can change
        for tensor, array in used:
            self._placement.memory(tensor, array)
        self._switched = self._placement.wants([tensor for tensor, _ in used], self.guard.wanted)
        self.guard.close()
        del self._closure
        self._used.clear()
        self.roll_back()
        self.gradients.close()
        self._young.clear()
        self._made.clear()
        self._stand_ins.clear()

    def roll_back(self) -> None:
        """Bring the host back to where it was when the function was called."""
        for action in reversed(self._undo):
            action()
        self._undo.clear()
        self.gradients.restore()
        self.graph.restore()

    def is_valid(self) -> bool:
        """Whether a launch does what the function would do now, if `finds_gradients`."""
        if not (self._placement.moves == capture_hooks.moves or self._placement.holds()) or not self.guard.holds():
            return False
        for check in self._holds:  # noqa: SIM110 - all() of a generator costs more
            if not check():
                return False
        return True

    def finds_gradients(self) -> bool:
        """Whether the gradients that the function reads are there, or are not, as they were."""
        return self.gradients.found()

    def launch(self) -> None:
        """Do what the function did: the host its part, and the device, with the numbers and gradients of now."""
        if self.gradients.are_read:
            self.gradients.take()
        try:
            self.graph.launch()
            for tensor, wanting in self._switched:
                tensor._requires_grad = wanting
                capture_hooks.moved()
            self.guard.switch()
        finally:
            if self.gradients.are_read:
                self.gradients.give_back()
