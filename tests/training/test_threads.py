"""Two threads, two nets: whether gradients are recorded is a thread's own affair, and nothing else is shared."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tests.training.nets import OURS, train

RUNS = [("mlp", "adam"), ("cnn", "sgd")]


@pytest.fixture
def eager_switching():
    """Threads take turns every 10 microseconds, within an op as well as between two."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_two_nets_train_at_once_as_they_train_alone(eager_switching):
    alone = [train(OURS, net, recipe, np.float32, steps=25) for net, recipe in RUNS]
    start = threading.Barrier(2)

    def work(net, recipe):
        start.wait()
        return train(OURS, net, recipe, np.float32, steps=25)

    with ThreadPoolExecutor(2) as pool:
        together = [f.result() for f in [pool.submit(work, *run) for run in RUNS]]
    for (got, got_params), (want, want_params) in zip(together, alone):
        assert_same(got, want)
        for a, b in zip(got_params, want_params):
            assert_same(a, b)


def test_one_thread_trains_while_another_records_nothing():
    want, _ = train(OURS, *RUNS[0], np.float32, steps=10)
    inside, trained = threading.Event(), threading.Event()

    def evaluate():
        w = tg.ones(2, requires_grad=True)
        with tg.no_grad():
            inside.set()
            assert trained.wait(60)
            recorded_inside = (w * 2).requires_grad
        return recorded_inside, (w * 2).requires_grad

    with ThreadPoolExecutor(1) as pool:
        evaluated = pool.submit(evaluate)
        assert inside.wait(60)
        got, _ = train(OURS, *RUNS[0], np.float32, steps=10)
        trained.set()
        assert evaluated.result() == (False, True)
    assert_same(got, want)
