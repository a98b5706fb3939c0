"""What ops look for in values, in a captured step on the CPU: each launch does, and raises as the plain call."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import graphs
from tests.compare import assert_same
from tilegrad import kernels, nn
from tilegrad.nn import functional as F

GOOD, BAD = [0, 3, 1], [1, 4, 0]  # positions among four, and one too many
TABLE = tg.tensor(np.arange(20, dtype=np.float32).reshape(4, 5))
CHECKS = {
    "embedding": lambda i: F.embedding(i, TABLE),
    "an embedding of negative": lambda i: F.embedding(3 - i, TABLE),
    "rows": lambda i: TABLE[i],
    "columns": lambda i: TABLE.T[:, i],
    "index_select": lambda i: TABLE.index_select(0, i),
    "gather": lambda i: TABLE.gather(0, i[:, None]),
    "take_along_dim": lambda i: tg.take_along_dim(TABLE, i[:, None], 0),
    "scatter": lambda i: TABLE.scatter(0, i[:, None], 2.0),
    "scatter_add": lambda i: TABLE.scatter_add(0, i[:, None], tg.ones(3, 1)),
    "one_hot": lambda i: F.one_hot(i, 4),
    "cross_entropy": lambda i: F.cross_entropy(TABLE[:3, :4] * 1, i),
    "cross_entropy with weights": lambda i: F.cross_entropy(TABLE[:3, :4] * 1, i, tg.ones(4)),
    "nll_loss": lambda i: F.nll_loss(TABLE[:3, :4].log_softmax(1), i),
    "binary_cross_entropy": lambda i: F.binary_cross_entropy(i.float() / 3, tg.ones(3)),
    "floor_divide": lambda i: tg.tensor([7, 8, 9]) // (i - 4),
    "remainder": lambda i: tg.tensor([7, 8, 9]) % (i - 4),
}


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield


@pytest.mark.parametrize("check", CHECKS)
def test_a_bad_value_in_a_later_batch_is_the_plain_call_s_error(check):
    """Type and text. What the function did before it has happened once, nothing behind it, and the step goes on."""
    fn, before, behind = CHECKS[check], tg.zeros(()), tg.zeros(())

    @tg.capture(warmup=1)
    def step(i):
        before.add_(1)
        y = fn(i)
        behind.add_(1)
        return y

    good, bad = tg.tensor(GOOD), tg.tensor(BAD)
    for _ in range(3):
        step(good)
    (account,) = graphs(step)
    with pytest.raises((IndexError, ValueError, ZeroDivisionError)) as want:
        fn(bad)
    for n in (4, 5):
        with pytest.raises(type(want.value)) as told:
            step(bad)
        assert str(told.value) == str(want.value)
        assert (before.item(), behind.item()) == (n, 3)
    assert_same(step(good).numpy(), fn(good).numpy())
    assert graphs(step) == [account]


def test_a_constant_is_looked_at_once():
    """What no launch changes is no node."""
    table = tg.ones(4, 2)
    step = tg.capture(lambda x: x + F.embedding(tg.tensor([1, 3]), table) + (x.long() ** 2 // 2), warmup=1)
    for _ in range(3):
        step(tg.ones(2, 2))
    assert not [name for name in graphs(step)[0].graph.nodes() if "require" in name]

    def wrong(x):
        return x + F.embedding(tg.tensor([1, 4]), table)

    for _ in range(3):
        with pytest.raises(IndexError, match="indices run from 1 to 4"):
            tg.capture(wrong, warmup=1)(tg.ones(2, 2))


def test_a_constant_that_was_written_to_is_looked_at_in_each_launch():
    table = tg.ones(4, 2)

    @tg.capture(warmup=1)
    def step(i):
        at = tg.zeros(2, dtype=tg.int64)
        at.add_(i)
        return F.embedding(at, table)

    for _ in range(3):
        step(tg.tensor([0, 3]))
    assert graphs(step)
    with pytest.raises(IndexError, match="indices run from 0 to 4"):
        step(tg.tensor([0, 4]))


@pytest.mark.parametrize("is_captured", [True, False])
def test_gradients_are_forgotten_before_a_label_is_found_wrong(is_captured):
    """They are set again behind it, and a launch does both at once unless something raises in between."""
    layer = nn.Linear(4, 3)

    def fn(x, t):
        y = layer(x)
        layer.zero_grad()
        loss = F.cross_entropy(y, t)
        loss.backward()
        return loss

    step = tg.capture(fn, warmup=1) if is_captured else fn
    for _ in range(3):
        step(tg.ones(2, 4), tg.tensor([0, 2]))
        assert layer.weight.grad is not None
    with pytest.raises(ValueError, match="expected 0 <= t < 3"):
        step(tg.ones(2, 4), tg.tensor([0, 3]))
    assert layer.weight.grad is None
    step(tg.ones(2, 4), tg.tensor([0, 2]))
    assert layer.weight.grad is not None
