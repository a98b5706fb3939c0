"""Moves of tensors between dtypes and devices, in PyTorch's spellings; the gradient moves back."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import dtypes
from tilegrad.autograd.record import record
from tilegrad.device import as_device, is_device, move
from tilegrad.ops.operands import cast
from tilegrad.ops.shape import clone
from tilegrad.tensor import Tensor


def to(
    self: Tensor,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
) -> Tensor:
    """The tensor in another dtype or on another device, or both; itself where nothing changes. The gradient moves back.

    to(dtype), to(device), to(device, dtype), or to(other), which takes both from another tensor; then non_blocking and
    copy, if given.

    copy          a new tensor also where nothing changes
    non_blocking  makes no difference: a copy to the GPU never waits, a copy from the GPU always does

    Raises TypeError for what is no dtype, ValueError for what is no device, RuntimeError for "cuda" without a GPU.
    """
    flags = [arg for arg in args if isinstance(arg, bool)]
    if flags:
        if len(flags) > 2 or any(given is not flag for given, flag in zip(args[-len(flags) :], flags)):
            raise TypeError(f"to: got {args!r}; expected a dtype or device first, then non_blocking and copy")
        args, copy = args[: -len(flags)], copy or flags[1:] == [True]
    dtype, device = destination(args, dtype, device)
    x = self
    there = device is None or device == x.device
    # The smaller array is the one that travels.
    if dtype is not None and (there or dtype.itemsize <= x.itemsize):
        x = cast(x, dtype)
    if device is not None and not there:
        x = _moved(x, device)
    if dtype is not None:
        x = cast(x, dtype)
    return clone(x) if copy and x is self else x


def destination(args: tuple[Any, ...], dtype: Any, device: Any) -> tuple[np.dtype | None, str | None]:
    """The dtype and the device that the arguments of a `to` mean; None where they mean none."""
    for arg in args:
        if isinstance(arg, Tensor):
            dtype, device = arg.data.dtype, arg.device
        elif is_device(arg):
            device = arg
        elif arg is not None:
            dtype = arg
    return (
        None if dtype is None else dtypes.as_dtype(dtype),
        None if device is None else as_device(device),
    )


def _moved(x: Tensor, device: str) -> Tensor:
    back = x.device
    return record("to", move(x.data, device), (x,), lambda dy: (_moved(dy, back),))


def cpu(self: Tensor) -> Tensor:
    """The tensor on the CPU: itself if it is there. Waits until the GPU has computed it."""
    return to(self, "cpu")


def cuda(self: Tensor, device: Any = None) -> Tensor:
    """The tensor on the GPU: itself if it is there."""
    return to(self, "cuda" if device is None else device)


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """The tensor in the dtype, and on the device, of another."""
    return to(self, other)
