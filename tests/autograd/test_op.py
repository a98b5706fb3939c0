"""@tg.op: an op of the user's own, its rule under it."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import gradcheck, gradgradcheck, nn


@tg.op
def axpy(x, y, a=1.0):
    """a x + y."""
    result = a * x.data + y.data

    def gradient(dz):
        return dz * a, dz

    return result, gradient


@tg.op
def product(x, w):
    def gradient(dy):
        return dy * w, dy * x

    return x.data * w.data, gradient


@tg.op
def exp(x):
    return np.exp(x.data), lambda dy, y: dy * y


@tg.op
def pair(x, w):
    """Two results, the second of which the rule gets; and the numbers of the largest elements."""

    def gradient(da, db, dindex, a, b, index):
        return da * w + db * b, (da * x + db * b) * (index >= 0)

    return x.data * w.data, np.exp((x + w).data), x.data.argmax(-1), gradient


@tg.op
def by_kernel(x, w):
    """As a kernel's author writes it: arrays in, arrays out."""
    kept = x.data * 2

    def gradient(dy):
        return dy.data * w.data * 2, dy.data * kept

    return kept * w.data, gradient


def leaves(*shapes):
    rng = np.random.default_rng(0)
    return [tg.Tensor(np.asarray(rng.standard_normal(s)), requires_grad=True) for s in shapes]


@pytest.mark.parametrize(
    "run, shapes",
    [
        (lambda x, y: axpy(x, y, 3.0), [(3, 4), (3, 4)]),
        (lambda x, y: axpy(x, y, a=3.0) * x, [(3, 4), (4,)]),
        (lambda x, y: axpy(y=y, x=x), [(2,), (2,)]),
        (product, [(3, 4), (3, 4)]),
        (lambda x: product(x, x), [(3,)]),
        (exp, [(3, 4)]),
        (lambda x, w: pair(x, w)[:2], [(4,), (4,)]),
        (lambda x, w: pair(x, w)[1] * x, [(4,), (4,)]),
        (lambda x, w: pair(x, w)[0] * pair(w, x)[1], [(4,), (4,)]),
    ],
)
def test_gradients_of_both_orders(run, shapes):
    assert gradcheck(run, leaves(*shapes))
    assert gradgradcheck(run, leaves(*shapes))


def test_a_rule_of_kernels_has_first_order_and_refuses_the_second():
    x, w = leaves((3,), (3,))
    assert gradcheck(by_kernel, [x, w])
    (g,) = tg.grad(by_kernel(x, w).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="by_kernel: its gradient is differentiable once"):
        tg.grad(g.sum(), w)


def test_a_rule_that_names_an_array_or_a_tensor_of_its_own_refuses_the_second_too():
    """Their history is not recorded: a second derivative would miss a part, unnoticed."""

    @tg.op
    def square(x, how):
        y = x * x
        own = {"array": y.data, "tensor": y, "tuple": (y,)}[how]

        def gradient(dy):
            assert own is not None
            return dy * 2.0 * x

        return y, gradient

    (x,) = leaves((3,))
    for how in ("array", "tensor", "tuple"):
        (g,) = tg.grad(square(x, how).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="square: its gradient is differentiable once"):
            g.sum().backward()
    assert gradcheck(lambda x: square(x, "tensor"), x)


@pytest.mark.parametrize("of", ["an argument", "a result", "a result that the rule gets", "a result by its name"])
def test_what_the_rule_uses_may_not_be_written_to(of):
    @tg.op
    def named(x):
        y = np.exp(x.data)
        return y, lambda dy: dy * tg.Tensor(y)

    x = leaves((3,))[0] * 1.0
    f = {"an argument": lambda x: product(x, 2.0 * x), "a result by its name": named}.get(of, exp)
    y = pair(x, x)[1] if of == "a result" else f(x)
    loss = y.sum()
    with tg.no_grad():
        (x if of == "an argument" else y).add_(1.0)
    with pytest.raises(RuntimeError, match="was written to in place"):
        loss.backward()


def test_its_name_and_text_are_the_functions():
    assert axpy.__name__ == "axpy" and axpy.__doc__ == "a x + y."
    assert repr(axpy(*leaves((2,), (2,)))._node) == "<axpy>"


def test_no_rule_is_an_error_when_it_is_needed():
    @tg.op
    def sign(x):
        return np.sign(x.data), None

    (x,) = leaves((2,))
    assert_same(sign(x).detach().numpy(), np.sign(x.detach().numpy()))
    with pytest.raises(RuntimeError, match="sign: has no gradient rule"):
        sign(x).sum().backward()


def made(result, rule):
    @tg.op
    def wrong(x, n=1):
        return (result(x), rule) if rule is not None else result(x)

    return wrong


def test_what_it_refuses():
    (x,) = leaves((2,))
    double = lambda x: x * 2.0  # noqa: E731
    with pytest.raises(TypeError, match=r"wrong: gave a Tensor; expected \(result, gradient\)"):
        made(double, None)(x)
    with pytest.raises(TypeError, match=r"wrong: gave a function; expected \(result, gradient\)"):
        made(lambda x: lambda dy: dy, None)(x)
    with pytest.raises(TypeError, match="wrong: the gradient rule takes 3 arguments; expected 1, the gradients of 1"):
        made(double, lambda a, b, c: a)(x)
    with pytest.raises(RuntimeError, match=r"wrong: the gradient of argument 0 is \(1,\); expected \(2,\)"):
        made(double, lambda dy: dy[:1])(x).sum().backward()
    with pytest.raises(RuntimeError, match="wrong: its gradient rule gave 3 gradients; expected 1"):
        made(double, lambda dy: (dy, dy, dy))(x).sum().backward()
    with pytest.raises(TypeError, match="wrong: the gradient rule gave a list"):
        made(double, lambda dy: [dy])(x).sum().backward()
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        axpy(x, x, b=1.0)
    with pytest.raises(RuntimeError, match="product: its gradient rule gave 1 gradients; expected 2"):

        @tg.op
        def product(x, w):
            return x.data * w.data, lambda dy: dy * w

        product(x, leaves((2,))[0]).sum().backward()


def test_its_graph_is_freed_without_the_collector():
    gc.collect()
    gc.disable()
    try:
        x = tg.ones(3, requires_grad=True) * 1.0
        known = weakref.ref(x)
        y = pair(x, x)[1] + exp(x)
        y.sum().backward(retain_graph=True)
        del x, y
        assert known() is None
    finally:
        gc.enable()


def test_parameters_get_their_gradients():
    w, x = nn.Parameter(tg.ones(3)), tg.ones(3) * 2.0
    by_kernel(x, w).sum().backward()
    assert w.grad.tolist() == [4.0, 4.0, 4.0]
