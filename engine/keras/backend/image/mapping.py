"""Images sampled at places that are no pixels: affine and projective maps, elastic deformations."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from keras.src.backend.config import standardize_data_format

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_numpy, convert_to_tensor
from tilegrad.keras.backend.core.slices import sum_of
from tilegrad.keras.backend.hosted import constant
from tilegrad.keras.backend.image.filters import gaussian_blur
from tilegrad.keras.backend.operands import floating
from tilegrad.keras.backend.random.stream import stream_of
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

INTERPOLATIONS = "nearest", "bilinear"
FILLS = "constant", "nearest", "wrap", "mirror", "reflect"


def _wrapped(at: Tensor, n: int) -> Tensor:
    """Modulo n, which is no 0: the engine's op would wait for a GPU to know it."""
    return constant(at.data % n)


def _mirrored(at: Tensor, n: int) -> Tensor:
    """Reflected about the middles of the first and the last pixel."""
    return tg.abs(tg.sub(_wrapped(at + (n - 1), 2 * (n - 1)), n - 1)) if n > 1 else tg.zeros_like(at)


def _reflected(at: Tensor, n: int) -> Tensor:
    """Reflected about the outer edges."""
    return constant(_mirrored(2 * at + 1, 2 * n + 1).data // 2)


_INSIDE: dict[str, Callable[[Tensor, int], Tensor]] = {  # a place for each integer
    "constant": lambda at, n: tg.clamp(at, 0, n - 1),
    "nearest": lambda at, n: tg.clamp(at, 0, n - 1),
    "wrap": _wrapped,
    "mirror": _mirrored,
    "reflect": _reflected,
}


def map_coordinates(
    inputs: Any, coordinates: Any, order: int, fill_mode: str = "constant", fill_value: Any = 0.0
) -> Tensor:
    """inputs at coordinates (dimensions, ...): of order 0 the nearest element, of order 1 linear between two."""
    x = convert_to_tensor(inputs)
    at = convert_to_tensor(coordinates)
    if at.shape[0] != x.ndim:
        raise ValueError(
            f"First dim of `coordinates` must be the same as the rank of `inputs`. Received inputs with shape: "
            f"{x.shape} and coordinate leading dim of {at.shape[0]}"
        )
    if at.ndim < 2:
        raise ValueError(f"Invalid coordinates rank: expected at least rank 2. Received input with shape: {at.shape}")
    if fill_mode not in FILLS:
        raise ValueError(
            f"Invalid value for argument `fill_mode`. Expected one of {set(FILLS)}. Received: fill_mode={fill_mode}"
        )
    if order not in (0, 1):
        raise ValueError(f"Invalid value for argument `order`. Expected one of {{0, 1}}. Received: order={order}")
    return sampled(x, [floating(at[d]) for d in range(x.ndim)], order, fill_mode, fill_value)


def sampled(x: Tensor, at: list[Tensor], order: int, fill_mode: str, fill_value: Any) -> Tensor:
    """x at places: one tensor of coordinates for each of its first dimensions; later ones are kept whole."""
    values = floating(x)
    behind = [1] * (x.ndim - len(at))
    rows = values.reshape(math.prod(x.shape[: len(at)]), -1)
    choices = []
    for d, (place, n) in enumerate(zip(at, x.shape)):
        low = tg.floor(place if order else tg.add(place, 0.5))
        ends = (
            [(low, tg.sub(1.0, tg.sub(place, low))), (tg.add(low, 1.0), tg.sub(place, low))] if order else [(low, None)]
        )
        found = []
        for whole, weight in ends:
            index = whole.to(dtypes.int64)
            inside = tg.logical_and(index >= 0, index < n)
            stride = math.prod(x.shape[d + 1 : len(at)])
            counted = _INSIDE[fill_mode](index, n)
            found.append((counted if stride == 1 else counted * stride, inside, weight))
        choices.append(found)
    total: Tensor | None = None
    for corner in product(*choices):
        flat = sum_of([place for place, _, _ in corner])
        value = F.embedding(flat, rows).reshape(*flat.shape, *x.shape[len(at) :])  # it does not wait for a GPU to check
        if fill_mode == "constant":
            inside = corner[0][1]
            for _, more, _ in corner[1:]:
                inside = tg.logical_and(inside, more)
            value = tg.where(inside.reshape(*inside.shape, *behind), value, fill_value)
        for _, _, weight in corner:
            if weight is not None:
                value = tg.mul(value, weight.reshape(*weight.shape, *behind))
        total = value if total is None else tg.add(total, value)
    assert total is not None
    if x.dtype in dtypes.FLOATS:
        return total.to(x.dtype)
    return (tg.round(total) if order else total).to(x.dtype)


def _order_of(interpolation: str) -> int:
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"Invalid `interpolation` argument. Expected of one {set(INTERPOLATIONS)}. "
            f"Received: interpolation={interpolation}"
        )
    return INTERPOLATIONS.index(interpolation)


def _batched(images: Any, data_format: str | None) -> tuple[Tensor, bool, bool]:
    """(N, H, W, C) of images; whether they are one alone, and whether their channels are first."""
    images = convert_to_tensor(images)
    if images.ndim not in (3, 4):
        raise ValueError(
            "Invalid images rank: expected rank 3 (single image) or rank 4 (batch of images). "
            f"Received input with shape: images.shape={images.shape}"
        )
    alone, first = images.ndim == 3, standardize_data_format(data_format) == "channels_first"
    images = images.unsqueeze(0) if alone else images
    return images.movedim(1, -1) if first else images, alone, first


def _as_given(images: Tensor, alone: bool, first: bool) -> Tensor:
    images = images.movedim(-1, 1) if first else images
    return images.squeeze(0) if alone else images


def _grid(images: Tensor, dtype: Any) -> tuple[Tensor, Tensor]:
    """(N, H, W): row and column of each pixel."""
    n, h, w = images.shape[:3]
    rows = tg.arange(h, device=images.device).to(dtype).reshape(1, -1, 1)
    columns = tg.arange(w, device=images.device).to(dtype).reshape(1, 1, -1)
    return rows.broadcast_to((n, h, w)), columns.broadcast_to((n, h, w))


def _warped(
    images: Any, matrices: Tensor, interpolation: str, fill_mode: str, fill_value: Any, data_format: str | None
) -> Tensor:
    """Each pixel (x, y) from the place (a x + b y + c, d x + e y + f) / (g x + h y + 1); matrices (N, 8)."""
    order = _order_of(interpolation)
    images, alone, first = _batched(images, data_format)
    row, column = _grid(images, matrices.dtype)
    a, b, c, d, e, f, g, h = [part.reshape(-1, 1, 1) for part in tg.unbind(matrices, 1)]
    under = tg.add(tg.add(tg.mul(g, column), tg.mul(h, row)), 1.0)
    x = tg.div(tg.add(tg.add(tg.mul(a, column), tg.mul(b, row)), c), under)
    y = tg.div(tg.add(tg.add(tg.mul(d, column), tg.mul(e, row)), f), under)
    found = _of_each(images, y, x, order, fill_mode, fill_value)
    return _as_given(found, alone, first)


def _of_each(images: Tensor, row: Tensor, column: Tensor, order: int, fill_mode: str, fill_value: Any) -> Tensor:
    parts = [sampled(images[i], [row[i], column[i]], order, fill_mode, fill_value) for i in range(images.shape[0])]
    return tg.stack(parts)


def affine_transform(
    images: Any,
    transform: Any,
    interpolation: str = "bilinear",
    fill_mode: str = "constant",
    fill_value: Any = 0,
    data_format: str | None = None,
) -> Tensor:
    """Each pixel (x, y) of the result from (a x + b y + c, d x + e y + f); transform (8,) or (N, 8)."""
    _order_of(interpolation)
    if fill_mode not in FILLS:
        raise ValueError(f"Invalid `fill_mode` argument. Expected of one {set(FILLS)}. Received: fill_mode={fill_mode}")
    matrices = floating(transform)
    if matrices.ndim not in (1, 2):
        raise ValueError(
            "Invalid transform rank: expected rank 1 (single transform) or rank 2 (batch of transforms). "
            f"Received input with shape: transform.shape={matrices.shape}"
        )
    matrices = matrices.unsqueeze(0) if matrices.ndim == 1 else matrices
    return _warped(images, matrices, interpolation, fill_mode, fill_value, data_format)


def perspective_transform(
    images: Any,
    start_points: Any,
    end_points: Any,
    interpolation: str = "bilinear",
    fill_value: Any = 0,
    data_format: str | None = None,
) -> Tensor:
    """The map that takes the corners start_points, (4, 2) or (N, 4, 2), to end_points."""
    _order_of(interpolation)
    _batched(images, data_format)  # raises for another rank
    starts, ends = convert_to_tensor(start_points), convert_to_tensor(end_points)
    for name, points in (("start_points", starts), ("end_points", ends)):
        if points.ndim not in (2, 3) or points.shape[-2:] != (4, 2):
            raise ValueError(
                f"Invalid {name} shape: expected (4,2) for a single image or (N,4,2) for a batch. "
                f"Received shape: {points.shape}"
            )
    if starts.shape != ends.shape:
        raise ValueError(
            f"start_points and end_points must have the same shape. Received start_points.shape={starts.shape}, "
            f"end_points.shape={ends.shape}"
        )
    matrices = compute_homography_matrix(starts, ends)
    matrices = matrices.unsqueeze(0) if matrices.ndim == 1 else matrices
    return _warped(images, matrices, interpolation, "constant", fill_value, data_format)


def compute_homography_matrix(start_points: Any, end_points: Any) -> Tensor:
    """The eight numbers of the projective map from end_points to start_points; (8,) or (N, 8)."""
    starts, ends = [convert_to_numpy(points).astype(np.float64) for points in (start_points, end_points)]
    alone = starts.ndim == 2
    starts, ends = starts.reshape(-1, 4, 2), ends.reshape(-1, 4, 2)
    system, right = np.zeros((len(starts), 8, 8)), np.zeros((len(starts), 8))
    for i in range(4):
        (sx, sy), (ex, ey) = starts[:, i].T, ends[:, i].T
        system[:, 2 * i, 0], system[:, 2 * i, 1], system[:, 2 * i, 2] = ex, ey, 1
        system[:, 2 * i, 6], system[:, 2 * i, 7] = -sx * ex, -sx * ey
        system[:, 2 * i + 1, 3], system[:, 2 * i + 1, 4], system[:, 2 * i + 1, 5] = ex, ey, 1
        system[:, 2 * i + 1, 6], system[:, 2 * i + 1, 7] = -sy * ex, -sy * ey
        right[:, 2 * i], right[:, 2 * i + 1] = sx, sy
    found = np.linalg.solve(system, right[..., None])[..., 0]
    return floating(tg.tensor((found[0] if alone else found).astype(np.float32)))


def elastic_transform(
    images: Any,
    alpha: float = 20.0,
    sigma: float = 5.0,
    interpolation: str = "bilinear",
    fill_mode: str = "reflect",
    fill_value: Any = 0.0,
    seed: Any = None,
    data_format: str | None = None,
) -> Tensor:
    """Each pixel from a place that a smooth random field moves (Simard et al., "Best practices", ICDAR 2003)."""
    order = _order_of(interpolation)
    if fill_mode not in FILLS:
        raise ValueError(f"Invalid `fill_mode` argument. Expected of one {set(FILLS)}. Received: fill_mode={fill_mode}")
    given = convert_to_tensor(images)
    images, alone, first = _batched(images, data_format)
    stream = stream_of(seed)
    dtype = floating(given).dtype
    n, h, w = images.shape[:3]
    size = max(int(6 * sigma) | 1, 1)

    def field() -> Tensor:
        noise = tg.randn(n, h, w, 1, generator=stream, dtype=dtype, device=images.device)
        smooth = gaussian_blur(noise, (size, size), (sigma, sigma), "channels_last")
        return tg.mul(smooth, alpha).squeeze(-1)

    row, column = _grid(images, dtype)
    found = _of_each(images, tg.add(row, field()), tg.add(column, field()), order, fill_mode, fill_value)
    return _as_given(found, alone, first)
