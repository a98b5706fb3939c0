"""In-place writes: the one door through which the engine changes a tensor's memory.

Every write counts up the storage's version, so that a backward that needs the old values finds out. A write that must
itself be differentiated gives the tensor a new place in the graph, behind a node of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilegrad import capture_hooks, dtypes, ops
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.record import Node
from tilegrad.device import move
from tilegrad.ops.operands import as_tensor, broadcast_shape, cast, scalar, zeros_like
from tilegrad.random import Generator, default_generator
from tilegrad.tensor import Tensor, wrap


def tracked_write(
    name: str,
    x: Tensor,
    others: Sequence[Tensor],
    index: Any,
    value: Any,
    rule: Callable[[Tensor], tuple],
    part: Any = None,
) -> Tensor:
    """Write value, an array, to x at the index, and record `rule` behind x if a gradient passes through.

    part   the array that the index is of, a view of x's; without one x's own

    rule(dy) -> the gradients of (x before the write, *others).
    Raises RuntimeError for a leaf that requires grad, and where views of x would miss the change in the graph.
    """
    tracking = _is_tracked(x, *others)
    _require_writable(name, x, tracking)
    node = Node(name, rule, (x, *others)) if tracking else None
    capture_hooks.reads(x, *others)
    capture_hooks.assign(x, index, value, part)
    _written(x, node)
    return x


def _is_tracked(*tensors: Any) -> bool:
    return is_grad_enabled() and any(isinstance(t, Tensor) and t._requires_grad for t in tensors)


def _require_writable(name: str, x: Tensor, tracking: bool) -> None:
    account = capture_hooks.current()
    if account is not None:
        account.graph.require_here(x.data, tracking)
        capture_hooks.refuse_of_host(x)
    if not _is_writable(x.data):
        raise RuntimeError(f"{name}: x is read-only (an expanded view, or a read-only array); expected a clone() first")
    if not tracking:
        return
    if x._node is None and x._requires_grad:
        raise RuntimeError(f"{name}: x is a leaf that requires grad; expected the write under no_grad()")
    if x._storage.viewed_beside(x):
        raise RuntimeError(
            f"{name}: x shares its memory with a view, which would miss this write in the graph; "
            "expected a clone() first, or the write under no_grad()"
        )
    if x.data.dtype not in dtypes.FLOATS:
        raise RuntimeError(f"{name}: x is {x.dtype}, which carries no gradient; expected a floating-point tensor")


def _is_writable(array: Any) -> bool:
    """Whether each element has memory of its own. CuPy lets an expanded view be written to.

    An array without elements may have strides of 0, expanded or not.
    """
    if isinstance(array, np.ndarray):
        return array.flags.writeable
    return not array.size or not any(step == 0 and n > 1 for step, n in zip(array.strides, array.shape))


def _written(x: Tensor, node: Node | None) -> None:
    """Count the write; where it was recorded, x now stands behind that node."""
    x._storage.version += 1
    if node is None:
        return
    if x._node is not None and x._node.retainers:  # a retained gradient is that of the latest value, as in PyTorch
        retained = [r for r in x._node.retainers if r() is x]
        x._node.retainers = [r for r in x._node.retainers if r() is not x]
        node.retainers = (node.retainers or []) + retained
    x._node, x._requires_grad = node, True


def inplace_form(name: str, op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The method that makes x op(x, ...), in memory and in the graph."""

    def method(self: Tensor, *args: Any, **options: Any) -> Tensor:
        tracking = _is_tracked(self, *args, *options.values())
        _require_writable(name, self, tracking)
        capture_hooks.reads(self)
        before = wrap(capture_hooks.planned(self.data))  # stands where x stood in the graph, with a version of its own
        before._node, before._requires_grad = self._node, self._requires_grad
        y = op(before, *args, **options)
        _require_same(name, self, y)
        y = cast(y, self.dtype)
        if before._storage.kept:
            before._data = before._data.copy()  # the rule needs the value that is about to be overwritten
        capture_hooks.assign(self, ..., y._data)
        _written(self, y._node if tracking else None)
        return self

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"{name[:-1]} in place; returns the tensor."
    return method


def _require_same(name: str, x: Tensor, y: Tensor) -> None:
    if y.shape != x.shape:
        raise ValueError(f"{name}: the result is {y.shape} but x is {x.shape}; expected x's shape")
    if not dtypes.can_hold(x.dtype, y.dtype):
        raise TypeError(f"{name}: the result is {y.dtype} but x is {x.dtype}; expected a dtype that x can hold")


add_ = inplace_form("add_", ops.add)
sub_ = inplace_form("sub_", ops.sub)
mul_ = inplace_form("mul_", ops.mul)
div_ = inplace_form("div_", ops.div)
pow_ = inplace_form("pow_", ops.pow)
neg_ = inplace_form("neg_", ops.neg)
exp_ = inplace_form("exp_", ops.exp)
sqrt_ = inplace_form("sqrt_", ops.sqrt)
relu_ = inplace_form("relu_", ops.relu)
tanh_ = inplace_form("tanh_", ops.tanh)
sigmoid_ = inplace_form("sigmoid_", ops.sigmoid)
clamp_ = inplace_form("clamp_", ops.clamp)
masked_fill_ = inplace_form("masked_fill_", ops.masked_fill)


def copy_(self: Tensor, src: Any) -> Tensor:
    """Take over the values of src (a tensor, of any device, or a number), broadcast and cast.

    The gradient flows to src.
    """
    return _copied("copy_", self, src)


def fill_(self: Tensor, value: Any) -> Tensor:
    """Set every element to a number (or 0-dim tensor, to which the gradient flows)."""
    if getattr(value, "ndim", 0):
        raise ValueError(f"fill_: the value is {value.shape}; expected a number or a tensor without dimensions")
    return _copied("fill_", self, value)


def _copied(name: str, x: Tensor, src: Any) -> Tensor:
    src = as_tensor(name, src, x)
    if broadcast_shape(name, x.shape, src.shape) != x.shape:
        raise ValueError(f"{name}: src is {src.shape}; expected it to broadcast to {x.shape}")
    source = cast(src, x.dtype) if type(src.data) is type(x.data) else src.to(x.device, x.dtype)

    return tracked_write(name, x, (source,), ..., source.data, lambda dy: (zeros_like(dy), dy))


def zero_(self: Tensor) -> Tensor:
    """Set every element to 0."""
    return fill_(self, 0)


def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with numbers uniform on [a, b) from the Philox stream."""
    a, b = scalar("uniform_", "a", a), scalar("uniform_", "b", b)
    if a > b:
        raise ValueError(f"uniform_: expected a <= b; got a={a}, b={b}")

    def draw(stream: Generator) -> np.ndarray:
        values = stream.uniform(self.shape, dtypes.accumulator(self.dtype)) * (b - a) + a
        top = np.asarray(b, self.dtype)
        below = top if float(top) < b else np.nextafter(top, np.asarray(a, self.dtype))  # rounding may reach b
        return np.minimum(values.astype(self.dtype, copy=False), below)

    return _drawn("uniform_", self, draw, generator)


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with normally distributed numbers from the Philox stream."""
    mean, std = scalar("normal_", "mean", mean), scalar("normal_", "std", std)
    if std < 0:
        raise ValueError(f"normal_: expected std >= 0; got {std}")

    def draw(stream: Generator) -> np.ndarray:
        return stream.normal(self.shape, dtypes.accumulator(self.dtype)) * std + mean

    return _drawn("normal_", self, draw, generator)


def _drawn(name: str, x: Tensor, draw: Callable[[Generator], np.ndarray], generator: Generator | None) -> Tensor:
    if x.data.dtype not in dtypes.FLOATS:
        raise TypeError(f"{name}: x is {x.dtype}; expected a floating-point tensor")

    _require_writable(name, x, _is_tracked(x))  # before the stream goes on
    values = move(draw(generator or default_generator), x.device)
    return tracked_write(name, x, (), ..., values, lambda dy: (zeros_like(dy),))
