"""Padding, as layers; see `F.pad`."""

from __future__ import annotations

from typing import Any

from tilegrad.nn import functional as F
from tilegrad.nn.functional.arguments import is_int
from tilegrad.nn.module import Module
from tilegrad.tensor import Tensor


class _Pad(Module):
    """padding: an int for all sides, or (left, right), for images (left, right, top, bottom). Negative ones cut."""

    _ndim = 0
    _mode = "constant"

    def __init__(self, padding: Any) -> None:
        super().__init__()
        sides = 2 * self._ndim
        given = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * sides
        if len(given) != sides or not all(map(is_int, given)):
            name = type(self).__name__
            raise TypeError(f"{name}: padding is {padding!r}; expected an int, or {sides} of them")
        self.padding = tuple(map(int, given))

    def forward(self, input: Tensor) -> Tensor:
        """The input, padded."""
        if isinstance(input, Tensor) and input.ndim not in (self._ndim + 1, self._ndim + 2):
            found = f"{type(self).__name__}: input is {input.shape}"
            raise ValueError(f"{found}; expected {self._ndim + 1} or {self._ndim + 2} dimensions")
        return F.pad(input, self.padding, self._mode, getattr(self, "value", 0.0))

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """Sequences (N, C, L) or (C, L) with a number on both sides: `padding` is an int or (left, right)."""

    _ndim = 1


class ConstantPad2d(_ConstantPad):
    """Images (N, C, H, W) or (C, H, W) with a number around: `padding` is an int or (left, right, top, bottom)."""

    _ndim = 2


class ZeroPad1d(_Pad):
    """Sequences with zeros on both sides; see ConstantPad1d."""

    _ndim = 1


class ZeroPad2d(_Pad):
    """Images with zeros around; see ConstantPad2d."""

    _ndim = 2


class ReflectionPad1d(_Pad):
    """Sequences with their mirror image, without the edge, on both sides; see ConstantPad1d."""

    _ndim, _mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """Images with their mirror image, without the edge, around; see ConstantPad2d."""

    _ndim, _mode = 2, "reflect"


class ReplicationPad1d(_Pad):
    """Sequences with their edges repeated on both sides; see ConstantPad1d."""

    _ndim, _mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """Images with their edges repeated around; see ConstantPad2d."""

    _ndim, _mode = 2, "replicate"
