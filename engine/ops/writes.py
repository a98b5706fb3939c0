"""Writes to a tensor's memory: the one door through which the engine changes what a tensor holds.

Every write counts up the storage's version. So a backward that needs the old values finds out. A write that must itself
be differentiated moves the tensor in the graph: from then on it stands behind a node of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilegrad import capture_hooks, dtypes
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.record import Node
from tilegrad.tensor import Tensor


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

    part   the view of x's array that the index belongs to; by default x's whole array

    rule(dy) -> the gradients of (x before the write, *others).
    Raises RuntimeError for a leaf that requires grad, and where views of x would miss the change in the graph.
    """
    tracking = is_tracked(x, *others)
    require_writable(name, x, tracking)
    node = Node(name, rule, capture_hooks.originals(x, *others)) if tracking else None
    capture_hooks.reads(x, *others)
    capture_hooks.assign(x, index, value, part)
    written(x, node)
    return x


def count_up(x: Tensor) -> None:
    """x += 1, of a count, which has no gradient."""
    require_writable("add_", x, tracking=False)
    capture_hooks.reads(x)
    capture_hooks.assign(x, ..., capture_hooks.planned(x._data) + 1)
    written(x, None)


def is_tracked(*tensors: Any) -> bool:
    """Whether a write that these take part in is differentiated."""
    return is_grad_enabled() and any(isinstance(t, Tensor) and t._requires_grad for t in tensors)


def require_writable(name: str, x: Tensor, tracking: bool) -> None:
    """Raise what is wrong with writing to x, with a gradient (tracking) or without one, before anything is written."""
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


def written(x: Tensor, node: Node | None) -> None:
    """Count the write. If it was recorded (node), x now stands behind that node."""
    x._storage.version += 1
    if node is None:
        return
    if x._node is not None and x._node.retainers:  # a retained gradient is that of the latest value, as in PyTorch
        retained = [r for r in x._node.retainers if r() is x]
        x._node.retainers = [r for r in x._node.retainers if r() is not x]
        node.retainers = (node.retainers or []) + retained
    x._node, x._requires_grad = node, True
    capture_hooks.moved()
