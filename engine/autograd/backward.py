"""Reverse-mode differentiation: the record of what was done, and the walk back through it.

An op computes its result with arrays and calls `record` with a closure, the op's gradient rule. A rule gets the
gradient of the result and returns one gradient a parent, or None where none is needed. Rules are themselves written in
ops: with create_graph the walk runs them with recording on, and their gradients have gradients.

Nodes are numbered as they are made and an op is made after its parents, so falling numbers are a reverse topological
order. The walk is a loop over that order: a chain of a million ops needs no recursion.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from _io import _IOBase
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from functools import partial
from inspect import isgeneratorfunction
from operator import attrgetter, delitem, setitem
from typing import Any

import numpy as np

from tilegrad.captured import account as recording
from tilegrad.device import array_module, move
from tilegrad.dtypes import FLOATS
from tilegrad.kernels.capture.program import is_view
from tilegrad.tensor import Storage, Tensor, wrap

Rule = Callable[..., "tuple[Tensor | None, ...]"]


# --- grad mode -------------------------------------------------------------------------------------------------------


class _Mode(threading.local):
    """Of a thread: whether ops record themselves, within each of the blocks that it is in; the last counts."""

    def __init__(self) -> None:
        self.stack = [True]
        self.leave = partial(delitem, self.stack, -1)


_mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether ops record themselves in this thread."""
    return _mode.stack[-1]


# Ctrl-C between any two steps leaves a block or has not entered it: kernels/system/modes.py says how.


class _Decorator(ContextDecorator, _IOBase):
    """A grad mode for a `with` block or, as decorator, for each call of a function."""

    closed = True  # as in kernels/system/modes.py

    def __call__(self, function: Callable) -> Callable:
        if isgeneratorfunction(function):
            raise TypeError(f"{type(self).__name__}: a generator runs outside it; expected a `with` block inside it")
        return super().__call__(function)


class _Prepared(property):
    """A method without arguments that each object has prepared, in C: attrgetter gives it. `with` looks it up in the
    object; contextlib.ExitStack looks in the class, and calls what it finds there.
    """

    def __call__(self, of: Any) -> Any:
        return self.fget(of)()


class _Setting(_Decorator):
    """What set_grad_enabled returns."""

    __enter__ = _Prepared(attrgetter("enter"))

    def __init__(self, mode: bool) -> None:
        stack = _mode.stack
        self.mode = mode
        self.enter = partial(setitem, stack, -1, mode)
        self.close = partial(setitem, stack, -1, stack[-1])

    def __call__(self, function: Callable) -> Callable:
        self.close()  # a decorator acts within its function only
        return super().__call__(function)

    def _recreate_cm(self) -> _Setting:
        return set_grad_enabled(self.mode)  # each call of a decorated function has its own: threads are apart


def set_grad_enabled(mode: bool) -> _Setting:
    """Turn recording on or off: as a call for all that follows, or as a `with` block or decorator."""
    block = _Setting(mode)
    _mode.stack[-1] = mode  # no call from here to within the block
    return block


class _Switch(_Decorator):
    mode: bool
    close = property(partial(getattr, _mode, "leave"))  # of the thread that leaves the block

    def __new__(cls, function: Callable | None = None) -> Any:
        """A grad mode, or as bare `@no_grad` the decorated function."""
        return super().__new__(cls) if function is None else cls()(function)

    def _recreate_cm(self) -> _Switch:
        return type(self)()  # as above

    def __enter__(self) -> None:
        stack = _mode.stack
        stack += (self.mode,)


class no_grad(_Switch):
    """Within this block (or decorated function) nothing is recorded."""

    mode = False


class enable_grad(_Switch):
    """Within this block (or decorated function) ops are recorded, also inside no_grad."""

    mode = True


# --- the record ------------------------------------------------------------------------------------------------------

_numbers = itertools.count()


class Node:
    """One recorded op.

    edges   one a parent: the node that made it, the parent itself if it is a leaf, None if it needs no gradient
    specs   one a parent: its (shape, dtype), which its gradient will have
    saved   (storage, version) of every tensor that the rule keeps: they must not have been written to since
    output  the result's (array, storage), for rules that are written in terms of it
    """

    __slots__ = ("name", "rule", "edges", "specs", "saved", "output", "number", "hooks", "retainers")

    def __init__(self, name: str, rule: Rule | None, parents: Sequence[Tensor]) -> None:
        self.name = name
        self.rule = rule
        self.edges = tuple([(p._node or p) if p._requires_grad else None for p in parents])
        self.specs = tuple([(p._data.shape, p._data.dtype) for p in parents])
        self.saved: tuple[tuple[Storage, int], ...] = ()
        self.output: tuple[Any, Storage] | None = None
        self.number = next(_numbers)
        self.hooks: dict[int, Callable] | None = None
        self.retainers: list[Any] | None = None  # weak references to tensors that asked to retain their grad

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
) -> Tensor:
    """The tensor of an op's result, with the op recorded behind it if any parent requires a gradient.

    rule      called as rule(dy) -> one gradient (or None) a parent. What it saves is what its closure names; closures
              should name tensors (or tuples of them) rather than arrays, because tensors are guarded against later
              in-place writes; and only those that the rule needs, because what it saves stays in memory.
    output    call rule(dy, y) instead, y the result: naming it in the closure would be a reference cycle.
    view_of   the parent whose memory the result shares, so that writes to either are seen in both.
    """
    out = wrap(data)
    recorded = recording.current()
    if recorded is not None:
        parents = [recorded.original(parent) for parent in parents]
        view_of = None if view_of is None else recorded.original(view_of)
        recorded.reads(*parents)
        recorded.made(out, name, view_of is not None)
    if view_of is not None:
        out._storage = view_of._storage
        out._storage.share(view_of, out)
    if not _mode.stack[-1]:
        return out
    for parent in parents:
        if parent._requires_grad:
            break
    else:
        return out
    if out._data.dtype not in FLOATS:
        return out
    node = Node(name, rule, parents)
    saved = []
    for cell in rule.__closure__ or ():
        kept = cell.cell_contents
        for x in kept if type(kept) is tuple else (kept,):
            if isinstance(x, Tensor):
                x._storage.kept = True
                saved.append((x._storage, x._storage.version))
    if output:
        node.output = (out._data, out._storage)
        saved.append((out._storage, out._storage.version))
    node.saved = tuple(saved)
    out._node = node
    out._requires_grad = True
    return out


def once_only(op: str, dy: Tensor) -> None:
    """Raise RuntimeError by name in the rule of an op whose gradient has no gradient of its own."""
    if _mode.stack[-1] and dy._requires_grad:
        raise RuntimeError(f"{op}: this op has no second derivative; expected backward without create_graph")


# --- the walk --------------------------------------------------------------------------------------------------------


def backward(
    tensor: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add d(tensor)/d(leaf) to the `.grad` of every leaf that `tensor` was computed from (or of `inputs` only).

    gradient      d(loss)/d(tensor), of tensor's shape; may be left out for a tensor of one element, where it is 1
    retain_graph  keep the graph for another backward (default: as create_graph)
    create_graph  record the gradient computation itself, for higher-order gradients

    Raises RuntimeError for a tensor without a graph, a graph that was freed, a missing gradient of a non-scalar, and a
    saved tensor that was written to in the meantime.
    """
    if inputs is not None:
        inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if not inputs:
            raise RuntimeError("backward: expected at least one tensor in inputs, or None; got an empty list")
        _require_grads("backward", inputs)
        inputs = list({id(x): x for x in inputs}.values())
    seed = _seed("backward", tensor, gradient, cached=True)
    found = _walk([(tensor, seed)], inputs, retain_graph, create_graph)
    recorded = recording.current()
    for leaf, grad_, exclusive in found:
        if grad_ is None:
            continue
        if recorded is not None:
            recorded.memory(leaf)
        have = leaf.grad
        if have is None:
            leaf.grad = grad_ if exclusive else grad_.clone()
        elif recorded is None or have._requires_grad or grad_._requires_grad:
            leaf.grad = have + grad_
        else:
            leaf.grad = recorded.add(have, grad_)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of sum_i <grad_outputs_i, outputs_i> with respect to inputs, leaves or not; no `.grad` is touched.

    Arguments as `backward`'s; outputs of one element need no grad_outputs. An input that the outputs do not depend on
    raises RuntimeError, or gives None with allow_unused.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if grad_outputs is None or isinstance(grad_outputs, Tensor):
        grad_outputs = [grad_outputs] * (1 if grad_outputs is not None else len(outputs))
    if len(grad_outputs) != len(outputs):
        raise RuntimeError(f"grad: {len(outputs)} outputs but {len(grad_outputs)} grad_outputs; expected one each")
    _require_grads("grad", inputs)
    seeds = [(y, _seed("grad", y, g)) for y, g in zip(outputs, grad_outputs)]
    found = _walk(seeds, inputs, retain_graph, create_graph)
    for i, (_, g, _) in enumerate(found):
        if g is None and not allow_unused:
            raise RuntimeError(
                f"grad: input {i} was not used in computing the outputs; expected allow_unused=True if that is meant"
            )
    return tuple(g for _, g, _ in found)


def _require_grads(op: str, inputs: Sequence[Tensor]) -> None:
    for i, x in enumerate(inputs):
        if not x._requires_grad:
            raise RuntimeError(f"{op}: expected inputs that require grad; input {i} does not")


def _seed(op: str, tensor: Tensor, gradient: Any, cached: bool = False) -> Tensor:
    """The checked gradient that a walk starts with; `cached` where it does not leave the walk as a result."""
    if not tensor._requires_grad:
        raise RuntimeError(f"{op}: the tensor does not require grad and has no graph; expected one that does")
    if gradient is None:
        if tensor._data.size != 1:
            raise RuntimeError(
                f"{op}: the tensor is {tensor._data.shape}; expected a scalar, or a gradient of that shape as argument"
            )
        return _one(tensor) if cached else wrap(array_module(tensor._data).ones_like(tensor._data))
    if not isinstance(gradient, Tensor):
        gradient = wrap(move(np.asarray(gradient, tensor._data.dtype), tensor.device))
    if gradient.device != tensor.device:
        raise TypeError(
            f"{op}: expected all tensors on one device; the gradient is on {gradient.device}, "
            f"the tensor on {tensor.device}"
        )
    if gradient._data.shape != tensor._data.shape:
        raise RuntimeError(
            f"{op}: the gradient is {gradient._data.shape} but the tensor is {tensor._data.shape}; expected one shape"
        )
    return gradient.to(tensor._data.dtype)


_ones: dict[Any, Tensor] = {}  # by shape and dtype


def _one(tensor: Tensor) -> Tensor:
    """The gradient of a tensor of one element with respect to itself.

    On a GPU it is filled once, not by a launch of each step: nobody writes to it but a hook, after which it is not used
    again, and a hook on the tensor itself gets one of its own.
    """
    array, node = tensor._data, tensor._node
    if isinstance(array, np.ndarray) or node is not None and (node.hooks or node.retainers):
        return wrap(array_module(array).ones_like(array))
    one = _ones.get((array.shape, array.dtype))
    if one is None or one._storage.version or one._requires_grad:
        one = wrap(array_module(array).ones_like(array))
        if recording.current() is None:  # else the memory is the graph's, and filled by its launches
            _ones[array.shape, array.dtype] = one
    return one


def _walk(
    seeds: list[tuple[Tensor, Tensor]],
    inputs: list[Tensor] | None,
    retain_graph: bool | None,
    create_graph: bool,
) -> list[tuple[Tensor, Tensor | None, bool]]:
    """Carry the seeds' gradients back to `inputs`, or to every leaf; only nodes that lead there are run.

    Returns one (tensor, its gradient, whether nobody else holds the gradient's array) a tensor asked for.
    """
    retain = create_graph if retain_graph is None else retain_graph
    totals: dict[int, Tensor] = {}  # by id of node or leaf
    exclusive: set[int] = set()
    edges = [tensor._node or tensor for tensor, _ in seeds]
    wanted = {id(x._node or x) for x in inputs or ()}
    order, leaves = _reach(edges, wanted)
    asked = leaves if inputs is None else inputs
    running = None if inputs is None else _leading_to(order, wanted)

    with enable_grad() if create_graph else no_grad():
        for edge, (_, seed) in zip(edges, seeds):
            _accumulate(totals, exclusive, id(edge), seed, False)
        for node in order:
            key = id(node)
            dy = totals.get(key) if key in wanted else totals.pop(key, None)
            if dy is None:
                continue
            runs = running is None or key in running
            if (node.hooks or node.retainers) and (runs or key in wanted):
                dy = _call_hooks(node, dy)
                if key in wanted:
                    totals[key] = dy
                    exclusive.discard(key)  # a hook may have kept it
            if not runs:
                continue
            grads = _apply(node, dy)
            for i, (edge, spec, g) in enumerate(zip(node.edges, node.specs, grads)):
                if edge is None or g is None:
                    continue
                g = _fit(node.name, i, g, spec)
                mine = type(edge) is not Node and _is_exclusive(g, i, grads, dy, node)
                _accumulate(totals, exclusive, id(edge), g, mine)
            if not retain:
                node.free()
        found: dict[int, tuple[Tensor, Tensor | None, bool]] = {}  # a tensor may be asked for twice
        for x in asked:
            key = id(x._node or x)
            g, mine = totals.get(key), key in exclusive
            if g is not None and x._node is None and x._hooks and id(x) not in found:
                for hook in list(x._hooks.values()):
                    g = _hooked(hook, g)
                mine = False  # as above
            found.setdefault(id(x), (x, g, mine))
    return [found[id(x)] for x in asked]


def _reach(edges: list[Any], wanted: set[int]) -> tuple[list[Node], list[Tensor]]:
    """Every node behind these edges, newest first, and every leaf."""
    seen: set[int] = set()
    nodes, leaves, stack = [], [], list(edges)
    while stack:
        edge = stack.pop()
        if edge is None or id(edge) in seen:
            continue
        seen.add(id(edge))
        if type(edge) is not Node:
            leaves.append(edge)
            continue
        if edge.rule is None and id(edge) not in wanted:
            raise RuntimeError(
                f"backward: the graph behind {edge.name!r} was freed by an earlier backward; "
                "expected retain_graph=True there"
            )
        nodes.append(edge)
        stack.extend(edge.edges)
    nodes.sort(key=lambda node: node.number, reverse=True)
    return nodes, leaves


def _leading_to(order: list[Node], wanted: set[int]) -> set[int]:
    """The ids of the nodes from which something wanted is reached, not counting the wanted themselves."""
    leading: set[int] = set()
    for node in reversed(order):
        if any(id(edge) in leading or id(edge) in wanted for edge in node.edges):
            leading.add(id(node))
    return leading


def _apply(node: Node, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Run a node's rule, after making sure that what it saved is unchanged."""
    for storage, version in node.saved:
        if storage.version != version:
            raise RuntimeError(
                f"backward: a tensor saved by {node.name!r} was written to in place (version {storage.version}); "
                f"expected it as it was (version {version})"
            )
    if node.output is None:
        grads = node.rule(dy)
    else:
        # A tensor of its own that stands at the same place in the graph.
        y = wrap(node.output[0])
        y._storage, y._node, y._requires_grad = node.output[1], node, True
        grads = node.rule(dy, y)
    if type(grads) is not tuple:
        raise RuntimeError(f"{node.name}: the rule gave a {type(grads).__name__}; expected a tuple of gradients")
    if len(grads) != len(node.edges):
        raise RuntimeError(f"{node.name}: the rule gave {len(grads)} gradients; expected {len(node.edges)}")
    return grads


def _fit(name: str, i: int, g: Tensor, spec: tuple[tuple[int, ...], np.dtype]) -> Tensor:
    """The gradient in its parent's shape and dtype: summed over the axes along which the parent was broadcast."""
    if not isinstance(g, Tensor):
        raise RuntimeError(f"{name}: the gradient of parent {i} is a {type(g).__name__}; expected a Tensor or None")
    shape, dtype = spec
    have = g._data.shape
    if have != shape:
        extra = len(have) - len(shape)
        if extra < 0 or any(s not in (1, h) for s, h in zip(shape, have[extra:])):
            raise RuntimeError(f"{name}: the gradient of parent {i} is {have}; expected {shape}")
        axes = tuple(range(extra)) + tuple(extra + k for k, s in enumerate(shape) if s == 1 and have[extra + k] != 1)
        g = g.sum(axes, keepdim=True).reshape(shape)
    if g._data.dtype != dtype:
        g = g.to(dtype)
    return g


def _is_exclusive(g: Tensor, i: int, grads: Sequence[Tensor | None], dy: Tensor, node: Node) -> bool:
    """Whether the array of g is a fresh one that only this edge holds, so that a leaf may keep it uncopied."""
    array = g._data
    if array is dy._data or (is_view(array) if isinstance(array, np.ndarray) else isinstance(array.base, type(array))):
        return False
    if node.output is not None and array is node.output[0]:
        return False
    for storage, _ in node.saved:
        if g._storage is storage:
            return False
    return not [k for k, other in enumerate(grads) if k != i and other is not None and other._data is array]


def _accumulate(totals: dict[int, Tensor], exclusive: set[int], key: int, g: Tensor, mine: bool) -> None:
    have = totals.get(key)
    if have is None:
        totals[key] = g
        if mine:
            exclusive.add(key)
    else:
        totals[key] = have + g  # a new array
        exclusive.add(key)


def _call_hooks(node: Node, dy: Tensor) -> Tensor:
    for hook in list((node.hooks or {}).values()):
        dy = _hooked(hook, dy)
    for reference in node.retainers or ():
        tensor = reference()
        if tensor is not None:
            tensor._grad = dy.clone() if tensor._grad is None else tensor._grad + dy
    return dy


def _hooked(hook: Callable, g: Tensor) -> Tensor:
    """The gradient, or what the hook makes of it."""
    changed = hook(g)
    if changed is None:
        return g
    if not isinstance(changed, Tensor):
        raise TypeError(f"hook: expected a Tensor or None; got {type(changed).__name__}")
    if changed._data.shape != g._data.shape:
        raise RuntimeError(f"hook: the gradient it gave is {changed._data.shape}; expected {g._data.shape}")
    if changed._data.dtype != g._data.dtype:
        raise RuntimeError(f"hook: the gradient it gave is {changed._data.dtype}; expected {g._data.dtype}")
    return changed


# --- what tensors offer on top (bound to Tensor in tilegrad.methods) -------------------------------------------------


class RemovableHandle:
    """What register_hook gives: `remove()` takes the hook away."""

    def __init__(self, hooks: dict[int, Callable], key: int) -> None:
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        """Take the hook away. Doing so twice is harmless."""
        self._hooks.pop(self._key, None)


def register_hook(tensor: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call hook(grad) whenever the gradient of this tensor is computed; what it returns, if not None, replaces it."""
    if not tensor._requires_grad:
        raise RuntimeError("register_hook: the tensor does not require grad; expected one that does")
    owner, slot = (tensor, "_hooks") if tensor._node is None else (tensor._node, "hooks")
    hooks = getattr(owner, slot)
    if hooks is None:
        hooks = {}
        setattr(owner, slot, hooks)
    key = next(_numbers)
    hooks[key] = hook
    return RemovableHandle(hooks, key)


def retain_grad(tensor: Tensor) -> None:
    """Have `backward` keep the gradient of this intermediate result in its `.grad`. No-op on a leaf."""
    if not tensor._requires_grad:
        raise RuntimeError("retain_grad: the tensor does not require grad; expected one that does")
    if tensor._node is not None:
        others = [r for r in tensor._node.retainers or () if r() is not tensor]
        tensor._node.retainers = [*others, weakref.ref(tensor)]
