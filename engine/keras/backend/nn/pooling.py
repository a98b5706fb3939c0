"""Maxima and means over windows of sequences and images."""

from __future__ import annotations

import math
from typing import Any

from keras.src.backend.config import standardize_data_format

import tilegrad as tg
from tilegrad import ops
from tilegrad.keras.backend.nn import volumes
from tilegrad.keras.backend.nn.windows import as_given, as_images, over_images, padding_of
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor


def max_pool(
    inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: str | None = None
) -> Tensor:
    """The largest of each window; strides are the windows' size by default."""
    if floating(inputs).ndim == 5:
        return _of_volumes(max_pool, inputs, pool_size, strides, padding, data_format)
    x, size, stride, pads = _windows(inputs, pool_size, strides, padding, data_format)
    x = ops.pad(x, pads, value=-math.inf) if any(pads) else x
    return as_given(ops.max_pool2d(x, size, stride), floating(inputs).ndim, data_format)


def average_pool(
    inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: str | None = None
) -> Tensor:
    """The mean of each window, of the elements that there are."""
    if floating(inputs).ndim == 5:
        return _of_volumes(average_pool, inputs, pool_size, strides, padding, data_format)
    x, size, stride, pads = _windows(inputs, pool_size, strides, padding, data_format)
    y = ops.avg_pool2d(ops.pad(x, pads) if any(pads) else x, size, stride)
    if any(pads):
        there = ops.pad(tg.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device), pads)
        y = tg.div(y, ops.avg_pool2d(there, size, stride))
    return as_given(y, floating(inputs).ndim, data_format)


def _windows(inputs: Any, pool_size: Any, strides: Any, padding: str, data_format: str | None) -> tuple:
    """(images, size, stride, padding as ops.pad takes it)."""
    x = floating(inputs)
    size = over_images(pool_size, x.ndim)
    stride = size if strides is None else over_images(strides, x.ndim)
    x = as_images(x, data_format)
    rows, columns = padding_of(padding, x, size, stride, (1, 1))
    return x, size, stride, (*columns, *rows)


def _of_volumes(pool: Any, inputs: Any, pool_size: Any, strides: Any, padding: str, data_format: str | None) -> Tensor:
    """Maxima and means of boxes: of each layer's images first, then of the layers."""
    x = floating(inputs)
    size = volumes.three(pool_size)
    stride = size if strides is None else volumes.three(strides)
    last = standardize_data_format(data_format) == "channels_last"
    x = x if last else x.movedim(1, -1)
    n, depth = x.shape[:2]
    y = pool(x.reshape(n * depth, *x.shape[2:]), size[1:], stride[1:], padding, "channels_last")
    y, images = y.reshape(n, depth, -1), y.shape[1:]
    y = pool(y, size[0], stride[0], padding, "channels_last")
    y = y.reshape(n, y.shape[1], *images)
    return y if last else y.movedim(-1, 1)
