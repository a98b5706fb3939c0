"""Ops that move elements without computing on them: views, joins, splits, padding, triangles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilegrad import capture_hooks, dtypes
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.pieces import piece
from tilegrad.autograd.record import MOVES, record
from tilegrad.device import array_module, on_host
from tilegrad.kernels.cpu import buffers
from tilegrad.kernels.cpu.effects import capturing
from tilegrad.ops.operands import (
    as_tensor,
    broadcast_shape,
    cast,
    integer,
    normalize_axes,
    normalize_axis,
    require_one_device,
    scalar,
    shape_argument,
)
from tilegrad.tensor import Tensor, wrap

# --- views -----------------------------------------------------------------------------------------------------------


def reshape(input: Tensor, *sizes: Any, shape: Any = None) -> Tensor:
    """The elements in row-major order under another shape, one entry of which may be -1. A view where it can be one."""
    x = as_tensor("reshape", input)
    wanted = _inferred("reshape", x._data.shape, shape_argument("reshape", sizes, shape))
    y = x._data.reshape(wanted)
    before = x._data.shape
    shares = y.base is not None and (y.base is x._data and y.size > 0 or array_module(y).may_share_memory(y, x._data))
    shared = x if shares else None
    return record("reshape", y, (x,), lambda dy: (reshape(dy, before),), view_of=shared, mask=MOVES)


def view(input: Tensor, *shape: Any) -> Tensor:
    """reshape that always shares memory. Raises RuntimeError where the strides do not allow it."""
    if len(shape) == 1 and isinstance(shape[0], (np.dtype, type)):
        raise TypeError("view: reinterpreting as another dtype is not supported; expected a shape")
    wanted = _inferred("view", input.data.shape, shape_argument("view", shape))
    y = input.data.reshape(wanted)
    if input.data.size and not array_module(y).may_share_memory(y, input.data):
        raise RuntimeError(
            f"view: {input.shape} with strides {input.stride()} cannot be seen as {wanted} without a copy; "
            "expected reshape"
        )
    return reshape(input, wanted)


def _inferred(op: str, have: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    size = math.prod(have)
    if -1 not in wanted and min(wanted, default=0) >= 0 and math.prod(wanted) == size:
        return wanted
    known = math.prod(s for s in wanted if s != -1)
    unknown = sum(s == -1 for s in wanted)
    fits = known == size if unknown == 0 else unknown == 1 and known > 0 and size % known == 0
    if not fits or any(s < -1 for s in wanted):
        raise ValueError(f"{op}: {have} has {size} elements; expected a shape for them, got {wanted}")
    return tuple(size // known if s == -1 else s for s in wanted) if unknown else wanted


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim..end_dim as one."""
    if input.ndim == 0:
        return reshape(input, 1)
    start, end = (normalize_axis("flatten", d, input.ndim) for d in (start_dim, end_dim))
    if start > end:
        found = f"start_dim is {start_dim} and end_dim {end_dim} for shape {input.shape}"
        raise ValueError(f"flatten: {found}; expected start_dim <= end_dim")
    shape = input.shape
    return reshape(input, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` as the dimensions `sizes`."""
    d, n = _along("unflatten", input, dim)
    inner = _inferred("unflatten", (n,), shape_argument("unflatten", (sizes,)))
    return reshape(input, (*input.shape[:d], *inner, *input.shape[d + 1 :]))


def permute(input: Tensor, *order: Any, dims: Any = None) -> Tensor:
    """The dimensions in another order; a view."""
    dims = shape_argument("permute", order, dims)
    if len(dims) != input.ndim:
        raise ValueError(f"permute: dims are {dims} but the tensor has {input.ndim} dimensions; expected each once")
    axes = normalize_axes("permute", dims, input.ndim)
    inverse = tuple(int(i) for i in np.argsort(axes))
    y = input._data.transpose(axes)
    return record("permute", y, (input,), lambda dy: (permute(dy, inverse),), view_of=input, mask=MOVES)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged; a view."""
    if input.ndim == 0:
        return permute(input, ())
    a, b = (normalize_axis("transpose", d, input.ndim) for d in (dim0, dim1))
    y = input._data.swapaxes(a, b)
    return record("transpose", y, (input,), lambda dy: (transpose(dy, a, b),), view_of=input, mask=MOVES)


def t(input: Tensor) -> Tensor:
    """A matrix transposed; vectors and scalars as they are."""
    if input.ndim > 2:
        raise ValueError(f"t: the tensor is {input.shape}; expected at most 2 dimensions")
    return transpose(input, 0, 1) if input.ndim == 2 else permute(input, tuple(range(input.ndim)))


def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Dimensions `source` moved to the places `destination`, the others in order; a view."""
    from_, to = (normalize_axes("movedim", d, input.ndim) for d in (source, destination))
    if len(from_) != len(to):
        raise ValueError(f"movedim: source is {source} but destination {destination}; expected as many of each")
    order = [d for d in range(input.ndim) if d not in from_]
    for place, d in sorted(zip(to, from_)):
        order.insert(place, d)
    return permute(input, order)


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without dimensions of size 1: all of them, or those among `dim`."""
    axes = () if type(dim) is tuple and not dim else normalize_axes("squeeze", dim, input.ndim)
    return reshape(input, tuple(s for d, s in enumerate(input.shape) if s != 1 or d not in axes))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dimension of size 1 inserted at `dim`."""
    d = normalize_axis("unsqueeze", dim, input.ndim + 1)
    return reshape(input, (*input.shape[:d], 1, *input.shape[d:]))


def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Dimensions of size 1 (and new ones in front) repeated without copying; -1 keeps a size. A read-only view."""
    wanted = shape_argument("expand", sizes)
    lead = len(wanted) - input.ndim
    if lead < 0 or any(s < 0 for s in wanted[: max(lead, 0)]) or any(s < -1 for s in wanted):
        raise ValueError(f"expand: the tensor is {input.shape}; expected at least as many sizes, got {wanted}")
    shape = (*wanted[:lead], *(h if s == -1 else s for h, s in zip(input.shape, wanted[lead:])))
    if any(h not in (1, s) for h, s in zip(input.shape, shape[lead:])):
        raise ValueError(
            f"expand: the tensor is {input.shape}; expected sizes equal to it or where it is 1, got {wanted}"
        )
    y = array_module(input.data).broadcast_to(input.data, shape)
    return record("expand", y, (input,), lambda dy: (dy,), view_of=input)


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """input expanded to other's shape."""
    return expand(input, other.shape)


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """NumPy's name for expand."""
    return expand(input, tuple(size))


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape."""
    shape = broadcast_shape("broadcast_tensors", *(x.shape for x in tensors))
    return tuple(expand(x, shape) for x in tensors)


def detach(input: Tensor) -> Tensor:
    """The same memory without the history; writes to either are seen in both, and by autograd."""
    y = wrap(as_tensor("detach", input).data)
    y._storage = input._storage
    return y


# --- copies ----------------------------------------------------------------------------------------------------------


def clone(input: Tensor) -> Tensor:
    """A copy, in the same memory order; the gradient passes."""
    input = as_tensor("clone", input)
    data = input.data
    # The copy of a stride-0 view would keep its strange order: lay it out row-major.
    order = "C" if 0 in data.strides else "K"
    return record("clone", data.copy(order=order), (input,), lambda dy: (dy,))


def contiguous(input: Tensor) -> Tensor:
    """The tensor in row-major memory: itself if its memory is so already."""
    if input.data.flags.c_contiguous:
        return input
    return record("contiguous", input.data.copy(), (input,), lambda dy: (dy,))


def flip(input: Tensor, *axes: Any, dims: Any = None) -> Tensor:
    """A copy with the order of elements reversed along `dims`, which may be a keyword, a sequence, or one by one."""
    if not axes and dims is None:
        raise TypeError("flip: got no dims; expected ints, or one sequence of them")
    dims = shape_argument("flip", axes, dims)
    input = as_tensor("flip", input)
    axes = normalize_axes("flip", dims, input.ndim) if dims else ()
    y = array_module(input.data).flip(input.data, axes).copy()
    return record("flip", y, (input,), lambda dy: (flip(dy, axes),))


def roll(input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """A copy with the elements moved round along `dims` (None or empty: by one shift along the flattened tensor).

    A dimension may be listed more than once: its shifts add up.
    """
    by = tuple([integer("roll", "a shift", s) for s in (shifts if isinstance(shifts, (tuple, list)) else (shifts,))])
    given = tuple(dims) if isinstance(dims, (tuple, list)) else () if dims is None else (dims,)
    if not by:
        raise ValueError("roll: there are no shifts; expected at least one")
    if len(by) != (len(given) or 1):
        raise ValueError(f"roll: {len(by)} shifts for {len(given)} dims; expected one each, or one for no dims")
    if given and not input.ndim:
        raise IndexError(f"roll: dims are {given} but the tensor has no dimensions; expected no dims")
    along = tuple([normalize_axis("roll", d, input.ndim) for d in given])
    back = tuple([-s for s in by])
    input = as_tensor("roll", input)
    y = array_module(input.data).roll(input.data, by if along else by[0], along or None)
    return record("roll", y, (input,), lambda dy: (roll(dy, back, along),))


def repeat(input: Tensor, *sizes: Any) -> Tensor:
    """The tensor tiled `sizes` times (NumPy's tile). Raises ValueError for fewer sizes than dimensions."""
    reps = shape_argument("repeat", sizes)
    lead = len(reps) - input.ndim
    if lead < 0 or min(reps, default=0) < 0:
        raise ValueError(f"repeat: the tensor is {input.shape}; expected at least {input.ndim} sizes >= 0, got {reps}")
    shape = (1,) * lead + input.shape
    spread = [n for r, s in zip(reps, shape) for n in (r, s)]
    x = reshape(input, [n for s in shape for n in (1, s)])
    y = reshape(expand(x, spread), [r * s for r, s in zip(reps, shape)])
    return clone(y) if y._storage is input._storage else y


def tile(input: Tensor, *sizes: Any, dims: Any = None) -> Tensor:
    """repeat, with missing leading sizes taken as 1."""
    reps = shape_argument("tile", sizes, dims)
    return repeat(input, (1,) * (input.ndim - len(reps)) + reps)


def repeat_interleave(
    input: Tensor, repeats: int | Tensor, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Every element along `dim` (None: of the flattened tensor) `repeats` times in a row.

    repeats      an int >= 0, or a tensor of integers, one for each element along `dim` or one for all
    output_size  the size of `dim` in the result, where it is known; it must be right
    """
    op = "repeat_interleave"
    if isinstance(repeats, bool) or not isinstance(repeats, (int, np.integer, Tensor)):
        raise TypeError(f"{op}: repeats is a {type(repeats).__name__}; expected an int or a tensor of integers")
    if dim is None:
        input, dim = flatten(input), 0
    d, n = _along(op, input, dim)
    one = not isinstance(repeats, Tensor)
    counts = np.asarray(repeats) if one else on_host(repeats.data)
    if counts.dtype.kind not in "iu" or counts.ndim > 1:
        raise TypeError(f"{op}: repeats is {counts.dtype} of shape {counts.shape}; expected integers, 0-D or 1-D")
    if counts.size and counts.min() < 0:
        raise ValueError(f"{op}: repeats holds {counts.min()}; expected at least 0")
    if counts.size not in (1, n):
        raise ValueError(f"{op}: repeats has {counts.size} elements; expected 1 or {n}, the size of dim {d}")
    total = int(counts.sum()) if counts.size == n else n * int(counts.item())
    if output_size is not None and output_size != total:
        raise ValueError(f"{op}: output_size is {output_size}; expected {total}, the sum of repeats")
    if not one:
        at = array_module(input.data).asarray(np.repeat(np.arange(n), counts))
        return input[(slice(None),) * d + (at,)]
    s = input.shape
    x = expand(unsqueeze(input, d + 1), (*s[: d + 1], repeats, *s[d + 1 :]))
    y = reshape(x, (*s[:d], s[d] * repeats, *s[d + 1 :]))
    return clone(y) if y._storage is input._storage else y


# --- joins and splits ------------------------------------------------------------------------------------------------


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along `dim`, which is the only one in which their sizes may differ.

    A tensor of shape (0,) fits all others and adds nothing, as in PyTorch.
    """
    tensors = [as_tensor("cat", x) for x in tensors]
    if not tensors:
        raise ValueError("cat: expected at least one tensor; got none")
    first = tensors[0]
    if first.data.shape == (0,):
        first = next((x for x in tensors if x.ndim != 1), first)
    if first.ndim == 0:
        raise ValueError("cat: tensor 0 has no dimensions; expected at least 1 (stack joins scalars)")
    d = normalize_axis("cat", dim, first.ndim)
    for i, x in enumerate(tensors):
        if x.ndim == 1 < first.ndim and x.shape == (0,):
            tensors[i] = reshape(x, (*first.shape[:d], 0, *first.shape[d + 1 :]))
        elif x.ndim != first.ndim or any(a != b for k, (a, b) in enumerate(zip(x.shape, first.shape)) if k != d):
            raise ValueError(
                f"cat: tensor 0 is {first.shape} but tensor {i} is {x.shape}; expected equality but in dim {d}"
            )
    require_one_device("cat", *tensors)
    dtype = dtypes.promote(*(x.data for x in tensors))
    tensors = [cast(x, dtype) for x in tensors]
    sizes = [x.shape[d] for x in tensors]
    arrays = [x.data for x in tensors]
    y = array_module(first.data).concatenate(arrays, axis=d, **_pooled(arrays, d))
    return record("cat", y, tensors, lambda dy: split(dy, sizes, d))


concat = concatenate = cat


def _pooled(arrays: list[Any], d: int) -> dict[str, Any]:
    """Where NumPy is to write a large result: memory of the pool, so that the system need not give fresh pages."""
    in_order = all(type(array) is np.ndarray and array.flags.c_contiguous for array in arrays)
    size = sum([array.nbytes for array in arrays]) if in_order else 0
    if size < buffers.SMALLEST or capturing() is not None:
        return {}
    shape = list(arrays[0].shape)
    shape[d] = sum([array.shape[d] for array in arrays])
    return {"out": buffers.empty(tuple(shape), arrays[0].dtype)}


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new dimension."""
    tensors = [as_tensor("stack", x) for x in tensors]
    if not tensors:
        raise ValueError("stack: expected at least one tensor; got none")
    for i, x in enumerate(tensors):
        if x.shape != tensors[0].shape:
            raise ValueError(f"stack: tensor 0 is {tensors[0].shape} but tensor {i} is {x.shape}; expected one shape")
    return cat([unsqueeze(x, dim) for x in tensors], dim)


def split(input: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of pieces along `dim`: of one size (the last may be smaller), or of the sizes listed."""
    d, n = _along("split", input, dim)
    if not isinstance(split_size_or_sections, (tuple, list)):
        size = integer("split", "split_size", split_size_or_sections)
        if size <= 0:
            raise ValueError(f"split: split_size is {size}; expected at least 1")
        sizes = [min(size, n - start) for start in range(0, n, size)] or [0]
    else:
        sizes = [integer("split", "a section", size) for size in split_size_or_sections]
        if sum(sizes) != n or min(sizes, default=0) < 0:
            raise ValueError(f"split: sections {sizes} add up to {sum(sizes)}; expected {n}, the size of dim {d}")
    starts = np.cumsum([0, *sizes]).tolist()
    return _pieces("split", input, d, [slice(start, start + size) for start, size in zip(starts, sizes)])


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of at most `chunks` pieces of equal size along `dim` (the last may be smaller)."""
    chunks = integer("chunk", "chunks", chunks)
    if chunks <= 0:
        raise ValueError(f"chunk: chunks is {chunks}; expected at least 1")
    d, n = _along("chunk", input, dim)
    return split(input, [0] * chunks if n == 0 else -(-n // chunks), d)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of the slices along `dim`, without it."""
    d, n = _along("unbind", input, dim)
    return _pieces("unbind", input, d, list(range(n)))


def _pieces(op: str, input: Tensor, d: int, places: Sequence[slice | int]) -> tuple[Tensor, ...]:
    """Views of the places along dimension d, which cover it and do not overlap.

    Their gradients are joined in the memory order of the input: heads that are views of a layer's output get gradients
    that are views of that layer's.
    """
    before = (slice(None),) * d
    if len(places) < 2 or not (input._requires_grad and is_grad_enabled()):
        return tuple(input[(*before, place)] for place in places)
    if capture_hooks.capturing:
        input = capture_hooks.operand(input)
    x = input._data
    views = [x[(*before, place, ...)] for place in places]
    shape, shapes = x.shape, [view.shape for view in views]
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))

    def rule(dy: Any) -> tuple:
        parts = [dy.parts[i] if i in dy.parts else _zeros(dy, shapes[i]) for i in range(len(shapes))]
        parts = [part if part.ndim == len(shape) else unsqueeze(part, d) for part in parts]
        joined = cat([permute(part, order) for part in parts], order.index(d))
        return (permute(joined, np.argsort(order).tolist()),)

    together = record(op, x, (input,), rule, view_of=input)
    return tuple(
        record(op, view, (together,), lambda dy, i=i: (piece(i, dy, shape),), view_of=together)
        for i, view in enumerate(views)
    )


def _zeros(like: Any, shape: tuple[int, ...]) -> Tensor:
    array = next(iter(like.parts.values()))._data
    return wrap(array_module(array).zeros(shape, array.dtype))


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A view of the elements start..start+length along `dim`; a negative start counts from the end."""
    d, n = _along("narrow", input, dim)
    start, length = integer("narrow", "start", start), integer("narrow", "length", length)
    first = start + n if start < 0 else start
    if not (0 <= first and 0 <= length and first + length <= n):
        raise IndexError(f"narrow: start is {start} and length {length}; expected a range within dim {d} of size {n}")
    return input[(slice(None),) * d + (slice(first, first + length),)]


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """A view of the slice `index` along `dim`, without it."""
    d, n = _along("select", input, dim)
    index = integer("select", "index", index)
    if not -n <= index < n:
        raise IndexError(f"select: index is {index}; expected {-n} <= index < {n}, the size of dim {d}")
    return input[(slice(None),) * d + (index,)]


def _along(op: str, x: Tensor, dim: int) -> tuple[int, int]:
    """A dimension counted from the left, and its size."""
    if x.ndim == 0:
        raise IndexError(f"{op}: the tensor has no dimensions; expected at least 1")
    d = normalize_axis(op, dim, x.ndim)
    return d, x.shape[d]


# --- padding and triangles -------------------------------------------------------------------------------------------


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """Padded by (left, right) pairs that start at the last dimension; negative entries cut.

    mode "constant" fills with `value`; "reflect" (without the edge), "replicate" and "circular" repeat the tensor.
    """
    input = as_tensor("pad", input)
    pad, value = [integer("pad", "a width", width) for width in pad], scalar("pad", "value", value)
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad) - 1, 2)]
    if len(pad) % 2 or len(pairs) > input.ndim:
        raise ValueError(f"pad: got {tuple(pad)} for shape {input.shape}; expected a pair a dimension at most")
    widths = [(0, 0)] * (input.ndim - len(pairs)) + pairs[::-1]
    # Replicate and reflect also see what is cut: see _pad_by_index.
    kept = [
        s + a + b if mode in ("replicate", "reflect") else s + min(a, 0) + min(b, 0)
        for s, (a, b) in zip(input.shape, widths)
    ]
    if min(kept, default=0) < 0:
        raise ValueError(f"pad: {tuple(pad)} cuts more than there is of {input.shape}; expected sizes >= 0")
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise ValueError(f"pad: mode is {mode!r}; expected 'constant', 'reflect', 'replicate' or 'circular'")
    if mode == "constant":
        return _pad_constant(input, widths, value)
    return _pad_by_index(input, widths, mode)


def _pad_constant(x: Tensor, widths: list[tuple[int, int]], value: float) -> Tensor:
    cut = tuple(slice(max(-a, 0), s - max(-b, 0)) for s, (a, b) in zip(x.shape, widths))
    grown = [(max(a, 0), max(b, 0)) for a, b in widths]
    y = array_module(x.data).pad(x.data[cut], grown, constant_values=value)
    # The adjoint of padding with zeros is padding by the opposite widths.
    opposite = [(-a, -b) for a, b in widths]
    return record("pad", y, (x,), lambda dy: (_pad_constant(dy, opposite, 0.0),))


def _pad_by_index(x: Tensor, widths: list[tuple[int, int]], mode: str) -> Tensor:
    xp = array_module(x.data)
    for d, (before, after) in enumerate(widths):
        if (before, after) == (0, 0):
            continue
        # As in PyTorch, a circle is closed after the cut; replicate and reflect also see what is cut.
        cut, n = 0, x.shape[d]
        if mode == "circular":
            cut = max(-before, 0)
            n -= cut + max(-after, 0)
            before, after = max(before, 0), max(after, 0)
        at = np.arange(-before, n + after)
        if mode == "replicate" and n > 0:
            at = at.clip(0, n - 1)
        elif mode == "circular" and max(before, after) <= n:
            at %= n
        elif mode == "reflect" and max(before, after) < n:
            at = np.abs(at)
            at = np.where(at >= n, 2 * (n - 1) - at, at)
        else:
            found = f"got {widths[d]} for dim {d} of size {x.shape[d]}"
            raise ValueError(f"pad: {found}; expected no more than there is to {mode}")
        x = x[(slice(None),) * d + (xp.asarray(at + cut),)]
    return x


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two dimensions, zeros elsewhere."""
    input = as_tensor("tril", input)
    _at_least_matrix("tril", input)
    diagonal = integer("tril", "diagonal", diagonal)
    y = array_module(input.data).tril(input.data, diagonal)
    return record("tril", y, (input,), lambda dy: (tril(dy, diagonal),))


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two dimensions, zeros elsewhere."""
    input = as_tensor("triu", input)
    _at_least_matrix("triu", input)
    diagonal = integer("triu", "diagonal", diagonal)
    y = array_module(input.data).triu(input.data, diagonal)
    return record("triu", y, (input,), lambda dy: (triu(dy, diagonal),))


def _at_least_matrix(op: str, x: Tensor) -> None:
    if x.ndim < 2:
        raise ValueError(f"{op}: the tensor is {x.shape}; expected at least 2 dimensions")
