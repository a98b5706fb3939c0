"""record: the op pattern as a user of it sees it, and the mistakes of a rule, each an error that names the op."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import Tensor
from tilegrad.autograd.record import Node, record


def leaf(*shape):
    return tg.ones(*shape, dtype="float64", requires_grad=True)


def mine(x, rule, data=None, **options):
    return record("mine", x.data * 2 if data is None else data, (x,), rule, **options)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (lambda dy: (dy[0],), r"mine: the gradient of parent 0 is \(3,\); expected \(2, 3\)"),
        (lambda dy: (dy.T,), r"mine: the gradient of parent 0 is \(3, 2\); expected \(2, 3\)"),
        (lambda dy: (dy.sum(1, keepdim=True),), r"mine: the gradient of parent 0 is \(2, 1\); expected \(2, 3\)"),
        (lambda dy: (dy.reshape(1, 3, 2),), r"mine: the gradient of parent 0 is \(1, 3, 2\)"),
        (lambda dy: (dy, dy), "mine: the rule gave 2 gradients; expected 1"),
        (lambda dy: (), "mine: the rule gave 0 gradients; expected 1"),
        (lambda dy: dy, "mine: the rule gave a Tensor; expected a tuple of gradients"),
        (lambda dy: None, "mine: the rule gave a NoneType; expected a tuple of gradients"),
        (lambda dy: (dy.data,), "mine: the gradient of parent 0 is a ndarray; expected a Tensor or None"),
        (lambda dy: (2.0,), "mine: the gradient of parent 0 is a float; expected a Tensor or None"),
    ],
)
def test_a_wrong_rule_is_an_error_that_names_the_op(rule, text):
    with pytest.raises(RuntimeError, match=text):
        mine(leaf(2, 3), rule).sum().backward()


def test_gradients_are_summed_to_the_shape_and_cast_to_the_dtype_of_their_parent():
    x = tg.ones(3, requires_grad=True)
    y = tg.ones(2, 1, requires_grad=True)
    record("mine", (x.data * y.data).astype(np.float64), (x, y), lambda dy: (dy, dy)).sum().backward()
    assert_same(x.grad.numpy(), np.full(3, 2, np.float32))
    assert_same(y.grad.numpy(), np.full((2, 1), 3, np.float32))


def test_no_gradient_for_a_parent_that_needs_none():
    x, y = leaf(3), tg.ones(3)
    record("mine", x.data + y.data, (x, y), lambda dy: (dy, dy * np.nan)).sum().backward()
    assert x.grad.tolist() == [1.0] * 3 and y.grad is None


def test_a_rule_may_give_none():
    x, y = leaf(3), leaf(3)
    record("mine", x.data + y.data, (x, y), lambda dy: (dy, None)).sum().backward()
    assert x.grad.tolist() == [1.0] * 3 and y.grad is None


def test_nothing_is_recorded_where_nothing_requires_a_gradient():
    for y in (mine(tg.ones(2), None), tg.no_grad()(lambda: mine(leaf(2), None))()):
        assert not y.requires_grad and y.grad_fn is None and y.is_leaf
    whole = mine(leaf(2), None, np.zeros(2, np.int64))
    assert not whole.requires_grad


def test_grad_fn_names_the_op():
    y = mine(leaf(2), lambda dy: (dy,))
    assert repr(y.grad_fn) == "<mine>" and not y.is_leaf and y.requires_grad and leaf(2).grad_fn is None


def test_a_rule_in_terms_of_the_result():
    """The result is handed in, at its own place in the graph: a second derivative goes through it."""
    x = leaf(2)
    y = mine(x, lambda dy, y: (dy * y,), np.exp(x.data), output=True)
    (first,) = tg.grad(y.sum(), [x], create_graph=True)
    (second,) = tg.grad(first.sum(), [x])
    np.testing.assert_allclose(first.detach().numpy(), np.exp(1), rtol=1e-15)
    np.testing.assert_allclose(second.numpy(), np.exp(1), rtol=1e-15)


def test_tensors_named_in_tuples_are_guarded_too():
    x, kept = leaf(2), (tg.ones(2), tg.ones(2))
    y = mine(x, lambda dy: (dy * kept[0],))
    kept[1].zero_()
    with pytest.raises(RuntimeError, match="saved by 'mine'"):
        y.sum().backward()


def test_a_chain_of_ops_needs_no_recursion_to_run_or_to_be_let_go():
    x = leaf()
    y = x
    for _ in range(20_000):
        y = y + x
    y.backward()
    assert x.grad.item() == 20_001.0
    for _ in range(20_000):
        y = y.detach() if y.is_leaf else y
        x = x * 1.0
    del x, y  # a graph that was never run


def test_parents_are_run_after_all_their_children():
    """A diamond whose long side is recorded first, and another whose long side is recorded last."""
    x = leaf()
    a = x * 2.0
    long = ((a * 3.0) * 5.0) * 7.0
    (long + a).backward()
    assert x.grad.item() == 2.0 * (105.0 + 1.0)
    x.grad = None
    a = x * 2.0
    (a + ((a * 3.0) * 5.0) * 7.0).backward()
    assert x.grad.item() == 2.0 * (105.0 + 1.0)


def test_nodes_are_numbered_in_the_order_they_are_made():
    x = leaf()
    y = x * 2.0
    z = y * 2.0
    assert isinstance(y.grad_fn, Node) and y.grad_fn.number < z.grad_fn.number
    assert z.grad_fn.edges[0] is y.grad_fn and y.grad_fn.edges[0] is x


def test_a_tensor_wants_an_array():
    for wrong in ([1.0], 1.0, np.float32(1), None, "a"):
        with pytest.raises(TypeError, match="Tensor: expected an array; got"):
            Tensor(wrong)
    for wrong in (np.array(["a"]), np.zeros(2, complex), np.zeros(2, np.longdouble), np.array([None])):
        with pytest.raises(TypeError, match="Tensor: the array is .*; expected one of bool, uint8"):
            Tensor(wrong)
