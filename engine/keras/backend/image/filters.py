"""Filters: convolutions of each channel with one kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src.backend.config import standardize_data_format

import tilegrad as tg
from tilegrad import ops
from tilegrad.keras.backend.core.convert import convert_to_numpy, convert_to_tensor
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor


def _filtered(images: Tensor, kernels: np.ndarray, data_format: str | None, padding: str) -> Tensor:
    """(N, C, count, H, W): each channel of images (N, H, W, C) or (N, C, H, W) with each of kernels (count, KH, KW)."""
    x = images.movedim(-1, 1) if standardize_data_format(data_format) == "channels_last" else images
    n, c, h, w = x.shape
    rows, columns = (kernels.shape[1] - 1) // 2, (kernels.shape[2] - 1) // 2
    x = x.reshape(n * c, 1, h, w)
    if padding == "reflect":
        at = [np.pad(np.arange(size), each, mode="reflect") for size, each in ((h, rows), (w, columns))]
        x = x[:, :, tg.tensor(at[0], device=x.device)][:, :, :, tg.tensor(at[1], device=x.device)]
    else:
        x = ops.pad(x, (columns, kernels.shape[2] - 1 - columns, rows, kernels.shape[1] - 1 - rows))
    weight = tg.tensor(kernels[:, None], dtype=x.dtype, device=x.device)
    return ops.conv2d(x, weight).reshape(n, c, len(kernels), h, w)


def gaussian_blur(
    images: Any, kernel_size: Any = (3, 3), sigma: Any = (1.0, 1.0), data_format: str | None = None
) -> Tensor:
    """Images convolved with a Gaussian, with zeros around; kernel_size and sigma are of columns, then of rows."""
    images = convert_to_tensor(images)
    if images.ndim not in (3, 4):
        raise ValueError(
            "Invalid images rank: expected rank 3 (single image) or rank 4 (batch of images). "
            f"Received input with shape: images.shape={images.shape}"
        )
    x = floating(images)
    bells = []
    for size, deviation in zip(kernel_size, convert_to_numpy(sigma).tolist()):
        at = np.arange(size) - (size - 1) / 2
        bell = np.exp(-0.5 * (at / deviation) ** 2)
        bells.append(bell / bell.sum())
    batch = x if x.ndim == 4 else x.unsqueeze(0)
    y = _filtered(batch, np.outer(*bells[::-1])[None], data_format, "zero").squeeze(2)
    y = y.movedim(1, -1) if standardize_data_format(data_format) == "channels_last" else y
    return (y if x.ndim == 4 else y.squeeze(0)).to(images.dtype)


def sobel_edges(images: Any, data_format: str | None = None) -> Tensor:
    """The slopes (dy, dx) of each channel, as a new last axis, or behind the channels; borders are reflected."""
    images = convert_to_tensor(images)
    if images.ndim not in (3, 4):
        raise ValueError(
            "Invalid images rank: expected rank 3 (single image) or rank 4 (batch of images). "
            f"Received input with shape: images.shape={images.shape}"
        )
    x = floating(images)
    slope = np.outer([-1, 0, 1], [1, 2, 1])
    batch = x if x.ndim == 4 else x.unsqueeze(0)
    y = _filtered(batch, np.stack([slope, slope.T]), data_format, "reflect")
    if standardize_data_format(data_format) == "channels_last":
        y = y.permute(0, 3, 4, 1, 2)
    else:
        y = y.permute(0, 1, 3, 4, 2)
    return y if x.ndim == 4 else y.squeeze(0)
