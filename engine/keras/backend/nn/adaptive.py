"""Pooling to a given size: window i of n elements, to m, runs from floor(i n / m) to ceil((i + 1) n / m)."""

from __future__ import annotations

from typing import Any

from keras.src.backend.config import standardize_data_format

import tilegrad as tg
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor


def adaptive_average_pool(inputs: Any, output_size: Any, data_format: str | None = None) -> Tensor:
    """The mean of each window."""
    return _pooled(tg.mean, inputs, output_size, data_format)


def adaptive_max_pool(inputs: Any, output_size: Any, data_format: str | None = None) -> Tensor:
    """The largest of each window."""
    return _pooled(tg.amax, inputs, output_size, data_format)


def _pooled(reduction: Any, inputs: Any, output_size: Any, data_format: str | None) -> Tensor:
    x = floating(inputs)
    sizes = (output_size,) * (x.ndim - 2) if isinstance(output_size, int) else tuple(output_size)
    first = 1 if standardize_data_format(data_format) == "channels_last" else 2
    for d, m in enumerate(sizes, first):  # the windows of a box are boxes: one dimension after the other
        n = x.shape[d]
        parts = [reduction(x.narrow(d, i * n // m, -(-(i + 1) * n // m) - i * n // m), d, True) for i in range(m or 0)]
        x = x if m is None else tg.cat(parts, d)
    return x
