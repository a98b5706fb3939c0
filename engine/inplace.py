"""In-place writes: the one door through which the engine changes a tensor's memory.

Every write counts up the storage's version, so that a backward that needs the old values finds out. A write that must
itself be differentiated gives the tensor a new place in the graph, behind a node of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine import dtypes, ops
from engine.autograd import Node, is_grad_enabled, no_grad
from engine.ops.operands import as_tensor, broadcast_shape
from engine.random import Generator, default_generator
from engine.tensor import Tensor


def tracked_write(
    name: str,
    x: Tensor,
    others: Sequence[Tensor],
    write: Callable[[], None],
    rule: Callable[[Tensor], tuple] | None,
) -> Tensor:
    """Run write(), which changes x's memory, and record `rule` behind x if a gradient passes through.

    rule(dy) -> the gradients of (x before the write, *others); None where the write cannot be differentiated.
    Raises RuntimeError for a leaf that requires grad, and where views of x would miss the change in the graph.
    """
    tracking = is_grad_enabled() and (x._requires_grad or any(o._requires_grad for o in others))
    if tracking:
        if x._node is None and x._requires_grad:
            raise RuntimeError(f"{name}: x is a leaf that requires grad; expected the write under no_grad()")
        if x._storage.viewed:
            raise RuntimeError(
                f"{name}: x shares its memory with a view, which would miss this write in the graph; "
                "expected a clone() first, or the write under no_grad()"
            )
        if x.data.dtype.kind != "f":
            raise RuntimeError(f"{name}: x is {x.dtype}, which carries no gradient; expected a floating-point tensor")
        node = Node(name, rule, (x, *others))
    write()
    x._storage.version += 1
    if tracking:
        x._node = node
        x._requires_grad = True
    return x


def _binary(name: str, op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def method(self: Tensor, other: Any, **options: Any) -> Tensor:
        other = as_tensor(name, other, self)
        if is_grad_enabled() and (self._requires_grad or other._requires_grad):
            return _differentiable(name, self, op, other, **options)
        with no_grad():
            y = op(self, other, **options)
        _require_same(name, self, y)

        def write() -> None:
            self.data[...] = y.data

        return tracked_write(name, self, (other,), write, None)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"{name[:-1]} in place; returns the tensor."
    return method


def _differentiable(name: str, x: Tensor, op: Callable[..., Tensor], *others: Any, **options: Any) -> Tensor:
    """x becomes op(x, ...) in memory and in the graph."""
    before = Tensor(x.data)
    before._storage, before._node, before._requires_grad = x._storage, x._node, x._requires_grad
    y = op(before, *others, **options)
    _require_same(name, x, y)

    def write() -> None:
        x.data[...] = y.data

    # The node of the op stands behind x now; tracked_write checks, writes and counts.
    tracked_write(name, x, (y,), write, None)
    if is_grad_enabled():
        x._node, x._requires_grad = y._node, y._requires_grad
    return x


def _require_same(name: str, x: Tensor, y: Tensor) -> None:
    if y.shape != x.shape:
        raise ValueError(f"{name}: the result is {y.shape} but x is {x.shape}; expected x's shape")
    if y.dtype != x.dtype and dtypes.promote(x.data, y.data) != x.dtype:
        raise TypeError(f"{name}: the result is {y.dtype} but x is {x.dtype}; expected a dtype that x can hold")


def _unary(name: str, op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def method(self: Tensor, *args: Any, **options: Any) -> Tensor:
        return _differentiable(name, self, op, *args, **options)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"{name[:-1]} in place; returns the tensor."
    return method


add_ = _binary("add_", ops.add)
sub_ = _binary("sub_", ops.sub)
mul_ = _binary("mul_", ops.mul)
div_ = _binary("div_", ops.div)
pow_ = _binary("pow_", ops.pow)
neg_ = _unary("neg_", ops.neg)
exp_ = _unary("exp_", ops.exp)
sqrt_ = _unary("sqrt_", ops.sqrt)
relu_ = _unary("relu_", ops.relu)
tanh_ = _unary("tanh_", ops.tanh)
sigmoid_ = _unary("sigmoid_", ops.sigmoid)
clamp_ = _unary("clamp_", ops.clamp)
masked_fill_ = _unary("masked_fill_", ops.masked_fill)


def copy_(self: Tensor, src: Tensor) -> Tensor:
    """Take over the values of src, broadcast and cast; the gradient flows to src."""
    src = as_tensor("copy_", src, self)
    if broadcast_shape("copy_", self.shape, src.shape) != self.shape:
        raise ValueError(f"copy_: src is {src.shape}; expected it to broadcast to {self.shape}")

    def write() -> None:
        self.data[...] = src.data

    return tracked_write("copy_", self, (src,), write, lambda dy: (None, dy))


def fill_(self: Tensor, value: Any) -> Tensor:
    """Set every element to a number."""

    def write() -> None:
        self.data[...] = value.item() if isinstance(value, Tensor) else value

    return tracked_write("fill_", self, (), write, lambda dy: (None,))


def zero_(self: Tensor) -> Tensor:
    """Set every element to 0."""
    return fill_(self, 0)


def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with numbers uniform on [a, b) from the Philox stream."""
    if a > b:
        raise ValueError(f"uniform_: expected a <= b; got a={a}, b={b}")
    values = (generator or default_generator).uniform(self.shape, self.dtype) * (b - a) + a

    def write() -> None:
        self.data[...] = values

    return tracked_write("uniform_", self, (), write, lambda dy: (None,))


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with normally distributed numbers from the Philox stream."""
    if std < 0:
        raise ValueError(f"normal_: expected std >= 0; got {std}")
    values = (generator or default_generator).normal(self.shape, self.dtype) * std + mean

    def write() -> None:
        self.data[...] = values

    return tracked_write("normal_", self, (), write, lambda dy: (None,))
