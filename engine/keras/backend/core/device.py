"""Where new tensors are made: the device of `keras.device(...)`, by default a GPU where there is one."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import Any

from keras.src.backend.common import global_state

from tilegrad.device import as_device
from tilegrad.kernels.device import gpu

_ATTRIBUTE = "tilegrad_device"


def device() -> str:
    """ "cpu" or "cuda"."""
    return global_state.get_global_attribute(_ATTRIBUTE) or ("cpu" if _has_no_gpu() else as_device("auto"))


@cache
def _has_no_gpu() -> bool:
    """Whether there is none, for good; False where that is not known, as one is simulated."""
    return not gpu.is_simulated() and not gpu.is_available()


@contextmanager
def device_scope(device_name: str) -> Any:
    """A block whose new tensors are made on "cpu" or "gpu" (also "cuda"), with or without ":0"."""
    before = global_state.get_global_attribute(_ATTRIBUTE)
    global_state.set_global_attribute(_ATTRIBUTE, as_device(_in_our_words(device_name)))
    try:
        yield
    finally:
        global_state.set_global_attribute(_ATTRIBUTE, before)


def _in_our_words(name: Any) -> Any:
    if not isinstance(name, str):
        raise ValueError(f"device: got {name!r}; expected a string such as 'cpu:0' or 'gpu:0'")
    kind, colon, number = name.lower().partition(":")
    return ("cuda" if kind == "gpu" else kind) + colon + number
