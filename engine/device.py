"""Devices: "cpu" (NumPy arrays) and "cuda" (arrays of a GPU), and moving arrays between them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np


def is_array(x: Any) -> bool:
    """Whether x is an array that a tensor can hold: NumPy's or CuPy's."""
    return isinstance(x, np.ndarray) or type(x).__module__.partition(".")[0] == "cupy"


def device_of(array: Any) -> str:
    """The device that an array lives on."""
    return "cpu" if isinstance(array, np.ndarray) else "cuda"


def array_module(array: Any) -> ModuleType:
    """The module whose functions serve this array, NumPy or CuPy: `xp` in ops."""
    return np if isinstance(array, np.ndarray) else sys.modules["cupy"]


def as_device(device: Any) -> str:
    """A device's name from "cpu", "cuda", "auto" or None (both: the best there is).

    Raises ValueError for a name that no device has, NotImplementedError for one whose kernels are not built yet.
    """
    if device is None or device in ("auto", "cpu"):
        return "cpu"
    if isinstance(device, str) and device.partition(":")[0] == "cuda":
        raise NotImplementedError('device: "cuda" is not built yet; expected "cpu" (or "auto")')
    raise ValueError(f'device: expected "cpu", "cuda" or "auto"; got {device!r}')


def move(array: Any, device: str) -> Any:
    """The array on that device: itself where it is there already."""
    as_device(device)
    return array
