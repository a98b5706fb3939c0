"""Datasets, collation and the loader: the order of samples, and batches equal to torch's and to the slow
path's."""

import math
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tilegrad as tg
from tilegrad.data import DataLoader, Dataset, Subset, TensorDataset, default_collate, random_split
from tilegrad.random import Generator
from tilegrad.tensor import Tensor

Point = namedtuple("Point", "x y")


class Squares(Dataset):
    """Sample i is i * i: a dataset with an idea of its own of a sample. It accepts Python's ints only."""

    def __init__(self, n):
        self.n = n

    def __getitem__(self, index):
        assert type(index) is int
        assert 0 <= index < self.n
        return index * index

    def __len__(self):
        return self.n


def pairs(n):
    """n samples (image, label), in NumPy arrays that cannot be written."""
    images, labels = np.arange(n * 6, dtype=np.uint8).reshape(n, 2, 3), np.arange(n, dtype=np.int64)
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def seen(loader):
    """The labels in the order in which the loader gives them."""
    return [label for _, labels in loader for label in labels.tolist()]


def assert_same_batch(got, want):
    """Ours and torch's batch have the same structure, dtypes and values."""
    if isinstance(want, torch.Tensor):
        assert type(got) is Tensor
        np.testing.assert_array_equal(got.numpy(), want.numpy(), strict=True)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            assert_same_batch(got[key], want[key])
    elif isinstance(want, list | tuple) and not isinstance(want[0], str | bytes):
        assert type(got) is type(want)
        assert len(got) == len(want)
        for g, w in zip(got, want):
            assert_same_batch(g, w)
    else:  # strings, which torch leaves in whatever held them, a list or a tuple
        assert type(got) is list
        assert got == list(want)


# --- the order of samples


@given(st.integers(0, 40), st.integers(1, 12), st.booleans(), st.booleans(), st.booleans())
def test_every_sample_exactly_once(n, batch_size, shuffle, drop_last, fast):
    dataset = TensorDataset(np.arange(n)) if fast else Squares(n)
    loader = DataLoader(dataset, batch_size, shuffle, drop_last=drop_last, generator=Generator(n))
    batches = [(batch[0] if fast else batch).tolist() for batch in loader]
    samples = [sample for batch in batches for sample in batch]
    everything = list(range(n)) if fast else [i * i for i in range(n)]

    assert len(loader) == len(batches)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    if drop_last:
        assert len(batches) == n // batch_size
        assert all(len(batch) == batch_size for batch in batches)
        assert len(set(samples)) == len(samples)
        assert set(samples) <= set(everything)
    else:
        assert len(batches) == math.ceil(n / batch_size)
        assert sorted(samples) == everything
    if not shuffle:
        assert samples == everything[: len(samples)]


def test_shuffles_differ_between_epochs_and_repeat_with_the_seed():
    dataset = TensorDataset(*pairs(50))
    loader = DataLoader(dataset, batch_size=8, shuffle=True, generator=Generator(3))
    epochs = [seen(loader), seen(loader)]
    assert epochs[0] != epochs[1] != list(range(50))
    again = DataLoader(dataset, batch_size=13, shuffle=True, generator=Generator(3))
    assert [seen(again), seen(again)] == epochs  # whatever the batch size
    assert seen(DataLoader(dataset, batch_size=8, shuffle=True, generator=Generator(4))) != epochs[0]


def test_manual_seed_fixes_shuffles():
    loader = DataLoader(TensorDataset(*pairs(50)), shuffle=True)
    tg.manual_seed(11)
    epochs = [seen(loader), seen(loader)]
    tg.manual_seed(11)
    assert [seen(loader), seen(loader)] == epochs
    assert epochs[0] != epochs[1]


def test_an_epochs_order_is_drawn_when_it_begins():
    generator = Generator(5)
    loader = DataLoader(TensorDataset(*pairs(20)), shuffle=True, generator=generator)
    first, second = iter(loader), iter(loader)
    in_second = seen(second)
    in_first = seen(first)
    generator.manual_seed(5)
    assert [seen(loader), seen(loader)] == [in_first, in_second]


def test_unshuffled_draws_no_random_numbers():
    generator = Generator(5)
    before = generator.get_state()
    list(DataLoader(Squares(9), generator=generator))
    assert generator.get_state() == before


def test_images_and_labels_stay_together():
    images, labels = pairs(30)
    for batch_images, batch_labels in DataLoader(TensorDataset(images, labels), 7, shuffle=True):
        np.testing.assert_array_equal(batch_images.numpy(), images[batch_labels.numpy()], strict=True)


@pytest.mark.parametrize("sampler", [[3, 1, 1, 0, 2], (3, 1, 1, 0, 2), np.array([3, 1, 1, 0, 2])])
@pytest.mark.parametrize("fast", [True, False])
def test_sampler_gives_the_order(sampler, fast):
    dataset = TensorDataset(np.arange(4) ** 2) if fast else Squares(4)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler)
    batches = [(batch[0] if fast else batch).tolist() for batch in loader]
    assert batches == [[9, 1], [1, 0], [4]]
    assert len(loader) == 3
    assert len(DataLoader(dataset, batch_size=2, sampler=sampler, drop_last=True)) == 2


def test_sampler_may_be_any_iterable_of_any_keys():
    loader = DataLoader({"a": 1.5, "b": 2.5, "c": 3.5}, batch_size=2, sampler=iter("cab"))
    assert [batch.tolist() for batch in loader] == [[3.5, 1.5], [2.5]]
    with pytest.raises(TypeError, match="has no len"):
        len(loader)


# --- batches


@pytest.mark.parametrize("tensors", [pairs(23), tuple(map(Tensor, pairs(23)))], ids=["arrays", "tensors"])
@pytest.mark.parametrize("nested", [False, True], ids=["whole", "subset of a subset"])
def test_fast_path_equals_slow_path(tensors, nested):
    class Plain(TensorDataset):
        """The same samples, without the fast path: a subclass may mean something else by dataset[i]."""

    def batches(kind):
        dataset = kind(*tensors)
        if nested:
            dataset = Subset(Subset(dataset, range(20, 0, -1)), [5, 3, 3, 19, 0, 7, 11])
        return list(DataLoader(dataset, 5, shuffle=True, generator=Generator(0)))

    for fast, slow in zip(batches(TensorDataset), batches(Plain), strict=True):
        assert type(fast) is type(slow) is list
        for f, s in zip(fast, slow, strict=True):
            assert type(f) is type(s) is Tensor
            np.testing.assert_array_equal(f.numpy(), s.numpy(), strict=True)


def test_fast_path_makes_no_samples(monkeypatch):
    asked = []
    getitem = TensorDataset.__getitem__
    monkeypatch.setattr(TensorDataset, "__getitem__", lambda self, i: asked.append(np.shape(i)) or getitem(self, i))
    list(DataLoader(Subset(TensorDataset(*pairs(10)), range(9)), batch_size=4))
    assert asked == [(4,), (4,), (1,)]


def test_a_subclass_that_augments_is_honoured():
    class Tripled(TensorDataset):
        """Sample by sample: an index array would not do."""

        def __getitem__(self, index):
            return (f"{index}" * 3,)

    (batch,) = DataLoader(Tripled(np.arange(3.0)), batch_size=3)
    assert batch == [["000", "111", "222"]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_writing_to_a_batch_leaves_the_dataset_alone(shuffle):
    array = np.arange(6.0)
    for (batch,) in DataLoader(TensorDataset(array), batch_size=2, shuffle=shuffle):
        batch.data[:] = -1
    np.testing.assert_array_equal(array, np.arange(6.0))


def test_batches_equal_torchs():
    images, labels = (np.array(array) for array in pairs(11))
    ours = DataLoader(TensorDataset(images, labels), batch_size=4)
    theirs = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels)), batch_size=4
    )
    for got, want in zip(ours, theirs, strict=True):
        assert_same_batch(got, want)


def test_collate_fn_gets_the_samples():
    loader = DataLoader(Squares(5), batch_size=2, collate_fn=lambda samples: samples)
    assert list(loader) == [[0, 1], [4, 9], [16]]
    loader = DataLoader(TensorDataset(np.arange(3)), batch_size=2, collate_fn=lambda samples: samples)
    assert list(loader) == [[(0,), (1,)], [(2,)]]


@pytest.mark.parametrize(
    "samples",
    [
        [1, 2, -3],
        [1.5, 2.0],
        [True, False],
        ["a", "bc"],
        [b"a", b"bc"],
        [np.arange(3), np.arange(3) + 1],
        [np.float32(1.5), np.float32(2.5)],
        [np.float64(1.5), np.float64(2.5)],
        [np.uint8(200), np.uint8(255)],
        [np.array(1.5), np.array(2.5)],
        [(1, 2.0), (3, 4.0)],
        [[1, "x"], [2, "y"]],
        [Point(1, (2.0, "x")), Point(3, (4.0, "y"))],
        [{"a": 1, "b": (np.ones(2), "x")}, {"b": (np.zeros(2), "y"), "a": 2}],
        [(np.ones((2, 2), np.float32), {"k": [1, (2, 3)]}), (np.zeros((2, 2), np.float32), {"k": [4, (5, 6)]})],
        [7],
    ],
    ids=str,
)
def test_collate_equals_torchs(samples):
    assert_same_batch(default_collate(samples), torch.utils.data.default_collate(samples))


def test_collate_of_tensors():
    samples = [(Tensor(np.full((2, 3), i, np.float32)), i) for i in range(4)]
    images, numbers = default_collate(samples)
    want = np.repeat(np.arange(4, dtype=np.float32), 6).reshape(4, 2, 3)
    np.testing.assert_array_equal(images.numpy(), want, strict=True)
    assert numbers.tolist() == [0, 1, 2, 3]


def test_collate_of_other_mappings():
    got = default_collate([OrderedDict(a=1), OrderedDict(a=2)])
    assert list(got) == ["a"]
    assert got["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "samples, error, message",
    [
        ([], ValueError, "got no samples; expected at least one"),
        ([1, 2.5], TypeError, "one sample is int, another float; expected one type"),
        ([1.5, "x"], TypeError, "one sample is float, another str"),
        ([np.ones(2), 1.0], TypeError, "one sample is ndarray, another float"),
        ([None, None], TypeError, "a sample is NoneType; expected tensors, arrays, numbers"),
        ([np.array(["x"]), np.array(["y"])], TypeError, "arrays are <U1; expected numbers"),
        ([np.ones(2), np.ones(3)], ValueError, r"arrays are \(2,\), \(3,\); expected one shape"),
        ([(1, 2), (1,)], ValueError, "samples have lengths 1, 2; expected one length"),
        ([{"a": 1}, {"b": 1}], ValueError, r"keys are \['a'\] and \['b'\]; expected the same"),
    ],
)
def test_collate_refuses(samples, error, message):
    with pytest.raises(error, match=f"^default_collate: {message}"):
        default_collate(samples)


# --- datasets


def test_tensor_dataset():
    images, labels = pairs(4)
    dataset = TensorDataset(Tensor(images), labels)
    assert len(dataset) == 4
    image, label = dataset[2]
    np.testing.assert_array_equal(image.numpy(), images[2], strict=True)
    assert label == 2
    with pytest.raises(IndexError):
        dataset[4]


@pytest.mark.parametrize(
    "tensors, error, message",
    [
        ((), ValueError, "expected at least one tensor, got none"),
        ((np.ones(3), np.ones(4)), ValueError, r"lengths are \[3, 4\]; expected them equal"),
        ((np.ones(3), [1, 2, 3]), TypeError, "tensor 1 is list; expected a Tensor or NumPy array"),
        ((np.array(1),), ValueError, "tensor 0 has no dimensions; expected at least 1"),
    ],
)
def test_tensor_dataset_refuses(tensors, error, message):
    with pytest.raises(error, match=f"^TensorDataset: .*{message}"):
        TensorDataset(*tensors)


def test_subset():
    subset = Subset(Squares(10), np.array([7, 2, 2]))
    assert len(subset) == 3
    assert [subset[i] for i in range(3)] == [49, 4, 4]
    with pytest.raises(IndexError):
        subset[3]


@pytest.mark.parametrize(
    "indices, error, message",
    [
        ([0, 10], IndexError, r"found index 10; expected 0 <= index < len\(dataset\) == 10"),
        ([-1], IndexError, "found index -1; expected 0 <= index"),
        ([0.5], TypeError, "float"),
        (np.array([0.0]), TypeError, r"Subset: indices are float64 \(1,\); expected integers in one dimension"),
        (np.zeros(10, bool), TypeError, r"Subset: indices are bool \(10,\); expected integers"),
        (np.zeros((2, 2), int), TypeError, r"Subset: indices are int64 \(2, 2\)"),
    ],
)
def test_subset_refuses(indices, error, message):
    with pytest.raises(error, match=message):
        Subset(Squares(10), indices)


@pytest.mark.parametrize(
    "lengths, want",
    [
        ([7, 3], [7, 3]),
        ([0, 10], [0, 10]),
        ((10,), [10]),
        (np.array([4, 6]), [4, 6]),
        ([0.5, 0.5], [5, 5]),
        ([0.8, 0.1, 0.1], [8, 1, 1]),
        ([1 / 3, 1 / 3, 1 / 3], [4, 3, 3]),  # the floors leave one over
        ([0.28, 0.28, 0.44], [3, 3, 4]),
        ([1.0], [10]),
    ],
)
def test_random_split(lengths, want):
    parts = random_split(Squares(10), lengths, generator=Generator(1))
    assert [len(part) for part in parts] == want
    chosen = [part[i] for part in parts for i in range(len(part))]
    assert sorted(chosen) == [i * i for i in range(10)]
    assert chosen != sorted(chosen)
    again = random_split(Squares(10), lengths, generator=Generator(1))
    assert chosen == [part[i] for part in again for i in range(len(part))]
    theirs = torch.utils.data.random_split(range(10), list(lengths))
    assert [len(part) for part in theirs] == want


@pytest.mark.parametrize("lengths", [[], [5, 4], [11, -1], [0.5, 0.4], [5.0, 5.0], [math.nan, 1], [1]])
def test_random_split_refuses(lengths):
    with pytest.raises(ValueError, match="^random_split: lengths are "):
        random_split(Squares(10), lengths)


def test_dataset_without_getitem():
    with pytest.raises(NotImplementedError, match="Dataset: a dataset must define __getitem__"):
        Dataset()[0]


# --- the loader's arguments


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"batch_size": 0}, ValueError, "batch_size is 0; expected at least 1"),
        ({"batch_size": -3}, ValueError, "batch_size is -3; expected at least 1"),
        ({"batch_size": 2.0}, TypeError, "batch_size is 2.0; expected an int"),
        ({"batch_size": True}, TypeError, "batch_size is True; expected an int"),
        ({"batch_size": None}, TypeError, "batch_size is None; expected an int"),
        ({"sampler": [0], "shuffle": True}, ValueError, "got a sampler and shuffle=True; expected one of them"),
        ({"sampler": 3}, TypeError, "sampler is int; expected an iterable of indices"),
        ({"collate_fn": 3}, TypeError, "collate_fn is int; expected a function"),
        ({"generator": 3}, TypeError, "generator is int; expected an tilegrad.random.Generator"),
        ({"dataset": 3}, TypeError, "dataset is int; expected one with __getitem__"),
        ({"dataset": iter([1])}, TypeError, "dataset is list_iterator; expected one with __getitem__"),
        ({"dataset": Dataset()}, TypeError, "dataset is Dataset; expected one with __len__"),
    ],
)
def test_loader_refuses(arguments, error, message):
    with pytest.raises(error, match=f"^DataLoader: {message}"):
        DataLoader(**{"dataset": Squares(3), **arguments})


@pytest.mark.parametrize(
    "sampler, error",
    [([0.5], TypeError), ([5], IndexError), (np.array([0.5]), TypeError), (np.array([True, False]), TypeError)],
)
def test_sampler_with_bad_indices(sampler, error):
    with pytest.raises(error):
        list(DataLoader(TensorDataset(np.arange(3)), sampler=sampler))


def test_batch_size_may_be_numpys():
    assert len(DataLoader(Squares(10), batch_size=np.int64(4))) == 3
