"""Graphs as deep as they come: nothing in the engine may recurse along them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import tilegrad as tg
from tilegrad.autograd.record import Node

DEPTH = 10_000


@pytest.fixture(autouse=True)
def little_stack():
    """Deep enough for pytest and the engine, far from DEPTH."""
    assert sys.getrecursionlimit() <= DEPTH // 10


def chain(x, depth=DEPTH):
    """x -> -x + x -> ..., every second op an addition of the leaf: x, 0, x, 0, ... in exact numbers."""
    y = x
    for _ in range(depth // 2):
        y = -y + x
    return y


def depth_of(y):
    node, depth = y.grad_fn, 0
    while isinstance(node, Node):
        node, depth = node.edges[0], depth + 1
    return depth


def test_backward_through_10_000_ops_is_exact():
    """y = sum_i (-1)^i c_i x of 5,000 leaves' uses: the gradient counts them, in integers below 2^53."""
    x = tg.tensor([1.0, -3.0, 0.5], dtype=tg.float64, requires_grad=True)
    w = tg.tensor([2.0, 2.0, 2.0], dtype=tg.float64, requires_grad=True)
    y = x
    for _ in range(DEPTH // 2):
        y = -y + w * 1.0
    # y_n = (-1)^n x + w (1 - (-1)^n) / 2 for n = 5,000 additions: dy/dx = 1, and the uses of w cancel in pairs
    assert depth_of(y) == DEPTH
    np.testing.assert_array_equal(y.detach().numpy(), x.detach().numpy())
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones(3))
    np.testing.assert_array_equal(w.grad.numpy(), np.zeros(3))


def test_every_op_of_the_chain_counts():
    x = tg.tensor([1.0, -3.0], dtype=tg.float64, requires_grad=True)
    y = x
    for _ in range(DEPTH):
        y = y + x
    np.testing.assert_array_equal(y.detach().numpy(), (DEPTH + 1) * x.detach().numpy())
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(2, DEPTH + 1.0))


def test_a_chain_has_a_second_derivative():
    """y = x^2 added up 3,000 times by a chain of x * x / 1: d2y/dx2 = 2 * 3,000."""
    x = tg.tensor(3.0, dtype=tg.float64, requires_grad=True)
    y = x * 0.0
    for _ in range(3_000):
        y = y + x * x
    (first,) = tg.grad(y, x, create_graph=True)
    assert first.item() == 2 * 3_000 * 3.0
    (second,) = tg.grad(first, x)
    assert second.item() == 2 * 3_000


def test_a_graph_that_is_never_walked_is_let_go_without_recursion():
    y = chain(tg.tensor([1.0, 2.0], requires_grad=True), 5 * DEPTH)
    assert depth_of(y) == 5 * DEPTH
    del y  # a recursive release of 50,000 nodes would overflow the C stack


def test_a_freed_chain_says_so():
    y = chain(tg.tensor([1.0, 2.0], requires_grad=True)).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="was freed by an earlier backward"):
        y.backward()
