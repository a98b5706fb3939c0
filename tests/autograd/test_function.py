"""Function beside torch.autograd.Function: the same class bodies, values, gradients of both orders, and refusals."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import gradcheck, gradgradcheck
from tilegrad.autograd import Function, once_differentiable

BOTH = {"tilegrad": (tg, Function, once_differentiable), "torch": (torch,) + (torch.autograd.Function,)}


def classes(lib):
    """The same Functions, of either library."""
    base = Function if lib is tg else torch.autograd.Function
    once = once_differentiable if lib is tg else torch.autograd.function.once_differentiable

    class Exp(base):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, dy):
            (y,) = ctx.saved_tensors
            return dy * y

    class Product(base):
        @staticmethod
        def forward(ctx, x, factor, w):
            ctx.factor = factor
            ctx.save_for_backward(x, w)
            return x * w * factor

        @staticmethod
        def backward(ctx, dy):
            x, w = ctx.saved_tensors
            dx = dy * w * ctx.factor if ctx.needs_input_grad[0] else None
            return dx, None, dy * x * ctx.factor

    class Pair(base):
        """Two results, of which one is kept, and a third that is no tensor."""

        @staticmethod
        def forward(ctx, x, w):
            a, b = x * w, (x + w).exp()
            ctx.save_for_backward(x, w, b)
            return a, b, "neither"

        @staticmethod
        def backward(ctx, da, db, nothing):
            assert nothing is None
            x, w, b = ctx.saved_tensors
            return da * w + db * b, da * x + db * b

    class Apart(base):
        @staticmethod
        def forward(x, w):
            return x * w

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, dy):
            x, w = ctx.saved_tensors
            return dy * w, dy * x

    class Sorted(base):
        """A result without gradient: marked, and one of integers."""

        @staticmethod
        def forward(ctx, x):
            y, index = x.sort()
            top = y[-1:].clone()
            ctx.mark_non_differentiable(top)
            ctx.save_for_backward(index)
            return y, index, top

        @staticmethod
        def backward(ctx, dy, dindex, dtop):
            (index,) = ctx.saved_tensors
            assert not dtop.any()
            return dy[index.argsort()]

    class Same(base):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, dy):
            return dy * 2

    class Stretched(base):
        """A gradient that is summed to its argument's shape."""

        @staticmethod
        def forward(ctx, x, row):
            return x + row

        @staticmethod
        def backward(ctx, dy):
            return dy, dy

    class Once(base):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return 2 * x * dy

    return {name: value for name, value in locals().items() if isinstance(value, type) and value is not base}


OURS, THEIRS = classes(tg), classes(torch)


def leaves(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    return (
        [tg.Tensor(np.array(a), requires_grad=True) for a in arrays],
        [torch.tensor(a, requires_grad=True) for a in arrays],
    )


@pytest.mark.parametrize(
    "name, shapes, run",
    [
        ("Exp", [(3, 4)], lambda f, x: f(x) * x),
        ("Product", [(3, 4), (3, 4)], lambda f, x, w: f(x, 2.5, w)),
        ("Product", [(3, 4)], lambda f, x: f(x, 2.5, x)),
        ("Pair", [(3,), (3,)], lambda f, x, w: f(x, w)[0] * f(x, w)[1]),
        ("Pair", [(3,), (3,)], lambda f, x, w: f(x, w)[0]),
        ("Pair", [(3,), (3,)], lambda f, x, w: f(x, w)[1]),
        ("Pair", [(3,), (3,)], lambda f, x, w: sum(f(x * w, w)[:2])),
        ("Apart", [(2, 3), (2, 3)], lambda f, x, w: f(x, w)),
        ("Sorted", [(7,)], lambda f, x: f(x)[0] * x),
        ("Same", [(5,)], lambda f, x: f(x) * x),
        ("Stretched", [(4, 3), (3,)], lambda f, x, row: f(x, row) ** 2),
    ],
)
def test_values_and_gradients_of_both_orders_are_torchs(name, shapes, run):
    ours, theirs = leaves(*shapes)
    found = []
    for lib, known, given in ((tg, OURS, ours), (torch, THEIRS, theirs)):
        y = run(known[name].apply, *given)
        grad = tg.grad if lib is tg else torch.autograd.grad
        first = grad((y * y).sum(), given, create_graph=True)
        second = grad(sum((g * g).sum() for g in first), given)
        found.append([t.detach().numpy() for t in (y, *first, *second)])
    for mine, other in zip(*found):
        np.testing.assert_allclose(mine, other, rtol=1e-12)
    if name != "Same":  # its rule is wrong on purpose
        assert gradcheck(lambda *x: run(OURS[name].apply, *x), ours)
        assert gradgradcheck(lambda *x: run(OURS[name].apply, *x), ours)


def test_what_needs_no_gradient_records_nothing_and_results_are_what_forward_gave():
    x, w = tg.ones(3), tg.ones(3)
    a, b, text = OURS["Pair"].apply(x, w)
    assert not a.requires_grad and not b.requires_grad and text == "neither"
    with tg.no_grad():
        assert not OURS["Exp"].apply(tg.ones(3, requires_grad=True)).requires_grad
    (x,) = leaves((4,))[0]
    y, index, top = OURS["Sorted"].apply(x)
    assert y.requires_grad and not index.requires_grad and not top.requires_grad
    assert repr(y._node) == "<Sorted>"


def test_needs_input_grad_names_each_argument():
    seen = []

    class Look(Function):
        @staticmethod
        def forward(ctx, *args):
            seen.append(ctx.needs_input_grad)
            return args[0] * 1.0

        @staticmethod
        def backward(ctx, dy):
            seen.append(ctx.needs_input_grad)
            return dy, None, None

    Look.apply(tg.ones(2, requires_grad=True), 3, tg.ones(2)).sum().backward()
    assert seen == [(True, False, False)] * 2


def test_a_gradient_that_nothing_asked_for_is_zeros_or_none():
    seen = []

    def pair(zeros):
        class Both(Function):
            @staticmethod
            def forward(ctx, x):
                ctx.set_materialize_grads(zeros)
                return x * 1.0, (x * 2.0).reshape(1, 2)

            @staticmethod
            def backward(ctx, da, db):
                seen.append(db)
                return da

        return Both.apply

    x = tg.ones(2, requires_grad=True)
    pair(True)(x)[0].sum().backward()
    pair(False)(x)[0].sum().backward()
    assert seen[0].tolist() == [[0.0, 0.0]] and seen[1] is None and x.grad.tolist() == [2.0, 2.0]


def test_arrays_are_results_and_gradients_too_but_of_first_order():
    class Cube(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.data**3, np.float64(1.0)

        @staticmethod
        def backward(ctx, dy, _):
            (x,) = ctx.saved_tensors
            return dy.data * 3 * x.data**2

    (x,) = leaves((3,))[0]
    assert gradcheck(lambda x: Cube.apply(x)[0], x)
    (g,) = tg.grad(Cube.apply(x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="Cube: its gradient is differentiable once"):
        tg.grad(g.sum(), x)


def test_a_rule_that_is_differentiable_once_says_so_when_it_is_differentiated_again():
    (x,), (theirs,) = leaves((3,))
    y = OURS["Once"].apply(x)
    (g,) = tg.grad(y.sum(), x, create_graph=True)
    np.testing.assert_allclose(g.detach().numpy(), 2 * x.detach().numpy())
    with pytest.raises(RuntimeError, match="Once: its gradient is differentiable once"):
        (g * g).sum().backward()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        ones = torch.ones(3, dtype=torch.float64, requires_grad=True)
        (h,) = torch.autograd.grad(THEIRS["Once"].apply(theirs), theirs, ones, create_graph=True)
        h.sum().backward()


def test_a_leaf_does_not_keep_an_array_that_the_rule_still_has():
    buffer = np.ones(3, np.float32)

    class Kept(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, dy):
            return buffer

    x = tg.ones(3, requires_grad=True)
    Kept.apply(x).sum().backward()
    buffer[:] = 7
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


WRONG = {
    "too few": (lambda ctx, dy: dy, "Wrong: its gradient rule gave 1 gradients; expected 2, one for each argument"),
    "too many": (lambda ctx, dy: (dy, None, dy), "Wrong: its gradient rule gave 3 gradients; expected 2"),
    "for a number": (lambda ctx, dy: (dy, dy), "Wrong: the gradient of argument 1 is a tensor but the argument is a"),
    "a number": (lambda ctx, dy: (1.0, None), "Wrong: the gradient of argument 0 is a float; expected a tensor"),
    "a list": (lambda ctx, dy: [dy, None], "Wrong: its gradient rule gave 1 gradients; expected 2"),
    "another shape": (lambda ctx, dy: (dy[:1], None), r"Wrong: the gradient of argument 0 is \(1,\); expected \(2,\)"),
}


def function(rule, forward=lambda ctx, x, *_: x * 2.0):
    return type("Wrong", (Function,), {"forward": staticmethod(forward), "backward": staticmethod(rule)})


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_rule_is_an_error_that_names_the_function(case):
    rule, text = WRONG[case]
    with pytest.raises(RuntimeError, match=text):
        function(rule).apply(tg.ones(2, requires_grad=True), 3.0).sum().backward()
    theirs = type("Wrong", (torch.autograd.Function,), {
        "forward": staticmethod(lambda ctx, x, _: x * 2.0), "backward": staticmethod(rule)
    })  # fmt: skip
    with pytest.raises((RuntimeError, TypeError)):
        theirs.apply(torch.ones(2, requires_grad=True), 3.0).sum().backward()


def test_gradients_at_the_end_that_are_none_may_be_too_many():
    x = tg.ones(2, requires_grad=True)
    function(lambda ctx, dy: (dy, None, None, None)).apply(x, 3.0).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_what_apply_and_ctx_refuse():
    Exp, x = OURS["Exp"], tg.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match=r"Exp\.apply: takes no arguments by name; got x"):
        Exp.apply(x=x)
    with pytest.raises(TypeError, match=r"Exp: a Function has no instances; expected Exp\.apply"):
        Exp()
    with pytest.raises(NotImplementedError, match="Nothing: has no forward"):
        type("Nothing", (Function,), {}).apply(x)
    with pytest.raises(NotImplementedError, match="Half: has no backward"):
        type("Half", (Function,), {"forward": staticmethod(lambda ctx, x: x * 1.0)}).apply(x).sum().backward()
    with pytest.raises(TypeError, match="save_for_backward: argument 1 is a float; expected tensors or None"):
        function(None, lambda ctx, x: ctx.save_for_backward(x, 2.0)).apply(x)
    with pytest.raises(NotImplementedError, match="Wrong: mark_dirty is not supported"):
        function(None, lambda ctx, x: ctx.mark_dirty(x)).apply(x)
    with pytest.raises(TypeError, match="Wrong: a result is a list; expected a tensor or an array"):
        function(None, lambda ctx, x: [x]).apply(x)


@pytest.mark.parametrize("which", ["argument", "result", "result of two", "something between"])
def test_what_was_saved_may_not_be_written_to(which):
    kept = []

    class Keeps(Function):
        @staticmethod
        def forward(ctx, x):
            y, z = x * 2.0, x * 3.0
            saved = {"argument": x, "result": y, "result of two": y, "something between": z}[which]
            ctx.save_for_backward(saved)
            kept.append(z)
            return (z * 1.0, y) if which == "result of two" else y

        @staticmethod
        def backward(ctx, *dy):
            return sum(dy)

    leaf = tg.ones(2, requires_grad=True)
    x = leaf * 1.0
    result = Keeps.apply(x)
    y = result[-1] if which == "result of two" else result
    loss = y.sum()
    written = {"argument": x, "something between": kept[0]}.get(which, y)
    with tg.no_grad():
        written.add_(1.0)
    with pytest.raises(RuntimeError, match="backward: a tensor saved by 'Keeps' was written to in place"):
        loss.backward()


def test_what_was_not_saved_may_be_written_to():
    x = tg.ones(2, requires_grad=True)
    y, z = OURS["Pair"].apply(x, x)[:2]
    with tg.no_grad():
        y.add_(1.0)
    z.sum().backward()
    assert_same(x.grad.numpy(), 2 * z.detach().numpy())


def test_a_result_on_an_arguments_memory_is_a_view_of_it():
    same, x = OURS["Same"].apply, tg.ones(2) * 1.0
    half = function(lambda ctx, dy: None, lambda ctx, x: x.data[:1]).apply
    for f in (same, half):
        before = x._version
        y = f(x)
        assert y is not x
        y.add_(1.0)
        assert x._version == before + 1


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("results", [1, 2])
def test_a_graph_is_freed_without_the_collector(results, create_graph):
    class Keeps(Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(x, y)
            return (x * 2.0, y) if results == 2 else y

        @staticmethod
        def backward(ctx, *dy):
            x, y = ctx.saved_tensors
            return dy[-1] * y

    gc.collect()
    gc.disable()
    try:
        leaf = tg.ones(3, requires_grad=True)
        x = leaf * 1.0
        known = weakref.ref(x)
        y = Keeps.apply(x)
        y = y[-1] if results == 2 else y
        (g,) = tg.grad(y.sum(), leaf, retain_graph=True, create_graph=create_graph)
        assert g.requires_grad is create_graph
        del x, y, g
        assert known() is None
    finally:
        gc.enable()


def test_on_the_device():
    """Simulated where there is none."""
    x = tg.ones(3, device="cuda", requires_grad=True)
    a, b, _ = OURS["Pair"].apply(x, x * 2.0)
    a.sum().backward()
    assert a.is_cuda and b.is_cuda and x.grad.tolist() == [4.0, 4.0, 4.0]
    with pytest.raises(RuntimeError, match="Wrong: the gradient of argument 0 is on cpu but the argument on cuda"):
        function(lambda ctx, dy: np.ones(3, np.float32)).apply(x).sum().backward()
