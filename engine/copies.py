"""Deep copies of arrays that share memory where the originals do, as PyTorch's deep copies of tensors do.

Each array that owns memory is copied once, as a whole, for all of its views.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.device import gpu


def deep(array: Any, memo: dict[int, Any]) -> Any:
    """The array's copy, with the same strides. Arrays that share memory have copies that share memory.

    memo  copy.deepcopy's: the copies by the id of what was copied, among them those of arrays that own memory
    """
    owner = _owner(array)
    if id(owner) not in memo:
        memo[id(owner)] = owner.copy(order="K")
    twin = memo[id(owner)]
    if array is owner:
        return twin
    if twin.strides != owner.strides or not array.size:  # the owner has gaps, its copy has none
        return array.copy(order="K")
    if not isinstance(array, np.ndarray):
        return gpu.view_in(twin, array.data.ptr - owner.data.ptr, array)
    memory = twin.ravel(order="K").view(np.uint8)
    y = np.ndarray(array.shape, array.dtype, memory, _address(array) - _address(owner), array.strides)
    y.flags.writeable = not any(step == 0 and n > 1 for step, n in zip(array.strides, array.shape))
    return y


def _owner(array: Any) -> Any:
    """The array that owns the memory; on a GPU it is the base of every view."""
    if not isinstance(array, np.ndarray):
        return array if array.base is None else array.base
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
