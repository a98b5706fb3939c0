"""Packed and padded sequences against torch: values, gradients of both orders, indices, errors, captured steps."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.nn.utils import rnn as theirs

import tilegrad as tg
from tests.captured.steps import assert_graphs
from tests.compare import assert_same
from tests.nn.versus import assert_function
from tilegrad.nn.utils import rnn as ours
from tilegrad.tensor import Tensor

SORTED, UNSORTED = [5, 3, 3, 1], [3, 1, 5, 3]
LENGTHS = {"sorted": (SORTED, True), "unsorted": (UNSORTED, False), "sorted anyway": (SORTED, False)}
every_length = pytest.mark.parametrize("name", LENGTHS)
layouts = pytest.mark.parametrize("batch_first", [False, True], ids=["steps first", "batch first"])


def padded(rng, batch_first, dtype=np.float32, steps=6, rest=(3,)):
    shape = (4, steps, *rest) if batch_first else (steps, 4, *rest)
    return rng.standard_normal(shape).astype(dtype) if np.dtype(dtype).kind == "f" else rng.integers(0, 9, shape)


def both(x, name, batch_first):
    lengths, is_sorted = LENGTHS[name]
    return (
        ours.pack_padded_sequence(Tensor(x), lengths, batch_first, is_sorted),
        theirs.pack_padded_sequence(torch.from_numpy(x), torch.tensor(lengths), batch_first, is_sorted),
    )


def assert_alike(mine, torchs):
    assert_same(mine.data.numpy(), torchs.data.numpy())
    assert mine.batch_sizes == tuple(torchs.batch_sizes.tolist())
    assert {type(size) for size in mine.batch_sizes} == {int}
    for a, b in zip(mine[2:], torchs[2:], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_same(a.numpy(), b.numpy())


@layouts
@every_length
@pytest.mark.parametrize("rest", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_pack_and_pad(name, batch_first, rest, kind, rng):
    x = padded(rng, batch_first, kind, rest=rest)
    mine, torchs = both(x, name, batch_first)
    assert_alike(mine, torchs)
    for options in ({}, {"batch_first": True, "padding_value": 7}, {"total_length": 8, "padding_value": -1.0}):
        got, want = ours.pad_packed_sequence(mine, **options), theirs.pad_packed_sequence(torchs, **options)
        assert_same(got[0].numpy(), want[0].numpy())
        assert_same(got[1].numpy(), want[1].numpy())
    for a, b in zip(ours.unpack_sequence(mine), theirs.unpack_sequence(torchs), strict=True):
        assert_same(a.numpy(), b.numpy())


@layouts
@every_length
def test_gradients(name, batch_first, dtype, rng):
    lengths, is_sorted = LENGTHS[name]
    options = (lengths, batch_first, is_sorted)

    def there_and_back(lib):
        def call(x):
            packed = lib.pack_padded_sequence(x, *options)
            data = packed.data * packed.data
            made = lib.PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
            return lib.pad_packed_sequence(made, batch_first, 2.0, 7)[0]

        return call

    x = padded(rng, batch_first, dtype)
    assert_function(there_and_back(ours), there_and_back(theirs), x)
    assert_function(
        lambda x: tg.cat(ours.unpack_sequence(ours.pack_padded_sequence(x, *options)), 0),
        lambda x: torch.cat(theirs.unpack_sequence(theirs.pack_padded_sequence(x, *options)), 0),
        x,
    )


def test_gradients_of_gradients(rng):
    x = Tensor(padded(rng, False, np.float64), requires_grad=True)

    def call(x):
        packed = ours.pack_padded_sequence(x, UNSORTED, enforce_sorted=False)
        again = ours.pack_sequence([y.square() for y in ours.unpack_sequence(packed)], enforce_sorted=False)
        return ours.pad_packed_sequence(again, padding_value=1.5)[0].square()

    assert tg.gradcheck(call, [x])
    assert tg.gradgradcheck(call, [x])


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"padding_value": 2, "padding_side": "left"}], ids=str)
def test_pad_sequence(options, dtype, rng):
    arrays = [rng.standard_normal((n, 2)).astype(dtype) for n in (3, 0, 5, 5)]
    assert_function(
        lambda *x: ours.pad_sequence(x, **options), lambda *x: theirs.pad_sequence(x, **options), *arrays, repeated=-1
    )


def test_pad_sequence_has_the_dtype_of_the_first():
    mixed = [np.array([1, 2]), np.array([1.5, 2.5, 3.5], np.float32)]
    for order in (mixed, mixed[::-1]):
        got = ours.pad_sequence([Tensor(x) for x in order], padding_value=0.75)
        assert_same(got.numpy(), theirs.pad_sequence([torch.from_numpy(x) for x in order], padding_value=0.75).numpy())


@pytest.mark.parametrize("name", LENGTHS)
def test_pack_sequence(name, dtype, rng):
    lengths, is_sorted = LENGTHS[name]
    arrays = [rng.standard_normal((n, 2)).astype(dtype) for n in lengths]
    assert_alike(
        ours.pack_sequence([Tensor(x) for x in arrays], is_sorted),
        theirs.pack_sequence([torch.from_numpy(x) for x in arrays], is_sorted),
    )
    assert_function(
        lambda *x: ours.pack_sequence(x, is_sorted).data, lambda *x: theirs.pack_sequence(x, is_sorted).data, *arrays
    )


@layouts
def test_unpad_sequence(batch_first, rng):
    x = padded(rng, batch_first)
    got = ours.unpad_sequence(Tensor(x), [3, 0, 6, 9], batch_first)
    want = theirs.unpad_sequence(torch.from_numpy(x.copy()), torch.tensor([3, 0, 6, 9]), batch_first)
    for a, b in zip(got, want, strict=True):
        assert_same(a.numpy(), b.numpy())


def test_lengths_may_be_a_list_an_array_or_a_tensor(rng):
    x = Tensor(padded(rng, False))
    want = ours.pack_padded_sequence(x, SORTED)
    for lengths in (tuple(SORTED), np.array(SORTED, np.int32), tg.tensor(SORTED), [np.int64(n) for n in SORTED]):
        found = ours.pack_padded_sequence(x, lengths)
        assert found.batch_sizes == want.batch_sizes
        assert_same(found.data.numpy(), want.data.numpy())


def test_made_by_hand(rng):
    mine, torchs = both(padded(rng, False), "unsorted", False)
    sizes = tg.tensor(mine.batch_sizes)
    assert_alike(ours.PackedSequence(mine.data, sizes, mine.sorted_indices), torchs)
    assert_alike(ours.PackedSequence((mine.data, sizes)), theirs.PackedSequence((torchs.data, torchs.batch_sizes)))
    assert mine._fields == torchs._fields
    data, sizes, *_ = mine
    assert data is mine.data and sizes is mine.batch_sizes
    for other in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert_alike(other, torchs)
        assert_same(ours.pad_packed_sequence(other)[1].numpy(), np.array(UNSORTED))


def test_dtypes_and_devices(rng):
    mine, torchs = both(padded(rng, False), "unsorted", False)
    for name in ("double", "half", "float", "long", "int"):
        assert_alike(getattr(mine, name)(), getattr(torchs, name)())
    assert mine.float() is mine and mine.cpu() is mine and mine.to("cpu") is mine and not mine.is_cuda
    there = mine.to("cuda")
    assert there.is_cuda and {x.device for x in (there.data, *there[2:])} == {"cuda"}
    assert_alike(there.cpu(), torchs)
    assert_same(ours.pad_packed_sequence(there)[1].numpy(), np.array(UNSORTED))  # the order comes from the GPU


def test_the_shared_indices_cannot_be_written_to(rng):
    packed = ours.pack_padded_sequence(Tensor(padded(rng, False)), UNSORTED, enforce_sorted=False)
    with pytest.raises(RuntimeError, match="x is read-only"):
        packed.sorted_indices.fill_(0)


def test_a_captured_step_has_a_graph_for_each_set_of_lengths(rng):
    @tg.capture
    def step(x, lengths):
        packed = ours.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return ours.pad_packed_sequence(packed, total_length=6)[0] * 2, packed

    for lengths in [SORTED] * 4 + [UNSORTED] * 4 + [SORTED]:
        x = Tensor(padded(rng, False))
        got, packed = step(x, lengths)
        want, torchs = both(x.numpy(), "unsorted" if lengths is UNSORTED else "sorted anyway", False)
        assert_same(got.numpy(), ours.pad_packed_sequence(want, total_length=6)[0].numpy() * 2)
        assert_alike(packed, torchs)
    assert_graphs(step, 2)


def test_a_captured_step_takes_packed_sequences(rng):
    step = tg.capture(lambda packed: ours.pad_packed_sequence(packed)[0] + 1)
    for lengths in [SORTED] * 4 + [[4, 2, 1, 1]] * 4:
        x = padded(rng, False)
        packed = theirs.pack_padded_sequence(torch.from_numpy(x), lengths)
        got = step(ours.pack_padded_sequence(Tensor(x), lengths))
        assert_same(got.numpy(), theirs.pad_packed_sequence(packed)[0].numpy() + 1)
    assert_graphs(step, 2)


def test_a_captured_step_does_not_read_lengths_from_a_tensor(rng):
    x, other = Tensor(padded(rng, False)), [2, 2, 1, 1]
    want = ours.pack_padded_sequence(x, other).data.numpy()
    step = tg.capture(lambda x, lengths: ours.pack_padded_sequence(x, lengths).data)
    with pytest.warns(RuntimeWarning, match="pack_padded_sequence reads values, which are not there yet"):
        found = [step(x, tg.tensor(lengths)) for lengths in [SORTED] * 3 + [other]]
    assert_same(found[-1].numpy(), want)
    around = tg.tensor(SORTED)
    step = tg.capture(lambda x: ours.pack_padded_sequence(x, around).data)
    with pytest.warns(RuntimeWarning, match="reads lengths from a tensor; expected a list or tuple of ints"):
        for _ in range(3):
            step(x)
    around.copy_(tg.tensor(other))
    assert_same(step(x).numpy(), want)


X = tg.ones(6, 4, 3)
PACKED = ours.pack_padded_sequence(X, SORTED)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ours.pack_padded_sequence(X, UNSORTED), ValueError,
         "pack_padded_sequence: lengths are (3, 1, 5, 3); expected them in decreasing order, or enforce_sorted=False"),
        (lambda: ours.pack_padded_sequence(X, [3, 2, 1]), ValueError, "pack_padded_sequence: there are 3 lengths"),
        (lambda: ours.pack_padded_sequence(X, [7, 2, 1, 1]), ValueError, "pack_padded_sequence: a length is 7"),
        (lambda: ours.pack_padded_sequence(X, [3, 2, 1, 0]), ValueError, "pack_padded_sequence: lengths are (3, 2"),
        (lambda: ours.pack_padded_sequence(X, [3.0, 2, 1, 1]), TypeError, "pack_padded_sequence: lengths is [3.0, 2"),
        (lambda: ours.pack_padded_sequence(X, tg.ones(4)), TypeError, "pack_padded_sequence: lengths is float32 of"),
        (lambda: ours.pack_padded_sequence(X, tg.tensor(SORTED, device="cuda")), TypeError,
         "pack_padded_sequence: lengths is on cuda; expected numbers of the host"),
        (lambda: ours.pack_padded_sequence(X, 3), TypeError, "pack_padded_sequence: lengths is int"),
        (lambda: ours.pack_padded_sequence(tg.ones(3), [3]), ValueError, "pack_padded_sequence: input is (3,)"),
        (lambda: ours.pad_packed_sequence(X), TypeError, "pad_packed_sequence: got Tensor; expected a PackedSequence"),
        (lambda: ours.pad_packed_sequence(PACKED, total_length=4), ValueError,
         "pad_packed_sequence: total_length is 4; expected at least 5, the longest length"),
        (lambda: ours.pad_packed_sequence(ours.PackedSequence(X, (2, 3))), ValueError,
         "pad_packed_sequence: batch_sizes are (2, 3) and data (6, 4, 3)"),
        (lambda: ours.unpack_sequence(X), TypeError, "unpack_sequence: got Tensor"),
        (lambda: ours.PackedSequence(X), TypeError, "PackedSequence: got no batch_sizes"),
        (lambda: ours.pad_sequence([]), ValueError, "pad_sequence: there are no sequences"),
        (lambda: ours.pad_sequence(3), TypeError, "pad_sequence: sequences is int; expected tensors"),
        (lambda: ours.pad_sequence([X, [1]]), TypeError, "pad_sequence: sequence 1 is list; expected a tensor"),
        (lambda: ours.pad_sequence([X, tg.ones(4, 4)]), ValueError, "pad_sequence: sequence 1 is (4, 4)"),
        (lambda: ours.pad_sequence([X], padding_side="top"), ValueError, "pad_sequence: padding_side is 'top'"),
        (lambda: ours.unpad_sequence(X, [1, 2]), ValueError, "unpad_sequence: there are 2 lengths for 4 sequences"),
        (lambda: ours.pack_sequence([tg.ones(0, 2)]), ValueError, "pack_sequence: lengths are (0,)"),
    ],
)  # fmt: skip
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)
