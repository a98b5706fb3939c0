"""Images in channels-last memory on device "cuda": rows of pixels, each of which has its channels side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.device import gpu
from tilegrad.kernels.windows import Pair


def empty_images(images: int, size: Pair, channels: int, dtype: np.dtype) -> Any:
    """New memory (images, *size, channels)."""
    return gpu.xp().empty((images, *size, channels), dtype)


def channels_last(x: Any) -> Any:
    """x (N, C, H, W) as a dense (N, H, W, C) array: a view where x is that already, else a copy."""
    x = x.transpose(0, 2, 3, 1)
    return x if x.flags.c_contiguous else gpu.xp().ascontiguousarray(x)


def channels_first(y: Any) -> Any:
    """y (N, H, W, C) as an array that is logically (N, C, H, W): a view."""
    return y.transpose(0, 3, 1, 2)
