"""The gradients of leaves in a captured step: those it finds, those it leaves, and in between.

What the function reads as `leaf.grad` is, while it is captured, memory of the graph that each launch fills with the
gradient of then; where the function writes to that in place, the launch writes it back. What the function makes and
leaves as `leaf.grad` lies in the graph's memory, which the next launch writes again. So a launch leaves a `Left` there,
and whoever asks for `leaf.grad` gets a tensor with memory of its own, as each call of the function makes one. A step
that drops or replaces its gradients itself is never asked, and copies nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

from tilegrad.capture_hooks import Left
from tilegrad.kernels.capture.planned import PlannedError
from tilegrad.tensor import Tensor, materialized, wrap

if TYPE_CHECKING:
    from tilegrad.kernels.capture.graph import Graph

_grad = attrgetter("_grad")


class _Leaf:
    """A leaf whose gradient the function reads or sets.

    found    what it had when the function was called: None, a tensor, or a `Left`; during a launch, what it has then
    own      the tensor on the graph's memory that the function got for it
    buffer   that memory
    strides  of what was found
    written  whether the function writes to it
    """

    __slots__ = ("leaf", "found", "own", "buffer", "strides", "written")

    def __init__(self, leaf: Tensor) -> None:
        self.leaf = leaf
        self.found: Any = leaf._grad
        self.own: Tensor | None = None
        self.buffer: Any = None
        self.strides: tuple[int, ...] = ()
        self.written = False

    def finds(self) -> bool:
        """Whether the leaf has a gradient like the one that was found."""
        found = self.leaf._grad
        if found is None:
            return False
        x, own = _array(found), self.buffer
        return type(x) is type(own) and x.shape == own.shape and x.dtype == own.dtype and x.strides == self.strides


class Gradients:
    """Those of one graph.

    is_young   whether a tensor has come to be while the function ran: its gradient is the function's own affair
    is_left    whether a gradient lies in memory that each launch writes again
    are_read   whether there is any that the function reads before it sets it
    """

    are_read = False

    def __init__(self, graph: Graph, is_young: Callable[[Tensor], bool], is_left: Callable[[Tensor], bool]) -> None:
        self._graph = graph
        self._is_young = is_young
        self._is_in_graph = is_left
        self._leaves: dict[int, _Leaf] = {}
        self._without: list[Tensor] = []  # leaves that must have no gradient when the function is called
        self._with: list[_Leaf] = []  # and those that must have one
        self._others: list[tuple[Tensor, Any]] = []  # leaves of another device, and the gradient that each must have
        self._copyto: Callable[[Any, Any], None] = graph.xp.copyto
        self._sets: list[_Set] = []

    # --- while the function is captured

    def read(self, leaf: Tensor) -> Tensor | Left | None:
        """leaf.grad, for the function."""
        if not self._is_young(leaf) and id(leaf) not in self._leaves:
            self._find(leaf)
        return leaf._grad

    def set(self, leaf: Tensor, grad: Tensor | None) -> Callable[[], None] | None:
        """leaf.grad = grad, by the function. Returns what does so at each launch, None for nothing.

        Raises PlannedError for one that another leaf has: what a launch leaves is copied for each leaf.
        """
        if self._is_young(leaf):
            leaf._grad = grad
            return None
        holders = [each.leaf for each in self._leaves.values() if each.leaf._grad is grad and each.leaf is not leaf]
        if grad is not None and holders and self._is_left(grad):
            raise PlannedError("gives one gradient to two tensors; expected a clone()")
        self._leaves.setdefault(id(leaf), _Leaf(leaf))
        leaf._grad = grad
        self._sets.append(_Set(leaf, grad))
        return self._sets[-1].again

    def _find(self, leaf: Tensor) -> None:
        self.are_read = True
        graph = self._graph
        if leaf._grad is not None and not isinstance(_array(leaf._grad), graph.xp.ndarray):
            # Of another device: Python's affair, not the graph's.
            self._others.append((leaf, materialized(leaf, leaf._grad)))
            return
        entry = self._leaves[id(leaf)] = _Leaf(leaf)
        if entry.found is None:
            self._without.append(leaf)
            return
        array = _array(entry.found)
        entry.buffer = buffer = graph.xp.empty_like(array)
        entry.strides = array.strides
        entry.own = leaf._grad = wrap(graph.own(buffer))
        self._with.append(entry)

    def settle(self) -> None:
        """The function has returned: what it has left is known."""
        own = {id(entry.own): entry for entry in self._with}
        for entry in self._with:
            assert entry.own is not None
            entry.written = entry.own._storage.version != 0
        for each in self._sets:
            grad = each.grad
            if id(grad) in own:
                each.grad = own[id(grad)]  # by whatever leaf
            elif grad is not None and self._is_left(grad):
                each.grad = Left(self._graph.leave(grad.data))

    def _is_left(self, grad: Tensor) -> bool:
        """Whether the gradient lies in the graph's memory, and is none that was found."""
        return self._is_in_graph(grad) and not any(grad is entry.own for entry in self._with)

    # --- afterwards

    def restore(self) -> None:
        """Every leaf has what it had when the function was called."""
        for entry in self._leaves.values():
            entry.leaf._grad = entry.found

    def close(self) -> None:
        """Nothing more is captured: keep what launches need."""
        for entry in self._leaves.values():
            entry.found = entry.own = None
        self._leaves.clear()
        self._sets.clear()
        del self._graph, self._is_young, self._is_in_graph

    def found(self) -> bool:
        """Whether the leaves have gradients, or none, as the graph wants them."""
        return not self.are_read or (
            all(map(is_, map(_grad, self._without), repeat(None)))
            and all([entry.finds() for entry in self._with])
            and all([leaf._grad is grad for leaf, grad in self._others])
        )

    def take(self) -> None:
        """Give the graph the gradients that there are."""
        for entry in self._with:
            found = entry.leaf._grad
            if entry.written and type(found) is Left:  # which the graph itself may leave here again: tell them apart
                found = entry.leaf._grad = Left(found.array)
            entry.found = found
            self._copyto(entry.buffer, _array(found))

    def give_back(self) -> None:
        """After a launch, also one that failed: what it has written to gradients that there were."""
        for entry in self._with:
            found, entry.found = entry.found, None
            if not entry.written:
                continue
            if type(found) is not Left:
                self._copyto(found.data, entry.buffer)
                found._storage.version += 1
            elif entry.leaf._grad is found:
                self._copyto(found.array, entry.buffer)


class _Set:
    """leaf.grad = grad, at each launch."""

    __slots__ = ("leaf", "grad")

    def __init__(self, leaf: Tensor, grad: Any) -> None:
        self.leaf, self.grad = leaf, grad

    def again(self) -> None:
        self.leaf._grad = self.grad.found if type(self.grad) is _Leaf else self.grad


def _array(found: Any) -> Any:
    return found.array if type(found) is Left else found.data
