"""Captured steps leave no memory behind, on any device: whatever was captured, and however it came to an end.

tests/cuda/test_capture_memory.py and tests/captured/test_memory.py run these, each on its device.
"""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import ON, graphs
from tilegrad import nn, optim
from tilegrad.nn import functional as F

ROUNDS = {"cpu": 100, "cuda": 5}  # the simulated device's kernels are slow


class Rounds:
    """What came to be in each round, as weak references."""

    def __init__(self):
        self.alive = []

    def watch(self, **things):
        self.alive += [(name, weakref.ref(thing)) for name, thing in things.items() if thing is not None]

    def watch_step(self, step):
        self.watch(step=step)
        for account in graphs(step):
            self.watch(account=account, graph=account.graph, pool=getattr(account.graph, "_pool", None))

    def left(self):
        gc.collect()
        return sorted(name for name, reference in self.alive if reference() is not None)


def data(n=4):
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((n, 6)).astype(np.float32), rng.integers(0, 3, n)
    return tg.tensor(x, device=ON["device"]), tg.tensor(t, device=ON["device"])


class Trainer:
    """A step that is captured as a method of the class, and one as an attribute of the instance."""

    def __init__(self):
        self.model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(ON["device"])
        self.optimizer = optim.Adam(self.model.parameters(), lr=0.01)
        self.own = tg.capture(self.train, warmup=1)
        self.fails = None

    def train(self, x, t):
        loss = F.cross_entropy(self.model(x), t)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.fails is not None:
            self.fails(loss)
        return loss

    @tg.capture(warmup=1)
    def method(self, x, t):
        return self.train(x, t)

    def watched(self, rounds):
        rounds.watch(trainer=self, model=self.model, weight=self.model[0].weight, optimizer=self.optimizer)


class CapturedNet(nn.Module):
    """A module with a captured method of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    @tg.capture(warmup=1)
    def evaluated(self, x):
        return self.layer(x)


def module(rounds):
    net = CapturedNet().to(ON["device"])
    rounds.watch(net=net, layer=net.layer)
    with tg.no_grad():
        for _ in range(3):
            net.evaluated(data()[0])
    assert len(graphs(net.evaluated)) == 1
    rounds.watch_step(net.evaluated)


def closure(rounds):
    """A function within a function, over model and optimizer, which knows itself too."""
    trainer = Trainer()
    trainer.watched(rounds)
    model, optimizer = trainer.model, trainer.optimizer

    @tg.capture(warmup=1)
    def step(x, t):
        assert step is not None
        loss = F.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        step(*data())
    assert len(graphs(step)) == 1
    rounds.watch_step(step)


def method(rounds):
    trainer = Trainer()
    trainer.watched(rounds)
    for _ in range(3):
        trainer.method(*data())
    assert len(graphs(trainer.method)) == 1
    rounds.watch_step(trainer.method)


def attribute(rounds):
    trainer = Trainer()
    trainer.watched(rounds)
    for _ in range(3):
        trainer.own(*data())
    assert len(graphs(trainer.own)) == 1
    rounds.watch_step(trainer.own)


def stopped(rounds):
    """An exception of the function's own while it is captured, which the caller keeps for a while."""
    trainer = Trainer()
    trainer.watched(rounds)
    trainer.own(*data())

    def fails(loss):
        rounds.watch(loss=loss)
        raise KeyError("mine")

    trainer.fails = fails
    with pytest.raises(KeyError):
        trainer.own(*data())
    rounds.watch_step(trainer.own)


def refused(rounds):
    """On the CPU an attempt that fails, after which the step runs plainly; on a GPU it is an error."""
    trainer = Trainer()
    trainer.watched(rounds)
    trainer.own(*data())

    def fails(loss):
        rounds.watch(loss=loss)
        loss.item()

    trainer.fails = fails
    if ON["device"] == "cuda":
        with pytest.raises(tg.CaptureError):
            trainer.own(*data())
    else:
        trainer.own(*data())
        assert "reads values" in trainer.own.summary()
    rounds.watch_step(trainer.own)


def forward(rounds):
    """Results, and what the function leaves elsewhere, with a graph of gradients."""
    trainer, left = Trainer(), SimpleNamespace(y=None)
    trainer.watched(rounds)

    def fn(x, _):
        left.y = y = trainer.model(x)
        return y[:2].T, y.sum()

    step = tg.capture(fn, warmup=1)
    for _ in range(3):
        step(*data())
        rounds.watch(left=left.y)
    assert len(graphs(step)) == 1
    rounds.watch_step(step)


def without_kernels(rounds):
    """What the simulated device does by the array library alone."""
    w = tg.ones(6, device=ON["device"])
    step = tg.capture(lambda x, _: x * w + 1, warmup=1)
    for _ in range(3):
        step(*data())
    assert len(graphs(step)) == 1
    rounds.watch(w=w)
    rounds.watch_step(step)


@pytest.mark.parametrize("use", [without_kernels, closure, method, module, attribute, stopped, refused, forward])
def test_what_is_dropped_is_freed(use):
    rounds, n = Rounds(), 100 if use is without_kernels else ROUNDS[ON["device"]]
    for _ in range(n):
        use(rounds)
    assert len(rounds.alive) >= 3 * n
    assert rounds.left() == []


def test_what_is_forgotten_beyond_the_most_is_freed(monkeypatch):
    """Also where its gradients became those that a later graph adds to."""
    monkeypatch.setattr("tilegrad.captured.step.MOST", 3)
    trainer, rounds = Trainer(), Rounds()
    step = tg.capture(lambda x, t, k: trainer.train(x, t) + k, warmup=1)
    with pytest.warns(RuntimeWarning, match="the oldest is forgotten"):
        for k in range(8):
            step(*data(), k), step(*data(), k)
            for account in graphs(step):
                rounds.watch(**{f"{k}": account.graph})
    assert len(graphs(step)) == 3
    gc.collect()
    assert len({id(r()) for _, r in rounds.alive if r() is not None}) == 3


def test_the_model_outlives_the_step():
    """What stays are its gradients, not the memory of the graph they came from."""
    trainer, rounds = Trainer(), Rounds()
    step = tg.capture(trainer.train, warmup=1)
    for _ in range(3):
        step(*data())
    rounds.watch_step(step)
    del step
    assert rounds.left() == []
    before = [p.grad.cpu().numpy().copy() for p in trainer.model.parameters()]
    trainer.own(*data())
    assert any((p.grad.cpu().numpy() != b).any() for p, b in zip(trainer.model.parameters(), before, strict=True))


def test_a_copy_of_an_instance_captures_its_own():
    import copy
    import pickle

    class Scaled:
        def __init__(self, factor):
            self.factor = factor

        @tg.capture(warmup=1)
        def __call__(self, x):
            return x * self.factor

    x = tg.ones(3, device=ON["device"])
    a = Scaled(2.0)
    for _ in range(3):
        assert a(x).tolist() == [2.0] * 3
    for b in (copy.copy(a), copy.deepcopy(a)):
        b.factor = 3.0
        for _ in range(3):
            assert (a(x).tolist(), b(x).tolist()) == ([2.0] * 3, [3.0] * 3)
    net = CapturedNet().to(ON["device"])
    with tg.no_grad():
        for _ in range(3):
            net.evaluated(data()[0])
        (twin := copy.deepcopy(net)).layer.weight.mul_(2)
        for _ in range(3):
            x = data()[0]
            assert (twin.evaluated(x) != net.evaluated(x)).any().item()
            assert (twin.evaluated(x) == twin.layer(x)).all().item()
    assert set(net.state_dict()) == {"layer.weight", "layer.bias"}
    trainer = Trainer()
    del trainer.own
    trainer.method(*data())
    pickle.loads(pickle.dumps(trainer)).method(*data())
