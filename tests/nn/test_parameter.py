"""Parameter: a tensor that can be copied, pickled and shared."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn
from tilegrad.tensor import Tensor


def test_kind():
    p = nn.Parameter(tg.ones(2, 3))
    assert isinstance(p, Tensor) and p.requires_grad and p.is_leaf
    assert type(p * 2) is Tensor and type(p.detach()) is Tensor and type(p.clone()) is Tensor
    assert not nn.Parameter(tg.ones(2), requires_grad=False).requires_grad
    assert repr(p).startswith("Parameter containing:\ntensor([[1., 1., 1.],")


def test_memory_is_shared_and_watched():
    x = tg.ones(3)
    p = nn.Parameter(x)
    y = (p * p).sum()
    with tg.no_grad():
        x.fill_(2.0)
    assert_same(p.detach().numpy(), np.full(3, 2, np.float32))
    with pytest.raises(RuntimeError, match="saved by 'mul' was written to in place"):
        y.backward()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["copy", "pickle"])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_duplicates(duplicate, requires_grad):
    p = nn.Parameter(tg.randn(2, 3), requires_grad=requires_grad)
    q = duplicate(p)
    assert type(q) is nn.Parameter and q.requires_grad == requires_grad
    assert_same(q.detach().numpy(), p.detach().numpy())
    with tg.no_grad():
        q.fill_(7.0)
    assert (p != 7.0).all()


def test_a_copy_keeps_the_gradient_but_shares_nothing():
    p = nn.Parameter(tg.ones(2))
    (p * 3).sum().backward()
    q = copy.deepcopy(p)
    q.grad.fill_(0.0)
    assert_same(p.grad.numpy(), np.full(2, 3, np.float32))


def test_no_attributes_of_its_own():
    with pytest.raises(AttributeError):
        nn.Parameter(tg.ones(2)).note = 1


def test_errors():
    with pytest.raises(RuntimeError, match="requires_grad: expected a floating-point tensor; got int64"):
        nn.Parameter(tg.tensor([1, 2]))
    assert nn.Parameter(tg.tensor([1, 2]), requires_grad=False).dtype == np.int64
    with pytest.raises(TypeError, match="Tensor: expected an array; got list"):
        nn.Parameter([1.0])
