"""Images of another size: along each axis a matrix of weights, made from a kernel (Keys 1981; Duchon 1979)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras.src.backend.config import standardize_data_format

import tilegrad as tg
from tilegrad import dtypes, ops
from tilegrad.keras.backend.core.convert import convert_to_numpy, convert_to_tensor
from tilegrad.keras.backend.operands import floating
from tilegrad.ops.operands import normalize_axis
from tilegrad.tensor import Tensor

METHODS = "nearest", "bilinear", "lanczos3", "lanczos5", "bicubic"
_INTEGERS = "biu"


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(x))


def _keys(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(radius: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.where(np.abs(x) < radius, np.sinc(x) * np.sinc(x / radius), 0)


_KERNELS = {
    "linear": _triangle,
    "bilinear": _triangle,
    "cubic": _keys,
    "bicubic": _keys,
    "lanczos3": _lanczos(3),
    "lanczos5": _lanczos(5),
}


def weights(n: int, m: int, scale: float, shift: float, method: str, antialias: bool) -> np.ndarray:
    """(m, n): what each of n pixels gives each of m, whose middles lie at (i + 0.5 - shift) / scale - 0.5.

    The rows' sums are 1, but for those that lie outside, which are 0.
    """
    places = (np.arange(m) + 0.5 - shift) / scale - 0.5
    width = max(1 / scale, 1.0) if antialias else 1.0
    table = _KERNELS[method]((np.arange(n) - places[:, None]) / width)
    sums = table.sum(1, keepdims=True)
    table = np.where(np.abs(sums) > 1000 * np.finfo(np.float32).eps, table / np.where(sums == 0, 1, sums), 0)
    return np.where(((places >= -0.5) & (places <= n - 0.5))[:, None], table, 0)


def along(x: Tensor, axis: int, table: np.ndarray) -> Tensor:
    """The matrix applied along an axis."""
    matrix = tg.tensor(table, dtype=x.dtype, device=x.device)
    return tg.matmul(x.movedim(axis, -1), matrix.t()).movedim(-1, axis)


def scale_and_translate(
    images: Any, output_shape: Any, scale: Any, translation: Any, spatial_dims: Any, method: str, antialias: bool = True
) -> Tensor:
    """Along each of spatial_dims: pixel i goes to i scale + translation."""
    if method not in _KERNELS:
        raise ValueError(f"Invalid `method` argument. Expected of one {set(_KERNELS)}. Received: method={method}")
    images = convert_to_tensor(images)
    y = floating(images)
    scales, shifts = [convert_to_numpy(values).astype(np.float64) for values in (scale, translation)]
    for d, factor, shift in zip(spatial_dims, scales, shifts):
        axis = normalize_axis("scale_and_translate", d, y.ndim)
        y = along(y, axis, weights(y.shape[axis], output_shape[axis], factor, shift, method, antialias))
    return y


def resize(
    images: Any,
    size: Any,
    interpolation: str = "bilinear",
    antialias: bool = False,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    fill_mode: str = "constant",
    fill_value: float = 0.0,
    data_format: str | None = None,
) -> Tensor:
    """Images of that size; cut, or padded with fill_value, to its aspect ratio first if asked for."""
    if interpolation not in METHODS:
        raise ValueError(
            f"Invalid `interpolation` argument. Expected of one {METHODS}. Received: interpolation={interpolation}"
        )
    if fill_mode != "constant":
        raise ValueError(
            f"Invalid `fill_mode` argument. Only `'constant'` is supported. Received: fill_mode={fill_mode}"
        )
    if pad_to_aspect_ratio and crop_to_aspect_ratio:
        raise ValueError("Only one of `pad_to_aspect_ratio` & `crop_to_aspect_ratio` can be `True`.")
    if len(size) != 2:
        raise ValueError(f"Argument `size` must be a tuple of two elements (height, width). Received: size={size}")
    images = convert_to_tensor(images)
    if images.ndim not in (3, 4):
        raise ValueError(
            "Invalid images rank: expected rank 3 (single image) or rank 4 (batch of images). "
            f"Received input with shape: images.shape={images.shape}"
        )
    rows, columns = tuple(int(n) for n in size)
    dy = -3 if standardize_data_format(data_format) == "channels_last" else -2
    y = images
    if crop_to_aspect_ratio or pad_to_aspect_ratio:
        y = _to_ratio(y, dy, rows, columns, crop_to_aspect_ratio, fill_value)
    if interpolation == "nearest":
        for d, m in ((dy, rows), (dy + 1, columns)):
            n = y.shape[d]
            at = np.floor((np.arange(m) + 0.5) * n / m).astype(np.int64)
            y = tg.index_select(y, d, tg.tensor(np.minimum(at, n - 1), device=y.device))
        return y.to(images.dtype)
    y = floating(y)
    for d, m in ((dy, rows), (dy + 1, columns)):
        y = along(y, d + y.ndim, weights(y.shape[d], m, m / y.shape[d], 0.0, interpolation, antialias))
    if images.dtype.kind in _INTEGERS:
        info = np.iinfo(images.dtype) if images.dtype != dtypes.bool_ else None
        y = tg.round(y) if info is None else tg.clamp(tg.round(y), info.min, info.max)
    return y.to(images.dtype)


def _to_ratio(x: Tensor, dy: int, rows: int, columns: int, cut: bool, fill: float) -> Tensor:
    height, width = x.shape[dy], x.shape[dy + 1]
    if cut:
        h, w = int(width * rows / columns), int(height * columns / rows)
        h, w = max(min(height, h), 1), max(min(width, w), 1)
        top, left = (height - h) // 2, (width - w) // 2
        return x.narrow(dy, top, h).narrow(dy + 1, left, w)
    h, w = max(height, int(width * rows / columns)), max(width, int(height * columns / rows))
    top, left = (h - height) // 2, (w - width) // 2
    behind = [0] * 2 * (-dy - 2)  # of the axes behind the two
    return ops.pad(x, (*behind, left, w - width - left, top, h - height - top), value=fill)
