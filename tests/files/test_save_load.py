"""save and load: what comes back is what went in; other programs read the files, and we read theirs."""

import os
from functools import partial

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.dtypes import DTYPES
from tilegrad.files import atomic, saving


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def there_and_back(obj, path):
    tg.save(obj, path)
    return tg.load(path)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, tg.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.data.tobytes() == b.data.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert_same(one, other)
    else:
        assert a == b or (a != a and b != b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (5, 0, 2)])
def test_every_dtype_and_shape(dtype, shape, path):
    x = tg.tensor(np.arange(np.prod(shape)).reshape(shape) % 2, dtype=dtype)
    assert_same(there_and_back({"x": x}, path), {"x": x})


def test_numbers_that_are_not_finite(path):
    x = tg.tensor([np.nan, np.inf, -np.inf, -0.0])
    assert_same(there_and_back([x, float("nan"), float("inf"), -0.0], path), [x, float("nan"), float("inf"), -0.0])


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TENSORS = arrays.arrays(st.sampled_from(["float32", "int64", "bool"]), arrays.array_shapes(min_dims=0, max_side=3))
KEYS = st.text(max_size=4) | st.integers(-3, 3) | st.just("__metadata__")
LISTS = partial(st.lists, max_size=3)
OBJECTS = st.recursive(
    LEAVES | TENSORS.map(tg.tensor),
    lambda inner: LISTS(inner) | LISTS(inner).map(tuple) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(OBJECTS)
def test_any_object_comes_back(tmp_path_factory, obj):
    assert_same(there_and_back(obj, tmp_path_factory.mktemp("any") / "x"), obj)


@pytest.mark.parametrize("order", [lambda x: x.T, lambda x: x[::-1, ::2], lambda x: np.broadcast_to(x[:1], x.shape)])
def test_memory_in_another_order(order, path):
    x = tg.from_numpy(order(np.arange(12, dtype=np.float32).reshape(3, 4)))
    assert_same(there_and_back(x, path), x.contiguous())


def test_a_training_is_all_there(path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = optim.AdamW(model.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        model(tg.ones(5, 3) * tg.arange(5.0)[:, None]).square().sum().backward()
        optimizer.step()

    step()
    tg.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    step()
    after = {key: value.clone() for key, value in model.state_dict().items()}
    saved = tg.load(path)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    step()
    for key, value in model.state_dict().items():
        assert value.data.tobytes() == after[key].data.tobytes(), key


def test_tied_weights_are_written_once_and_stay_tied(path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    state = there_and_back(model.state_dict(), path)
    assert state["1.weight"] is state["0.weight"]
    assert sorted(safetensors.numpy.load_file(path)) == ["0.bias", "0.weight", "1.bias"]


def test_equal_numbers_in_two_places_are_two_tensors(path):
    a, b = there_and_back([tg.ones(2), tg.ones(2)], path)
    a.add_(1)
    assert b.tolist() == [1, 1]


def test_empty_tensors_are_not_tied_by_their_address(path):
    x = tg.zeros(4)
    a, b = there_and_back([x[:0], x[0:0]], path)
    assert a is not b


def test_keys_that_give_one_name(path):
    state = {"a": {"b": tg.ones(1)}, "a.b": tg.zeros(2)}
    assert_same(there_and_back(state, path), state)


def test_requires_grad_is_not_kept(path):
    assert not there_and_back(nn.Linear(2, 2).weight, path).requires_grad


def test_torch_reads_what_we_save(path):
    state = nn.Linear(3, 2).state_dict()
    tg.save(state, path)
    theirs = safetensors.torch.load_file(path)
    assert {key: value.tolist() for key, value in theirs.items()} == {
        key: value.tolist() for key, value in state.items()
    }


def test_we_read_what_torch_saves_with_bfloat16(path):
    theirs = {"a": torch.randn(3, 2).to(torch.bfloat16), "b": torch.arange(4)}
    safetensors.torch.save_file(theirs, path, metadata={"format": "pt"})
    ours = tg.load(path)
    assert ours["a"].dtype == tg.bfloat16
    assert ours["a"].data.astype(np.float32).tolist() == theirs["a"].float().tolist()
    assert ours["b"].tolist() == [0, 1, 2, 3]


# --- what cannot be saved, and files that stay as they were


@pytest.mark.parametrize(
    "obj, message",
    [
        ({"a": [1, object()]}, r"the object\['a'\]\[1\] is object; expected tensors"),
        ({"a": {(1, 2): 3}}, r"the object\['a'\] has a key of type tuple"),
        ({"a": np.zeros(2, np.complex64)}, r"the object\['a'\] has dtype complex64; expected bool"),
        ({1, 2}, "the object is set"),
        (nn.Linear(2, 2), "the object is Linear"),
    ],
)
def test_what_cannot_be_saved_is_named_and_leaves_the_file(obj, message, path):
    path.write_text("before")
    with pytest.raises(TypeError, match=message):
        tg.save(obj, path)
    assert path.read_text() == "before"
    assert os.listdir(path.parent) == [path.name]


def test_an_object_that_contains_itself(path):
    loop = [1]
    loop.append({"again": loop})
    with pytest.raises(ValueError, match=r"\[1\]\['again'\] contains itself"):
        tg.save(loop, path)


def test_a_write_that_fails_leaves_what_was_there(path, monkeypatch):
    tg.save(tg.ones(3), path)

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tg.save(tg.zeros(3), path)
    monkeypatch.undo()
    assert tg.load(path).tolist() == [1, 1, 1]
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_comes_out_short_is_not_renamed(path, monkeypatch):
    tg.save(tg.ones(3), path)
    whole = saving.serialize
    monkeypatch.setattr(saving, "serialize", lambda *args, **kwargs: whole(*args, **kwargs)[:-1])
    with pytest.raises(OSError, match="was not written whole"):
        tg.save(tg.zeros(3), path)
    assert tg.load(path).tolist() == [1, 1, 1]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        tg.save(tg.ones(2), tmp_path / "no" / "file")
    with pytest.raises(FileNotFoundError):
        tg.load(tmp_path / "no")


def test_the_folder_reaches_the_disk_after_the_rename(path, monkeypatch):
    synced = []
    whole = os.fsync
    monkeypatch.setattr(
        atomic.os, "fsync", lambda number: (synced.append(os.readlink(f"/proc/self/fd/{number}")), whole(number))
    )
    tg.save(tg.ones(2), path)
    assert [os.path.basename(name).startswith(".") for name in synced] == [True, False]
    assert synced[1] == str(path.parent)


def test_bfloat16_bits(path):
    x = np.array([1.5, -2.25], ml_dtypes.bfloat16)
    tg.save(x, path)
    assert safetensors.torch.load_file(path)["tensor"].dtype == torch.bfloat16
