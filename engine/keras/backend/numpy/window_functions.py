"""Windows for spectra: vectors of n weights (Harris, "On the use of windows for harmonic analysis", 1978)."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src.backend.config import floatx

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor, np_dtype
from tilegrad.keras.backend.core.device import device
from tilegrad.tensor import Tensor


def _window(function: Any, x: Any, *args: Any) -> Tensor:
    values = function(int(convert_to_tensor(x).item()), *args)
    return tg.as_tensor(values, dtype=np_dtype(floatx()), device=device())


def bartlett(x: Any) -> Tensor:
    """A triangle."""
    return _window(np.bartlett, x)


def blackman(x: Any) -> Tensor:
    """Three cosines."""
    return _window(np.blackman, x)


def hamming(x: Any) -> Tensor:
    """A raised cosine that does not end at 0."""
    return _window(np.hamming, x)


def hanning(x: Any) -> Tensor:
    """A raised cosine."""
    return _window(np.hanning, x)


def kaiser(x: Any, beta: Any) -> Tensor:
    """Kaiser's, of that shape."""
    return _window(np.kaiser, x, float(convert_to_tensor(beta).item()))
