"""Colours of images."""

from __future__ import annotations

from typing import Any

from keras.src.backend.config import standardize_data_format

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor

_LUMA = 0.2989, 0.5870, 0.1140  # ITU-R BT.601


def _checked(images: Any, name: str) -> Tensor:
    images = convert_to_tensor(images)
    if images.ndim not in (3, 4):
        raise ValueError(
            "Invalid images rank: expected rank 3 (single image) or rank 4 (batch of images). "
            f"Received input with shape: images.shape={images.shape}"
        )
    if name and images.dtype not in dtypes.FLOATS:
        raise ValueError(f"Invalid images dtype: expected float dtype. Received: images.dtype={images.dtype}")
    return images


def _axis(data_format: str | None) -> int:
    return -1 if standardize_data_format(data_format) == "channels_last" else -3


def rgb_to_grayscale(images: Any, data_format: str | None = None) -> Tensor:
    """The brightness, as one channel, in the images' dtype."""
    images = _checked(images, "")
    axis = _axis(data_format)
    if images.shape[axis] not in (1, 3):
        raise ValueError(
            f"Invalid channel size: expected 3 (RGB) or 1 (Grayscale). Received input with shape: {images.shape}"
        )
    if images.shape[axis] == 1:
        return images
    red, green, blue = [channel.to(floating(images).dtype) for channel in tg.split(images, 1, axis)]
    y = tg.add(tg.add(tg.mul(red, _LUMA[0]), tg.mul(green, _LUMA[1])), tg.mul(blue, _LUMA[2]))
    return y.to(images.dtype)


def rgb_to_hsv(images: Any, data_format: str | None = None) -> Tensor:
    """Hue, saturation, value, each from 0 to 1 (Smith, "Color gamut transform pairs", SIGGRAPH 1978)."""
    images = _checked(images, "rgb_to_hsv")
    axis = _axis(data_format)
    red, green, blue = tg.split(images, 1, axis)
    value, least = tg.maximum(tg.maximum(red, green), blue), tg.minimum(tg.minimum(red, green), blue)
    span = tg.sub(value, least)
    grey = span == 0
    saturation = tg.where(value > 0, tg.div(span, tg.where(value > 0, value, 1.0)), 0.0)
    sixth = tg.div(1.0 / 6.0, tg.where(grey, 1.0, span))
    hue = tg.where(
        value == red,
        tg.mul(sixth, tg.sub(green, blue)),
        tg.where(
            value == green,
            tg.add(tg.mul(sixth, tg.sub(blue, red)), 2.0 / 6.0),
            tg.add(tg.mul(sixth, tg.sub(red, green)), 4.0 / 6.0),
        ),
    )
    hue = tg.where(grey, 0.0, hue)
    hue = tg.where(hue < 0, tg.add(hue, 1.0), hue)
    return tg.cat([part.to(images.dtype) for part in (hue, saturation, value)], axis)


def hsv_to_rgb(images: Any, data_format: str | None = None) -> Tensor:
    """The inverse of rgb_to_hsv."""
    images = _checked(images, "hsv_to_rgb")
    axis = _axis(data_format)
    hue, saturation, value = tg.split(images, 1, axis)

    def channel(shift: float) -> Tensor:
        k = tg.remainder(tg.add(tg.mul(hue, 6.0), shift), 6.0)
        slope = tg.clamp(tg.minimum(k, tg.sub(4.0, k)), 0.0, 1.0)
        return tg.sub(value, tg.mul(tg.mul(value, saturation), slope))

    return tg.cat([channel(5.0), channel(3.0), channel(1.0)], axis).to(images.dtype)
