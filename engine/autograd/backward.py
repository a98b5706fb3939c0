"""The walk back through the record, from results to leaves.

Rules are themselves written in ops: with create_graph the walk runs them with recording on, and their gradients have
gradients. The walk is a loop over the nodes, the latest first: a chain of a million ops needs no recursion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from tilegrad import capture_hooks
from tilegrad.autograd.grad_mode import enable_grad, no_grad
from tilegrad.autograd.pieces import Pieces
from tilegrad.autograd.record import Node
from tilegrad.device import array_module, move
from tilegrad.kernels.capture.planned import is_view
from tilegrad.tensor import Tensor, wrap


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
    account = capture_hooks.current()
    for leaf, grad_, exclusive in found:
        if grad_ is None:
            continue
        if account is not None:
            account.memory(leaf)
        have = leaf.grad
        if have is None:
            have = grad_ if exclusive else grad_.clone()
            if capture_hooks.capturing or type(have._data) is not type(leaf._data):
                leaf.grad = have
            else:  # the walk has made it fit
                leaf._grad = have
        elif account is None or have._requires_grad or grad_._requires_grad:
            leaf.grad = have + grad_
        else:
            leaf.grad = account.add(have, grad_)


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


_ones: dict[Any, Tensor] = {}  # by array class, shape and dtype


def _one(tensor: Tensor) -> Tensor:
    """The gradient of a tensor of one element with respect to itself.

    On a GPU it is filled once, not by a launch of each step: nobody writes to it but a hook, after which it is not used
    again, and a hook on the tensor itself gets one of its own.
    """
    array, node = tensor._data, tensor._node
    if isinstance(array, np.ndarray) or node is not None and (node.hooks or node.retainers):
        return wrap(array_module(array).ones_like(array))
    one = _ones.get((type(array), array.shape, array.dtype))
    if one is None or one._storage.version or one._requires_grad:
        one = wrap(array_module(array).ones_like(array))
        if capture_hooks.current() is None:  # else the memory is the graph's, and filled by its launches
            _ones[type(array), array.shape, array.dtype] = one
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
    for x in inputs or ():
        if x._node is not None:
            x._node.mask = None  # its gradient is seen
    order, leaves = _reach(edges, wanted)
    asked = leaves if inputs is None else inputs
    running = None if inputs is None else _leading_to(order, wanted)

    with enable_grad() if create_graph else no_grad():
        for edge, (_, seed) in zip(edges, seeds):
            key = id(edge)
            if key in totals:
                _add(totals, exclusive, key, seed)
            else:
                totals[key] = seed
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
                if type(g) is not Tensor or g._data.shape != spec[0] or g._data.dtype is not spec[1]:
                    g = _fit(node.name, i, g, spec)
                key = id(edge)
                if key in totals:
                    _add(totals, exclusive, key, g)
                    continue
                totals[key] = g
                if type(edge) is not Node and _is_exclusive(g, i, grads, dy, node):
                    exclusive.add(key)
            if not retain:
                node.free()
        found: dict[int, tuple[Tensor, Tensor | None, bool]] = {}
        for x in asked:
            if id(x) in found:  # asked for twice
                continue
            key = id(x._node or x)
            g, mine = totals.get(key), key in exclusive
            if g is not None and x._node is None and x._hooks:
                for hook in list(x._hooks.values()):
                    g = _hooked(hook, g)
                mine = False  # as above
            found[id(x)] = x, g, mine
    return [found[id(x)] for x in asked]


def _reach(edges: list[Any], wanted: set[int]) -> tuple[list[Node], list[Tensor]]:
    """Every node behind these edges, newest first, and every leaf."""
    seen: set[int] = set()
    nodes, leaves = [], []
    ends: list[Sequence[Any]] = [edges]
    for some in ends:  # which grow meanwhile
        for edge in some:
            if edge is None or (key := id(edge)) in seen:
                continue
            seen.add(key)
            if type(edge) is not Node:
                leaves.append(edge)
                continue
            if edge.rule is None and key not in wanted:
                raise RuntimeError(
                    f"backward: the graph behind {edge.name!r} was freed by an earlier backward; "
                    "expected retain_graph=True there"
                )
            nodes.append(edge)
            ends.append(edge.edges)
    nodes.sort(key=_number, reverse=True)
    return nodes, leaves


_number = attrgetter("number")


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
    rule: Any = node.rule  # there is one: _reach refuses a node that was freed
    if node.output is None:
        grads = rule(dy)
    else:
        # A tensor of its own that stands at the same place in the graph.
        y = wrap(node.output[0])
        y._storage, y._node, y._requires_grad = node.output[1], node, True
        grads = rule(dy, y)
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
    array, storage = g._data, g._storage
    if array is dy._data:
        return False
    base = array.base
    if base is not None and (is_view(array) if isinstance(array, np.ndarray) else isinstance(base, type(array))):
        return False
    if node.output is not None and array is node.output[0]:
        return False
    for saved, _ in node.saved:
        if saved is storage:
            return False
    for k, other in enumerate(grads):  # noqa: SIM110 - any() of a generator costs more
        if k != i and other is not None and other._data is array:
            return False
    return True


def _add(totals: dict[int, Tensor], exclusive: set[int], key: int, g: Tensor) -> None:
    """Add to the gradient that there is of the node or leaf with that id."""
    have = totals[key]
    totals[key] = have.join(g) if type(have) is Pieces else have + g  # a new array
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
