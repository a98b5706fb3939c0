"""Other shapes of the same elements: views, joins, splits, repetitions, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_numpy, convert_to_tensor, of_one_dtype
from tilegrad.keras.backend.operands import promoted
from tilegrad.ops.operands import normalize_axes, normalize_axis
from tilegrad.ops.shape import pad as pad_tensor
from tilegrad.tensor import Tensor


def reshape(x: Any, newshape: Any) -> Tensor:
    """The elements in another shape; one size may be -1."""
    return convert_to_tensor(x).reshape(sizes(newshape))


def sizes(shape: Any) -> tuple[int, ...]:
    """A shape as ints, also of an int, or of numbers that are tensors."""
    if isinstance(shape, (list, tuple)):
        return tuple([int(n) for n in shape])
    return (int(shape),) if isinstance(shape, int) else tuple(convert_to_numpy(shape).reshape(-1).tolist())


def ravel(x: Any) -> Tensor:
    """In one dimension."""
    return convert_to_tensor(x).reshape(-1)


def ndim(x: Any) -> Tensor:
    """How many dimensions there are; int32."""
    return convert_to_tensor(convert_to_tensor(x).ndim, dtype="int32")


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """The dimensions in that order, or in reverse; a view."""
    x = convert_to_tensor(x)
    return x.permute(tuple(reversed(range(x.ndim))) if axes is None else tuple(axes))


def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """Two dimensions exchanged."""
    return convert_to_tensor(x).transpose(axis1, axis2)


def moveaxis(x: Any, source: Any, destination: Any) -> Tensor:
    """Dimensions moved to other places."""
    source, destination = [a if isinstance(a, int) else tuple(a) for a in (source, destination)]
    return convert_to_tensor(x).movedim(source, destination)


def squeeze(x: Any, axis: Any = None) -> Tensor:
    """Without dimensions of size 1: all, or those of axis. Raises ValueError for another size."""
    x = convert_to_tensor(x)
    for d in () if axis is None else normalize_axes("squeeze", axis, x.ndim):
        if x.shape[d] != 1:
            raise ValueError(f"squeeze: the tensor is {x.shape}; expected size 1 along axis {d}")
    return x.squeeze(None if axis is None else tuple(axis) if isinstance(axis, (list, tuple)) else axis)


def expand_dims(x: Any, axis: Any) -> Tensor:
    """With dimensions of size 1 at these places of the result."""
    x = convert_to_tensor(x)
    axes = axis if isinstance(axis, (list, tuple)) else (axis,)
    rank = x.ndim + len(axes)
    for d in sorted([normalize_axis("expand_dims", a, rank) for a in axes]):
        x = x.unsqueeze(d)
    return x


def broadcast_to(x: Any, shape: Any) -> Tensor:
    """Repeated to a shape; a view."""
    return convert_to_tensor(x).broadcast_to(sizes(shape))


def concatenate(xs: Any, axis: int | None = 0) -> Tensor:
    """One after the other along an axis; flattened first if that is None."""
    tensors = of_one_dtype([convert_to_tensor(x) for x in xs])
    if axis is None:
        tensors, axis = [x.reshape(-1) for x in tensors], 0
    return tg.cat(tensors, axis)


def append(x1: Any, x2: Any, axis: int | None = None) -> Tensor:
    """x2 behind x1."""
    return concatenate([x1, x2], axis)


def stack(x: Any, axis: int = 0) -> Tensor:
    """Along a new axis."""
    return tg.stack(of_one_dtype([convert_to_tensor(item) for item in x]), axis)


def hstack(xs: Any) -> Tensor:
    """Side by side."""
    tensors = [x.reshape(1) if not x.ndim else x for x in map(convert_to_tensor, xs)]
    return concatenate(tensors, 0 if tensors[0].ndim == 1 else 1)


def vstack(xs: Any) -> Tensor:
    """One above the other."""
    return concatenate([x.reshape(1, -1) if x.ndim < 2 else x for x in map(convert_to_tensor, xs)], 0)


def dstack(xs: Any) -> Tensor:
    """One behind the other, along the third axis."""
    tensors = [x.reshape(1, -1) if x.ndim < 2 else x for x in map(convert_to_tensor, xs)]
    return concatenate([x.unsqueeze(2) if x.ndim == 2 else x for x in tensors], 2)


def split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """Equal parts along an axis, or parts that begin at these indices."""
    x = convert_to_tensor(x)
    n = x.shape[normalize_axis("split", axis, x.ndim)]
    if isinstance(indices_or_sections, int):
        if n % indices_or_sections:
            raise ValueError(f"split: {n} along axis {axis} in {indices_or_sections} sections; expected equal ones")
        ends = [n // indices_or_sections * (i + 1) for i in range(indices_or_sections)]
    else:
        ends = [min(max(i + n if i < 0 else i, 0), n) for i in sizes(indices_or_sections)] + [n]
    return _parts(x, ends, axis)


def array_split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """Parts along an axis that differ in length by one at most."""
    x = convert_to_tensor(x)
    if not isinstance(indices_or_sections, int):
        return split(x, indices_or_sections, axis)
    each, longer = divmod(x.shape[axis], indices_or_sections)
    return _parts(x, [each * (i + 1) + min(i + 1, longer) for i in range(indices_or_sections)], axis)


def _parts(x: Tensor, ends: list[int], axis: int) -> list[Tensor]:
    starts = [0, *ends[:-1]]
    return [x.narrow(axis, min(a, b), max(b - a, 0)) for a, b in zip(starts, ends)]


def hsplit(x: Any, indices_or_sections: Any) -> list[Tensor]:
    """split along the second axis, of a vector along its one."""
    x = convert_to_tensor(x)
    return split(x, indices_or_sections, 1 if x.ndim > 1 else 0)


def vsplit(x: Any, indices_or_sections: Any) -> list[Tensor]:
    """split along the first axis."""
    return split(x, indices_or_sections, 0)


def dsplit(x: Any, indices_or_sections: Any) -> list[Tensor]:
    """split along the third axis."""
    return split(x, indices_or_sections, 2)


def tile(x: Any, repeats: Any) -> Tensor:
    """The whole, repeated along each dimension."""
    return tg.tile(convert_to_tensor(x), sizes(repeats))


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Tensor:
    """Each element, repeated along an axis; of the flattened tensor if that is None."""
    x = convert_to_tensor(x)
    if not isinstance(repeats, int):
        repeats = convert_to_tensor(repeats).reshape(-1).long()
        repeats = int(repeats.item()) if repeats.numel() == 1 else repeats
    return tg.repeat_interleave(x, repeats, axis)


def flip(x: Any, axis: Any = None) -> Tensor:
    """The elements in reverse along the axes, or along all."""
    x = convert_to_tensor(x)
    return x.flip(tuple(normalize_axes("flip", axis, x.ndim)))


def fliplr(x: Any) -> Tensor:
    """flip along the second axis."""
    return flip(x, 1)


def flipud(x: Any) -> Tensor:
    """flip along the first axis."""
    return flip(x, 0)


def roll(x: Any, shift: Any, axis: Any = None) -> Tensor:
    """The elements moved along the axes, those that fall out coming in again; flattened first without axes."""
    return convert_to_tensor(x).roll(shift, axis)


def rot90(array: Any, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """Turned k times by 90 degrees in the plane of two axes."""
    x = convert_to_tensor(array)
    if x.ndim < 2 or len(axes) != 2:
        raise ValueError(f"rot90: the tensor is {x.shape} and axes {axes}; expected two of at least two dimensions")
    a, b = [normalize_axis("rot90", axis, x.ndim) for axis in axes]
    if a == b:
        raise ValueError(f"rot90: axes are {axes}; expected two different ones")
    turns = k % 4
    if turns == 2:
        return x.flip((a, b))
    return x.flip(b).transpose(a, b) if turns == 1 else x.transpose(a, b).flip(b) if turns == 3 else x


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = None) -> Tensor:
    """Wider by (before, after) along each dimension: by a constant, or by mode "reflect", "symmetric" or "edge"."""
    x = convert_to_tensor(x)
    widths = np.broadcast_to(np.asarray(pad_width, int), (x.ndim, 2)).tolist()
    if constant_values is not None and mode != "constant":
        raise ValueError(
            "Argument `constant_values` can only be provided when `mode == 'constant'`. "
            f"Received: mode={mode!r}, constant_values={constant_values}"
        )
    if mode == "symmetric":
        for d, (before, after) in enumerate(widths):
            n = x.shape[d]
            x = tg.cat([x.narrow(d, 0, before).flip(d), x, x.narrow(d, n - after, after).flip(d)], d)
        return x
    ours = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    if mode not in ours:
        raise NotImplementedError(f"pad: mode {mode!r} is not implemented in the tilegrad backend")
    flat = [n for pair in reversed(widths) for n in pair]
    value = 0 if constant_values is None else convert_to_tensor(constant_values).item()
    return pad_tensor(x, flat, ours[mode], value)


def meshgrid(*x: Any, indexing: str = "xy") -> list[Tensor]:
    """Vectors spread over a grid, each along a dimension of its own; "xy" exchanges the first two."""
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing is {indexing!r}; expected 'xy' or 'ij'")
    vectors = [convert_to_tensor(v).reshape(-1) for v in x]
    shape = [len(v) for v in vectors]
    grids = [v.reshape([-1 if d == i else 1 for d in range(len(shape))]).expand(shape) for i, v in enumerate(vectors)]
    return [g.transpose(0, 1) for g in grids] if indexing == "xy" and len(grids) > 1 else grids


def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The diagonals of matrices in two axes."""
    return tg.diagonal(convert_to_tensor(x), offset, axis1, axis2)


def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The sum of a diagonal."""
    from tilegrad.keras.backend.numpy.reductions import sum

    return sum(diagonal(x, offset, axis1, axis2), -1)


def tril(x: Any, k: int = 0) -> Tensor:
    """The lower triangle."""
    return tg.tril(convert_to_tensor(x), k)


def triu(x: Any, k: int = 0) -> Tensor:
    """The upper triangle."""
    return tg.triu(convert_to_tensor(x), k)


def copy(x: Any) -> Tensor:
    """The same elements in other memory."""
    return convert_to_tensor(x).clone()


def select(condlist: Any, choicelist: Any, default: Any = 0) -> Tensor:
    """The first choice whose condition holds."""
    found = default
    for condition, choice in reversed(list(zip(condlist, choicelist))):
        a, b = promoted(choice, found)
        found = tg.where(convert_to_tensor(condition, dtype="bool"), a, b)
    return convert_to_tensor(found)
