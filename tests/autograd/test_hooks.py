"""Hooks on tensors and retained gradients, as torch has them."""

from __future__ import annotations

import pytest

import tilegrad as tg
from tests.autograd.both import assert_agree, refused


def test_a_leafs_hook_is_called_once_with_the_total():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        seen = []
        x.register_hook(lambda g: seen.append(g.tolist()))
        (x * x + x * 3.0).sum().backward()
        return [seen, x.grad]

    assert_agree(scenario)


def test_the_hook_of_a_result_is_called_once_with_the_total():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * 2.0
        seen = []
        y.register_hook(lambda g: seen.append(g.tolist()))
        (y * y + y).sum().backward()
        return [seen, x.grad]

    assert_agree(scenario)


def test_hooks_replace_gradients_in_order():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * 2.0
        y.register_hook(lambda g: g + 1.0)
        y.register_hook(lambda g: g * 10.0)
        x.register_hook(lambda g: g - 4.0)
        y.sum().backward()
        return [x.grad]

    assert_agree(scenario)


def test_hooks_can_be_removed():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * 2.0
        first, second = x.register_hook(lambda g: g * 10.0), y.register_hook(lambda g: g * 10.0)
        first.remove()
        second.remove()
        first.remove()  # twice is harmless
        y.sum().backward()
        return [x.grad]

    assert_agree(scenario)


def test_a_hook_may_remove_itself():
    def scenario(lib):
        x = lib.leaf([1.0])
        seen = []
        handle = x.register_hook(lambda g: (seen.append(g.tolist()), handle.remove())[1])
        (x * 2.0).sum().backward()
        (x * 3.0).sum().backward()
        return [seen, x.grad]

    assert_agree(scenario)


def test_hooks_run_for_grad_too_and_only_on_the_way():
    def scenario(lib):
        x, y = lib.leaf([1.0, 2.0]), lib.leaf([3.0, 4.0])
        a, b = x * 2.0, y * 2.0
        seen = []
        for name, t in (("x", x), ("y", y), ("a", a), ("b", b)):
            t.register_hook(lambda g, name=name: seen.append(name))
        z = (a * b).sum()
        found = lib.grad(z, [x], retain_graph=True)
        lib.grad(z, [a])
        return [found, seen]

    assert_agree(scenario)


def test_a_hook_changes_the_gradient_that_grad_returns():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * 2.0
        y.register_hook(lambda g: g * 5.0)
        return [lib.grad((y * y).sum(), [y]), lib.grad((y * y).sum(), [x])]

    assert_agree(scenario)
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2.0
    y.register_hook(lambda g: g * 5.0)
    found = tg.grad((y * y).sum(), [y, x])  # for both at once, torch gives the one of y from before the hook
    assert [g.tolist() for g in found] == [[20.0, 40.0], [40.0, 80.0]]


def test_a_gradient_that_a_hook_kept_is_not_the_leafs():
    x = tg.ones(2, requires_grad=True)
    kept = []
    x.register_hook(kept.append)
    (x * 3.0).sum().backward()
    x.grad.mul_(100.0)
    assert kept[0].tolist() == [3.0, 3.0]


def test_a_gradient_that_a_hook_gave_is_not_the_leafs():
    x, mine = tg.ones(2, requires_grad=True), tg.tensor([5.0, 6.0])
    x.register_hook(lambda g: mine)
    (x * 3.0).sum().backward()
    x.grad.mul_(100.0)
    assert mine.tolist() == [5.0, 6.0]


def test_a_result_asked_for_as_input_does_not_share_its_gradient_with_a_hook():
    x = tg.ones(2, requires_grad=True)
    y, kept = x * 2.0, []
    y.register_hook(kept.append)
    (y * y + y).sum().backward(inputs=[y])
    y.grad.mul_(100.0)
    assert kept[0].tolist() == [5.0, 5.0]


def test_what_a_hook_may_not_give():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * 2.0
        handle = y.register_hook(lambda g: g.sum())
        shape = refused(y.sum().backward)
        handle.remove()
        z = x * 2.0
        z.register_hook(lambda g: g.float())
        return [shape, refused(z.sum().backward)]

    assert_agree(scenario)
    x = tg.ones(2, requires_grad=True)
    x.register_hook(lambda g: 1.0)
    with pytest.raises(TypeError, match="hook: expected a Tensor or None; got float"):
        x.sum().backward()


def test_hooks_want_a_tensor_that_requires_grad():
    def scenario(lib):
        x = lib.constant([1.0])
        return [refused(lambda: x.register_hook(print)), refused(x.retain_grad)]

    assert_agree(scenario)


def test_hooks_see_a_history_under_create_graph():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        seen = []
        x.register_hook(lambda g: seen.append(g.requires_grad))
        lib.grad((x * x).sum(), [x], create_graph=True)
        lib.grad((x * x).sum(), [x])
        return seen

    assert_agree(scenario)


# --- retain_grad -----------------------------------------------------------------------------------------------------


def test_retain_grad():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * 2.0
        y.retain_grad()
        y.retain_grad()  # once more changes nothing
        x.retain_grad()  # a leaf does so anyway
        (y * y).sum().backward(retain_graph=True)
        first = y.grad.clone()
        (y * y).sum().backward()
        return [first, y.grad, x.grad]

    assert_agree(scenario)


def test_a_retained_gradient_is_what_hooks_made_of_it():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * 2.0
        y.retain_grad()
        y.register_hook(lambda g: g * 10.0)
        y.sum().backward()
        return [y.grad, x.grad]

    assert_agree(scenario)


def test_a_retained_gradient_is_of_the_value_after_an_in_place_write():
    def scenario(lib):
        x = lib.leaf([1.0, 2.0])
        y = x * 2.0
        y.retain_grad()
        y.mul_(3.0)
        (y * 5.0).sum().backward()
        return [y.grad, x.grad]

    assert_agree(scenario)


def test_a_retained_gradient_is_its_own():
    x = tg.ones(2, requires_grad=True)
    y = x + 1.0
    y.retain_grad()
    y.sum().backward()
    y.grad.mul_(100.0)
    assert x.grad.tolist() == [1.0, 1.0]
