"""Devices: "cpu" (NumPy arrays) and "cuda" (arrays of a GPU, or of a simulated one), and moving arrays between them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from tilegrad import capture_hooks
from tilegrad.capture_hooks import READS
from tilegrad.kernels.device import gpu

NAMES = ("cpu", "cuda", "auto")
WAITS = "waits for the GPU, which does nothing while a step is captured; expected this after the step, on its results"


def is_array(x: Any) -> bool:
    """Whether x is an array that a tensor can hold: NumPy's, or one of device "cuda"."""
    return isinstance(x, np.ndarray) or gpu.is_array(x)


def device_of(array: Any) -> str:
    """The device that an array lives on."""
    return "cpu" if isinstance(array, np.ndarray) else "cuda"


def array_module(array: Any) -> ModuleType:
    """The module whose functions serve this array, NumPy or the GPU's: `xp` in ops."""
    if isinstance(array, np.ndarray):
        return capture_hooks.numpy() if capture_hooks.capturing else np
    return gpu.xp()


def module_of(device: str) -> ModuleType:
    """The module that makes arrays on a device that `as_device` gave."""
    return np if device == "cpu" else gpu.xp()


def is_device(x: Any) -> bool:
    """Whether x names a device, as `as_device` takes it, rather than a dtype."""
    if isinstance(x, str):
        return x.partition(":")[0] in NAMES
    return type(x) is int or isinstance(getattr(x, "type", None), str)


def as_device(device: Any) -> str:
    """ "cpu" or "cuda" from what PyTorch's programs say: those names, "cuda:0", 0, or a torch.device.

    None is "cpu"; "auto" is "cuda" where there is a GPU (a simulated one does not count), otherwise "cpu".
    Raises ValueError for a name that no device has, RuntimeError saying what is missing where "cuda" cannot be had.
    """
    if device is None or device == "cpu":
        return "cpu"
    name = f"cuda:{device}" if type(device) is int else str(device)
    if name == "auto":
        return "cuda" if gpu.is_available() else "cpu"
    if name in ("cpu", "cpu:0"):
        return "cpu"
    if name in ("cuda", "cuda:0"):
        gpu.xp()
        return "cuda"
    if name.startswith("cuda:") and name[5:].isdecimal():
        raise ValueError(f'device: got "{name}"; expected "cuda" or "cuda:0", the first of CUDA_VISIBLE_DEVICES')
    raise ValueError(f'device: expected "cpu", "cuda" or "auto"; got {device!r}')


def move(array: Any, device: str) -> Any:
    """The array on a device that `as_device` gave: itself where it is there already, otherwise a copy."""
    if (device == "cpu") is isinstance(array, np.ndarray):
        return array
    if device == "cpu":
        return on_host(array)
    capture_hooks.refuse("copies from the CPU, once and for all; expected a tensor that is on the GPU before the step")
    return gpu.xp().asarray(array)


def on_host(array: Any) -> np.ndarray:
    """A NumPy array of the elements: itself where it is one, otherwise a copy, made when all work on it is done.

    As the program waits for the GPU here, this also raises what kernels found wrong in their arguments, such as labels
    out of range (`tilegrad.kernels.launch.faults.raise_pending`).
    """
    if isinstance(array, np.ndarray):
        capture_hooks.refuse_on_cpu(READS)
        return array
    capture_hooks.refuse(WAITS)
    from tilegrad.kernels.launch import faults

    host = array.get()
    faults.raise_pending()
    return host
