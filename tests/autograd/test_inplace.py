"""In-place writes: what they do to the graph, what they spoil, and what they refuse."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import tilegrad as tg
from tests.autograd.both import assert_agree, refused
from tests.compare import assert_same

OPERATORS = {
    "add": lambda x, y: x.__iadd__(y),
    "sub": lambda x, y: x.__isub__(y),
    "mul": lambda x, y: x.__imul__(y),
    "div": lambda x, y: x.__itruediv__(y),
    "pow": lambda x, y: x.__ipow__(y),
    "copy": lambda x, y: x.copy_(y),
}
UNARY = {
    "neg": lambda x: x.neg_(),
    "exp": lambda x: x.exp_(),
    "sqrt": lambda x: x.sqrt_(),
    "relu": lambda x: x.relu_(),
    "tanh": lambda x: x.tanh_(),
    "sigmoid": lambda x: x.sigmoid_(),
    "clamp": lambda x: x.clamp_(1.0, 2.0),
    "clamp below": lambda x: x.clamp_(max=2.0),
    "zero": lambda x: x.zero_(),
    "fill": lambda x: x.fill_(0.1),
    "add a number": lambda x: x.add_(0.1, alpha=2),
    "sub a number": lambda x: x.sub_(0.1),
    "mul a number": lambda x: x.mul_(0.1),
    "div a number": lambda x: x.div_(0.1),
    "pow": lambda x: x.pow_(3),
    "setitem": lambda x: x.__setitem__(1, 0.1) or x,
}


def close(scenario):
    """assert_agree for results with rounding: the last digit may differ."""
    from tests.autograd.both import ours, theirs

    for got, want in zip(scenario(ours), scenario(theirs), strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-14)


@pytest.mark.parametrize("needs", ["x", "y", "both"])
@pytest.mark.parametrize("name", OPERATORS)
def test_values_and_gradients_of_operators(name, needs):
    def scenario(lib):
        x0 = (lib.constant if needs == "y" else lib.leaf)([1.0, 2.0, 4.0])
        y = (lib.constant if needs == "x" else lib.leaf)([0.5, 2.0, 3.0])
        x = x0 * 1.0
        z = x * 3.0  # of the value before
        same = OPERATORS[name](x, y)
        ((x * x).sum() + z.sum()).backward()
        return [x, lib.constant(float(same is x)), *(t.grad for t in (x0, y) if t.grad is not None)]

    close(scenario)


@pytest.mark.parametrize("name", UNARY)
def test_values_and_gradients_of_functions(name):
    def scenario(lib):
        x0 = lib.leaf([0.5, 1.5, 3.0])
        x = x0 * 1.0
        UNARY[name](x)
        (x * lib.constant([1.0, 2.0, 4.0])).sum().backward()
        return [x, x0.grad]

    close(scenario)


def test_a_broadcast_operand():
    def scenario(lib):
        x0, y, n = lib.leaf([[1.0, 2.0], [3.0, 4.0]]), lib.leaf([0.5, 2.0]), lib.leaf(3.0)
        x = x0 * 2.0
        x += y
        x *= n
        x.sum().backward()
        return [x, x0.grad, y.grad, n.grad]

    assert_agree(scenario)


def test_writes_one_after_another():
    def scenario(lib):
        x0 = lib.leaf([1.0, 2.0])
        x = x0 * 1.0
        for k in range(4):
            x *= 2.0
            x += x0
            x[0] = x[1].detach() * k
        x.sum().backward()
        return [x, x0.grad]

    assert_agree(scenario)


def test_a_write_into_a_tensor_without_history_gives_it_one():
    def scenario(lib):
        y = lib.leaf([1.0, 2.0])
        x = lib.zeros(2)
        x += y
        x[0] = y[1] * 3.0
        x.sum().backward()
        return [x, y.grad, x.is_leaf]

    assert_agree(scenario)


def test_fill_from_a_scalar_with_a_gradient():
    def scenario(lib):
        x0, v = lib.leaf([1.0, 2.0]), lib.leaf(3.0)
        x = x0 * 1.0
        x.fill_(v)
        x.sum().backward()
        return [x, x0.grad, v.grad]

    assert_agree(scenario)


def test_masked_fill_in_place():
    def scenario(lib):
        x0 = lib.leaf([1.0, 2.0, 3.0])
        x = x0 * 1.0
        x.masked_fill_(lib.constant([1.0, 0.0, 1.0]) > 0, 0.1)
        (x * x).sum().backward()
        return [x, x0.grad]

    assert_agree(scenario)


def test_second_derivatives_through_writes():
    def scenario(lib):
        x0 = lib.leaf([1.0, 2.0])
        x = x0 * x0
        x *= x0
        x[0] = x0[1] * x0[1]
        (g,) = lib.grad(x.sum(), [x0], create_graph=True)
        return [g, *lib.grad(g.sum(), [x0])]

    assert_agree(scenario)


def test_a_cast_between_float_types():
    def scenario(lib):
        x0, y = lib.leaf([1.0, 2.0]), lib.leaf([0.5, 4.0])
        x = x0.float()
        x *= y  # float64 into float32
        x.sum().backward()
        return [x.double(), x0.grad, y.grad]

    assert_agree(scenario)


def test_a_float64_that_overflows_the_tensor():
    x = tg.ones(2)
    x += tg.tensor([1e300, 1.0], dtype="float64")
    assert x.tolist() == [np.inf, 2.0] and x.dtype == np.float32


# --- refused ---------------------------------------------------------------------------------------------------------


def test_leaves_that_require_grad():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        acts = [
            lambda: x.add_(1.0),
            lambda: x.__setitem__(0, 1.0),
            lambda: x.zero_(),
            lambda: x.copy_(lib.constant([0.0, 0.0])),
            lambda: x[0].fill_(1.0),
            lambda: x.reshape(2, 1).mul_(2.0),
        ]
        found = [refused(act) for act in acts]
        with lib.no_grad():
            found += [refused(act) for act in acts]
        return [found, x]

    assert_agree(scenario)


def test_updates_under_no_grad_keep_a_leaf_a_leaf():
    """As an optimizer does."""

    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        for _ in range(3):
            (x * x).sum().backward()
            with lib.no_grad():
                x -= 0.25 * x.grad
                x.sub_(x.grad, alpha=0.125)
                x.mul_(0.5).add_(1.0)
            x.grad.zero_()
        return [x, x.is_leaf, x.grad]

    assert_agree(scenario)


SPOILED = {
    # op: what it saves, which is then written to
    "mul": lambda a, w: (a * w, w),
    "div": lambda a, w: (a / w, w),
    "pow": lambda a, w: (w**3.0, w),
    "matmul": lambda a, w: (a.reshape(1, 2) @ w.reshape(2, 1), w),
    "exp": lambda a, w: (y := w.exp(), y),
    "sqrt": lambda a, w: (y := w.sqrt(), y),
    "sigmoid": lambda a, w: (y := w.sigmoid(), y),
    "log": lambda a, w: (w.log(), w),
    "sin": lambda a, w: (w.sin(), w),
    "maximum": lambda a, w: (a.maximum(w), w),
    "prod": lambda a, w: (w.prod(), w),
    "softmax": lambda a, w: (y := w.softmax(0), y),
    "getitem": lambda a, w: (a[i := tg.tensor([1, 0])] * 1.0, i),
    "where": lambda a, w: (tg.where(m := tg.tensor([True, False]), a, w), m),
}


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.parametrize("write", ["itself", "a view", "detached", "under no_grad"])
def test_spoiling_what_an_op_saved_is_an_error_that_names_it(name, write):
    a, b = (tg.tensor(v, dtype="float64", requires_grad=True) for v in ([1.0, 2.0], [3.0, 4.0]))
    w = b * 1.0
    y, saved = SPOILED[name](a * 1.0, w)
    with tg.no_grad():
        if write == "itself" and saved.dtype.kind == "f":
            saved += 1.0
        else:
            target = {"a view": lambda: saved[:1], "detached": saved.detach}.get(write, lambda: saved)()
            target.fill_(1)
    with pytest.raises(RuntimeError, match=f"a tensor saved by '{name}' was written to in place"):
        y.sum().backward()


def test_writing_to_what_no_rule_needs_is_fine():
    def scenario(lib):
        x0, w = lib.leaf([1.0, 2.0]), lib.constant([3.0, 4.0])
        x = x0 * 2.0
        y = x * w  # needs w, not x
        z = x + 1.0  # needs neither
        v = x**2.0  # needs x, not itself
        u = lib.where(w > 3.5, x, w) * 2.0
        v += 1.0
        y += 1.0
        z *= 3.0
        u.sum().backward(retain_graph=True)
        (y + z + v).sum().backward()
        x += 1.0
        return [x0.grad, x]

    assert_agree(scenario)


@pytest.mark.parametrize("op", [tg.mul, tg.div, tg.matmul, tg.ops.linear, tg.ops.conv2d])
def test_an_operand_is_only_guarded_where_the_others_gradient_needs_it(op):
    """With a constant weight, the input is free to change."""
    shape = (1, 1, 2, 2) if op is tg.ops.conv2d else (2, 2)
    x0 = tg.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    w = tg.tensor([2.0, 4.0, 8.0, 16.0]).reshape(shape)
    gradients = []
    for spoil in (False, True):
        x = x0.reshape(shape) * 1.0
        y = op(x, w)
        if spoil:
            x.zero_()
        gradients += tg.grad(y.sum(), [x0])
    assert_same(gradients[1].numpy(), gradients[0].numpy())
    assert gradients[0].numpy().all()


def test_an_error_in_the_shape_or_dtype_changes_nothing():
    x = tg.tensor([1.0, 2.0])
    n = tg.tensor([1, 2])
    cases = [
        (lambda: x.add_(tg.ones(2, 2)), ValueError, r"add_: the result is \(2, 2\) but x is \(2,\)"),
        (lambda: x.add_(tg.ones(3)), ValueError, r"add: shapes \(2,\) and \(3,\)"),
        (lambda: n.add_(1.5), TypeError, "add_: the result is float32 but x is int64"),
        (lambda: n.div_(2), TypeError, "div_: the result is float32 but x is int64"),
        (lambda: n.exp_(), TypeError, "exp_"),
        (lambda: (n > 1).add_(1), TypeError, "add_: the result is int64 but x is bool"),
        (lambda: x.copy_(tg.ones(3)), ValueError, r"copy_: shapes \(2,\) and \(3,\)"),
        (lambda: x.copy_(tg.ones(2, 2)), ValueError, r"copy_: src is \(2, 2\)"),
        (lambda: x.fill_(tg.ones(2)), ValueError, r"fill_: the value is \(2,\)"),
        (lambda: n.uniform_(), TypeError, "uniform_: x is int64"),
        (lambda: n.normal_(), TypeError, "normal_: x is int64"),
        (lambda: x.uniform_(2, 1), ValueError, "uniform_: expected a <= b"),
        (lambda: x.normal_(0, -1), ValueError, "normal_: expected std >= 0"),
    ]
    for act, error, text in cases:
        with pytest.raises(error, match=text):
            act()
    assert x.tolist() == [1.0, 2.0] and n.tolist() == [1, 2] and x._version == n._version == 0


def test_read_only_memory():
    x = tg.ones(3, 1).expand(3, 2)
    frozen = np.ones(2, np.float32)
    frozen.flags.writeable = False
    for t in (x, tg.from_numpy(frozen)):
        for act in (lambda t=t: t.add_(1.0), lambda t=t: t.__setitem__(0, 1.0), lambda t=t: t.zero_()):
            with pytest.raises(RuntimeError, match="x is read-only.*expected a clone"):
                act()


def test_integers_take_values_without_their_history():
    def scenario(lib):
        n = lib.zeros(2).long()
        n[0] = lib.leaf(1.7)
        n[1:].copy_(lib.leaf([2.7]))
        return [n, n.is_leaf]

    assert_agree(scenario)


# --- views -----------------------------------------------------------------------------------------------------------


def test_a_write_that_a_living_view_would_miss_is_refused():
    """torch would rewrite the view's history; here it is an error, and not a wrong gradient."""
    x0 = tg.tensor([1.0, 2.0], requires_grad=True)
    x = x0 * 1.0
    view = x[:1]
    for act in (lambda: x.add_(1.0), lambda: view.add_(1.0), lambda: x.__setitem__(0, 1.0)):
        with pytest.raises(RuntimeError, match="shares its memory with a view"):
            act()
    base = tg.zeros(2)
    part = base[0:1]
    with pytest.raises(RuntimeError, match="shares its memory with a view"):
        base += x0
    assert part.tolist() == [0.0] and x.tolist() == [1.0, 2.0]


def test_a_view_that_is_gone_is_no_obstacle():
    def scenario(lib):
        x0 = lib.leaf([[1.0, 2.0]])
        x = x0 * 2.0
        seen = x[0, 0].item()
        x += 1.0
        y = (x * 3.0).reshape(2)  # what it is a view of is gone
        y *= x0.reshape(2)
        (x.sum() + y.sum()).backward()
        return [seen, x, y, x0.grad]

    gc.disable()
    try:
        assert_agree(scenario)
    finally:
        gc.enable()


def test_versions_are_shared_by_views_and_detached_tensors():
    x = tg.zeros(2, 3)
    relatives = [x, x[0], x.T, x.reshape(6), x.detach(), x.expand(1, 2, 3), x.view(3, 2).T[1:]]
    for t in relatives[:5]:
        before = x._version
        t += 1.0
        assert {r._version for r in relatives} == {before + 1}
    stranger = x.clone()
    stranger += 1.0
    assert x._version == 5


# --- values ----------------------------------------------------------------------------------------------------------


def test_numbers_are_rounded_once_to_the_tensors_dtype():
    x = tg.zeros(2, dtype="float64")
    x += 0.1
    assert_same(x.numpy(), np.full(2, 0.1))
    x.fill_(0.2)
    x[0] = 0.3
    assert_same(x.numpy(), np.array([0.3, 0.2]))
    assert_same(x.copy_(0.7).numpy(), np.full(2, 0.7))


def test_writes_go_to_the_memory_that_is_there():
    array = np.zeros((2, 3))
    x = tg.from_numpy(array).T
    x += tg.tensor([[1.0, 2.0]], dtype="float64")
    x[0, 0] = 5.0
    assert_same(array, np.array([[5.0, 1.0, 1.0], [2.0, 2.0, 2.0]]))


def test_copy_broadcasts_and_casts():
    def scenario(lib):
        x = lib.zeros(2, 2)
        x.copy_(lib.constant([1.5, 2.5]).float())
        n = lib.zeros(2).long()
        n.copy_(lib.constant([1.5, -2.5]))
        return [x, n]

    assert_agree(scenario)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_uniform_stays_below_its_upper_end(dtype):
    """Rounding would bring 2 - 2^-25 to 2."""
    x = tg.empty(200_000 if dtype == "float16" else 1000, dtype=dtype)
    tg.manual_seed(0)
    x.uniform_(1, 2)
    assert 1.0 <= x.min().item() and x.max().item() < 2.0
    assert tg.empty(3, dtype=dtype).uniform_(1, 1).tolist() == [1.0] * 3
