"""Indexing: basic (views), advanced (copies), gathers and scatters, and one-hot; sorting, which returns indices."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.autograd import record
from engine.device import array_module
from engine.ops.operands import as_tensor, broadcast_shape, cast, normalize_axis
from engine.tensor import Tensor, wrap


def plain_index(index: Any) -> Any:
    """An index as arrays, slices and ints: tensors give up their arrays, lists become integer or bool arrays."""
    if isinstance(index, tuple):
        return tuple(plain_index(i) for i in index)
    if isinstance(index, Tensor):
        index = index.data
    elif isinstance(index, list):
        index = np.asarray([i.item() if isinstance(i, Tensor) else i for i in index])
        if index.size == 0:
            index = index.astype(np.int64)
    if isinstance(index, np.ndarray) and index.dtype.kind not in "iub":
        raise IndexError(f"getitem: an index is {index.dtype}; expected integers or bools")
    if isinstance(index, float):
        raise IndexError(f"getitem: an index is {index!r}; expected an integer")
    return index


def is_basic(index: Any) -> bool:
    """Whether an index gives a view: ints, slices, None and Ellipsis only."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        i is None or i is Ellipsis or isinstance(i, (int, np.integer, slice)) and not isinstance(i, bool) for i in parts
    )


def getitem(input: Tensor, index: Any) -> Tensor:
    """x[index] as NumPy has it: a view for ints and slices, a copy for index arrays and masks."""
    index = plain_index(index)
    shape = input.data.shape
    basic = is_basic(index)
    try:
        y = input.data[index]
    except IndexError as error:
        raise IndexError(f"getitem: {error} (the tensor is {shape})") from None
    return record("getitem", y, (input,), lambda dy: (_put(dy, index, shape, basic),), view_of=input if basic else None)


def _put(dy: Tensor, index: Any, shape: tuple[int, ...], basic: bool) -> Tensor:
    """Zeros of that shape with dy added at the index: the adjoint of getitem."""
    xp = array_module(dy.data)
    y = xp.zeros(shape, dy.data.dtype)
    if basic:
        y[index] = dy.data
    else:
        scatter_add_at(y, index, dy.data)
    return record("getitem_grad", y, (dy,), lambda ddy: (getitem(ddy, index),))


def scatter_add_at(y: Any, index: Any, values: Any) -> None:
    """y[index] += values, in place, with repeated indices adding up."""
    if isinstance(y, np.ndarray):
        np.add.at(y, index, values)
    else:
        array_module(y).add.at(y, index, values)


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """x[index] = value, in place, `value` broadcast to the place; gradients flow to value, and to the rest of x."""
    from engine.inplace import tracked_write  # the engine's one door for in-place writes

    plain = plain_index(index)
    value = as_tensor("setitem", value, input)
    try:
        place = input.data[plain]
    except IndexError as error:
        raise IndexError(f"setitem: {error} (the tensor is {input.shape})") from None
    lead = value.ndim - place.ndim  # NumPy drops leading 1s of the value here, and so does PyTorch
    if lead > 0 and value.shape[:lead] == (1,) * lead:
        value = value.reshape(value.shape[lead:])
    if broadcast_shape("setitem", place.shape, value.shape) != place.shape:
        raise ValueError(f"setitem: the value is {value.shape}; expected it to broadcast to {place.shape}")
    value = cast(value, input.dtype)
    new = value.data

    def write() -> None:
        input.data[plain] = new

    def rule(dy: Tensor) -> tuple:
        rest = clone_with_zeros(dy, plain)
        return rest, getitem(dy, plain)

    tracked_write("setitem", input, (value,), write, rule)


def clone_with_zeros(x: Tensor, index: Any) -> Tensor:
    """A copy of x with zeros at the index."""
    y = x.data.copy()
    y[index] = 0
    return record("clone_with_zeros", y, (x,), lambda dy: (clone_with_zeros(dy, index),))


# --- along one dimension ---------------------------------------------------------------------------------------------


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices `index` (1-D, integers) along `dim`."""
    d = normalize_axis("index_select", dim, input.ndim)
    at = plain_index(as_tensor("index_select", index))
    if at.ndim > 1:
        raise ValueError(f"index_select: the index is {at.shape}; expected 1 dimension")
    return getitem(input, (slice(None),) * d + (at.reshape(-1),))


def take_along_dim(input: Tensor, indices: Tensor, dim: int) -> Tensor:
    """x[..., indices, ...] elementwise along `dim`, the other dimensions broadcast (NumPy's take_along_axis)."""
    d = normalize_axis("take_along_dim", dim, input.ndim)
    if indices.ndim != input.ndim:
        raise ValueError(f"take_along_dim: indices are {indices.shape} but x is {input.shape}; expected equal ndim")
    xp = array_module(input.data)
    rest = broadcast_shape(
        "take_along_dim",
        *(tuple(1 if k == d else s for k, s in enumerate(a.shape)) for a in (input, indices)),
    )
    at = xp.broadcast_to(indices.data, tuple(indices.shape[d] if k == d else s for k, s in enumerate(rest)))
    x = input.expand(tuple(input.shape[d] if k == d else s for k, s in enumerate(rest)))
    return getitem(x, _grid(xp, at, d))


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """out[i][j][k] = input[index[i][j][k]][j][k] for dim 0, and so on; index may be smaller in other dimensions."""
    d, at = _along("gather", input, dim, index)
    return getitem(input, _grid(array_module(input.data), at, d))


def scatter(input: Tensor, dim: int, index: Tensor, src: Any) -> Tensor:
    """A copy of input with out[index[i][j]][j] = src[i][j] for dim 0, and so on. src: a tensor or a number."""
    d, at = _along("scatter", input, dim, index)
    y = input.clone()
    grid = _grid(array_module(input.data), at, d)
    if isinstance(src, Tensor):
        src = src[tuple(slice(s) for s in at.shape)]
    y[grid] = src
    return y


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of input with out[index[i][j]][j] += src[i][j] for dim 0, and so on."""
    d, at = _along("scatter_add", input, dim, index)
    xp = array_module(input.data)
    part = src[tuple(slice(s) for s in at.shape)]
    return input + _put(cast(part, input.dtype), _grid(xp, at, d), input.shape, False)


def _along(op: str, x: Tensor, dim: int, index: Tensor) -> tuple[int, Any]:
    d = normalize_axis(op, dim, x.ndim)
    at = plain_index(index)
    if at.ndim != x.ndim or any(k != d and i > s for k, (i, s) in enumerate(zip(at.shape, x.shape))):
        raise ValueError(f"{op}: the index is {at.shape} but x is {x.shape}; expected it no larger but in dim {d}")
    if at.size and not (0 <= int(at.min()) and int(at.max()) < x.shape[d]):
        raise IndexError(f"{op}: the index runs from {at.min()} to {at.max()}; expected 0 <= index < {x.shape[d]}")
    return d, at


def _grid(xp: Any, at: Any, d: int) -> tuple[Any, ...]:
    """The index arrays of every dimension, with `at` for dimension d."""
    axes = [xp.arange(s).reshape([-1 if k == i else 1 for k in range(at.ndim)]) for i, s in enumerate(at.shape)]
    axes[d] = at
    return tuple(axes)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask holds, as a vector; both broadcast."""
    shape = broadcast_shape("masked_select", input.shape, mask.shape)
    return getitem(input.expand(shape), array_module(mask.data).broadcast_to(mask.data, shape))


def nonzero(input: Tensor) -> Tensor:
    """The indices of elements that are not zero, one a row: (n, ndim) int64."""
    xp = array_module(input.data)
    return wrap(xp.stack(xp.nonzero(input.data), axis=1).astype(np.int64))


def one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    """Integers as rows with a single 1: (*shape, num_classes) int64; -1 takes the largest + 1."""
    at = input.data
    if at.dtype.kind not in "iu":
        raise TypeError(f"one_hot: the tensor is {at.dtype}; expected integers")
    low, high = (int(at.min()), int(at.max())) if at.size else (0, -1)
    classes = high + 1 if num_classes == -1 else num_classes
    if low < 0 or high >= classes:
        raise ValueError(f"one_hot: values run from {low} to {high}; expected 0 <= value < {classes}")
    xp = array_module(at)
    return wrap((at[..., None] == xp.arange(classes)).astype(np.int64))


# --- order -----------------------------------------------------------------------------------------------------------


def sort(input: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """(values, indices) in stable order along `dim`; nan counts as largest."""
    at = argsort(input, dim, descending)
    d = normalize_axis("sort", dim, input.ndim)
    if input.ndim == 0:
        return input.clone(), at
    return getitem(input, _grid(array_module(input.data), at.data, d)), at


def argsort(input: Tensor, dim: int = -1, descending: bool = False) -> Tensor:
    """The indices that sort along `dim`, int64, stable; nan counts as largest."""
    d = normalize_axis("argsort", dim, input.ndim)
    xp = array_module(input.data)
    if input.ndim == 0:
        return wrap(xp.zeros((), np.int64))
    if not descending:
        return wrap(xp.argsort(input.data, axis=d, kind="stable").astype(np.int64))
    # Stable and descending: sort the reversed sequence ascending, read it backwards, and count from the other end.
    back = xp.argsort(xp.flip(input.data, d), axis=d, kind="stable")
    return wrap((input.shape[d] - 1 - xp.flip(back, d)).astype(np.int64))


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """(values, indices) of the k largest (or smallest) along `dim`, in order."""
    d = normalize_axis("topk", dim, input.ndim)
    if not 0 <= k <= (input.shape[d] if input.ndim else 1):
        raise ValueError(f"topk: k is {k}; expected 0 <= k <= {input.shape[d] if input.ndim else 1}")
    values, at = sort(input, dim, descending=largest)
    first = (slice(None),) * d + (slice(k),)
    return (values[first], at[first]) if input.ndim else (values, at)
