"""Which bag each place of an index is in, on a GPU: what both languages' gradients begin with."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.device import gpu


def places_of(dy: Any, index: Any, offsets: Any) -> tuple[Any, Any]:
    """(dy with a row of zeros behind it, for each place which of these its bag has)."""
    xp = gpu.xp()
    bags = xp.searchsorted(offsets, xp.arange(index.size, dtype=offsets.dtype), side="right").astype(np.int64) - 1
    bags = xp.where((bags < 0) | (bags >= len(dy)), len(dy), bags)
    return xp.concatenate([dy, xp.zeros((1, *dy.shape[1:]), dy.dtype)]), bags
