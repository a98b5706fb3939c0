"""New tensors, from numbers and shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor, np_dtype, result_dtype
from tilegrad.keras.backend.core.device import device
from tilegrad.keras.backend.numpy.shapes import pad, sizes
from tilegrad.keras.backend.operands import promoted
from tilegrad.tensor import Tensor


def array(x: Any, dtype: Any = None) -> Tensor:
    """x as a tensor."""
    return convert_to_tensor(x, dtype=dtype)


def zeros(shape: Any, dtype: Any = None) -> Tensor:
    """Zeros; floatx by default."""
    return tg.zeros(sizes(shape), dtype=np_dtype(dtype), device=device())


def ones(shape: Any, dtype: Any = None) -> Tensor:
    """Ones; floatx by default."""
    return tg.ones(sizes(shape), dtype=np_dtype(dtype), device=device())


def empty(shape: Any, dtype: Any = None) -> Tensor:
    """Memory that is not initialised; floatx by default."""
    return tg.empty(sizes(shape), dtype=np_dtype(dtype), device=device())


def full(shape: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """One value everywhere; floatx by default."""
    found = np_dtype(dtype)
    if isinstance(fill_value, (bool, int, float)):
        return tg.full(sizes(shape), fill_value, dtype=found, device=device())
    return convert_to_tensor(fill_value, dtype=found).broadcast_to(sizes(shape)).clone()


def zeros_like(x: Any, dtype: Any = None) -> Tensor:
    """Zeros of x's shape."""
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: Any = None) -> Tensor:
    """Ones of x's shape."""
    return full_like(x, 1, dtype)


def empty_like(x: Any, dtype: Any = None) -> Tensor:
    """Memory of x's shape that is not initialised."""
    x = convert_to_tensor(x)
    return tg.empty(x.shape, dtype=x.dtype if dtype is None else np_dtype(dtype), device=x.device)


def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """One value everywhere, in x's shape."""
    x = convert_to_tensor(x)
    return full(x.shape, fill_value, x.dtype if dtype is None else dtype)


def arange(start: Any, stop: Any = None, step: Any = None, dtype: Any = None) -> Tensor:
    """start, start + step, ... below stop; of the dtype that the three have together."""
    start, stop = (0, start) if stop is None else (start, stop)
    step = 1 if step is None else step
    start, stop, step = [x if isinstance(x, (int, float)) else convert_to_tensor(x).item() for x in (start, stop, step)]
    found = result_dtype(start, stop, step) if dtype is None else np_dtype(dtype)
    count = max(math.ceil((stop - start) / step), 0)
    if not count:
        return tg.zeros(0, dtype=found, device=device())
    return tg.as_tensor(start + step * np.arange(count), dtype=found, device=device())


def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False, dtype: Any = None, axis: int = 0
) -> Any:
    """num numbers evenly from start to stop, along a new axis of these."""
    start, stop = [convert_to_tensor(x) for x in promoted(start, stop, least=float)]
    found = start.dtype if dtype is None else np_dtype(dtype)
    step = tg.div(tg.sub(stop, start), max(num - 1 if endpoint else num, 1))
    at = tg.arange(num, dtype=start.dtype, device=start.device).reshape(num, *[1] * max(start.ndim, stop.ndim))
    y = tg.add(start, tg.mul(at, step)).movedim(0, axis).to(found)
    return (y, step) if retstep else y


def eye(N: Any, M: Any = None, k: int = 0, dtype: Any = None) -> Tensor:
    """Ones on a diagonal."""
    rows, columns = int(N), int(N if M is None else M)
    return tg.as_tensor(np.eye(rows, columns, k), dtype=np_dtype(dtype), device=device())


def identity(n: int, dtype: Any = None) -> Tensor:
    """Ones on the diagonal of a square."""
    return eye(n, dtype=dtype)


def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Tensor:
    """Ones on and below a diagonal."""
    return tg.as_tensor(np.tri(N, M, k), dtype=np_dtype(dtype), device=device())


def diag(x: Any, k: int = 0) -> Tensor:
    """A matrix with the vector on its diagonal, or the diagonal of a matrix."""
    x = convert_to_tensor(x)
    if x.ndim == 2:
        return tg.diagonal(x, k)
    if x.ndim != 1:
        raise ValueError(f"diag: the tensor is {x.shape}; expected one or two dimensions")
    square = tg.mul(x.reshape(-1, 1), eye(len(x), dtype=x.dtype))
    above, left = max(-k, 0), max(k, 0)
    return pad(square, ((above, left), (left, above)))
