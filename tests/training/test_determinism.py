"""One seed, one run: initialisation, dropout and shuffles all come from the one stream."""

from __future__ import annotations

import numpy as np

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import ops, optim


def run(seed):
    """(losses, parameters) of 30 steps, all of whose randomness is the engine's."""
    tg.manual_seed(seed)
    w1 = (tg.randn(16, 20) * 0.3).requires_grad_()
    w2 = (tg.randn(4, 16) * 0.3).requires_grad_()
    inputs = tg.tensor(np.random.default_rng(0).standard_normal((40, 20)).astype(np.float32))
    labels = tg.tensor(np.random.default_rng(1).integers(0, 4, 40))
    optimizer = optim.AdamW([w1, w2], lr=0.01)
    losses = []
    for _ in range(30):
        batch = tg.randperm(40)[:8]
        optimizer.zero_grad()
        h = ops.dropout(ops.linear(inputs[batch], w1, activation="relu"), 0.3)
        loss = ops.softmax_xent(ops.linear(h, w2), labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), [w1.detach().numpy().copy(), w2.detach().numpy().copy()]


def test_one_seed_gives_the_same_bits():
    first, first_params = run(7)
    second, second_params = run(7)
    assert_same(second, first)
    for a, b in zip(second_params, first_params):
        assert_same(a, b)


def test_two_seeds_give_two_runs():
    first, first_params = run(7)
    second, second_params = run(8)
    assert (first != second).all()
    assert all((a != b).mean() > 0.99 for a, b in zip(first_params, second_params))
