"""Memory: a graph is freed by reference counting alone, as soon as nobody needs it, and holds no more than it needs."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import tilegrad as tg
from tests.ops.test_gradients import OPS, inputs_of, outputs_of
from tilegrad import ops
from tilegrad.autograd.record import Node


@pytest.fixture(autouse=True)
def no_garbage_collector():
    gc.collect()
    gc.freeze()  # what is there already is not looked at again
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def living(kind):
    return sum(type(x) is kind for x in gc.get_objects())


def test_backward_frees_the_graph():
    x = tg.ones(3, requires_grad=True)
    y = (x * 2.0).exp()
    held = weakref.ref(y)
    loss = (y * y).sum()
    del y
    assert held() is not None  # saved by the product
    loss.backward()
    assert held() is None


def test_an_unused_graph_goes_with_its_last_tensor():
    x = tg.ones(3, requires_grad=True)
    y = x * 2.0
    z = (y.exp() * y).sum()
    held = weakref.ref(y)
    del y
    assert held() is not None
    del z
    assert held() is None


@pytest.mark.parametrize("name", OPS)
def test_every_op_leaves_no_cycle_behind(name):
    """Forward, backward and a dropped graph, with the collector off: no node may remain."""
    inputs = inputs_of(name)
    before = living(Node)
    loss = sum(y.sum() for y in outputs_of(OPS[name][0](*inputs)))
    loss.backward()
    del loss
    unused = outputs_of(OPS[name][0](*inputs))
    del unused
    assert living(Node) == before


def test_a_second_order_graph_goes_with_its_gradients():
    x = tg.ones(3, requires_grad=True)
    before = living(Node)
    (g,) = tg.grad((x.exp() * x).sum(), [x], create_graph=True)
    tg.grad(g.sum(), [x])
    del g
    assert living(Node) == before


def test_in_place_writes_hooks_and_views_leave_nothing_behind():
    x = tg.ones(3, requires_grad=True)
    before = living(Node), living(tg.Tensor)
    y = x * 1.0
    y.retain_grad()
    y.register_hook(lambda g: g * 2.0)
    y *= 2.0
    y[0] = 5.0
    y.reshape(3, 1)[1:].sum().backward()
    del y
    x.grad = None
    assert (living(Node), living(tg.Tensor)) == before


def test_an_operand_that_no_gradient_needs_is_let_go():
    """y = h * 2 and y = h @ w with a constant w need nothing of h."""
    w = tg.ones(3, 2)
    x = tg.ones(4, 3, requires_grad=True)
    for op in (
        lambda h: h * 2.0,
        lambda h: h / 3.0,
        lambda h: h + h,
        lambda h: h @ w,
        lambda h: ops.linear(h, w.T),
        lambda h: h.exp(),
        lambda h: h.relu(),
        lambda h: h.tanh(),
        lambda h: h.softmax(1),
        lambda h: ops.where(h > 0, h, 0.0),
        lambda h: h.sum(),
    ):
        h = x * 1.0
        held = weakref.ref(h)
        y = op(h)
        del h
        assert held() is None, op
        y.sum().backward()


def test_nothing_is_saved_without_grad():
    x = tg.ones(3, requires_grad=True)
    with tg.no_grad():
        h = x * 1.0
        held = weakref.ref(h)
        y = h * h
    del h
    assert held() is None and y.grad_fn is None


def test_the_graph_of_a_loop_does_not_grow():
    """One hundred steps, each with its own graph: the number of living nodes and arrays stays the same."""
    w = tg.ones(3, 3, requires_grad=True)
    data = tg.tensor(np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32))
    counts = []
    for _ in range(100):
        loss = ((data @ w.T).relu() ** 2).mean()
        loss.backward()
        with tg.no_grad():
            w -= 0.01 * w.grad
        w.grad = None
        counts.append((living(Node), living(tg.Tensor), len(w._storage._sharers or ())))
    assert set(counts[1:]) == {counts[1]}
