"""The in-place methods: `x.add_(y)` is x = x + y in the memory of x. Every write goes through `ops.writes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad import capture_hooks, dtypes, ops
from tilegrad.device import move
from tilegrad.ops.operands import Op, as_tensor, broadcast_shape, cast, scalar, zeros_like
from tilegrad.ops.writes import is_tracked, require_writable, tracked_write, written
from tilegrad.random import Generator, default_generator
from tilegrad.tensor import Tensor, wrap


def inplace_form(name: str, op: Op) -> Op:
    """The method that makes x op(x, ...), in memory and in the graph."""

    def method(self: Tensor, *args: Any, **options: Any) -> Tensor:
        tracking = is_tracked(self, *args, *options.values())
        require_writable(name, self, tracking)
        capture_hooks.reads(self)
        before = wrap(capture_hooks.planned(self.data))  # stands where x stood in the graph, with a version of its own
        before._node, before._requires_grad = self._node, self._requires_grad
        y = op(before, *args, **options)
        _require_same(name, self, y)
        y = cast(y, self.dtype)
        if before._storage.kept:
            before._data = before._data.copy()  # the rule needs the value that is about to be overwritten
        capture_hooks.assign(self, ..., y._data)
        written(self, y._node if tracking else None)
        return self

    method.__name__ = method.__qualname__ = name
    method.__wrapped__ = op  # whose parameters `inspect` and `help` show
    method.__doc__ = f"{name[:-1]} in place; returns the tensor."
    return method  # type: ignore[return-value]  (the parameters of op)


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

    require_writable(name, x, is_tracked(x))  # before the stream goes on
    values = move(draw(generator or default_generator), x.device)
    return tracked_write(name, x, (), ..., values, lambda dy: (zeros_like(dy),))
