"""Random shapes: broadcasting against NumPy, errors included, and moves of elements there and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tilegrad as tg
from tests.compare import assert_same
from tests.ops.same import random

SIZES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
OPS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "maximum": np.maximum,
    "lt": np.less,
    "eq": np.equal,
}


def whole(*shape, seed):
    """Whole numbers, whose sums are exact in any order."""
    return np.asarray(np.round(4 * random(*shape, seed=seed)))


quick = settings(max_examples=60, deadline=None)


@quick
@given(left=SIZES, right=SIZES, name=st.sampled_from(sorted(OPS)))
def test_any_two_shapes_broadcast_as_in_numpy_or_are_refused_by_name(left, right, name):
    a, b = random(*left, seed=1), random(*right, seed=2)
    try:
        want = OPS[name](a, b)
    except ValueError:
        with pytest.raises(ValueError, match=f"^{name}: ") as caught:
            getattr(tg, name)(tg.Tensor(a), tg.Tensor(b))
        assert str(left) in str(caught.value) and str(right) in str(caught.value)
        return
    assert_same(getattr(tg, name)(tg.Tensor(a), tg.Tensor(b)).numpy(), np.asarray(want))


@quick
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=4))
def test_the_gradient_of_what_was_stretched_is_the_sum(shapes):
    """f = <a * b + c, w>, so df/dc is w summed over the stretched dimensions, and df/da is that of w * b."""
    (left, right, other), out = shapes.input_shapes, shapes.result_shape
    a, b, c = (tg.Tensor(whole(*s, seed=i), requires_grad=True) for i, s in enumerate((left, right, other)))
    w = whole(*out, seed=3)
    ((a * b + c) * tg.Tensor(w)).sum().backward()
    assert_same(c.grad.numpy(), unstretched(w, other))
    assert_same(a.grad.numpy(), unstretched(w * b.detach().numpy(), left))
    assert_same(b.grad.numpy(), unstretched(w * a.detach().numpy(), right))


def unstretched(x, shape):
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    return np.asarray(x.sum(axis=tuple(d for d, s in enumerate(shape) if s == 1), keepdims=True)).reshape(shape)


@quick
@given(shapes=hnp.mutually_broadcastable_shapes(signature="(m,k),(k,n)->(m,n)", max_dims=3, max_side=3))
def test_matmul_broadcasts_batches(shapes):
    a, b = (whole(*s, seed=i) for i, s in enumerate(shapes.input_shapes))
    assert_same((tg.Tensor(a) @ tg.Tensor(b)).numpy(), np.asarray(a @ b))


@quick
@given(shape=SIZES, data=st.data())
def test_permute_and_back(shape, data):
    order = data.draw(st.permutations(range(len(shape))))
    x = random(*shape)
    y = tg.Tensor(x).permute(tuple(order))
    assert_same(y.numpy(), x.transpose(order))
    assert_same(y.permute(tuple(int(i) for i in np.argsort(order))).numpy(), x)


@quick
@given(shape=SIZES, data=st.data())
def test_reshape_and_back(shape, data):
    x = random(*shape)
    wanted = data.draw(st.sampled_from(factorings(x.size)))
    y = tg.Tensor(x, requires_grad=True)
    there = y.reshape(wanted)
    assert_same(there.detach().numpy(), x.reshape(wanted))
    (there * tg.Tensor(x.reshape(wanted))).sum().backward()
    assert_same(y.grad.numpy(), x)


def factorings(n: int) -> list[tuple[int, ...]]:
    pairs = [(d, n // d) for d in range(1, n + 1) if n % d == 0] or [(0, 3), (2, 0)]
    return [(n,), (1, n), *pairs, *((a, -1) for a, b in pairs if a), *((a, 1, b) for a, b in pairs)]


@quick
@given(shape=SIZES.filter(len), data=st.data())
def test_any_basic_index_reads_views_and_writes_as_numpy(shape, data):
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    x = random(*shape)
    leaf = tg.Tensor(x, requires_grad=True)
    y = leaf[index]
    want = np.asarray(x[index])
    assert_same(y.detach().numpy(), want)
    assert want.size == 0 or np.shares_memory(y.data, x)
    w = random(*want.shape, seed=1)
    (y * tg.Tensor(w)).sum().backward()
    gradient = np.zeros(shape)
    gradient[index] = w
    assert_same(leaf.grad.numpy(), gradient)

    written, expected = tg.tensor(x), x.copy()
    written[index] = tg.Tensor(w)
    expected[index] = w
    assert_same(written.numpy(), expected)


@quick
@given(shape=hnp.array_shapes(max_dims=3, min_side=1, max_side=4), data=st.data())
def test_any_integer_index_reads_and_adds_gradients_as_numpy(shape, data):
    index = data.draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
    x = random(*shape)
    leaf = tg.Tensor(x, requires_grad=True)
    y = leaf[tuple(tg.tensor(i) for i in index)]
    assert_same(y.detach().numpy(), np.asarray(x[index]))
    w = whole(*y.shape, seed=1)
    (y * tg.Tensor(w)).sum().backward()
    want = np.zeros(shape)
    np.add.at(want, index, w)
    assert_same(leaf.grad.numpy(), want)


@quick
@given(shape=SIZES, sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4), dim=st.integers(0, 3))
def test_cat_undoes_split(shape, sizes, dim):
    shape = list(shape or (1,))
    dim %= len(shape)
    shape[dim] = math.fsum(sizes)
    x = random(*map(int, shape))
    assert_same(tg.cat(tg.Tensor(x).split(sizes, dim), dim).numpy(), x)
