"""A backend of device "cuda" that is called with NumPy arrays, so that one test serves every backend.

    backend = OnDevice(kernels.load("triton"))
    y = backend.softmax(x)           x is copied to the device, y back from it

What a test arranges on the host holds on the device too: an array is moved with all the memory that it is a view of,
byte for byte, so that strides, frames of NaN and sharing are the same there; results keep their memory order. After the
call that memory must be as it was, unless the primitive's name ends in `_step`: then it is copied back. The call ends
with a synchronisation, so that what a kernel found wrong is raised by the call that was given it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import faults
from tilegrad.kernels.simulate import arrays as simulated


class OnDevice:
    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        primitive = getattr(self.module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            moved: dict[int, tuple[np.ndarray, Any]] = {}
            result = primitive(*_each(to_device, args, moved), **_each(to_device, kwargs, moved))
            faults.raise_pending()
            for owner, memory in moved.values():
                after = gpu.xp().asnumpy(memory)
                if name.endswith("_step"):
                    _bytes(owner)[...] = after
                else:
                    assert (after == _bytes(owner)).all(), f"{name}: an input of shape {owner.shape} was written to"
            return _each(to_host, result)

        return call


def to_device(x: np.ndarray, moved: dict[int, tuple[np.ndarray, Any]] | None = None) -> Any:
    """x on the device, in a copy of all the memory it is a view of; `moved` has the owners moved so far, by id."""
    moved = {} if moved is None else moved
    owner = x
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not owner.flags.forc:
        owner = x = np.array(x)
    if id(owner) not in moved:
        memory = gpu.xp().empty(owner.nbytes, np.uint8)
        if owner.nbytes:
            memory.set(_bytes(owner))
        moved[id(owner)] = owner, memory
    memory = moved[id(owner)][1]
    offset = x.__array_interface__["data"][0] - owner.__array_interface__["data"][0] if x.size else 0
    if gpu.is_simulated():
        return simulated.adopt(np.ndarray(x.shape, x.dtype, memory._host, offset, x.strides))
    return gpu.xp().ndarray(x.shape, x.dtype, memory.data + offset, x.strides)


def to_host(x: Any) -> np.ndarray:
    """A copy of a device array, in its memory order."""
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    return gpu.xp().asnumpy(x.transpose(order)).transpose(np.argsort(order))


def _each(move: Any, x: Any, *rest: Any) -> Any:
    """`move` applied to every array in nested tuples, lists and dicts."""
    if isinstance(x, np.ndarray) or gpu.is_array(x):
        return move(x, *rest)
    if isinstance(x, (tuple, list)):
        return type(x)(_each(move, item, *rest) for item in x)
    if isinstance(x, dict):
        return {key: _each(move, item, *rest) for key, item in x.items()}
    return x


def _bytes(owner: np.ndarray) -> np.ndarray:
    """The memory of an array that has no holes, as one row of bytes that shares it."""
    flat = owner.reshape(-1, order="A") if owner.flags.c_contiguous else owner.T.reshape(-1)
    return flat.view(np.uint8)
