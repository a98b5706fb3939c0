"""What tensors must have when a captured step is launched: the memory that they had, and the wish for a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

from tilegrad import capture_hooks

if TYPE_CHECKING:
    from tilegrad.tensor import Tensor


class Placement:
    """They are asked for after every move of any tensor, so in C loops."""

    def __init__(self) -> None:
        self._placed: list[Tensor] = []
        self._arrays: list[Any] = []  # what each of those is on
        self._known: set[int] = set()  # ids of those
        self._tensors: list[Tensor] = []
        self._wanting: list[bool] = []  # whether each of those requires grad
        self.moves = -1  # of tensors, when all of these were found as they must be

    def memory(self, tensor: Tensor, array: Any = None) -> None:
        """The tensor must be on this memory, without an array on what it is on now."""
        if id(tensor) not in self._known:
            self._known.add(id(tensor))
            self._placed.append(tensor)
            self._arrays.append(tensor.data if array is None else array)

    def wants(self, tensors: Iterable[Tensor], wanted: Callable[[Tensor], bool]) -> list[tuple[Tensor, bool]]:
        """These must require grad or not as `wanted` says. Those that do not now, and what they do."""
        self._tensors = list(tensors)
        self._wanting = list(map(wanted, self._tensors))
        found = zip(self._tensors, self._wanting)
        return [(tensor, tensor._requires_grad) for tensor, wanting in found if tensor._requires_grad is not wanting]

    def holds(self) -> bool:
        now = capture_hooks.moves
        if now == self.moves:
            return True
        if all(map(is_, map(_data, self._placed), self._arrays)) and all(
            map(is_, map(_requires_grad, self._tensors), self._wanting)
        ):
            self.moves = now
            return True
        return False


_data, _requires_grad = map(attrgetter, ("_data", "_requires_grad"))
