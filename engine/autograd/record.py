"""The record of what was done, which the walk back goes through.

An op computes its result with arrays and calls `record` with a closure, the op's gradient rule. A rule gets the
gradient of the result and returns one gradient a parent, or None where none is needed.

Nodes are numbered as they are made and an op is made after its parents, so falling numbers are a reverse topological
order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from tilegrad import capture_hooks
from tilegrad.autograd.grad_mode import of_thread
from tilegrad.dtypes import FLOATS
from tilegrad.tensor import Storage, Tensor, wrap

Rule = Callable[..., "tuple[Tensor | None, ...]"]

_numbers = itertools.count()

# What a node is to a gradient that has the mask of a relu before it (engine/autograd/relu_mask.py).
RELU, MOVES = "relu", "moves"


class Node:
    """One recorded op.

    edges   one a parent: the node that made it, the parent itself if it is a leaf, None if it needs no gradient
    specs   one a parent: the (shape, dtype) that its gradient will have, None if it needs no gradient
    saved   (storage, version) of every tensor that the rule keeps: they must not have been written to since
    output  the result's (array, storage), for rules that are written in terms of it
    mask    RELU: the rule masks the gradient where the result is not positive, before all else; MOVES: it arranges the
            gradient's elements anew; None: neither, or somebody has asked for the gradient of the result
    place   the line of the program; only where `detect_anomaly` asks for it (anomaly.py)
    """

    __slots__ = ("name", "rule", "edges", "specs", "saved", "output", "number", "hooks", "retainers", "mask", "place")
    place: str

    def __init__(self, name: str, rule: Rule | None, parents: Sequence[Tensor], mask: str | None = None) -> None:
        self.name = name
        self.rule = rule
        edges: list[Node | Tensor | None] = []
        specs: list[Any] = []
        for parent in parents:  # a loop: two comprehensions cost a quarter of the whole record
            if parent._requires_grad:
                edges.append(parent._node or parent)
                specs.append((parent._data.shape, parent._data.dtype))
            else:
                edges.append(None)
                specs.append(None)
        self.edges: Sequence[Node | Tensor | None] = edges
        self.specs: Sequence[Any] = specs
        self.saved: Sequence[tuple[Storage, int]] = ()
        self.output: tuple[Any, Storage] | None = None
        self.number = next(_numbers)
        self.hooks: dict[int, Callable] | None = None
        self.retainers: list[Any] | None = None  # weak references to tensors that asked to retain their grad
        self.mask = mask

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def free(self) -> None:
        """Let go of everything: the graph is used up."""
        self.rule = self.output = None
        self.edges = self.specs = self.saved = ()


def record(
    name: str,
    data: Any,
    parents: Sequence[Tensor],
    rule: Rule,
    *,
    output: bool = False,
    view_of: Tensor | None = None,
    mask: str | None = None,
) -> Tensor:
    """The tensor of an op's result, with the op recorded behind it if any parent requires a gradient.

    rule      called as rule(dy) -> one gradient (or None) a parent. What it saves is what its closure names; closures
              should name tensors (or tuples of them) rather than arrays, because tensors are guarded against later
              in-place writes; and only those that the rule needs, because what it saves stays in memory.
    output    call rule(dy, y) instead, y the result: naming it in the closure would be a reference cycle.
    view_of   the parent whose memory the result shares, so that writes to either are seen in both.
    mask      the node's
    """
    out = wrap(data)
    if capture_hooks.capturing:
        account = capture_hooks.current()
        if account is not None:
            parents = capture_hooks.originals(*parents)
            view_of = None if view_of is None else account.original(view_of)
            account.reads(*parents)
            account.made(out, name, view_of is not None)
    if view_of is not None:
        out._storage = view_of._storage
        out._storage.share(view_of, out)
    if not of_thread.stack[-1]:
        return out
    for parent in parents:
        if parent._requires_grad:
            break
    else:
        return out
    if out._data.dtype not in FLOATS:
        return out
    node = Node(name, rule, parents, mask)
    saved = []
    for cell in rule.__closure__ or ():
        kept = cell.cell_contents
        for x in kept if type(kept) is tuple else (kept,):
            if isinstance(x, Tensor):
                storage = x._storage
                storage.kept = True
                saved.append((storage, storage.version))
    if output:
        node.output = (out._data, out._storage)
        saved.append((out._storage, out._storage.version))
    node.saved = saved
    out._node = node
    out._requires_grad = True
    return out


def once_only(op: str, dy: Tensor) -> None:
    """Raise RuntimeError by name in the rule of an op whose gradient has no gradient of its own."""
    if of_thread.stack[-1] and dy._requires_grad:
        raise RuntimeError(f"{op}: this op has no second derivative; expected backward without create_graph")
