"""Unique elements, partitions, other views of the memory, and functions of elements applied to all."""

from __future__ import annotations

from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.control import vectorized_map
from tilegrad.keras.backend.core.convert import convert_to_tensor, np_dtype
from tilegrad.keras.backend.hosted import constant, host, like
from tilegrad.tensor import Tensor


def unique(
    x: Any,
    sorted: bool = True,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
    size: int | None = None,
    fill_value: Any = None,
) -> Any:
    """The elements, or entries along an axis, that differ, in ascending order; without a gradient.

    With them, if asked for: the places where each is first, the place of each of x's among them, and how often each is
    there. size: so many are given, the rest is fill_value, by default the first.
    """
    x = convert_to_tensor(x).detach()
    found = list(np.unique(host(x), True, True, True, axis=axis, equal_nan=False))
    values, index, inverse, counts = found
    inverse = inverse.reshape(x.shape if axis is None else -1)
    if size is not None:
        d = 0 if axis is None else axis
        n = min(values.shape[d], size)
        values, index, counts = np.take(values, np.arange(n), d), index[:n], counts[:n]
        rest = size - n
        if rest:
            fill = np.take(values, [0], d) if fill_value is None else np.full_like(np.take(values, [0], d), fill_value)
            values = np.concatenate([values, np.repeat(fill, rest, d)], d)
            index = np.concatenate([index, np.repeat(index[:1], rest)])
            counts = np.concatenate([counts, np.zeros(rest, counts.dtype)])
        inverse = np.minimum(inverse, size - 1)
    wanted = [
        constant(like(array if number == 0 else array.astype(np.int32), x))
        for number, (array, asked) in enumerate(
            zip((values, index, inverse, counts), (True, return_index, return_inverse, return_counts))
        )
        if asked
    ]
    return wanted[0] if len(wanted) == 1 else tuple(wanted)


def argpartition(x: Any, kth: int, axis: int | None = -1) -> Tensor:
    """An order with the kth smallest in its place, smaller ones before it and larger ones behind; int32."""
    x = convert_to_tensor(x)
    return tg.argsort(x.reshape(-1) if axis is None else x, -1 if axis is None else axis).to(dtypes.int32)


def view(x: Any, dtype: Any = None) -> Tensor:
    """The same memory seen as another dtype, without a gradient."""
    x = convert_to_tensor(x).detach()
    if dtype is None:
        return x
    array = x.contiguous().data
    found = np_dtype(dtype)
    if not array.ndim and found.itemsize != array.itemsize:
        raise ValueError("view: a tensor without dimensions has no other size")
    return constant(array.view(found))


def vectorize(pyfunc: Any, *, excluded: Any = None, signature: str | None = None) -> Any:
    """A function of tensors that applies pyfunc to all elements; those at places in `excluded` are passed whole."""
    if signature is not None:
        raise NotImplementedError("numpy.vectorize: signature is not implemented in the tilegrad backend")
    excluded = set(excluded or ())

    def every(*args: Any, **kwargs: Any) -> Any:
        tensors = [arg if i in excluded else convert_to_tensor(arg) for i, arg in enumerate(args)]
        mapped = [i for i in range(len(tensors)) if i not in excluded]
        if not mapped:
            return pyfunc(*args, **kwargs)
        wide = tg.broadcast_tensors(*[tensors[i] for i in mapped])
        shape = wide[0].shape

        def of_one(elements: Any) -> Any:
            own = list(tensors)
            for i, element in zip(mapped, elements):
                own[i] = element
            return pyfunc(*own, **kwargs)

        found = vectorized_map(of_one, [x.reshape(-1) for x in wide])
        return found.reshape(*shape, *found.shape[1:])

    return every
