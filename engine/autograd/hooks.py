"""Hooks: functions that see the gradient of a tensor when it is computed, and may replace it."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from tilegrad import capture_hooks

if TYPE_CHECKING:
    from tilegrad.tensor import Tensor

_keys = itertools.count()


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
        capture_hooks.moved()
    key = next(_keys)
    hooks[key] = hook
    return RemovableHandle(hooks, key)


def retain_grad(tensor: Tensor) -> None:
    """Have `backward` keep the gradient of this intermediate result in its `.grad`. No-op on a leaf."""
    if not tensor._requires_grad:
        raise RuntimeError("retain_grad: the tensor does not require grad; expected one that does")
    if tensor._node is not None:
        others = [r for r in tensor._node.retainers or () if r() is not tensor]
        tensor._node.retainers = [*others, weakref.ref(tensor)]
