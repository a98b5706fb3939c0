"""Random numbers: functions of a seed.

They are drawn where the seed is, from the same words on every device. Normal numbers of a GPU may differ from the CPU's
in their last bit: so do the logarithms and cosines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src.backend.config import floatx

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor, np_dtype
from tilegrad.keras.backend.core.device import device
from tilegrad.keras.backend.numpy.shapes import sizes
from tilegrad.keras.backend.operands import floating
from tilegrad.keras.backend.random.stream import stream_of, stream_of_host
from tilegrad.ops.noise import dropped
from tilegrad.ops.operands import normalize_axis
from tilegrad.tensor import Tensor


def uniform(shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None) -> Tensor:
    """Uniform on [minval, maxval)."""
    x = tg.rand(sizes(shape), generator=stream_of(seed), dtype=np_dtype(dtype or floatx()), device=device())
    low, high = [b if isinstance(b, (int, float)) else convert_to_tensor(b, dtype=x.dtype) for b in (minval, maxval)]
    return tg.add(tg.mul(x, high - low), low)


def normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> Tensor:
    """Normal, of that mean and standard deviation."""
    x = tg.randn(sizes(shape), generator=stream_of(seed), dtype=np_dtype(dtype or floatx()), device=device())
    return _moved(x, mean, stddev)


def _moved(x: Tensor, mean: Any, stddev: Any) -> Tensor:
    shift, scale = [b if isinstance(b, (int, float)) else convert_to_tensor(b, dtype=x.dtype) for b in (mean, stddev)]
    return tg.add(tg.mul(x, scale), shift)


def truncated_normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> Tensor:
    """Normal within two standard deviations: what lies beyond is drawn again."""
    found, stream = np_dtype(dtype or floatx()), stream_of_host(seed)
    wide = np.dtype(np.float64 if found == dtypes.float64 else np.float32)
    values = np.asarray(stream.normal(sizes(shape), wide))
    beyond = np.abs(values) > 2
    while beyond.any():
        values[beyond] = stream.normal((int(beyond.sum()),), wide)
        beyond = np.abs(values) > 2
    return _moved(tg.as_tensor(values, dtype=found, device=device()), mean, stddev)


def randint(shape: Any, minval: Any, maxval: Any, dtype: Any = "int32", seed: Any = None) -> Tensor:
    """Uniform integers in [minval, maxval)."""
    low, high = [int(b if isinstance(b, (int, float)) else convert_to_tensor(b).item()) for b in (minval, maxval)]
    return tg.randint(low, high, sizes(shape), generator=stream_of(seed), dtype=np_dtype(dtype), device=device())


def categorical(logits: Any, num_samples: int, dtype: Any = "int32", seed: Any = None) -> Tensor:
    """Classes drawn by logits (rows, classes) -> (rows, num_samples): the largest of logits plus Gumbel's noise."""
    logits = floating(logits)
    shape = (*logits.shape[:-1], num_samples, logits.shape[-1])
    u = tg.rand(shape, generator=stream_of(seed), dtype=dtypes.float32, device=logits.device)
    noise = tg.neg(tg.log(tg.clamp(tg.neg(tg.log(tg.clamp(u, 1e-37))), 1e-37)))
    return tg.argmax(tg.add(logits.unsqueeze(-2).float(), noise), -1).to(np_dtype(dtype))


def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Tensor:
    """inputs / (1 - rate) with each element kept with probability 1 - rate, else 0.

    noise_shape  of the elements that are kept or not; where it has 1, those along that dimension share it
    """
    x, stream = floating(inputs), stream_of(seed)
    if noise_shape is None or all(n is None for n in noise_shape):
        return dropped(x, rate, *stream.take_for(x.data, x.numel()))
    shape = [x.shape[d] if n is None else n for d, n in enumerate(noise_shape)]
    ones = tg.ones(shape, dtype=x.dtype, device=x.device)
    return tg.mul(x, dropped(ones, rate, *stream.take_for(x.data, ones.numel())))


def shuffle(x: Any, axis: int = 0, seed: Any = None) -> Tensor:
    """The entries along an axis in random order."""
    x = convert_to_tensor(x)
    d = normalize_axis("shuffle", axis, x.ndim)
    order = tg.randperm(x.shape[d], generator=stream_of(seed), device=x.device)
    return x[(slice(None),) * d + (order,)]
