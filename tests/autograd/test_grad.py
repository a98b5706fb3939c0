"""tilegrad.grad: inputs that are no leaves, unused ones, weights, higher orders."""

from __future__ import annotations

import pytest

import tilegrad as tg
from tests.autograd.both import assert_agree, refused


def test_no_grad_attribute_is_touched():
    def scenario(lib):
        x, y = lib.leaf([1.0, 2.0]), lib.leaf([3.0, 4.0])
        (g,) = lib.grad((x * y).sum(), x)
        return [g, x.grad is None, y.grad is None]

    assert_agree(scenario)


def test_inputs_that_are_no_leaves():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * x
        z = y * 3.0 + x
        return lib.grad((z * y).sum(), [y, z, x])

    assert_agree(scenario)


def test_an_input_that_is_the_output():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = (x * x).sum()
        return [lib.grad(y, [y], retain_graph=True), lib.grad(y, [x, y])]

    assert_agree(scenario)


def test_an_input_behind_another_input():
    """The walk goes on through y to x, with the whole gradient of y."""

    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * x
        return lib.grad((y * y).sum() + y.sum(), [y, x])

    assert_agree(scenario)


def test_unused_inputs():
    def scenario(lib):
        x, y = lib.leaf([1.0, 2.0]), lib.leaf([3.0, 4.0])
        z = (x * 2.0).sum()
        found = lib.grad(z, [x, y], allow_unused=True, retain_graph=True)
        return [
            found,
            refused(lambda: lib.grad(z, [x, y], retain_graph=True)),
            refused(lambda: lib.grad(z, [lib.constant(1.0)], allow_unused=True)),
        ]

    assert_agree(scenario)


def test_several_outputs_and_their_weights():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y, z = x * x, (x * 3.0).sum()
        return lib.grad([y, z], [x], [lib.constant([1.0, -1.0]), None])

    assert_agree(scenario)


def test_one_output_twice():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = (x * x).sum()
        return lib.grad([y, y], [x])

    assert_agree(scenario)


def test_one_input_twice():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        calls = []
        x.register_hook(lambda g: calls.append(1))
        return [lib.grad((x * x).sum(), [x, x]), calls]

    assert_agree(scenario)


def test_the_number_of_weights_must_fit():
    x = tg.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="grad: 2 outputs but 1 grad_outputs"):
        tg.grad([x * 1, x * 2], [x], [None])


def test_only_what_leads_to_the_inputs_is_run_and_freed():
    from tilegrad.autograd.record import record

    x, y = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    ran = []

    def spy(name, t):
        return record(name, t.data * 2, (t,), lambda dy: (ran.append(name), dy * 2.0)[1:])

    a, b = spy("a", x), spy("b", y)
    (a * b).sum().backward(inputs=[x])
    assert ran == ["a"]
    tg.grad(b.sum(), [y])  # its graph is still there
    assert ran == ["a", "b"]


# --- higher orders ---------------------------------------------------------------------------------------------------


def test_second_and_third_derivatives():
    def scenario(lib):
        x = lib.leaf([1.0, -2.0])
        (first,) = lib.grad((x**4).sum(), [x], create_graph=True)
        (second,) = lib.grad(first.sum(), [x], create_graph=True)
        (third,) = lib.grad(second.sum(), [x], create_graph=True)
        (fourth,) = lib.grad(third.sum(), [x])
        return [first, second, third, fourth]

    assert_agree(scenario)


def test_a_gradient_in_the_loss():
    """As in a gradient penalty."""

    def scenario(lib):
        x, w = lib.leaf([1.0, 2.0]), lib.leaf([[1.0, 2.0], [3.0, -1.0]])
        y = (w @ x) ** 2
        (g,) = lib.grad(y.sum(), [x], create_graph=True)
        (y.sum() + (g * g).sum()).backward()
        return [x.grad, w.grad]

    assert_agree(scenario)


def test_backward_with_create_graph_gives_gradients_a_history():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        (g,) = lib.grad((x * x * x).sum(), [x], create_graph=True)
        (h,) = lib.grad((x * x).sum(), [x])
        return [g, h, g.is_leaf, h.is_leaf]

    assert_agree(scenario)


def test_create_graph_keeps_the_graph_unless_told_otherwise():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = (x * x).sum()
        lib.grad(y, [x], create_graph=True)
        kept = not refused(lambda: lib.grad(y, [x], create_graph=True, retain_graph=False))
        return [kept, refused(lambda: lib.grad(y, [x]))]

    assert_agree(scenario)


def test_the_weights_have_gradients_too():
    """d<v, J^T u>/du: how a product with J is had from one with J^T."""

    def scenario(lib):
        x, u = lib.leaf([1.0, 2.0]), lib.leaf([0.5, 0.25])
        (g,) = lib.grad(x * x * x, [x], [u], create_graph=True)
        return lib.grad(g, [u], [lib.constant([1.0, 2.0])])

    assert_agree(scenario)


def test_second_derivatives_through_broadcasting_and_casts():
    def scenario(lib):
        x, b = lib.leaf([[1.0, 2.0], [3.0, 4.0]]), lib.leaf([0.5, 2.0])
        (g,) = lib.grad((x * b).sum() ** 2, [b], create_graph=True)
        return lib.grad((g * b).sum(), [x, b])

    assert_agree(scenario)


def test_an_op_without_a_second_derivative_says_so_by_name():
    from tilegrad.autograd.record import once_only, record

    def once(x):
        def rule(dy):
            once_only("once", dy)
            return (dy * 2.0,)

        return record("once", x.data * 2, (x,), rule)

    x = tg.ones(2, requires_grad=True)
    (once(x) * x).sum().backward()
    assert x.grad.tolist() == [4.0, 4.0]
    with pytest.raises(RuntimeError, match="once: this op has no second derivative"):
        tg.grad((once(x) * x).sum(), [x], create_graph=True)
