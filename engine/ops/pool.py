"""Max and average pooling over 2-D windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import kernels
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.record import record
from tilegrad.autograd.relu_mask import is_unseen, mark, path_to_relu
from tilegrad.device import array_module
from tilegrad.ops.activations import relu_grad
from tilegrad.ops.index import getitem
from tilegrad.ops.operands import require_float
from tilegrad.ops.selection import where
from tilegrad.tensor import Tensor, wrap

Pair = tuple[int, int]
Windows = tuple[Pair, Pair, Pair, Pair, bool]  # kernel_size, stride, padding, dilation, ceil_mode


def max_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
    return_indices: bool = False,
    activation: str | None = None,
) -> Tensor | Any:  # with return_indices a pair
    """The maximum over each window of x (N, C, H, W); the gradient goes to the (first) maximum.

    return_indices also gives the place of each maximum, h * W + w, int64.
    activation  None, or "relu": relu of the maxima, in the same primitive. A window that passes no gradient then has no
                place.

    Raises ValueError for return_indices together with activation.
    """
    require_float("max_pool2d", input)
    if return_indices and activation is not None:
        raise ValueError(f"max_pool2d: return_indices with activation {activation!r}; expected at most one of the two")
    windows = (kernel_size, stride, padding, dilation, ceil_mode)
    y, tap = kernels.of(input.data).max_pool2d(input.data, *windows, activation=activation)
    shape = input.shape
    path = path_to_relu(input)
    maxima: list[Any] = []

    def rule(dy: Tensor) -> tuple:
        if is_unseen(path) and not is_grad_enabled():
            y, memory, version = maxima
            if memory.version == version:  # they may be written to: then relu's own rule masks
                dx = _max_pool2d_grad(relu_grad(dy, wrap(y)), tap, shape, windows)
                mark(dx, path)
                return (dx,)
        return (_max_pool2d_grad(dy, tap, shape, windows),)

    out = record("max_pool2d", y, (input,), rule)
    if path:
        maxima += out._data, out._storage, out._storage.version
    if not return_indices:
        return out
    h, w = _places(tap, windows)
    return out, wrap(h * shape[3] + w)


def _max_pool2d_grad(dy: Tensor, tap: Any, shape: tuple[int, ...], windows: Windows) -> Tensor:
    dx = kernels.of(dy.data).max_pool2d_grad(dy.data, tap, shape, *windows)

    def rule(g: Tensor) -> tuple:
        xp = array_module(g.data)
        n, c = xp.arange(shape[0])[:, None, None, None], xp.arange(shape[1])[:, None, None]
        passes = tap < windows[0][0] * windows[0][1]
        h, w = (xp.where(passes, place, 0) for place in _places(tap, windows))
        return (where(wrap(passes), getitem(g, (n, c, h, w)), wrap(xp.zeros((), g.data.dtype))),)

    return record("max_pool2d_grad", dx, (dy,), rule)


def _places(tap: Any, windows: Windows) -> tuple[Any, Any]:
    """Row and column in x of each window's winning tap, int64; without meaning where a window has no winner."""
    (_, kw), (sh, sw), (ph, pw), (dh, dw), _ = windows
    xp = array_module(tap)
    tap = tap.astype(np.int64)
    h = xp.arange(tap.shape[2])[:, None] * sh - ph + tap // kw * dh
    w = xp.arange(tap.shape[3]) * sw - pw + tap % kw * dw
    return h, w


def avg_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean over each window of x (N, C, H, W)."""
    require_float("avg_pool2d", input)
    windows = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    y = kernels.of(input.data).avg_pool2d(input.data, *windows)
    shape = input.shape
    return record("avg_pool2d", y, (input,), lambda dy: (_avg_pool2d_grad(dy, shape, windows),))


def _avg_pool2d_grad(dy: Tensor, shape: tuple[int, ...], windows: tuple) -> Tensor:
    dx = kernels.of(dy.data).avg_pool2d_grad(dy.data, shape, *windows)
    return record("avg_pool2d_grad", dx, (dy,), lambda g: (avg_pool2d(g, *windows),))
