"""Gamma, beta and binomial numbers, drawn on the host: their loops go on until all are accepted."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src.backend.config import floatx

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_numpy, np_dtype
from tilegrad.keras.backend.core.device import device
from tilegrad.keras.backend.numpy.shapes import sizes
from tilegrad.keras.backend.random.stream import stream_of_host
from tilegrad.random import Generator
from tilegrad.tensor import Tensor

_DOUBLE = np.dtype(np.float64)


def _given(values: np.ndarray, dtype: Any) -> Tensor:
    return tg.as_tensor(values, dtype=np_dtype(dtype or floatx()), device=device())


def _gamma(stream: Generator, shape: tuple[int, ...], alpha: np.ndarray) -> np.ndarray:
    """Marsaglia & Tsang, "A simple method for generating gamma variables", ACM TOMS 2000."""
    alpha = np.broadcast_to(alpha, shape).astype(np.float64)
    small = alpha < 1
    d = np.where(small, alpha + 1, alpha) - 1 / 3
    c = 1 / np.sqrt(9 * d)
    values, left = np.zeros(shape), np.ones(shape, bool)
    while left.any():
        n = int(left.sum())
        x, u = stream.normal((n,), _DOUBLE), stream.uniform((n,), _DOUBLE)
        v = (1 + c[left] * x) ** 3
        with np.errstate(all="ignore"):
            good = (v > 0) & (np.log(u) < 0.5 * x * x + d[left] * (1 - v + np.log(v)))
        places = np.flatnonzero(left)[good]
        values.flat[places] = (d[left] * v)[good]
        left.flat[places] = False
    if small.any():
        u = stream.uniform(shape, _DOUBLE)
        values = np.where(small, values * (1 - u) ** (1 / alpha), values)
    return values


def gamma(shape: Any, alpha: Any, dtype: Any = None, seed: Any = None) -> Tensor:
    """Of shape alpha and scale 1."""
    return _given(_gamma(stream_of_host(seed), tuple(sizes(shape)), convert_to_numpy(alpha)), dtype)


def beta(shape: Any, alpha: Any, beta: Any, dtype: Any = None, seed: Any = None) -> Tensor:
    """x / (x + y) of gamma numbers x of alpha and y of beta."""
    stream, shape = stream_of_host(seed), tuple(sizes(shape))
    x, y = _gamma(stream, shape, convert_to_numpy(alpha)), _gamma(stream, shape, convert_to_numpy(beta))
    return _given(x / (x + y), dtype)


def binomial(shape: Any, counts: Any, probabilities: Any, dtype: Any = None, seed: Any = None) -> Tensor:
    """How many of `counts` trials succeed: trials are drawn one by one."""
    stream, shape = stream_of_host(seed), tuple(sizes(shape))
    most = np.broadcast_to(convert_to_numpy(counts), shape).astype(np.float64)
    chance = np.broadcast_to(convert_to_numpy(probabilities), shape)
    values = np.zeros(shape)
    for trial in range(int(most.max()) if most.size else 0):
        values += (stream.uniform(shape, _DOUBLE) < chance) & (trial < most)
    return _given(values, dtype)
