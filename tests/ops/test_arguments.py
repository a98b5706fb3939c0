"""Arguments that no op may take: bools and floats for ints, tensors with dimensions for numbers, other dtypes.

Every case is an error in torch too (which the test asks), is one before anything is computed, and names the op.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tilegrad.nn import functional

F = {torch: torch.nn.functional, tg: functional}

# name of the argument's op, and the call with a wrong integer at its place
INTEGERS = [
    ("narrow", lambda lib, x, v: x.narrow(1, v, 1)),
    ("narrow", lambda lib, x, v: x.narrow(1, 0, v)),
    ("select", lambda lib, x, v: x.select(1, v)),
    ("split", lambda lib, x, v: x.split(v)),
    ("split", lambda lib, x, v: x.split([v, 1])),
    ("chunk", lambda lib, x, v: x.chunk(v)),
    ("topk", lambda lib, x, v: x.topk(v)),
    ("roll", lambda lib, x, v: x.roll(v)),
    ("roll", lambda lib, x, v: x.roll((v,), (0,))),
    ("repeat", lambda lib, x, v: x.repeat(v, 1)),
    ("tile", lambda lib, x, v: x.tile((v, 1))),
    ("repeat_interleave", lambda lib, x, v: x.repeat_interleave(v)),
    ("reshape", lambda lib, x, v: x.reshape(v, 6)),
    ("view", lambda lib, x, v: x.view((v, 6))),
    ("expand", lambda lib, x, v: x.expand(v, 2, 3)),
    ("unflatten", lambda lib, x, v: x.unflatten(1, (v, 3))),
    ("permute", lambda lib, x, v: x.permute((v, 0))),
    ("flip", lambda lib, x, v: x.flip((v,))),
    ("tril", lambda lib, x, v: x.tril(v)),
    ("triu", lambda lib, x, v: x.triu(v)),
    ("diagonal", lambda lib, x, v: x.diagonal(v)),
    ("zeros", lambda lib, x, v: lib.zeros((v, 2))),
    ("full", lambda lib, x, v: lib.full((v,), 1.0)),
    ("eye", lambda lib, x, v: lib.eye(v)),
    ("linspace", lambda lib, x, v: lib.linspace(0.0, 1.0, v)),
    ("randperm", lambda lib, x, v: lib.randperm(v)),
    ("randint", lambda lib, x, v: lib.randint(v, 5, (2,))),
    ("randint", lambda lib, x, v: lib.randint(5, (v,))),
    ("one_hot", lambda lib, x, v: F[lib].one_hot(lib.tensor([0]), v)),
    ("pad", lambda lib, x, v: F[lib].pad(x, (v, 0))),
]

DIMENSIONS = [
    ("narrow", lambda lib, x, v: x.narrow(v, 0, 1)),
    ("roll", lambda lib, x, v: x.roll(1, v)),
    ("squeeze", lambda lib, x, v: x.squeeze(v)),
    ("sum", lambda lib, x, v: x.sum((v,))),
]

# the call with a wrong number at its place
NUMBERS = [
    ("masked_fill", lambda lib, x, v: x.masked_fill(x > 0, v)),
    ("masked_fill", lambda lib, x, v: x.masked_fill_(x > 0, v)),
    ("fill_", lambda lib, x, v: x.fill_(v)),
    ("full", lambda lib, x, v: lib.full((2,), v)),
    ("full", lambda lib, x, v: lib.full_like(x, v)),
    ("linspace", lambda lib, x, v: lib.linspace(v, 1.0, 3)),
    ("linspace", lambda lib, x, v: lib.linspace(0.0, v, 3)),
    ("arange", lambda lib, x, v: lib.arange(v)),
    ("arange", lambda lib, x, v: lib.arange(0, 4, v)),
    ("pad", lambda lib, x, v: F[lib].pad(x, (1, 0), value=v)),
    ("uniform_", lambda lib, x, v: x.uniform_(v, 2.0)),
    ("normal_", lambda lib, x, v: x.normal_(0.0, v)),
    ("add", lambda lib, x, v: x.add(x, alpha=v)),
    ("sub", lambda lib, x, v: x.sub(x, alpha=v)),
]

AT = [[0, 1, 1]]
OTHERS = [
    ("scatter", lambda lib, x: x.scatter(0, lib.tensor(AT), lib.ones(1, 3, dtype=lib.float64))),
    ("scatter", lambda lib, x: x.scatter(0, lib.tensor(AT), lib.tensor(AT))),
    ("scatter", lambda lib, x: x.long().scatter(0, lib.tensor(AT), lib.ones(1, 3))),
    ("scatter_add", lambda lib, x: x.scatter_add(0, lib.tensor(AT), lib.ones(1, 3, dtype=lib.float64))),
    ("scatter_add", lambda lib, x: x.scatter_add(0, lib.tensor(AT), lib.tensor(AT))),
    ("add", lambda lib, x: x.long().add(1, alpha=1.5)),
    ("sub", lambda lib, x: x.long().sub(1, alpha=1.5)),
    ("add", lambda lib, x: x.bool().add(x.bool(), alpha=1.0)),
    ("roll", lambda lib, x: x.roll(())),
    ("roll", lambda lib, x: x.roll((), ())),
    ("roll", lambda lib, x: x.roll((), 0)),
    ("roll", lambda lib, x: x.roll((1, 2))),
    ("roll", lambda lib, x: x.roll((1, 2), 0)),
    ("roll", lambda lib, x: lib.tensor(1.0).roll(1, 0)),
    ("flip", lambda lib, x: x.flip()),
    ("equal", lambda lib, x: lib.equal(x, 1.0)),
]


def assert_refused(name, act, *args):
    """Both libraries raise; ours names the op, leaves the tensor as it is, and draws no random numbers."""
    with pytest.raises((TypeError, RuntimeError, ValueError, IndexError)):
        act(torch, torch.ones(2, 3), *[torch.tensor(a) if isinstance(a, np.ndarray) else a for a in args])
    x = tg.ones(2, 3)
    before = tg.random.default_generator.get_state()
    with pytest.raises((TypeError, ValueError, IndexError), match=f"^{name}: .*expected") as caught:
        act(tg, x, *[tg.tensor(a) if isinstance(a, np.ndarray) else a for a in args])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 160
    assert x.tolist() == [[1.0] * 3] * 2 and tg.random.default_generator.get_state() == before


@pytest.mark.parametrize("wrong", [True, False, 1.0, 1.5, np.bool_(True)], ids=repr)
@pytest.mark.parametrize(("name", "act"), INTEGERS + DIMENSIONS, ids=lambda x: x if isinstance(x, str) else "")
def test_an_int_is_no_bool_and_no_float(name, act, wrong):
    assert_refused(name, act, wrong)


@pytest.mark.parametrize("wrong", [np.array([1.0]), np.array([[1.0, 2.0]]), [1.0], "1"], ids=repr)
@pytest.mark.parametrize(("name", "act"), NUMBERS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_number_is_no_tensor_with_dimensions(name, act, wrong):
    assert_refused(name, act, wrong)


@pytest.mark.parametrize(("name", "act"), OTHERS, ids=lambda x: x if isinstance(x, str) else "")
def test_other_wrong_arguments(name, act):
    assert_refused(name, act)


@pytest.mark.parametrize("one", [1, np.int64(1), np.uint8(1), tg.tensor(1)], ids=lambda one: type(one).__name__)
def test_what_stands_for_an_int(one):
    """Integers of NumPy and tensors without dimensions."""
    for _, act in INTEGERS if isinstance(one, tg.Tensor) else INTEGERS + DIMENSIONS:
        got, want = act(tg, tg.ones(2, 3), one), act(torch, torch.ones(2, 3), 1)
        first, second = (y[0] if isinstance(y, (tuple, list)) else y for y in (got, want))
        assert first.shape == tuple(second.shape)


def test_roll_of_listed_dims_as_in_torch():
    x = np.arange(12.0).reshape(3, 4)
    for args in ((1,), ((5,),), (1, ()), ((1, 2), (0, 1)), ((1, 1), (0, 0)), ((2, -1), (0, -2)), (7, -1)):
        a = tg.tensor(x, requires_grad=True)
        b = torch.tensor(x, requires_grad=True)
        assert_same(a.roll(*args).detach().numpy(), b.roll(*args).detach().numpy())
        weights = np.arange(12.0).reshape(3, 4) ** 2
        (a.roll(*args) * tg.tensor(weights)).sum().backward()
        (b.roll(*args) * torch.tensor(weights)).sum().backward()
        assert_same(a.grad.numpy(), b.grad.numpy())
    assert tg.tensor(1.0).roll(3).item() == 1.0


def test_alpha():
    x, y = np.array([True, False, True]), np.array([True, True, False])
    for alpha in (True, 0, 1, 2, np.int64(3)):
        got, want = (lib.tensor(x).add(lib.tensor(y), alpha=alpha) for lib in (tg, torch))
        assert_same(got.numpy(), want.numpy())
    for alpha in (2, 1.5, 1.0, np.float32(0.5)):
        got, want = (lib.tensor([1.0, 2.0]).sub(lib.tensor([3, 4]), alpha=alpha) for lib in (tg, torch))
        assert_same(got.numpy(), want.numpy())
    assert tg.ones(2).add(1.0, alpha=tg.tensor(3.0)).tolist() == [4.0, 4.0]


def test_squeeze_of_a_dimension_that_numpy_counted():
    assert tg.ones(2, 1).squeeze(np.int64(1)).shape == (2,)
    assert tg.ones(2, 1).squeeze(()).shape == (2, 1)


def test_numbers_may_be_tensors_without_dimensions():
    one, two = tg.tensor(1.0), tg.tensor(2.0)
    assert tg.full((2,), two).tolist() == tg.full_like(tg.ones(2), two).tolist() == [2.0, 2.0]
    for draw in (lambda a, b: tg.zeros(4).uniform_(a, b), lambda a, b: tg.zeros(4).normal_(a, b)):
        tg.manual_seed(0)
        want = draw(1.0, 2.0)
        tg.manual_seed(0)
        got = draw(one, two)
        assert type(got.data) is np.ndarray
        assert got.tolist() == want.tolist()
