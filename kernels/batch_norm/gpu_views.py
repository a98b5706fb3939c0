"""How images are seen by the kernels of both GPU languages: as (N, C, S), without a copy where strides allow."""

from __future__ import annotations

from typing import Any

from tilegrad.kernels.batch_norm.reference import Channels, is_channels_last
from tilegrad.kernels.device import gpu


def seen(s: Channels, x: Any, last: bool) -> Any:
    """x as (N, C, S). Where its pixels do not lie at one stride it is copied, channels last or in C order."""
    if not last:
        return x.reshape(s.images, s.channels, s.size)
    pixels = x.transpose(0, *range(2, x.ndim), 1).reshape(s.images, s.size, s.channels)
    return pixels.transpose(0, 2, 1)


def empty_like(s: Channels, x: Any) -> tuple[Any, Any]:
    """A result of x's shape, channels last where x is, otherwise in C order; and that seen as (N, C, S)."""
    last = is_channels_last(x)
    if last:
        memory = gpu.xp().empty((s.images, *x.shape[2:], s.channels), s.dtype)
        y = memory.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))
    else:
        y = gpu.xp().empty(x.shape, s.dtype)
    return y, seen(s, y, last)


def together(s: Channels, *views: Any) -> tuple[Any, ...]:
    """The views as (1, C, N S) where no image has moments of its own and one stride leads from pixel to pixel."""
    if s.groups is not None or s.images == 1:
        return views
    if s.size != 1 and any(v.strides[0] != s.size * v.strides[2] for v in views):
        return views
    merged = 1, s.images * s.size, s.channels
    return tuple([v.transpose(0, 2, 1).reshape(merged).transpose(0, 2, 1) for v in views])
