"""Batches of sequences of different lengths: padded to the longest, or packed without padding.

A packed batch holds all first elements, then all second ones, and so on, of the sequences in the order of decreasing
length. So the sequences that go on at step t are the first batch_sizes[t], and no step computes with padding.

Every function here moves rows by one gather, whose index depends on the lengths alone. That index is made once for the
lengths and kept. Gradients flow, to any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from tilegrad import capture_hooks, ops
from tilegrad.create import full, tensor
from tilegrad.nn.functional.arguments import is_int, one_of, require_tensor
from tilegrad.ops.constants import constant
from tilegrad.ops.operands import cast, require_one_device
from tilegrad.tensor import Tensor

Lengths = tuple[int, ...]


class _Packed(NamedTuple):
    data: Tensor
    batch_sizes: tuple[int, ...]
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Packed):
    """Sequences of different lengths without padding, step by step; `pack_padded_sequence` makes one.

    data              (sum of the lengths, ...): the elements of step 0, then those of step 1, and so on
    batch_sizes       how many sequences have a step: a tuple of ints, which do not increase. PyTorch has a tensor on
                      the CPU here. These too are numbers of the host: no code that reads them waits for a GPU, and a
                      captured step is captured anew where they differ
    sorted_indices    (B,) int64 on data's device: which sequence of the batch was put where. None: as they were
    unsorted_indices  (B,) int64 on data's device, the inverse: where a sequence of the batch is now

    PackedSequence((data, batch_sizes)) is PackedSequence(data, batch_sizes), and batch_sizes may be given as any
    integers of the host, also as a tensor on the CPU.
    """

    def __new__(
        cls,
        data: Any,
        batch_sizes: Any = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        op = "PackedSequence"
        if batch_sizes is None:
            if not isinstance(data, (tuple, list)) or len(data) != 2:
                raise TypeError(f"{op}: got no batch_sizes; expected them, or (data, batch_sizes) as one argument")
            data, batch_sizes = data
        require_tensor(op, data=data)
        if sorted_indices is not None and unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        sizes = _of_host(op, "batch_sizes", batch_sizes)
        return super().__new__(cls, data, sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """With data.to(*args, **kwargs), and the indices on its device; itself if data is like that already."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        moved = [None if at is None else at.to(data.device) for at in self[2:]]
        return type(self)(data, self.batch_sizes, *moved)

    def cuda(self) -> PackedSequence:
        """On "cuda"."""
        return self.to("cuda")

    def cpu(self) -> PackedSequence:
        """On the CPU."""
        return self.to("cpu")

    def double(self) -> PackedSequence:
        """With data as float64."""
        return self.to(dtype="float64")

    def float(self) -> PackedSequence:
        """With data as float32."""
        return self.to(dtype="float32")

    def half(self) -> PackedSequence:
        """With data as float16."""
        return self.to(dtype="float16")

    def long(self) -> PackedSequence:
        """With data as int64."""
        return self.to(dtype="int64")

    def int(self) -> PackedSequence:
        """With data as int32."""
        return self.to(dtype="int32")

    @property
    def is_cuda(self) -> bool:
        """Whether data is on a GPU."""
        return self.data.is_cuda


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The inverse of a permutation (B,) of 0 .. B - 1; None of None."""
    return None if permutation is None else ops.argsort(permutation)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """The first lengths[b] elements of each sequence b of input, packed.

    input           (T, B, ...), with batch_first (B, T, ...), of any dtype; T may be more than the longest sequence
    lengths         B ints, 1 <= length <= T: a list, a NumPy array, or a tensor on the CPU. A captured step takes a
                    list: it is captured anew for other lengths
    enforce_sorted  the lengths must not increase. False: the sequences are sorted, and indices say how

    Raises TypeError for lengths that are no integers or not on the CPU, ValueError for shapes, and lengths out of
    range or out of order.
    """
    op = "pack_padded_sequence"
    require_tensor(op, input=input)
    if input.ndim < 2:
        raise ValueError(f"{op}: input is {input.shape}; expected (T, B, ...), or (B, T, ...) with batch_first")
    steps, batch = input.shape[:2][:: -1 if batch_first else 1]
    found = _of_host(op, "lengths", lengths)
    if len(found) != batch:
        raise ValueError(f"{op}: there are {len(found)} lengths but input is {input.shape}; expected {batch}")
    if found and max(found) > steps:
        raise ValueError(f"{op}: a length is {max(found)} but input is {input.shape}; expected at most {steps}")
    rows = ops.reshape(input, (steps * batch, *input.shape[2:]))
    strides = (1, steps) if batch_first else (batch, 1)
    starts = tuple([b * strides[1] for b in range(batch)])
    return _packed(op, rows, found, starts, strides[0], enforce_sorted)


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Tensors (L, ...) with L >= 1, which differ in nothing but L, packed; see pack_padded_sequence."""
    op = "pack_sequence"
    given = _sequences(op, sequences)
    lengths = tuple([x.shape[0] for x in given])
    starts = tuple(accumulate(lengths, initial=0))[:-1]
    return _packed(op, ops.cat(given), lengths, starts, 1, enforce_sorted)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """(padded, lengths) of a packed batch, in the order that it was packed from.

    padded   (T, B, ...), with batch_first (B, T, ...); T is the longest length, or total_length. padding_value stands
             where a sequence has ended
    lengths  (B,) int64, on the CPU

    Raises TypeError for what is not packed, ValueError for a total_length below the longest length.
    """
    op = "pad_packed_sequence"
    _require_packed(op, sequence)
    sizes = sequence.batch_sizes
    longest = len(sizes)
    if total_length is not None and not is_int(total_length):
        raise TypeError(f"{op}: total_length is {total_length!r}; expected an int or None")
    if total_length is not None and total_length < longest:
        raise ValueError(f"{op}: total_length is {total_length}; expected at least {longest}, the longest length")
    steps = longest if total_length is None else int(total_length)
    order, lengths = _order_of(op, sequence), _sorted_lengths(sizes)
    index = constant(sequence.data, _unpacking, sizes, steps, bool(batch_first), order)
    return _with_padding(sequence.data, padding_value)[index], tensor([lengths[place] for place in order])


def pad_sequence(
    sequences: Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Tensors (L, ...), which differ in nothing but L, as one (T, B, ...), with batch_first (B, T, ...).

    T is the longest L. padding_value stands behind each shorter sequence, with padding_side "left" before it.

    Raises TypeError for what is no tensor, ValueError for no tensors, other shapes and another padding_side.
    """
    op = "pad_sequence"
    one_of(op, "padding_side", padding_side, ("left", "right"))
    given = _sequences(op, sequences)
    lengths = tuple([x.shape[0] for x in given])
    index = constant(given[0], _padding, lengths, batch_first, padding_side)
    return _with_padding(ops.cat(given), padding_value)[index]


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """The first lengths[b] elements of each sequence b of (T, B, ...), with batch_first (B, T, ...): B views.

    lengths  as pack_padded_sequence takes them; a sequence that is shorter is taken as it is
    """
    op = "unpad_sequence"
    require_tensor(op, padded_sequences=padded_sequences)
    if padded_sequences.ndim < 2:
        raise ValueError(f"{op}: padded_sequences is {padded_sequences.shape}; expected at least 2 dimensions")
    whole = ops.unbind(padded_sequences, 0 if batch_first else 1)
    found = _of_host(op, "lengths", lengths)
    if len(found) != len(whole):
        raise ValueError(f"{op}: there are {len(found)} lengths for {len(whole)} sequences; expected one each")
    return [x[: max(length, 0)] for x, length in zip(whole, found)]


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The tensors (L, ...) of a packed batch, in the order that it was packed from."""
    op = "unpack_sequence"
    _require_packed(op, packed_sequences)
    data, sizes, *_ = packed_sequences
    order, lengths = _order_of(op, packed_sequences), _sorted_lengths(sizes)
    return list(ops.split(data[constant(data, _by_sequence, sizes, order)], [lengths[place] for place in order]))


def _packed(
    op: str, rows: Tensor, lengths: Lengths, starts: tuple[int, ...], step: int, enforce_sorted: bool
) -> PackedSequence:
    """Sequence b is the rows starts[b], starts[b] + step, and so on."""
    if not lengths or min(lengths) < 1:
        raise ValueError(f"{op}: lengths are {lengths}; expected at least one, and all of them >= 1")
    order = range(len(lengths))
    indices: tuple[Tensor, ...] = ()
    if not enforce_sorted:
        order = sorted(order, key=lambda b: -lengths[b])
        indices = _order(rows, tuple(order)), _order(rows, _inverse(order))
    elif any(a < b for a, b in zip(lengths, lengths[1:])):
        raise ValueError(f"{op}: lengths are {lengths}; expected them in decreasing order, or enforce_sorted=False")
    lengths, starts = tuple([lengths[b] for b in order]), tuple([starts[b] for b in order])
    sizes = tuple([sum(length > t for length in lengths) for t in range(lengths[0])])
    return PackedSequence(rows[constant(rows, _packing, lengths, starts, step)], sizes, *indices)


class _Order(Tensor):
    """A permutation (B,) whose numbers the host knows: nobody waits for a GPU to read them."""

    __slots__ = ("order",)


def _order(like: Tensor, order: tuple[int, ...]) -> Tensor:
    """The permutation, int64, on like's device."""
    made = _Order(constant(like, _read_only, order))
    made.order = order
    return made


def _order_of(op: str, sequence: PackedSequence) -> tuple[int, ...]:
    """Where each sequence of the batch is now."""
    at = sequence.unsorted_indices
    if at is None:
        return tuple(range(sequence.batch_sizes[0]))
    known = getattr(at, "order", None)
    return _of_host(op, "unsorted_indices", at.cpu()) if known is None else known


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def _sorted_lengths(sizes: tuple[int, ...]) -> list[int]:
    return [sum(size > b for size in sizes) for b in range(sizes[0])]


def _with_padding(rows: Tensor, value: float) -> Tensor:
    """The rows, and behind them one of padding."""
    return ops.cat([rows, full((1, *rows.shape[1:]), value, dtype=rows.dtype, device=rows.device)])


def _of_host(op: str, name: str, values: Any) -> tuple[int, ...]:
    """The values as ints. Raises TypeError for what is no sequence of integers on the host."""
    if type(values) is tuple and all([type(value) is int for value in values]):
        return values
    if isinstance(values, Tensor):
        if values.is_cuda:
            raise TypeError(f"{op}: {name} is on {values.device}; expected numbers of the host, or a tensor on the CPU")
        account = capture_hooks.current()
        if account is not None and not account.is_young(values):  # they may be others at the next launch
            raise capture_hooks.CaptureError(f"reads {name} from a tensor; expected a list or tuple of ints")
        values = capture_hooks.values(values)
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise TypeError(f"{op}: {name} is {values.dtype} of shape {values.shape}; expected integers, 1-D")
        return tuple(values.tolist())
    if not isinstance(values, Iterable):
        raise TypeError(f"{op}: {name} is {type(values).__name__}; expected a list of ints")
    found = [value.item() if isinstance(value, Tensor) else value for value in values]
    if not all(map(is_int, found)):
        raise TypeError(f"{op}: {name} is {values!r}; expected ints")
    return tuple(map(int, found))


def _sequences(op: str, sequences: Any) -> list[Tensor]:
    if not isinstance(sequences, Iterable):
        raise TypeError(f"{op}: sequences is {type(sequences).__name__}; expected tensors")
    given = list(sequences)
    if not given:
        raise ValueError(f"{op}: there are no sequences; expected at least one")
    for i, x in enumerate(given):
        require_tensor(op, **{f"sequence {i}": x})
        if not x.ndim or x.shape[1:] != given[0].shape[1:]:
            raise ValueError(
                f"{op}: sequence {i} is {x.shape} and sequence 0 {given[0].shape}; expected equal (L, ...)"
            )
    require_one_device(op, *given)
    return [cast(x, given[0].dtype) for x in given]


def _require_packed(op: str, sequence: Any) -> None:
    if not isinstance(sequence, PackedSequence):
        raise TypeError(f"{op}: got {type(sequence).__name__}; expected a PackedSequence")
    data, sizes, *_ = sequence
    if not sizes or min(sizes) < 1 or any(a < b for a, b in zip(sizes, sizes[1:])) or sum(sizes) != data.shape[0]:
        raise ValueError(f"{op}: batch_sizes are {sizes} and data {data.shape}; expected decreasing sizes of its rows")


# --- the indices of the gathers, which the lengths decide ------------------------------------------------------------


def _read_only(order: tuple[int, ...]) -> np.ndarray:
    array = np.array(order, np.int64)
    array.flags.writeable = False
    return array


def _packing(lengths: Lengths, starts: tuple[int, ...], step: int) -> np.ndarray:
    """Where the packed rows are; the lengths decrease."""
    t = np.arange(lengths[0])[:, None]
    places = np.array(starts) + t * step
    return places[t < np.array(lengths)]


def _unpacking(sizes: tuple[int, ...], steps: int, batch_first: bool, order: tuple[int, ...]) -> np.ndarray:
    """(T, B): where the element of each step and sequence is in packed data; behind all of it if there is none."""
    index = np.full((steps, sizes[0]), sum(sizes))
    goes_on = np.arange(sizes[0]) < np.array(sizes)[:, None]
    index[: len(sizes)][goes_on] = np.arange(sum(sizes))
    index = index[:, order]
    return np.ascontiguousarray(index.T) if batch_first else index


def _by_sequence(sizes: tuple[int, ...], order: tuple[int, ...]) -> np.ndarray:
    """Where the elements of sequence 0 are in packed data, then those of sequence 1, and so on."""
    index = _unpacking(sizes, len(sizes), True, order)
    return index[index < sum(sizes)]


def _padding(lengths: Lengths, batch_first: bool, side: str) -> np.ndarray:
    """(T, B): where the element of each step and sequence is in joined ones; behind all of them if there is none."""
    longest, ends = max(lengths), np.cumsum(lengths)[:, None]
    t = np.arange(longest) - (longest - np.array(lengths)[:, None] if side == "left" else 0)
    inside = (t >= 0) & (t < np.array(lengths)[:, None])
    index = np.where(inside, ends - np.array(lengths)[:, None] + t, sum(lengths))
    return index if batch_first else np.ascontiguousarray(index.T)
