"""Memory over many steps: graphs are freed by reference counting alone, and what is held stays as it is."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tests.training.nets import OURS, RECIPES, batches, build
from tilegrad import ops, optim
from tilegrad.autograd.record import Node
from tilegrad.tensor import Storage


@pytest.fixture
def no_collector():
    """The cyclic collector off: a graph in a reference cycle would stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def parameters(rng, *shapes):
    return [tg.tensor(0.3 * rng.standard_normal(s).astype(np.float32), requires_grad=True) for s in shapes]


def dense_net(rng):
    """linear - ReLU - dropout - linear."""
    w1, b1, w2, b2 = params = parameters(rng, (16, 36), (16,), (4, 16), (4,))

    def forward(x):
        h = ops.linear(x.flatten(1), w1, b1, activation="relu")
        return ops.linear(ops.dropout(h, 0.1), w2, b2)

    return params, forward


def conv_net(rng):
    """conv - ReLU - pool - linear - GELU - linear: rules that keep their input, their result, or neither."""
    k, c, w1, b1, w2, b2 = params = parameters(rng, (3, 1, 3, 3), (3,), (8, 12), (8,), (4, 8), (4,))

    def forward(x):
        h = ops.conv2d(x, k, c, activation="relu")
        h = ops.max_pool2d(h, (2, 2), (2, 2)).flatten(1)
        return ops.linear(ops.linear(h, w1, b1, activation="gelu"), w2, b2)

    return params, forward


def live():
    """How many tensors, storages and graph nodes there are."""
    return sum(issubclass(type(o), (tg.Tensor, Storage, Node)) for o in gc.get_objects())


def traced(step, times=20):
    """(bytes by which the arrays grow over so many steps, the most that one of them holds at once).

    CPython's own free lists grow for some thousand steps, so what stays is counted for NumPy alone.
    """
    tracemalloc.start()
    step()
    before = array_bytes()
    for _ in range(times):
        step()
    grown = array_bytes() - before
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    step()
    peak = tracemalloc.get_traced_memory()[1] - start
    tracemalloc.stop()
    return grown, peak


def array_bytes():
    only_numpy = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([only_numpy]).traces)


@pytest.mark.parametrize(
    "make_net, name, steps", [(dense_net, "AdamW", 1000), (conv_net, "SGD", 300)], ids=["dense", "conv"]
)
def test_many_steps_leave_nothing_behind(make_net, name, steps, no_collector):
    rng = np.random.default_rng(0)
    params, forward = make_net(rng)
    optimizer = getattr(optim, name)(params, lr=0.01, weight_decay=0.01)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.03, total_steps=steps + 50)
    x = tg.tensor(rng.standard_normal((5, 1, 6, 6)).astype(np.float32))
    t = tg.tensor(rng.integers(0, 4, 5))

    def step():
        optimizer.zero_grad()
        loss = ops.softmax_xent(forward(x), t)
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss.item()

    first_loss = step()
    grown, peak = traced(step)
    assert grown == 0
    objects = live()
    for _ in range(steps):
        loss = step()
    assert live() == objects
    grown, last_peak = traced(step)
    assert grown == 0
    assert last_peak < 1.1 * peak
    assert loss < 0.5 * first_loss  # and it trained


def test_second_derivatives_leave_nothing_behind(no_collector):
    params, forward = conv_net(np.random.default_rng(0))
    x = tg.tensor(np.random.default_rng(1).standard_normal((5, 1, 6, 6)).astype(np.float32), requires_grad=True)

    def step():
        (slope,) = tg.grad(forward(x).sum(), x, create_graph=True)
        (slope * slope).sum().backward(inputs=params)
        optim.SGD(params).zero_grad()

    step()
    objects = live()
    for _ in range(50):
        step()
    assert live() == objects


def test_a_forward_without_a_backward_leaves_nothing_behind(no_collector):
    params, forward = conv_net(np.random.default_rng(0))
    x = tg.tensor(np.ones((5, 1, 6, 6), np.float32))
    forward(x)
    objects = live()
    held = forward(x)
    assert live() > objects
    del held
    for _ in range(50):
        forward(x)
    assert live() == objects


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_held_is_not_changed_by_later_steps(recipe):
    model = build(OURS, "cnn")
    params = list(model.parameters())
    optimizer, scheduler = RECIPES[recipe](optim, model)
    held, bits = [], []
    for step, (x, t) in zip(range(12), batches("cnn")):
        optimizer.zero_grad()
        logits = model(tg.tensor(x))
        loss = ops.softmax_xent(logits, tg.tensor(t))
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step in (0, 5):
            held += [logits, loss, *(p.grad for p in params), *(p.detach().clone() for p in params)]
            bits = [h.detach().numpy().copy() for h in held]
    for tensor, before in zip(held, bits, strict=True):
        assert_same(tensor.detach().numpy(), before)
    assert any((a.numpy() != b.detach().numpy()).any() for a, b in zip(held[-len(params) :], params))
