"""backward: accumulation, freed graphs, retained graphs, inputs; and whose array a .grad is."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.autograd.both import assert_agree, refused


def leaf(*values):
    return tg.tensor(list(values), dtype="float64", requires_grad=True)


# --- as torch has it -------------------------------------------------------------------------------------------------


def test_gradients_accumulate():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        (x * x).sum().backward()
        first = x.grad.detach().clone()
        (x * 3.0).sum().backward()
        return [first, x.grad]

    assert_agree(scenario)


def test_a_tensor_used_twice_gets_the_sum():
    def scenario(lib):
        x, y = lib.leaf([1.0, 2.0]), lib.leaf([3.0, 4.0])
        a = x * y
        b = a + x
        (a * b + a).sum().backward()
        return [x.grad, y.grad]

    assert_agree(scenario)


def test_a_leaf_is_its_own_gradient():
    def scenario(lib):
        x = lib.leaf(2.0)
        x.backward()
        x.backward()
        return [x.grad]

    assert_agree(scenario)


def test_the_incoming_gradient():
    def scenario(lib):
        x = lib.leaf([[1.0, 2.0], [3.0, 4.0]])
        (x * x).backward(lib.constant([[1.0, 0.0], [2.0, -1.0]]))
        y = lib.leaf([2.0])
        (y * y).backward()  # one element: no gradient needed
        return [x.grad, y.grad]

    assert_agree(scenario)


def test_the_incoming_gradient_takes_the_tensors_dtype():
    x = tg.tensor([1.0, -2.0], requires_grad=True)
    x.relu().backward(tg.tensor([3.0, 3.0], dtype="float64"))
    assert x.grad.dtype == np.float32 and x.grad.tolist() == [3.0, 0.0]
    x.exp().backward([0.0, 0.0])  # a list will do


def test_retain_graph():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = (x * x).sum()
        y.backward(retain_graph=True)
        y.backward()
        return [x.grad, refused(y.backward)]

    assert_agree(scenario)


def test_inputs_restrict_what_is_accumulated():
    def scenario(lib):
        x, y = lib.leaf([1.0, 2.0]), lib.leaf([3.0, 4.0])
        z = x * y
        (z * z).sum().backward(inputs=[x])
        return [x.grad, y.grad is None, refused(lambda: (x * 2.0).sum().backward(inputs=[lib.constant(1.0)]))]

    assert_agree(scenario)


def test_inputs_may_be_one_tensor_or_twice_the_same():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        (x * x).sum().backward(inputs=x)
        (x * x).sum().backward(inputs=[x, x])
        return [x.grad, refused(lambda: (x * x).sum().backward(inputs=[]))]

    assert_agree(scenario)


def test_what_backward_refuses():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        return [
            refused(lambda: (x * 2.0).backward()),  # not a scalar
            refused(lambda: (x * 2.0).backward(lib.constant([1.0]))),  # another shape
            refused(lambda: lib.constant(1.0).backward()),
            refused(lambda: x.detach().sum().backward()),
            x.grad is None,
        ]

    assert_agree(scenario)


def test_detach_cuts():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * 2.0
        (y.detach() * x).sum().backward()
        return [x.grad, y.detach().requires_grad, y.detach().is_leaf]

    assert_agree(scenario)


def test_clone_passes():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        (x.clone() * x).sum().backward()
        return [x.grad]

    assert_agree(scenario)


def test_integers_carry_no_gradient():
    x = leaf(1.5, 2.5)
    assert not x.long().requires_grad and not (x > 2).requires_grad and not x.argmax().requires_grad
    index = tg.tensor([1, 0])
    (x[index] * index).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0] and index.grad is None
    with pytest.raises(RuntimeError, match="requires_grad: expected a floating-point tensor; got int64"):
        index.requires_grad = True
    with pytest.raises(RuntimeError, match="requires_grad"):
        tg.ones(2, dtype="int32", requires_grad=True)


def test_requires_grad_of_results_cannot_be_turned_off():
    def scenario(lib):
        x = lib.leaf([1.0])
        y = x * 2.0
        y.requires_grad_(True)
        x.requires_grad_(False)
        return [refused(lambda: y.requires_grad_(False)), y.requires_grad, x.requires_grad]

    assert_agree(scenario)


def test_gradients_come_in_the_leafs_dtype():
    x = tg.ones(3, requires_grad=True)
    (x * tg.ones(3, dtype="float64")).sum().backward()
    assert x.grad.dtype == np.float32


# --- errors ----------------------------------------------------------------------------------------------------------


def test_the_error_of_a_freed_graph_names_the_op():
    x = leaf(1.0, 2.0)
    y = x.exp()
    y.sum().backward()
    with pytest.raises(RuntimeError, match=r"graph behind 'exp' was freed.*retain_graph=True"):
        (y * 2).sum().backward()


def test_the_error_of_a_missing_gradient_names_the_shape():
    with pytest.raises(RuntimeError, match=r"backward: the tensor is \(2,\); expected a scalar"):
        (leaf(1.0, 2.0) * 2).backward()
    with pytest.raises(RuntimeError, match=r"backward: the gradient is \(3,\) but the tensor is \(2,\)"):
        (leaf(1.0, 2.0) * 2).backward(tg.zeros(3))


# --- whose array a gradient is ---------------------------------------------------------------------------------------


def spoil(x):
    x.grad.mul_(100.0)


def test_the_gradients_of_two_leaves_do_not_share_memory():
    x, y, z = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0, 6.0)
    ((x + y).reshape(2, 1) + z.reshape(2, 1)).sum().backward()
    spoil(x)
    assert y.grad.tolist() == z.grad.tolist() == [1.0, 1.0]


def test_a_gradient_shares_no_memory_with_the_one_passed_in():
    x, v = leaf(1.0, 2.0), tg.tensor([1.0, 2.0], dtype="float64")
    x.backward(v)
    spoil(x)
    x.grad = None
    x.clone().backward(v)
    spoil(x)
    (x + 0.0).backward(v)
    (x.reshape(1, 2) * 1.0).backward(v.reshape(1, 2))
    assert v.tolist() == [1.0, 2.0]


def test_a_gradient_shares_no_memory_with_what_a_rule_saved():
    w = tg.tensor([3.0, 4.0], dtype="float64")
    x = leaf(1.0, 2.0)
    y = x * w  # for an incoming 1 the gradient of x equals w
    y.sum().backward(retain_graph=True)
    spoil(x)
    assert w.tolist() == [3.0, 4.0]
    x.grad = None
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 4.0]


def test_a_rule_that_returns_what_it_saved_is_found_out():
    from tilegrad.autograd.record import record

    kept = tg.tensor([3.0, 4.0], dtype="float64")
    x = leaf(1.0, 2.0)
    record("mine", x.data * 2, (x,), lambda dy: (kept,)).sum().backward()
    spoil(x)
    assert kept.tolist() == [3.0, 4.0]


def test_a_rule_that_returns_one_array_twice_is_found_out():
    from tilegrad.autograd.record import record

    x, y, z = leaf(1.0, 2.0), leaf(1.0, 2.0), leaf(1.0, 2.0)

    def rule(dy):
        both = dy * 2.0
        return both, both, both.reshape(2)

    record("mine", x.data + y.data, (x, y, z), rule).sum().backward()
    spoil(x)
    spoil(z)
    assert y.grad.tolist() == [2.0, 2.0] and x.grad.tolist() == [200.0, 200.0]


def test_accumulating_does_not_change_a_gradient_that_was_taken_out():
    x = leaf(1.0, 2.0)
    (x * 2.0).sum().backward()
    held = x.grad
    (x * 2.0).sum().backward()
    assert held.tolist() == [2.0, 2.0] and x.grad.tolist() == [4.0, 4.0]


def test_a_gradient_of_a_stretched_leaf_is_writable():
    x = leaf(1.0, 2.0)
    x.sum().backward()  # the incoming gradient has stride 0
    spoil(x)
    assert x.grad.tolist() == [100.0, 100.0]
