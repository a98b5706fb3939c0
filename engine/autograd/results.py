"""The results of an op of the user's own, with one recorded op behind all of them.

One result is recorded as any op's. Of several, their gradients come to that op as pieces (engine/autograd/pieces.py),
and it computes the gradients of its arguments once, from all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tilegrad import capture_hooks
from tilegrad.autograd.grad_mode import is_grad_enabled, no_grad
from tilegrad.autograd.pieces import piece
from tilegrad.autograd.record import Node, record
from tilegrad.device import array_module, device_of, is_array
from tilegrad.dtypes import FLOATS
from tilegrad.tensor import Tensor, adopted, wrap

_numbers = itertools.count()
By = Mapping[int, Tensor]  # number of a result -> a tensor


class Once(tuple):
    """Gradients that have no gradients of their own: to ask for these is an error."""


class Backward(NamedTuple):
    """How the gradients of an op's arguments are computed.

    call      (gradients of the results, the results) -> one gradient an argument, or a single one. An array among them,
              and all of a `Once`, have no gradients of their own. Both are lists with None for what is not there
    kept      tensors that it uses: they may not be written to in the meantime
    known     numbers of the results that it gets, as tensors at their places in the graph
    held      numbers of the results whose memory it uses otherwise
    zeros     whether a result without a gradient has zeros for one, instead of None
    is_short  whether it may leave out gradients at the end
    """

    call: Callable[[list[Tensor | None], list[Tensor | None]], Any]
    kept: tuple[Any, ...] = ()
    known: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    zeros: bool = True
    is_short: bool = False


def operands(args: Sequence[Any]) -> list[Any]:
    """The arguments as an op of the user's own gets them: in a captured step their arrays are the step's."""
    if not capture_hooks.capturing:
        return list(args)
    return [capture_hooks.operand(x) if isinstance(x, Tensor) else x for x in args]


def linked(
    name: str, args: Sequence[Any], results: Sequence[Any], backward: Backward, constant: Collection[int] = ()
) -> list[Any]:
    """The results as tensors, with the op recorded behind them if an argument requires a gradient.

    results   tensors and arrays; anything else is passed on as it is
    constant  numbers of those without a gradient; what is not floating-point has none either
    """
    arrays = [_array(name, y) for y in results]
    memory = [y if isinstance(y, Tensor) else _owner(a, args) for y, a in zip(results, arrays)]
    parents = [x for x in args if isinstance(x, Tensor)]
    is_recorded = is_grad_enabled() and any([x._requires_grad for x in parents])
    tracked = [k for k, a in enumerate(arrays) if is_recorded and a is not None and a.dtype in FLOATS]
    tracked = [k for k in tracked if k not in constant]
    outputs = list(results)
    with no_grad():
        for k, array in enumerate(arrays):
            if array is not None and k not in tracked:
                outputs[k] = record(name, array, parents, _none, view_of=memory[k])
    if not tracked:
        return outputs

    gradients = _Gradients(name, args, arrays, backward)
    kept, known = backward.kept, backward.known
    first = known[0] if known else tracked[0]
    own = arrays[first]
    if len(tracked) == 1:

        def rule(dy: Tensor, y: Tensor | None = None) -> tuple[Tensor | None, ...]:
            return gradients(kept, {first: dy}, {} if y is None else {first: y})

        outputs[first] = record(name, own, parents, rule, output=bool(known), view_of=memory[first])
        _guard(outputs[first], outputs, backward.held)
        return outputs

    shape, dtype, many = own.shape, own.dtype, len(arrays)
    stored: dict[int, Tensor] = {}  # the known results' memory

    def result(k: int, array: Any, together: Tensor, of: Tensor | None) -> Tensor:
        number = many * next(_numbers) + k  # the rule's own tensors of a result have gradients of their own
        return record(name, array, (together,), lambda dy: (piece(number, dy, shape, dtype),), view_of=of)

    def rule_of_all(pieces: Any, together: Tensor | None = None) -> tuple[Tensor | None, ...]:
        y = {} if together is None else {k: result(k, of._data, together, of) for k, of in stored.items()}
        dy: dict[int, Tensor] = {}
        for number, part in pieces.parts.items():
            k = number % many
            dy[k] = dy[k] + part if k in dy else part
        return gradients(kept, dy, y)

    together = record(name, own, parents, rule_of_all, output=bool(known), view_of=memory[first])
    for k in tracked:
        y = outputs[k] = result(k, arrays[k], together, together if k == first else memory[k])
        if k in known:
            stored[k] = wrap(y._data)
            stored[k]._storage = y._storage
    _guard(together, outputs, {*backward.held, *known})
    return outputs


class _Gradients:
    """An op's `Backward`, with what it is given and what it gives checked."""

    def __init__(self, name: str, args: Sequence[Any], arrays: Sequence[Any], backward: Backward) -> None:
        self._name, self._backward = name, backward
        self._kinds = [None if a is None else (a.shape, a.dtype) for a in arrays]
        self._devices = [x.device if isinstance(x, Tensor) else type(x).__name__ for x in args]
        self._places = [i for i, x in enumerate(args) if isinstance(x, Tensor)]
        node = Node(name, None, capture_hooks.originals(*[args[i] for i in self._places]))
        self._edges, self._specs = node.edges, node.specs

    def __call__(self, kept: Any, dy: By, y: By) -> tuple[Tensor | None, ...]:
        some = next(iter(dy.values()))
        incoming = [dy[k] if k in dy else self._missing(kind, some) for k, kind in enumerate(self._kinds)]
        found = self._backward.call(incoming, [y.get(k) for k in range(len(self._kinds))])
        grads = list(found) if isinstance(found, tuple) else [found]
        self._require_count(grads)
        for i, g in enumerate(grads):
            if g is not None:
                grads[i] = self._checked(i, g, isinstance(found, Once))
        return tuple([grads[i] for i in self._places])

    def _missing(self, kind: Any, like: Tensor) -> Tensor | None:
        if kind is None or not self._backward.zeros:
            return None
        return wrap(array_module(like._data).zeros(*kind))

    def _require_count(self, grads: list[Any]) -> None:
        """As many as arguments; those that are missing at the end are filled up, if they may be."""
        wanted = len(self._devices)
        while len(grads) > wanted and grads[-1] is None:
            grads.pop()
        if self._backward.is_short and grads:
            needed = 1 + max([i for i, edge in zip(self._places, self._edges) if edge is not None])
            grads += [None] * (wanted - len(grads) if len(grads) >= needed else 0)
        if len(grads) != wanted:
            expected = f"expected {wanted}, one for each argument"
            raise RuntimeError(f"{self._name}: its gradient rule gave {len(grads)} gradients; {expected}")

    def _checked(self, i: int, g: Any, is_once: bool) -> Tensor:
        at = f"{self._name}: the gradient of argument {i}"
        if isinstance(g, np.generic) or is_array(g):
            g, is_once = wrap(adopted(self._name, g)[...]), True  # a view, of which a leaf takes a copy
        if not isinstance(g, Tensor):
            raise RuntimeError(f"{at} is a {type(g).__name__}; expected a tensor, an array or None")
        if i not in self._places:
            raise RuntimeError(f"{at} is a tensor but the argument is a {self._devices[i]}; expected None")
        if g.device != self._devices[i]:
            raise RuntimeError(f"{at} is on {g.device} but the argument on {self._devices[i]}; expected one device")
        spec = self._specs[self._places.index(i)]
        if spec is not None and not _is_stretched(spec[0], g._data.shape):
            raise RuntimeError(f"{at} is {g._data.shape}; expected {spec[0]}")
        return self._once(g) if is_once and is_grad_enabled() else g

    def _once(self, g: Tensor) -> Tensor:
        """The gradient, behind which an error waits for who differentiates it."""
        name = self._name

        def refuse(dy: Tensor) -> tuple[Tensor | None, ...]:
            raise RuntimeError(f"{name}: its gradient is differentiable once; expected a rule written in tensors' ops")

        node = Node(name, refuse, ())
        node.edges, node.specs = self._edges, self._specs
        once = wrap(g._data)
        once._storage, once._node, once._requires_grad = g._storage, node, True
        return once


def _array(name: str, y: Any) -> Any:
    """A result's array; None for what is neither a tensor nor an array."""
    if isinstance(y, Tensor):
        return y._data
    if isinstance(y, np.generic):
        return np.asarray(y)
    if type(y) is list:
        raise TypeError(f"{name}: a result is a list; expected a tensor or an array, or several in a tuple")
    return adopted(name, y) if is_array(y) else None


def _owner(array: Any, args: Sequence[Any]) -> Tensor | None:
    """The argument on whose memory a result lies, if it lies on one's."""
    if array is None or not array.size:
        return None
    for x in args:
        if not isinstance(x, Tensor) or device_of(x._data) != device_of(array):
            continue
        if array is x._data or array.base is not None and array_module(array).may_share_memory(array, x._data):
            return x
    return None


def _guard(tensor: Tensor, outputs: Sequence[Any], held: Collection[int]) -> None:
    """The node behind the tensor uses the memory of these outputs: they may not be written to before it has run."""
    node: Any = tensor._node
    for k in held:
        storage = outputs[k]._storage
        storage.kept = True
        node.saved = [*node.saved, (storage, storage.version)]


def _is_stretched(shape: tuple[int, ...], have: tuple[int, ...]) -> bool:
    """Whether a gradient of that shape can be summed to one of `shape`."""
    return len(have) >= len(shape) and all([s in (1, h) for s, h in zip(shape[::-1], have[::-1])])


def _none(dy: Tensor) -> tuple[Tensor | None, ...]:
    raise RuntimeError("linked: expected a mode in which nothing is recorded")
