"""What every optimizer does around its step: groups, gradients, errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tests.optim.pairs import arrays, assign, gradients, history, ours
from tilegrad import optim

CLASSES = [optim.SGD, optim.Adam, optim.AdamW]


def leaf(*shape, dtype=np.float32):
    return tg.tensor(np.ones(shape, dtype), requires_grad=True)


def with_grad(*shape):
    param = leaf(*shape)
    param.grad = tg.tensor(np.full(shape, 2.0, np.float32))
    return param


# --- parameters and groups


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "make, error, text",
    [
        (list, ValueError, "params is empty"),
        (lambda: leaf(2), TypeError, "params is a Tensor; expected a list"),
        (lambda: {"params": [leaf(2)]}, TypeError, "params is a dict; expected a list"),
        (lambda: 3, TypeError, "params is a int; expected a list"),
        (lambda: [np.ones(2)], TypeError, r"params\[0\] is a ndarray; expected a Tensor"),
        (lambda: [tg.arange(3)], TypeError, r"params\[0\] is int64; expected a floating-point tensor"),
        (lambda: [leaf(2) * 2], ValueError, r"params\[0\] is the result of <mul>; expected a leaf"),
        (lambda: [leaf(2)] * 2, ValueError, r"params\[1\], of shape \(2,\), is given twice"),
        (lambda: [{"params": {leaf(2)}}], TypeError, "params is a set, whose order changes"),
        (lambda: [{"lr": 0.1}], ValueError, r"a group has the keys \['lr'\]; expected \"params\""),
        (lambda: [{"params": [leaf(2)]}, leaf(2)], TypeError, "a group is a Tensor; expected a dict"),
        (lambda: [("w", leaf(2)), leaf(2)], ValueError, "1 of 2 parameters have names; expected all or none"),
    ],
)
def test_bad_parameters_are_errors(cls, make, error, text):
    with pytest.raises(error, match=rf"^{cls.__name__}: {text}"):
        cls(make())


def test_a_parameter_in_two_groups_is_an_error():
    param = leaf(2, 3)
    optimizer = optim.SGD([param])
    with pytest.raises(ValueError, match=r"SGD: params\[1\], of shape \(2, 3\), is given twice"):
        optimizer.add_param_group({"params": [leaf(1), param]})
    assert len(optimizer.param_groups) == 1


def test_an_added_group_is_trained_with_its_own_options():
    first, second = with_grad(2), with_grad(3)
    optimizer = optim.SGD([first], lr=0.25)
    group = {"params": second, "lr": 0.5}
    optimizer.add_param_group(group)
    optimizer.step()
    assert_same(first.detach().numpy(), np.full(2, 0.5, np.float32))
    assert_same(second.detach().numpy(), np.zeros(3, np.float32))
    assert group == {"params": second, "lr": 0.5}  # the caller's dict stays the caller's


def test_named_parameters_keep_their_names_and_errors_use_them():
    w = with_grad(2)
    optimizer = optim.Adam([("fc.weight", w), ("fc.bias", leaf(1))])
    assert optimizer.param_groups[0]["param_names"] == ["fc.weight", "fc.bias"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["fc.weight", "fc.bias"]
    w.data = tg.zeros(3)
    with pytest.raises(ValueError, match=r"^Adam: fc.weight: grad is \(2,\); expected \(3,\)"):
        optimizer.step()
    with pytest.raises(ValueError, match="one group has names"):
        optimizer.add_param_group({"params": [leaf(1)]})


# --- options


@pytest.mark.parametrize(
    "make, error, text",
    [
        (lambda p: optim.SGD(p, lr=-0.1), ValueError, "SGD: lr is -0.1; expected 0 <= lr"),
        (lambda p: optim.SGD(p, lr=float("nan")), ValueError, "SGD: lr is nan"),
        (lambda p: optim.SGD(p, lr=float("inf")), ValueError, "SGD: lr is inf"),
        (lambda p: optim.SGD(p, lr="0.1"), TypeError, "SGD: lr is '0.1'; expected a number"),
        (lambda p: optim.SGD(p, lr=True), TypeError, "SGD: lr is True; expected a number"),
        (lambda p: optim.SGD(p, momentum=-1), ValueError, "SGD: momentum is -1"),
        (lambda p: optim.SGD(p, 0.1, 0.9, True), TypeError, "SGD: dampening is True; expected a number"),
        (lambda p: optim.SGD(p, weight_decay=-1), ValueError, "SGD: weight_decay is -1"),
        (
            lambda p: optim.SGD(p, nesterov=True),
            ValueError,
            "SGD: momentum is 0 and dampening 0; expected momentum > 0",
        ),
        (lambda p: optim.SGD(p, 1, 0.9, 0.1, nesterov=True), ValueError, "SGD: momentum is 0.9 and dampening 0.1"),
        (lambda p: optim.SGD(p, maximize=1), TypeError, "SGD: maximize is 1; expected True or False"),
        (lambda p: optim.SGD(p, foreach=True), TypeError, "SGD: foreach=True is not supported"),
        (lambda p: optim.SGD(p, rate=1), TypeError, "SGD: got an unexpected argument 'rate'"),
        (lambda p: optim.Adam(p, lr=tg.ones(1)), ValueError, r"Adam: lr is a tensor of shape \(1,\)"),
        (lambda p: optim.Adam(p, lr=leaf()), ValueError, "Adam: lr requires grad"),
        (lambda p: optim.Adam(p, lr=tg.tensor(-1.0)), ValueError, "Adam: lr is -1.0"),
        (lambda p: optim.Adam(p, betas=0.9), TypeError, "Adam: betas is 0.9; expected a pair"),
        (lambda p: optim.Adam(p, betas=(0.9,)), TypeError, "Adam: betas is"),
        (
            lambda p: optim.Adam(p, betas=(1.0, 0.9)),
            ValueError,
            r"Adam: betas\[0\] is 1.0; expected 0 <= betas\[0\] < 1",
        ),
        (lambda p: optim.Adam(p, betas=(0.9, -0.1)), ValueError, r"Adam: betas\[1\] is -0.1"),
        (lambda p: optim.Adam(p, eps=-1e-8), ValueError, "Adam: eps is -1e-08"),
        (lambda p: optim.Adam(p, weight_decay=-1), ValueError, "Adam: weight_decay is -1"),
        (lambda p: optim.Adam(p, amsgrad=True), TypeError, "Adam: amsgrad=True is not supported"),
        (lambda p: optim.Adam(p, fused=True), TypeError, "Adam: fused=True is not supported"),
        (lambda p: optim.AdamW(p, capturable=True), TypeError, "AdamW: capturable=True is not supported"),
        (lambda p: optim.AdamW(p, decoupled_weight_decay=True), TypeError, "AdamW: got an unexpected argument"),
        (lambda p: optim.Adam([{"params": p, "lr": -1}]), ValueError, "Adam: lr is -1"),
    ],
)
def test_bad_options_are_errors(make, error, text):
    with pytest.raises(error, match=f"^{text}"):
        make([leaf(2)])


def test_pytorchs_switches_may_be_given_switched_off():
    optimizer = optim.AdamW([leaf(2)], amsgrad=False, foreach=None, fused=False, capturable=False)
    assert not {"amsgrad", "foreach", "fused", "capturable"} & set(optimizer.param_groups[0])


@pytest.mark.parametrize("cls", CLASSES)
def test_an_option_out_of_range_is_found_before_any_parameter_changes(cls):
    first, second = with_grad(2), with_grad(2)
    optimizer = cls([{"params": [first]}, {"params": [second]}])
    optimizer.param_groups[1]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr is -1.0"):
        optimizer.step()
    assert_same(first.detach().numpy(), np.ones(2, np.float32))
    assert not optimizer.state[first]


# --- the step


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "data, error, text",
    [
        (tg.ones(3), ValueError, r"param_groups\[1\]\['params'\]\[0\]: grad is \(2,\); expected \(3,\)"),
        (tg.ones(()), ValueError, r"param_groups\[1\]\['params'\]\[0\]: grad is \(2,\); expected \(\)"),
        (tg.ones(2, dtype=tg.float64), TypeError, r"\['params'\]\[0\]: grad is float32; expected float64"),
    ],
    ids=["shape", "scalar", "dtype"],
)
def test_a_gradient_that_does_not_fit_is_found_before_any_parameter_changes(cls, data, error, text):
    first, second = with_grad(2), with_grad(2)
    optimizer = cls([{"params": [first]}, {"params": [second]}], lr=0.5)
    second.data = data  # its gradient stays
    with pytest.raises(error, match=text):
        optimizer.step()
    assert_same(first.detach().numpy(), np.ones(2, np.float32))
    assert not optimizer.state[first]


@pytest.mark.parametrize("cls", CLASSES)
def test_without_gradients_nothing_happens(cls):
    params = [leaf(2), tg.ones(3)]  # one that wants a gradient and has none, one that wants none
    optimizer = cls(params, weight_decay=0.5)
    optimizer.step()
    for param in params:
        assert_same(param.detach().numpy(), np.ones(param.shape, np.float32))
        assert param._version == 0
        assert not optimizer.state[param]


@pytest.mark.parametrize("cls", CLASSES)
def test_the_gradient_survives_the_step(cls):
    params = ours(arrays())
    grads = gradients(1)[0]
    optimizer = cls(params, lr=0.1, weight_decay=0.1, maximize=True)
    assign(params, grads)
    optimizer.step()
    for param, grad in zip(params, grads):
        assert_same(param.grad.numpy(), grad)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_graph_that_needs_the_old_values_notices_the_step(cls):
    w, x = leaf(2), leaf(2)
    stale = (w * x).sum()
    (w * 3.0).sum().backward()
    cls([w], lr=0.5).step()
    assert w._version == 1
    with pytest.raises(RuntimeError, match="was written to in place"):
        stale.backward()


@pytest.mark.parametrize("cls", CLASSES)
def test_parameters_stay_leaves_in_the_memory_they_had(cls):
    param = with_grad(2)
    memory = param.data
    cls([param], lr=0.5).step()
    assert param.data is memory
    assert param.is_leaf
    assert param.requires_grad


def test_the_closure_runs_with_gradients_recorded_and_its_loss_is_returned():
    w = leaf(2)
    optimizer = optim.SGD([w], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    with tg.no_grad():
        loss = optimizer.step(closure)
        assert not tg.is_grad_enabled()
    assert loss.item() == 2.0
    assert_same(w.detach().numpy(), np.full(2, 0.5, np.float32))


def test_zero_grad_forgets_gradients_or_fills_them_with_zeros():
    with_one, without = with_grad(2), leaf(2)
    optimizer = optim.SGD([with_one, without])
    grad = with_one.grad
    optimizer.zero_grad(set_to_none=False)
    assert with_one.grad is grad
    assert_same(grad.numpy(), np.zeros(2, np.float32))
    assert without.grad is None
    optimizer.zero_grad()
    assert with_one.grad is None


def test_zeros_in_a_gradient_with_a_graph_leave_the_graph():
    w = leaf(2)
    (w * w * w).sum().backward(create_graph=True)
    held = w.grad
    optim.SGD([w]).zero_grad(set_to_none=False)
    assert_same(w.grad.numpy(), np.zeros(2, np.float32))
    assert not w.grad.requires_grad
    assert held.requires_grad


# --- as an object


def test_repr_names_every_option():
    optimizer = optim.SGD([{"params": [leaf(2)]}, {"params": [leaf(1)], "lr": 0.5}], lr=0.25, momentum=0.5)
    assert repr(optimizer) == (
        "SGD (\n"
        "Parameter Group 0\n    dampening: 0\n    lr: 0.25\n    maximize: False\n    momentum: 0.5\n"
        "    nesterov: False\n    weight_decay: 0\n"
        "Parameter Group 1\n    dampening: 0\n    lr: 0.5\n    maximize: False\n    momentum: 0.5\n"
        "    nesterov: False\n    weight_decay: 0\n)"
    )


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("cls", CLASSES)
def test_a_copy_goes_on_like_the_original(cls, duplicate):
    params = ours(arrays())
    optimizer = cls(params, lr=0.1, weight_decay=0.1)
    history(optimizer, params, gradients(3))
    twin = duplicate(optimizer)
    want = history(optimizer, params, gradients(3, seed=2))
    assert_same(history(twin, twin.param_groups[0]["params"], gradients(3, seed=2)), want)


def test_a_subclass_may_define_its_own_step():
    class SignDescent(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            with tg.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.sub_(p.grad.sign() * group["lr"])
                        self.state[p]["steps"] = self.state[p].get("steps", 0) + 1

    param = with_grad(2)
    optimizer = SignDescent([param], lr=0.25)
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert_same(param.detach().numpy(), np.full(2, 1 - 0.25 - 0.125, np.float32))
    twin = SignDescent([leaf(2)], lr=1.0)
    twin.load_state_dict(optimizer.state_dict())
    assert twin.state[twin.param_groups[0]["params"][0]] == {"steps": 2}


def test_an_optimizer_without_a_step_says_so():
    with pytest.raises(NotImplementedError, match="Optimizer: step is not defined"):
        optim.Optimizer([with_grad(2)], {"lr": 0.1}).step()
