"""Indexing: basic (views), advanced (copies), gathers and scatters, and one-hot; sorting, which returns indices."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np

from tilegrad import capture_hooks, dtypes, kernels
from tilegrad.autograd.record import record
from tilegrad.device import array_module, is_array, move
from tilegrad.ops.operands import (
    as_tensor,
    broadcast_shape,
    cast,
    integer,
    normalize_axis,
    ordered,
    quiet,
    require_one_device,
    wide,
)
from tilegrad.ops.selection import where
from tilegrad.ops.writes import tracked_write
from tilegrad.tensor import Tensor, wrap


def plain_index(index: Any) -> Any:
    """An index as arrays, slices and ints: tensors give up their arrays, lists become integer or bool arrays."""
    if isinstance(index, tuple):
        return index if is_basic(index) else tuple([plain_index(i) for i in index])
    if isinstance(index, Tensor):
        index = index._data
    elif isinstance(index, list):
        index = np.asarray([i.item() if isinstance(i, Tensor) else i for i in index])
        if index.size == 0:
            index = index.astype(np.int64)
    if is_array(index) and index.dtype.kind not in "iub":
        raise IndexError(f"getitem: an index is {index.dtype}; expected integers or bools")
    if isinstance(index, float):
        raise IndexError(f"getitem: an index is {index!r}; expected an integer")
    return index


def is_basic(index: Any) -> bool:
    """Whether an index gives a view: ints, slices, None and Ellipsis only."""
    for i in index if isinstance(index, tuple) else (index,):
        if not (isinstance(i, (int, np.integer, slice)) or i is None or i is Ellipsis) or isinstance(i, bool):
            return False
    return True


def getitem(input: Tensor, index: Any) -> Tensor:
    """x[index]: a view for ints and slices, a copy for index arrays and masks (bools, or uint8).

    The order of dimensions is PyTorch's: ints select first; then the dimensions of the index arrays stand where the
    arrays stood, or in front if a slice or None separated them. (NumPy counts ints among the index arrays.)
    Lists and NumPy arrays index tensors of any device, tensors those of their own. On a GPU, x[i] with a tensor of
    integers does not wait to see whether the rows exist: IndexError then comes when the program next waits for the GPU.
    There the gradients of repeated indices are added in no fixed order, but for those of x[i].

    An integer tensor without dimensions is an int, as in PyTorch: x[i] is a view, for which the value is read. A
    captured step cannot have that view. It can have copies: x.index_select(0, i) and x[i[None]][0].
    """
    if isinstance(index, Tensor) and index._data.ndim and _counts(index._data) and input.is_cuda == index.is_cuda:
        return _rows(input, index)
    input = as_tensor("getitem", input)
    basic, advanced = _parts("getitem", input, index)
    x = pick(input, basic) if basic or not advanced else input
    return pick(x, _moved("getitem", x, advanced)) if advanced else x


def _rows(x: Tensor, index: Tensor) -> Tensor:
    if x.ndim == 0:
        raise IndexError("getitem: the tensor has no dimensions; expected at least 1 for an index")
    y, shape = taken_rows(x, index), x._data.shape
    return record("getitem", y, (x,), lambda dy: (_put(dy, (index,), shape),))


def take_rows_grad(op: str, dy: Tensor, index: Tensor, rows: int, padding: int | None = None) -> Tensor:
    """Zeros of so many rows with those of dy added at the index: the adjoint of x[index], for an index of integers.

    padding  a row that stays 0
    """
    at, row = _places(index), dy._data.shape[index._data.ndim :]
    values = as_tensor(op, dy)._data.reshape(at.size, *row)
    dx = kernels.of(values, at).take_rows_grad(values, at, rows, padding)

    def rule(g: Tensor) -> tuple:
        ddy = _rows(g, index)
        if padding is not None:
            here = as_tensor(op, index)._data.reshape(*index.shape, *[1] * len(row))
            ddy = where(wrap((here == padding) | (here == padding - rows)), 0.0, ddy)
        return (ddy,)

    return record(op, dx, (dy,), rule)


def taken_rows(x: Tensor, index: Tensor, wrap: bool = True) -> Any:
    """The array x[index], by the kernel that takes rows; negative indices count from the end if wrap."""
    capture_hooks.reads(index)
    at = _places(index)
    y = kernels.of(x._data, at).take_rows(x._data, at, wrap=wrap)
    return y.reshape(*index._data.shape, *x._data.shape[1:])


def _places(index: Tensor) -> Any:
    """An index tensor as a vector of a dtype that kernels take."""
    at = as_tensor("getitem", index)._data.reshape(-1)
    return at if at.dtype == np.int64 or at.dtype == np.int32 else at.astype(np.int64)


def pick(input: Tensor, parts: tuple[Any, ...]) -> Tensor:
    """getitem for an index that is known to be within range."""
    if capture_hooks.capturing:
        input = capture_hooks.operand(input)
    view = None
    if is_basic(parts):
        view = input
        parts = _viewing(parts)
    y = _taken("getitem", input, parts)
    shape = input._data.shape
    return record("getitem", y, (input,), lambda dy: (_put(dy, parts, shape),), view_of=view)


_ALL = slice(None)


def _viewing(basic: tuple[Any, ...]) -> tuple[Any, ...]:
    """A basic index with an Ellipsis: so a single element is a view as well, where NumPy gave a copy."""
    return basic if Ellipsis in basic else (*basic, Ellipsis)


def _parts(op: str, x: Tensor, index: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """An index of x as (basic, advanced): x[index] is x[basic][advanced], in PyTorch's order of dimensions.

    Either may be empty. A gradient rule may keep them: lists, which may change, have become tensors, and 0-dim tensors
    ints.
    """
    parts = index if type(index) is tuple else (index,)
    if is_basic(parts):
        return parts, ()
    parts = tuple([_part(op, x, i) for i in parts])
    if is_basic(parts):
        return parts, ()
    selecting, ellipses = any(map(_selects, parts)), [i is Ellipsis for i in parts].count(True)
    if not selecting and not ellipses:
        return (), parts  # here NumPy's order is PyTorch's
    if ellipses > 1:
        raise IndexError(f"{op}: the index has {ellipses} ellipses; expected one at most")
    sizes = [_consumed(i) for i in parts]
    rest = max(x.ndim - sum(sizes), 0)
    basic, advanced = [], []
    for i, n in zip(parts, sizes):
        if i is Ellipsis:
            basic += [_ALL] * rest
            advanced += [_ALL] * rest
        elif _selects(i):
            basic.append(i)
        elif i is None or isinstance(i, slice):
            basic.append(i)
            advanced.append(_ALL if selecting else i)
        else:
            basic += [_ALL] * n
            advanced.append(i)
    return tuple(basic) if selecting else (), tuple(advanced)


def _selects(i: Any) -> bool:
    return isinstance(i, (int, np.integer)) and not isinstance(i, bool)


def _part(op: str, x: Tensor, i: Any) -> Any:
    """One part of an index: an int, slice, None, Ellipsis or bool as it is, other things as index tensor or array."""
    if isinstance(i, (slice, int)):
        return i
    if isinstance(i, (list, tuple, range)):
        at = wrap(plain_index(list(i)))
        return capture_hooks.constant(at) if capture_hooks.capturing else at
    array = i._data if isinstance(i, Tensor) else i
    if not is_array(array):
        return bool(i) if isinstance(i, np.bool_) else i
    if array.ndim == 0 and array.dtype.kind in "iub":
        return int(i) if _counts(array) else bool(i)
    if array.dtype == dtypes.uint8:
        i = i != 0
    if not isinstance(i, Tensor):
        if x.is_cuda or not isinstance(i, np.ndarray):
            return wrap(i)
        return capture_hooks.existing(i) if capture_hooks.capturing else i
    require_one_device(op, x, i)
    return capture_hooks.operand(i) if capture_hooks.capturing else i


def _counts(i: Any) -> bool:
    """Whether an index tensor or array holds positions. One of bools is a mask; so is one of uint8, as in PyTorch."""
    return i.dtype.kind in "iu" and i.dtype != dtypes.uint8


def _consumed(i: Any) -> int:
    """The dimensions that a part of an index stands for, Ellipsis aside."""
    if i is None or i is Ellipsis or isinstance(i, bool):
        return 0
    return i.ndim if getattr(i, "dtype", None) == dtypes.bool_ else 1


def _moved(op: str, x: Tensor, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """The parts on x's device. What NumPy checks by itself is checked here on a GPU."""
    if not x.is_cuda:
        return parts
    _require_inside(op, x, parts)
    return tuple([wrap(move(i._data, x.device)) if isinstance(i, Tensor) else i for i in parts])


def _require_inside(op: str, x: Tensor, parts: tuple[Any, ...]) -> None:
    """Raise IndexError for index arrays out of range. NumPy finds these by itself; CuPy wraps them round."""
    d = 0
    for i in parts:
        if isinstance(i, Tensor) and not _is_mask(i) and i.numel() and d < x.ndim:
            low, high = (int(end) for end in (i._data.min(), i._data.max()))
            size = x.shape[d]
            if low < -size or high >= size:
                found = low if low < -size else high
                raise IndexError(f"{op}: index {found} is out of bounds for dim {d} of size {size}")
        d += _consumed(i)


def _is_mask(i: Any) -> bool:
    return isinstance(i, (Tensor, np.ndarray)) and i.dtype.kind == "b"


def _taken(op: str, x: Tensor, index: Any) -> Any:
    """The array x[index]."""
    try:
        return x._data[plain_index(index)]
    except IndexError as error:
        raise IndexError(f"{op}: {error} (the tensor is {x._data.shape})") from None


def _put(dy: Tensor, index: tuple[Any, ...], shape: tuple[int, ...]) -> Tensor:
    """Zeros of that shape with dy added at the index: the adjoint of getitem."""
    if _is_of_rows(index) and _has_kernel(dy._data):
        return take_rows_grad("getitem_grad", dy, as_tensor("getitem", index[0]), shape[0])
    xp = array_module(dy._data)
    if is_basic(index):
        y = xp.zeros(shape, dy._data.dtype)
        y[index] = dy._data
    else:
        y = xp.zeros(shape, dtypes.accumulator(dy._data.dtype) if dy.is_floating_point() else dtypes.int64)
        xp.add.at(y, plain_index(index), wide(dy._data))  # on a GPU by atomics, which add in no fixed order
        with quiet():
            y = y.astype(dy._data.dtype, copy=False)
    return record("getitem_grad", y, (dy,), lambda ddy: (pick(ddy, index),))


def _is_of_rows(index: tuple[Any, ...]) -> bool:
    """Whether an index is one array, or tensor, of positions."""
    at = index[0] if len(index) == 1 else None
    return isinstance(at, (Tensor, np.ndarray)) and at.ndim > 0 and _counts(at)


def _has_kernel(dy: Any) -> bool:
    """Whether take_rows_grad of the contract takes this array: floats, on a GPU no float64."""
    return dy.dtype in dtypes.FLOATS and (dy.dtype != dtypes.float64 or isinstance(dy, np.ndarray))


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """x[index] = value, in place, `value` broadcast to the place; gradients flow to value, and to the rest of x."""
    basic, advanced = _parts("setitem", input, index)
    x = wrap(_taken("setitem", input, _viewing(basic))) if basic or not advanced else input
    advanced = _moved("setitem", x, advanced)
    value = as_tensor("setitem", value, input)
    require_one_device("setitem", input, value)
    # How many places a mask takes is known at a launch only: there a number fits any of them.
    if value.ndim or not any(map(_is_mask, advanced)) or capture_hooks.on_device(x._data) is None:
        place = _taken("setitem", x, advanced) if advanced else x._data
        lead = value.ndim - place.ndim  # NumPy drops leading 1s of the value here, and so does PyTorch
        if lead > 0 and value.shape[:lead] == (1,) * lead:
            value = value.reshape(value.shape[lead:])
        if broadcast_shape("setitem", place.shape, value.shape) != place.shape:
            raise ValueError(f"setitem: the value is {value.shape}; expected it to broadcast to {place.shape}")
    value = cast(value, input.dtype)
    wanted = value.requires_grad

    def rule(dy: Tensor) -> tuple:
        dx = clone_with_zeros(dy, basic, advanced)
        if not wanted:
            return dx, None
        if basic or not advanced:
            dy = pick(dy, basic)
        return dx, pick(dy, advanced) if advanced else dy

    at = plain_index(advanced) if advanced else ...
    tracked_write("setitem", input, (value,), at, value._data, rule, x._data)


def clone_with_zeros(x: Tensor, basic: tuple[Any, ...], advanced: tuple[Any, ...]) -> Tensor:
    """A copy of x with zeros at the index x[basic][advanced]."""
    y = x._data.copy()
    y[_viewing(basic)][plain_index(advanced) if advanced else ...] = 0
    return record("clone_with_zeros", y, (x,), lambda dy: (clone_with_zeros(dy, basic, advanced),))


# --- along one dimension ---------------------------------------------------------------------------------------------


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices `index` (1-D, integers) along `dim`. A 0-dim tensor counts as its one element, and stays 0-dim."""
    d = normalize_axis("index_select", dim, input.ndim)
    index = _integers("index_select", index)
    if index.ndim > 1 or (input.ndim == 0 and index.numel() != 1):
        raise ValueError(f"index_select: the index is {index.shape} and x {input.shape}; expected 1-D, of a scalar one")
    index = index.reshape(-1)
    if input.ndim == 0:
        return gather(input, 0, index).reshape(())
    return getitem(input, index if d == 0 else (slice(None),) * d + (index,))


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """x[..., indices, ...] elementwise along `dim`, the other dimensions broadcast (NumPy's take_along_axis).

    dim None indexes the flattened tensor.
    """
    if dim is None:
        return take_along_dim(input.reshape(-1), _integers("take_along_dim", indices).reshape(-1), 0)
    d = normalize_axis("take_along_dim", dim, input.ndim)
    indices = _integers("take_along_dim", indices)
    require_one_device("take_along_dim", input, indices)
    if indices.ndim != input.ndim:
        raise ValueError(f"take_along_dim: indices are {indices.shape} but x is {input.shape}; expected equal ndim")
    xp = array_module(input.data)
    rest = broadcast_shape(
        "take_along_dim",
        *(tuple(1 if k == d else s for k, s in enumerate(a.shape)) for a in (input, indices)),
    )
    at = indices.expand(tuple(indices.shape[d] if k == d else s for k, s in enumerate(rest)))
    x = input.expand(tuple(input.shape[d] if k == d else s for k, s in enumerate(rest)))
    return getitem(x, _grid(xp, at, d))


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """out[i][j][k] = input[index[i][j][k]][j][k] for dim 0, and so on; index may be smaller in other dimensions.

    A 0-dim tensor counts as a vector of one element, here and in scatter; an empty index gives an empty result.
    """
    x, d, at = _along("gather", input, dim, index)
    if not at.numel():
        return x.reshape(-1)[:0].reshape(at.shape)
    return pick(x, _grid(array_module(x.data), at, d)).reshape(index.shape)


def scatter(input: Tensor, dim: int, index: Tensor, src: Any) -> Tensor:
    """A copy of input with out[index[i][j]][j] = src[i][j] for dim 0, and so on.

    src  a tensor of input's dtype, or a number
    """
    x, d, at = _along("scatter", input, dim, index)
    if not isinstance(src, (bool, int, float)):
        src = _source("scatter", src, x)
    y = x.clone()
    if at.numel():
        grid = _grid(array_module(x.data), at, d)
        y[grid] = src if isinstance(src, (bool, int, float)) else _corner("scatter", src, at.shape)
    return y.reshape(input.shape)


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of input with out[index[i][j]][j] += src[i][j] for dim 0, and so on; src is of input's dtype."""
    x, d, at = _along("scatter_add", input, dim, index)
    src = _source("scatter_add", src, x)
    if not at.numel():
        return input.clone()
    part = _corner("scatter_add", src, at.shape)
    return input + _put(part, _grid(array_module(x.data), at, d), x.shape).reshape(input.shape)


def _source(op: str, src: Any, x: Tensor) -> Tensor:
    """src as a tensor of x's dtype and device, of at least one dimension."""
    src = as_tensor(op, src)
    require_one_device(op, x, src)
    if src.dtype != x.dtype:
        raise TypeError(f"{op}: src is {src.dtype} but x is {x.dtype}; expected one dtype")
    return src if src.ndim else src.reshape(1)


def _corner(op: str, src: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The part of src that an index of this shape takes."""
    if src.ndim != len(shape) or any(i > s for i, s in zip(shape, src.shape)):
        raise ValueError(f"{op}: src is {src.shape} but the index is {shape}; expected src at least as large")
    return src[tuple(slice(s) for s in shape)]


def _integers(op: str, index: Any) -> Tensor:
    """An index tensor of positions. Raises TypeError for floats, and for bools, which NumPy would take for a mask."""
    index = as_tensor(op, index)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{op}: the index is {index.dtype}; expected integers")
    return index if _counts(index) else cast(index, dtypes.int64)


def _along(op: str, x: Tensor, dim: int, index: Tensor) -> tuple[Tensor, int, Tensor]:
    """x and the index, of at least one dimension, and dim counted from the left. Raises unless the index fits x."""
    d = normalize_axis(op, dim, x.ndim)
    index = _integers(op, index)
    require_one_device(op, x, index)
    if not index.numel():  # takes nothing, whatever its shape
        return x, d, index
    x = x if x.ndim else x.reshape(1)
    index = index if index.ndim else index.reshape(1)
    at = index.data
    if at.ndim != x.ndim or any(k != d and i > s for k, (i, s) in enumerate(zip(at.shape, x.shape))):
        raise ValueError(f"{op}: the index is {at.shape} but x is {x.shape}; expected it no larger but in dim {d}")
    require_range(IndexError, f"{op}: the index runs", "index", index, x.shape[d])
    return x, d, index


def require_range(error: type[Exception], told: str, name: str, index: Tensor, size: int) -> None:
    """Raise the error unless 0 <= index < size everywhere; in a captured step on the CPU each launch does so."""
    capture_hooks.check(_require_range, index, error, told, name, size)


def _require_range(at: Any, error: type[Exception], told: str, name: str, size: int) -> None:
    low, high = (int(at.min()), int(at.max())) if at.size else (0, -1)
    if low < 0 or high >= size:
        raise error(f"{told} from {low} to {high}; expected 0 <= {name} < {size}")


def _grid(xp: Any, at: Any, d: int) -> tuple[Any, ...]:
    """The indices of every dimension, with `at` (an array, or a tensor that a rule keeps) for dimension d."""
    axes = [xp.arange(s).reshape([-1 if k == i else 1 for k in range(at.ndim)]) for i, s in enumerate(at.shape)]
    axes[d] = at
    return tuple(axes)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask holds, as a vector; both broadcast."""
    if mask.dtype.kind != "b":
        raise TypeError(f"masked_select: the mask is {mask.dtype}; expected bool")
    require_one_device("masked_select", input, mask)
    shape = broadcast_shape("masked_select", input.shape, mask.shape)
    return getitem(input.expand(shape), mask.expand(shape))


@overload
def nonzero(input: Tensor, *, as_tuple: Literal[False] = False) -> Tensor: ...
@overload
def nonzero(input: Tensor, *, as_tuple: Literal[True]) -> tuple[Tensor, ...]: ...
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The indices of the elements that are not zero, int64: (n, ndim), or with as_tuple a vector for each dimension."""
    if as_tuple:
        return nonzero(input if input.ndim else input.reshape(1)).unbind(1)
    if input.ndim == 0:
        return wrap(array_module(input.data).zeros((int(bool(input)), 0), np.int64))
    xp = array_module(input.data)
    return wrap(xp.stack(xp.nonzero(input.data), axis=1).astype(np.int64))


def one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    """Integers as rows with a single 1: (*shape, num_classes) int64; -1 takes the largest + 1."""
    x = as_tensor("one_hot", input)
    if x.dtype.kind not in "iu":
        raise TypeError(f"one_hot: the tensor is {x.dtype}; expected integers")
    num_classes = integer("one_hot", "num_classes", num_classes)
    if num_classes == -1:
        at = capture_hooks.values(x)
        num_classes = int(at.max()) + 1 if at.size else 0
    require_range(ValueError, "one_hot: values run", "value", x, num_classes)
    return wrap((x.data[..., None] == array_module(x.data).arange(num_classes)).astype(np.int64))


# --- order -----------------------------------------------------------------------------------------------------------


def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> tuple[Tensor, Tensor]:
    """(values, indices) sorted along `dim`; equal elements keep their order, and nan counts as largest."""
    at = argsort(input, dim, descending)
    d = normalize_axis("sort", dim, input.ndim)
    if input.ndim == 0:
        return input.clone(), at
    return pick(input, _grid(array_module(input.data), at.data, d)), at


def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The indices that sort along `dim`, int64; equal elements keep their order, and nan counts as largest."""
    input = as_tensor("argsort", input)
    d = normalize_axis("argsort", dim, input.ndim)
    xp = array_module(input.data)
    if input.ndim == 0:
        return wrap(xp.zeros((), np.int64))
    if not descending:
        return wrap(xp.argsort(ordered(input.data), axis=d, kind="stable").astype(np.int64))
    # Stable and descending: sort the reversed sequence ascending, read it backwards, and count from the other end.
    back = xp.argsort(xp.flip(ordered(input.data), d), axis=d, kind="stable")
    return wrap((input.shape[d] - 1 - xp.flip(back, d)).astype(np.int64))


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """(values, indices) of the k largest (or smallest) along `dim`, in order."""
    d, k = normalize_axis("topk", dim, input.ndim), integer("topk", "k", k)
    if not 0 <= k <= (input.shape[d] if input.ndim else 1):
        raise ValueError(f"topk: k is {k}; expected 0 <= k <= {input.shape[d] if input.ndim else 1}")
    values, at = sort(input, dim, descending=largest)
    first = (slice(None),) * d + (slice(k),)
    return (values[first], at[first]) if input.ndim else (values, at)
