"""Index tuples of every make-up against torch: values, order of dimensions, views, gradients; read and written."""

from __future__ import annotations

from operator import getitem
from typing import Any

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close, assert_same

KINDS = "int number slice none ellipsis rows list mask bytes bool".split()
WEIGHTS = np.array([5, 1, 5, 2, 2, 5, 1, 2, 1, 1])


def indices(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """A shape and a tuple that indexes it. Index arrays of one tuple broadcast; masks hold what they hold."""
    shape = tuple(int(s) for s in rng.integers(1, 4, rng.integers(0, 5)))
    index: list[Any] = []
    d, length = 0, int(rng.integers(2, 4))
    while rng.random() < 0.95:
        kind = rng.choice(KINDS, p=WEIGHTS / WEIGHTS.sum())
        if kind == "none":
            index.append(None)
        elif kind == "bool":
            index.append(bool(rng.random() < 0.7))
        elif kind == "ellipsis":
            if Ellipsis not in [i for i in index if not isinstance(i, np.ndarray)]:
                index.append(Ellipsis)
                d += int(rng.integers(0, 2))
        elif d >= len(shape):
            break
        elif kind in ("mask", "bytes"):
            n = min(int(rng.integers(0, 3)), len(shape) - d)
            mask = np.asarray(rng.random(shape[d : d + n]) < 0.6)
            index.append(mask if kind == "mask" else mask.astype(np.uint8))
            d += n
        else:
            s = shape[d]
            lengths = [(length,), (1,), (2, length), (2, 1), (0,)][rng.choice(5, p=[0.5, 0.1, 0.2, 0.15, 0.05])]
            ends = [None if rng.random() < 0.4 else int(end) for end in rng.integers(-3, 4, 2)]
            among = {
                "int": int(rng.integers(-s, s)),
                "number": np.array(rng.integers(-s, s)),
                "slice": slice(*ends),
                "rows": rng.integers(-s, s, lengths),
                "list": rng.integers(-s, s, length).tolist(),
            }
            index.append(among[kind])
            d += 1
    return shape, tuple(index)


def tried(act: Any, *args: Any) -> Any:
    try:
        return act(*args)
    except (IndexError, RuntimeError, ValueError) as error:
        return error


def written(x: Any, index: Any, value: Any) -> Any:
    y = x * 1.0
    y[index] = value
    return y


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
def test_random_tuples():
    read = wrote = 0
    for seed in range(1200):
        rng = np.random.default_rng(seed)
        shape, index = indices(rng)
        theirs = tuple(torch.from_numpy(i) if isinstance(i, np.ndarray) else i for i in index)
        ours = tuple(tg.tensor(i) if isinstance(i, np.ndarray) else i for i in index)
        if len(index) == 1 and seed % 2:
            theirs, ours = theirs[0], ours[0]
        values = np.asarray(rng.standard_normal(shape))
        t = torch.tensor(values, requires_grad=True)
        x = tg.tensor(values, requires_grad=True)
        want, got = tried(getitem, t, theirs), tried(getitem, x, ours)
        if isinstance(want, Exception):
            assert isinstance(got, IndexError), (shape, index, got)
            continue
        if want.numel() == 0 and isinstance(got, IndexError):
            assert "out of bounds" in str(got)  # torch does not look at the indices of an empty result
            continue
        assert_same(got.detach().numpy(), want.detach().numpy())
        if want.numel():
            assert (got._storage is x._storage) == want._is_view(), (shape, index)
        dy = np.asarray(rng.standard_normal(got.shape))
        gradients = tg.grad(got, x, tg.tensor(dy)), torch.autograd.grad(want, t, torch.from_numpy(dy))
        assert_close(gradients[0][0].numpy(), gradients[1][0].numpy(), gradients[1][0].numpy())
        read += 1

        places = torch.arange(values.size).reshape(shape)[theirs]
        if places.numel() != places.unique().numel():
            continue  # which of several writes is last, is open
        value = rng.standard_normal((1, *got.shape) if rng.random() < 0.3 else got.shape)
        if value.ndim and rng.random() < 0.3:
            value = value[..., :1]
        tv, xv = torch.tensor(value, requires_grad=True), tg.tensor(value, requires_grad=True)
        want, got = tried(written, t, theirs, tv), tried(written, x, ours, xv)
        if isinstance(want, RuntimeError) and "masked_fill_ only supports boolean" in str(want):
            continue  # torch has this for a single value at a uint8 mask alone
        if isinstance(want, Exception):
            assert isinstance(got, ValueError), (shape, index, value.shape, got)
            continue
        assert_same(got.detach().numpy(), want.detach().numpy())
        dy = np.asarray(rng.standard_normal(shape))
        wants = torch.autograd.grad(want, (t, tv), torch.from_numpy(dy), allow_unused=True)
        for g, w in zip(tg.grad(got, (x, xv), tg.tensor(dy), allow_unused=True), wants):
            if w is not None or g is not None and g.numel():
                assert_close(g.numpy(), w.numpy(), w.numpy())
        wrote += 1
    assert read > 900 and wrote > 700


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        ((0, slice(None), [0, 1]), (3, 2, 5)),
        (([0, 1], ..., [1, 2]), (2, 3, 4)),
        ((slice(None), [0, 1], ..., [1, 2], slice(None)), (2, 2, 5)),  # the Ellipsis stands for nothing
        ((slice(None), [0, 1], None, [1, 2]), (2, 2, 1, 5)),
        ((slice(None), [0, 1], 0, [1, 2]), (2, 2)),
        ((0, True, slice(None), [0, 1]), (2, 3, 5)),
    ],
    ids=str,
)
def test_order_of_dimensions(index, shape):
    x = np.arange(120.0).reshape(2, 3, 4, 5)
    assert tuple(torch.tensor(x)[index].shape) == shape
    assert_same(tg.tensor(x)[index].numpy(), torch.tensor(x)[index].numpy())


def test_second_order():
    x = tg.tensor(np.arange(24.0).reshape(2, 3, 4) / 10, requires_grad=True)

    def read(x):
        return (x[0, :, [0, 2, 2]] ** 3).sum()

    def wrote(x):
        y = x * x
        y[1, :, [0, 3]] = x[0, :, [1, 1]] ** 3
        return y

    assert tg.gradcheck(read, (x,)) and tg.gradgradcheck(read, (x,))
    assert tg.gradcheck(wrote, (x,)) and tg.gradgradcheck(wrote, (x,))


@pytest.mark.parametrize("make", [tg.tensor, np.asarray], ids=["tensor", "array"])
def test_uint8_is_a_mask_and_a_number_only_where_numbers_are_asked_for(make):
    x = tg.tensor([10.0, 20.0, 30.0])
    mask = make(np.array([1, 0, 2], np.uint8))
    assert x[mask].tolist() == [10.0, 30.0]
    x[mask] = 0.0
    assert x.tolist() == [0.0, 20.0, 0.0]
    assert x[make(np.array(1, np.uint8))].shape == (1, 3)
    at = tg.tensor([1, 0, 1], dtype="uint8")
    assert x.index_select(0, at).tolist() == x.gather(0, at).tolist() == x.take_along_dim(at, 0).tolist() == [20, 0, 20]
    with pytest.raises(IndexError, match=r"getitem: .*\(the tensor is \(3,\)\)"):
        x[tg.tensor([1, 1], dtype="uint8")]


def test_several_ellipses():
    for index in ((..., 0, ...), (..., [0], ...)):
        with pytest.raises(IndexError, match="getitem: .* ellips"):
            tg.ones(2, 2)[index]


# --- diagonal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"offset": 1}, {"offset": -2}, {"offset": 5}, {"dim1": -1, "dim2": 0}], ids=str
)
def test_a_diagonal_is_a_view_one_can_write_through(options):
    values = np.arange(24.0).reshape(3, 4, 2)
    x, t = tg.tensor(values), torch.tensor(values)
    d = x.diagonal(**options)
    assert_same(d.numpy(), t.diagonal(**options).numpy())
    d += 100.0
    t.diagonal(**options).add_(100.0)
    assert_same(x.numpy(), t.numpy())
    assert x._version == d._version == 1 and d._storage is x._storage


def test_writes_to_a_diagonal_and_the_graph():
    x = tg.ones(3, 3, requires_grad=True)
    y = (x * x).sum()
    with tg.no_grad():
        x.diagonal().fill_(2.0)
    with pytest.raises(RuntimeError, match="a tensor saved by 'mul' was written to in place"):
        y.backward()
    (x.diagonal() ** 2).sum().backward()
    assert x.grad.tolist() == [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]]
    z = x * 1.0
    d = z.diagonal()
    with pytest.raises(RuntimeError, match="fill_: x shares its memory with a view"):
        d.fill_(0.0)  # must be differentiated
    with pytest.raises(RuntimeError, match="is read-only"):
        tg.ones(1).expand(3, 3).diagonal().fill_(0.0)


def test_errors_of_diagonal():
    for act, text in (
        (lambda: tg.ones(3).diagonal(), r"diagonal: the tensor is \(3,\); expected at least 2 dimensions"),
        (lambda: tg.ones(3, 3).diagonal(0, 0, 2), "diagonal: dim is 2"),
        (lambda: tg.ones(3, 3).diagonal(0, 1, -1), "diagonal: dim is .*expected each dimension once"),
    ):
        with pytest.raises((IndexError, ValueError), match=text):
            act()
