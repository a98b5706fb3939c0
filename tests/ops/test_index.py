"""Indexing: reading and writing, against torch where it agrees with NumPy, and against NumPy elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tests.ops.same import assert_same_op, random

X = (4, 5, 6)
MASK = np.arange(4 * 5).reshape(4, 5) % 3 == 0
BASIC = [
    0,
    -1,
    slice(None),
    slice(1, 3),
    slice(None, None, 2),
    slice(3, 1),  # nothing
    slice(-3, -1),
    None,
    Ellipsis,
    (),
    (1, 2),
    (1, 2, 3),
    (slice(None), 2),
    (Ellipsis, 2),
    (Ellipsis, None, 0),
    (0, Ellipsis, slice(1, None, 3)),
    (None, 1, None, slice(2)),
    (slice(1, 2), slice(None), slice(4, None)),
]
ADVANCED = [
    [0, 2],
    [0, 0, 3, 0],  # repeated: gradients add up
    [-1, -4],
    [],
    np.array([[1, 2], [3, 0]]),
    np.array(2),
    np.array([], np.int64),
    ([0, 1], [2, 3]),
    ([0, 1, 1], 2),
    (slice(1, 3), [0, 4]),
    (slice(None), [0, 4], slice(None, None, 2)),
    (Ellipsis, [5, 5]),
    (np.array([[0], [1]]), np.array([2, 3, 4])),  # broadcast to (2, 3)
    (np.array([0, 3]), slice(None), np.array([1, 1])),  # apart: the new dimension comes first
    (None, [1, 2]),
    (Ellipsis, np.array([0, 1, 0]), None),
]
MASKS = [
    MASK,
    np.zeros((4, 5), bool),
    np.ones(4, bool),
    (slice(None), np.array([True, False, True, False, True])),
    np.arange(120).reshape(X) % 7 == 0,
    (np.array([True, False, True, False]), 1),
    [True, False, False, True],
]


def tensors(index, make):
    """The index with its arrays as tensors."""
    if isinstance(index, tuple):
        return tuple(tensors(i, make) for i in index)
    return make(index) if isinstance(index, np.ndarray) else index


def of(x):
    """What makes x's library's index tensors."""
    return tg.tensor if isinstance(x, tg.Tensor) else lambda a: torch.from_numpy(np.array(a))


@pytest.mark.parametrize("index", [*BASIC, *ADVANCED, *MASKS], ids=repr)
def test_getitem(index):
    assert_same_op(lambda x: x[tensors(index, of(x))], None, random(*X))
    assert_same_op(lambda x: x[index], None, np.arange(120).reshape(X), layouts=["contiguous"])


@pytest.mark.parametrize(
    "index",
    [slice(None, None, -1), (Ellipsis, slice(4, 1, -2)), (slice(None, None, -2), 0, [1, 1])],
    ids=repr,
)
def test_negative_steps_are_numpys(index):
    """torch refuses them."""
    x = random(*X)
    leaf = tg.Tensor(x, requires_grad=True)
    y = leaf[index]
    assert_same(y.detach().numpy(), x[index])
    dy = random(*y.shape, seed=1)
    y.backward(tg.Tensor(dy))
    want = np.zeros(X)
    np.add.at(want, index, dy)
    assert_same(leaf.grad.numpy(), want)


@pytest.mark.parametrize("index", [(), Ellipsis, None, (None, Ellipsis)], ids=repr)
def test_getitem_of_a_scalar(index):
    assert_same_op(lambda x: x[index], None, random())


@pytest.mark.parametrize("index", [0, [0, 0], slice(None), np.array(1)], ids=repr)
def test_getitem_of_a_vector(index):
    assert_same_op(lambda x: x[tensors(index, of(x))], None, random(3))


@pytest.mark.parametrize("index", BASIC, ids=repr)
def test_basic_indexing_is_a_view(index):
    x = tg.tensor(random(*X))
    y = x[index]
    if y.numel():
        assert np.shares_memory(x.data, y.data)
        y.fill_(7.0)
        assert_same(x.numpy()[index], np.asarray(np.full(y.shape, 7.0)))


def test_an_element_is_a_view_too():
    x = tg.zeros(3)
    x[1].fill_(2.0)
    x[tg.tensor(2)].fill_(3.0)
    x[0] += 1.0
    assert x.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("index", [*ADVANCED, *MASKS], ids=repr)
def test_advanced_indexing_is_a_copy(index):
    if isinstance(index, np.ndarray) and index.ndim == 0:
        return  # an integer
    x = tg.tensor(random(*X))
    assert not np.shares_memory(x.data, x[index].data)


# --- writing ---------------------------------------------------------------------------------------------------------

UNIQUE = [i for i in [*BASIC, *ADVANCED] if repr(i) not in ("[0, 0, 3, 0]", "(Ellipsis, [5, 5])", "([0, 1, 1], 2)")]
UNIQUE = [i for i in UNIQUE if "array([0, 1, 0])" not in repr(i)]  # which of several writes is last, is open


@pytest.mark.parametrize("index", [*UNIQUE, *MASKS], ids=repr)
def test_setitem(index):
    """y = a copy of x with value at the index: gradients to both."""

    def written(x, value):
        y = x * 1.0
        y[tensors(index, of(x))] = value
        return y

    x, place = random(*X), random(*X)[index]
    assert_same_op(written, None, x, np.asarray(random(*place.shape, seed=1)), layouts=["contiguous", "transposed"])
    assert_same_op(lambda x: written(x, 0.1), None, x, layouts=["contiguous"])
    assert_same_op(written, None, x, random(seed=2), layouts=["contiguous"])  # a 0-dim value, broadcast


@pytest.mark.parametrize(
    ("index", "shape"),
    [(slice(1, 3), (6,)), (0, (5, 1)), (slice(None), (1, 1, 6)), ((slice(None), 1), (1, 1, 6)), ([0, 2], (2, 1, 6))],
    ids=str,
)
def test_setitem_broadcasts_the_value(index, shape):
    def written(x, value):
        y = x * 1.0
        y[index] = value
        return y

    assert_same_op(written, None, random(*X), random(*shape, seed=1))


def test_setitem_into_zeros_carries_the_gradient_of_the_value():
    def filled(a, b):
        y = (tg if isinstance(a, tg.Tensor) else torch).zeros(4, dtype=a.dtype)
        y[:2] = a
        y[2] = b
        y[0] = 5.0  # overwritten: no gradient to a[0]
        return y

    assert_same_op(filled, None, random(2), random(seed=1))


def test_setitem_casts_to_the_tensor():
    x = tg.zeros(3, dtype="int64")
    x[0], x[1], x[2] = 1.7, True, tg.tensor(2.9)
    assert x.tolist() == [1, 1, 2] and x.dtype == np.int64
    y = tg.zeros(2, dtype="float64")
    y[0] = 0.1
    y[1] = np.float64(0.1)
    assert y.tolist() == [0.1, 0.1]


def test_setitem_from_an_overlapping_view():
    x = tg.arange(6)
    x[1:] = x[:-1]
    assert x.tolist() == [0, 0, 1, 2, 3, 4]


def test_augmented_assignment_to_an_item():
    x = tg.zeros(2, 3)
    x[0] += 1.0
    x[:, 1] *= 5.0
    x[[1], 0] -= 2.0
    assert x.tolist() == [[1.0, 5.0, 1.0], [-2.0, 0.0, 0.0]]


# --- along one dimension ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_index_select(dim):
    assert_same_op(lambda x, i: x.index_select(dim, i), None, random(*X), np.array([2, 0, 2, 3]))
    assert_same_op(lambda x, i: x.index_select(dim, i), None, random(*X), np.array([1], np.int32))


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shape", [(4, 5, 6), (2, 3, 1), (4, 0, 6)], ids=str)
def test_gather(dim, shape):
    index = np.random.default_rng(1).integers(0, 4, shape)  # repeated indices: gradients add up
    assert_same_op(lambda x, i: x.gather(dim, i), None, random(*X), index)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_an_index_may_be_longer_than_the_tensor_along_its_dimension(dim):
    shape = list(X)
    shape[dim] = 9
    index = np.random.default_rng(1).integers(0, 4, shape)
    x, src = random(*X), random(*shape, seed=1)
    assert_same_op(lambda x, i: x.gather(dim, i), None, x, index)
    assert_same_op(lambda x, i: x.take_along_dim(i, dim), None, x, index)
    assert_same_op(lambda x, i, s: x.scatter_add(dim, i, s), None, x, index, src)
    assert_same_op(lambda x, i: x.scatter(dim, i, 0.5), None, x, index)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_scatter_add(dim):
    index = np.random.default_rng(1).integers(0, 4, (4, 3, 2))
    x, src = random(*X), random(4, 3, 2, seed=1)
    assert_same_op(lambda x, i, s: x.scatter_add(dim, i, s), None, x, index, src)
    # src may be larger than the index; torch has no gradient then
    assert_same_op(lambda x, i, s: x.scatter_add(dim, i[:2], s), None, x, index, src, gradients=False)
    larger = tg.tensor(src, requires_grad=True)
    tg.tensor(x).scatter_add(dim, tg.tensor(index[:2]), larger).sum().backward()
    assert_same(larger.grad.numpy(), np.concatenate([np.ones((2, 3, 2)), np.zeros((2, 3, 2))]))


@pytest.mark.parametrize("dim", [0, -1])
def test_scatter(dim):
    index = np.random.default_rng(1).permuted(np.tile(np.arange(4), (4, 1)), axis=1)  # each place written once
    x, src = random(4, 4), random(4, 4, seed=1)
    index = index if dim else index.T
    assert_same_op(lambda x, i, s: x.scatter(dim, i, s), None, x, index, src)
    assert_same_op(lambda x, i: x.scatter(dim, i, 0.1), None, x, index[:2, :3])


@pytest.mark.parametrize("dim", [0, 1])
def test_take_along_dim(dim):
    x = random(4, 5)
    assert_same_op(lambda x: x.take_along_dim(x.argsort(dim), dim), None, x)
    index = np.array([[0, 3, 1, 1]]) if dim else np.array([[0], [3], [1], [1]])
    assert_same_op(lambda x, i: x.take_along_dim(i, dim), None, x, index)


@pytest.mark.parametrize("shape", [(4, 5), (5,), (4, 1), ()], ids=str)
def test_masked_select(shape):
    mask = np.asarray(random(*shape, seed=3) > -0.5)
    assert_same_op(lambda x, m: x.masked_select(m), None, random(4, 5), mask)


def test_masked_select_stretches_the_tensor():
    assert_same_op(lambda x, m: x.masked_select(m), None, random(5), np.arange(20).reshape(4, 5) % 3 == 0)


@pytest.mark.parametrize("shape", [(4, 5), (0, 3), (7,), ()], ids=str)
def test_nonzero(shape):
    assert_same_op(lambda x: x.nonzero(), None, np.round(random(*shape)))
    assert_same_op(lambda x: x.nonzero(), None, np.zeros(shape))


# --- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(("shape", "dim"), [((4, 5), 0), ((4, 5), -1), ((2, 3, 4), 1), ((0, 3), 0), ((), 0)], ids=str)
def test_sort_is_stable(shape, dim, descending):
    x = np.round(random(*shape))  # with ties
    assert_same_op(lambda x: tuple(x.sort(dim=dim, descending=descending, stable=True)), None, x)
    assert_same_op(lambda x: x.argsort(dim=dim, descending=descending, stable=True), None, x)


@pytest.mark.parametrize("descending", [False, True])
def test_nan_sorts_as_the_largest(descending):
    x = np.array([2.0, np.nan, -1.0, np.inf, np.nan, 0.0])
    assert_same_op(lambda x: tuple(x.sort(descending=descending, stable=True)), None, x)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("k", [0, 1, 3, 5])
def test_topk(k, largest):
    assert_same_op(lambda x: tuple(x.topk(k, largest=largest)), None, random(4, 5))
    assert_same_op(lambda x: tuple(x.topk(min(k, 4), 0, largest)), None, random(4, 5))


def test_topk_takes_the_first_of_equals():
    values, at = tg.tensor([1.0, 2.0, 2.0, 0.0, 2.0]).topk(2)
    assert values.tolist() == [2.0, 2.0] and at.tolist() == [1, 2]


@pytest.mark.parametrize("classes", [-1, 5])
def test_one_hot(classes):
    x = np.array([[0, 3, 1], [2, 2, 0]])
    assert_same_op(lambda x: tg.ops.one_hot(x, classes), lambda x: torch.nn.functional.one_hot(x, classes), x)


@pytest.mark.parametrize("at", [0, [0], [0, 0]], ids=str)
def test_a_scalar_counts_as_a_vector_of_one(at):
    x, at = np.asarray(1.5), np.asarray(at)
    src = random(*at.shape)
    assert_same_op(lambda x, i: x.gather(0, i), None, x, at, layouts=["contiguous"])
    assert_same_op(lambda x, i, s: x.scatter_add(0, i, s), None, x, at, src, layouts=["contiguous"])
    if at.size == 1:
        assert_same_op(lambda x, i, s: x.scatter(0, i, s), None, x, at, src, layouts=["contiguous"])
        assert_same_op(lambda x, i: x.scatter(-1, i, 2.5), None, x, at, layouts=["contiguous"])
        assert_same_op(lambda x, i: x.index_select(0, i), None, x, at, layouts=["contiguous"])


def test_a_scalar_has_no_second_element_to_select():
    x = tg.tensor(1.5)
    with pytest.raises(ValueError, match=r"index_select: the index is \(2,\) and x \(\)"):
        x.index_select(0, tg.tensor([0, 0]))
    with pytest.raises(IndexError, match="gather: the index runs from 1 to 1"):
        x.gather(0, tg.tensor(1))


@pytest.mark.parametrize("shape", [(0,), (0, 7), (2, 0), (3, 0, 5)], ids=str)
def test_an_empty_index_of_any_shape_takes_nothing(shape):
    at = np.zeros(shape, np.int64)
    for x in (random(4, 5), random(6)):
        assert_same_op(lambda x, i: x.gather(0, i), None, x, at, layouts=["contiguous"])
        assert_same_op(lambda x, i: x.scatter(0, i, 2.5), None, x, at, layouts=["contiguous"])
        assert_same_op(
            lambda x, i, s: x.scatter_add(0, i, s), None, x, at, random(0), layouts=["contiguous"], gradients=False
        )


def test_take_along_dim_of_the_flattened_tensor():
    for at in ([[0, 7], [3, 3]], [5]):
        assert_same_op(lambda x, i: x.take_along_dim(i), None, random(3, 4), np.asarray(at))


def test_nonzero_as_a_tuple():
    for x in (np.arange(6).reshape(2, 3) % 2, np.asarray(3), np.zeros((0, 2), np.int64)):
        assert_same_op(lambda x: x.nonzero(as_tuple=True), None, x)
        assert_same_op(lambda x: x.nonzero(as_tuple=False), None, x)
