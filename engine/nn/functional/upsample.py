"""Images of another size: interpolation, and pixels exchanged for channels.

Interpolation is separable: along each dimension a new pixel is a weighted mean of some old ones. So it is a product
with a matrix of constant weights, (new, old), along one dimension after the other. For "nearest" pixels are taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilegrad import ops
from tilegrad.nn.functional.arguments import is_int, one_of, require_tensor, size
from tilegrad.ops.constants import constant
from tilegrad.ops.operands import require_float, rounded_once
from tilegrad.tensor import Tensor

_NDIM = {"linear": 3, "bilinear": 4, "bicubic": 4, "trilinear": 5}
_MODES = ("nearest", "nearest-exact", "area", *_NDIM)
_CUBIC = -0.75  # the coefficient of the cubic convolution that PyTorch and OpenCV have


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """input (N, C, W), (N, C, H, W) or (N, C, D, H, W) with its last dimensions at another size.

    size, scale_factor      one of them: the new sizes, or floor(old * factor); a number stands for all dimensions
    mode                    "nearest", "nearest-exact" or "area" of any input; "linear" of (N, C, W), "bilinear" and
                            "bicubic" (Keys 1981) of (N, C, H, W), "trilinear" of (N, C, D, H, W)
    align_corners           of the four last: the corner pixels' centres, not their outer edges, lie on each other
    recompute_scale_factor  take old / new for the distance of pixels, not 1 / scale_factor
    antialias               is not supported: NotImplementedError for True

    A nan or an infinite pixel reaches its whole row and column, but for "nearest" and "nearest-exact". Gradients have
    gradients, to any order. Raises TypeError for dtypes (integers only where pixels are taken), ValueError for sizes
    and options, NotImplementedError for a mode with an input of other dimensions.
    """
    op = "interpolate"
    require_tensor(op, input=input)
    one_of(op, "mode", mode, _MODES)
    if input.ndim not in (3, 4, 5):
        raise ValueError(f"{op}: input is {input.shape}; expected (N, C, W), (N, C, H, W) or (N, C, D, H, W)")
    if antialias:
        raise NotImplementedError(f"{op}: antialias is True; expected False, the only one that is supported")
    if align_corners is not None and mode not in _NDIM:
        modes = ", ".join(_NDIM)
        raise ValueError(f"{op}: align_corners is {align_corners} and mode {mode!r}; expected one of {modes}")
    if input.ndim != _NDIM.get(mode, input.ndim):
        raise NotImplementedError(f"{op}: input is {input.shape}; expected {_NDIM[mode]} dimensions for mode {mode!r}")
    old = input.shape[2:]
    sizes, factors = _sizes(op, old, size, scale_factor)
    if recompute_scale_factor and scale_factor is None:
        raise ValueError(f"{op}: recompute_scale_factor is True and size {size}; expected a scale_factor")
    if recompute_scale_factor or mode == "area":
        factors = [None] * len(old)
    if min(sizes) < 1 or min(old) < 1:
        raise ValueError(f"{op}: input is {input.shape} and the new sizes {tuple(sizes)}; expected all >= 1")
    if mode in ("nearest", "nearest-exact"):
        for d, (n, factor) in enumerate(zip(sizes, factors), 2):
            input = _nearest(input, d, n, factor, mode == "nearest-exact")
        return input
    require_float(op, input)
    kind = mode if mode in ("area", "bicubic") else "linear"
    return _weighted(input, kind, sizes, factors, bool(align_corners))


def _sizes(op: str, old: tuple[int, ...], size: Any, scale_factor: Any) -> tuple[list[int], list[float | None]]:
    """The new sizes, and the factors where they were given."""
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{op}: size is {size} and scale_factor {scale_factor}; expected one of them")
    given = scale_factor if size is None else size
    each = list(given) if isinstance(given, (tuple, list)) else [given] * len(old)
    if len(each) != len(old):
        raise ValueError(f"{op}: got {given} for an input with {old}; expected {len(old)} numbers")
    if size is None:
        if not all(isinstance(f, (int, float, np.number)) and not isinstance(f, bool) for f in each):
            raise TypeError(f"{op}: scale_factor is {scale_factor!r}; expected numbers")
        return [math.floor(n * float(f)) for n, f in zip(old, each)], [float(f) for f in each]
    if not all(map(is_int, each)):
        raise TypeError(f"{op}: size is {size!r}; expected ints")
    return [int(n) for n in each], [None] * len(old)


def _nearest(x: Tensor, d: int, n: int, factor: float | None, is_exact: bool) -> Tensor:
    """x with n pixels along dimension d, each the nearest one of the old."""
    old, shape = x.shape[d], x.shape
    times = n // old
    if n == times * old and factor in (None, times):
        y = ops.expand(ops.unsqueeze(x, d + 1), (*shape[: d + 1], times, *shape[d + 1 :]))
        return ops.reshape(y, (*shape[:d], n, *shape[d + 1 :]))
    index = constant(x, _nearest_places, old, n, factor, is_exact, str(x.dtype))
    return ops.movedim(ops.movedim(x, d, 0)[index], 0, d)


@rounded_once
def _weighted(
    x: Tensor, kind: str, sizes: Sequence[int], factors: Sequence[float | None], align_corners: bool
) -> Tensor:
    """x times the weights of each dimension, the last one first."""
    for d in reversed(range(2, x.ndim)):
        old, n, factor = x.shape[d], sizes[d - 2], factors[d - 2]
        if n == old and factor in (None, 1.0):
            continue
        weights = constant(x, _weights, kind, old, n, factor, align_corners, str(x.dtype))
        if d == x.ndim - 1:
            rows = ops.matmul(ops.reshape(x, (-1, old)), ops.transpose(weights, 0, 1))
            x = ops.reshape(rows, (*x.shape[:-1], n))
        else:
            before, after = x.shape[:d], x.shape[d + 1 :]
            rows = ops.reshape(x, (math.prod(before), old, math.prod(after)))
            x = ops.reshape(ops.matmul(weights, rows), (*before, n, *after))
    return x


def _distance(old: int, n: int, factor: float | None) -> float:
    """From new pixel to new pixel, in old ones."""
    return 1.0 / factor if factor else old / n


def _nearest_places(old: int, n: int, factor: float | None, is_exact: bool, dtype: str) -> np.ndarray:
    """In the dtype that PyTorch computes them in: where two pixels are equally near, rounding decides."""
    number = np.dtype("float64" if dtype == "float64" else "float32").type
    i, distance = np.arange(n).astype(number), number(1.0 / factor) if factor else number(old) / number(n)
    at = (i + number(0.5)) * distance - number(0.5) + number(0.5) if is_exact else i * distance
    return np.minimum(np.floor(at).astype(np.int64), old - 1)


def _weights(kind: str, old: int, n: int, factor: float | None, align_corners: bool, dtype: str) -> np.ndarray:
    """(n, old): how much of each old pixel is in each new one."""
    made, i = np.zeros((n, old)), np.arange(n)
    if kind == "area":
        for new in range(n):
            start, stop = new * old // n, -(-(new + 1) * old // n)
            made[new, start:stop] = 1 / (stop - start)
        return made.astype(dtype)
    if align_corners:
        at = i * ((old - 1) / (n - 1) if n > 1 else 0.0)
    else:
        at = (i + 0.5) * _distance(old, n, factor) - 0.5
    if kind == "linear":
        at = np.clip(at, 0, old - 1)
    first = np.floor(at).astype(np.int64)
    for step, weight in _taps(kind, at - first):
        np.add.at(made, (i, np.clip(first + step, 0, old - 1)), weight)
    return made.astype(dtype)


def _taps(kind: str, t: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The weights of the pixels around a place that lies t behind one of them, and which these are."""
    if kind == "linear":
        return [(0, 1 - t), (1, t)]

    def near(x: np.ndarray) -> np.ndarray:  # up to 1 away
        return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1

    def far(x: np.ndarray) -> np.ndarray:  # up to 2 away
        return ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC

    return [(-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))]


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(..., C r^2, H, W) -> (..., C, H r, W r): r^2 channels become r x r pixels (Shi et al. 2016)."""
    op, r = "pixel_shuffle", size("pixel_shuffle", "upscale_factor", upscale_factor, 1)
    require_tensor(op, input=input)
    if input.ndim < 3 or input.shape[-3] % (r * r):
        raise ValueError(f"{op}: input is {input.shape}; expected (..., C, H, W) with C a multiple of {r * r}")
    *lead, channels, height, width = input.shape
    x = ops.reshape(input, (math.prod(lead), channels // (r * r), r, r, height, width))
    x = ops.permute(x, (0, 1, 4, 2, 5, 3))
    return ops.reshape(x, (*lead, channels // (r * r), height * r, width * r))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(..., C, H r, W r) -> (..., C r^2, H, W): the inverse of pixel_shuffle."""
    op, r = "pixel_unshuffle", size("pixel_unshuffle", "downscale_factor", downscale_factor, 1)
    require_tensor(op, input=input)
    if input.ndim < 3 or input.shape[-1] % r or input.shape[-2] % r:
        raise ValueError(f"{op}: input is {input.shape}; expected (..., C, H, W) with H and W multiples of {r}")
    *lead, channels, height, width = input.shape
    x = ops.reshape(input, (math.prod(lead), channels, height // r, r, width // r, r))
    x = ops.permute(x, (0, 1, 3, 5, 2, 4))
    return ops.reshape(x, (*lead, channels * r * r, height // r, width // r))
