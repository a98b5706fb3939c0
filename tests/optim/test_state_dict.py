"""State dicts: PyTorch's structure, resuming, and moving between the two libraries."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.optim.pairs import arrays, gradients, history, ours, to_numpy, to_torch, torchs
from tilegrad import optim

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    ("Adam", {"lr": 0.1, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
]
MISSING = [(s, 1) for s in range(15)] + [(s, 2) for s in range(3, 6)]  # parameter 1 has no state when it is saved


def groups(params):
    return [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}]


def before_and_after():
    grads = gradients(20, missing=MISSING)
    return grads[:10], grads[10:]


@pytest.mark.parametrize("name, options", CASES)
def test_a_resumed_run_is_the_run(name, options):
    before, after = before_and_after()
    params = ours(arrays())
    optimizer = getattr(optim, name)(groups(params), **options)
    history(optimizer, params, before)
    saved, values = copy.deepcopy(optimizer.state_dict()), [p.detach().numpy().copy() for p in params]
    want = history(optimizer, params, after)

    resumed = ours(values)
    fresh = getattr(optim, name)(groups(resumed))  # the options come from the state dict
    fresh.load_state_dict(saved)
    assert_same(history(fresh, resumed, after), want)


@pytest.mark.parametrize("name, options", CASES)
def test_a_run_of_torch_goes_on_here(name, options):
    before, after = before_and_after()
    params = torchs(arrays(dtype=np.float64))
    oracle = getattr(torch.optim, name)(groups(params), **options)
    history(oracle, params, before)
    saved, values = to_numpy(oracle.state_dict()), [p.detach().numpy().copy() for p in params]
    want = history(oracle, params, after)

    resumed = ours(values)
    optimizer = getattr(optim, name)(groups(resumed))
    optimizer.load_state_dict(saved)
    assert_close(history(optimizer, resumed, after), want)


@pytest.mark.parametrize("name, options", CASES)
def test_a_run_goes_on_in_torch(name, options):
    before, after = before_and_after()
    params = ours(arrays(dtype=np.float64))
    optimizer = getattr(optim, name)(groups(params), **options)
    history(optimizer, params, before)
    saved, values = to_torch(optimizer.state_dict()), [p.detach().numpy().copy() for p in params]
    got = history(optimizer, params, after)

    resumed = torchs(values)
    oracle = getattr(torch.optim, name)(groups(resumed))
    oracle.load_state_dict(saved)
    assert_close(got, history(oracle, resumed, after))


@pytest.mark.parametrize("name, options", CASES)
def test_keys_are_torchs(name, options):
    before, _ = before_and_after()
    params, want_params = ours(arrays()), torchs(arrays())
    optimizer, oracle = (
        getattr(optim, name)(groups(params), **options),
        getattr(torch.optim, name)(groups(want_params), **options),
    )
    history(optimizer, params, before)
    history(oracle, want_params, before)
    got, want = optimizer.state_dict(), oracle.state_dict()
    assert {n: set(s) for n, s in got["state"].items()} == {n: set(s) for n, s in want["state"].items()}
    how = {"foreach", "fused", "capturable", "differentiable", "amsgrad"}
    for group, want_group in zip(got["param_groups"], want["param_groups"], strict=True):
        assert group == {k: v for k, v in want_group.items() if k not in how}


def test_the_loaded_state_is_a_copy():
    params, twins = ours(arrays()), ours(arrays())
    optimizer, twin = optim.Adam(params), optim.Adam(twins)
    history(optimizer, params, gradients(2))
    saved = optimizer.state_dict()
    bits = copy.deepcopy(saved)
    twin.load_state_dict(saved)
    history(twin, twins, gradients(2))
    twin.param_groups[0]["lr"] = 5.0
    assert saved["param_groups"] == bits["param_groups"]
    for n, state in bits["state"].items():
        for key, value in state.items():
            assert_same(saved["state"][n][key].numpy(), value.numpy())


@pytest.mark.parametrize("name, options", CASES)
def test_what_is_done_to_the_dicts_of_a_state_is_not_done_to_the_optimizer(name, options):
    """The tensors are the optimizer's own, the dicts and lists around them are not: given or taken."""
    params, twins = ours(arrays()), ours(arrays())
    optimizer, twin = getattr(optim, name)(groups(params), **options), getattr(optim, name)(groups(twins), **options)
    history(optimizer, params, gradients(2))
    saved = optimizer.state_dict()
    twin.load_state_dict(saved)
    before = [copy.deepcopy(each.state_dict()) for each in (optimizer, twin)]
    emptied = [*saved["state"].values(), saved["state"], *saved["param_groups"]]
    emptied += [group["params"] for group in saved["param_groups"]]
    for container in reversed(emptied):
        container.clear()
    for each, want in zip((optimizer, twin), before, strict=True):
        got = each.state_dict()
        assert got["param_groups"] == want["param_groups"] and got["state"].keys() == want["state"].keys()
        for n, state in want["state"].items():
            assert got["state"][n].keys() == state.keys()
            for key, value in state.items():
                assert_same(got["state"][n][key].numpy(), value.numpy())


def test_a_learning_rate_in_an_array_becomes_a_tensor():
    optimizer = optim.Adam(ours(arrays()))
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = np.array(0.125)
    optimizer.load_state_dict(saved)
    lr = optimizer.param_groups[0]["lr"]
    assert isinstance(lr, tg.Tensor)
    assert lr.item() == 0.125
    assert lr.data is not saved["param_groups"][0]["lr"]


def test_adamw_stays_decoupled_whatever_it_loads():
    saved = optim.Adam(ours(arrays()), weight_decay=0.1).state_dict()
    optimizer = optim.AdamW(ours(arrays()))
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_switches_that_an_older_pytorch_did_not_write_keep_their_value():
    optimizer = optim.AdamW(ours(arrays()))
    saved = optimizer.state_dict()
    for name in ("maximize", "decoupled_weight_decay"):
        del saved["param_groups"][0][name]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["maximize"] is False
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


def spoilt(**changes):
    """A state dict of Adam after a step, with changes: a name of the first state or group -> value, None to drop."""
    params = ours(arrays())
    optimizer = optim.Adam(params)
    history(optimizer, params, gradients(1))
    saved = copy.deepcopy(optimizer.state_dict())
    for name, value in changes.items():
        target = (
            saved["state"][0] if name in saved["state"][0] or name == "max_exp_avg_sq" else saved["param_groups"][0]
        )
        if value is None:
            del target[name]
        else:
            target[name] = value
    return saved


@pytest.mark.parametrize(
    "make, error, text",
    [
        (list, ValueError, "got a list; expected a dict with state and param_groups"),
        (lambda: {"state": {}}, ValueError, r"got \['state'\]; expected a dict with state and param_groups"),
        (
            lambda: {**spoilt(), "param_groups": []},
            ValueError,
            r"the saved groups have \[\] parameters; expected \[4\]",
        ),
        (lambda: spoilt(params=[0, 1]), ValueError, r"the saved groups have \[2\] parameters; expected \[4\]"),
        (lambda: {**spoilt(), "state": {7: {"step": 1}}}, ValueError, r"state has entries for \[7\]"),
        (lambda: spoilt(exp_avg=None), ValueError, r"state\[0\] has \['exp_avg_sq', 'step'\]; expected"),
        (lambda: spoilt(max_exp_avg_sq=np.ones((5, 10))), ValueError, r"state\[0\] has .*max_exp_avg_sq"),
        (
            lambda: spoilt(exp_avg=np.ones((10, 5))),
            ValueError,
            r"state\[0\]\['exp_avg'\] is \(10, 5\); expected \(5, 10\)",
        ),
        (
            lambda: spoilt(exp_avg=np.ones((5, 10), bool)),
            TypeError,
            r"state\[0\]\['exp_avg'\] is bool; expected numbers",
        ),
        (lambda: spoilt(step=np.ones(1)), ValueError, r"state\[0\]\['step'\] is \(1,\); expected \(\)"),
        (lambda: spoilt(step=-1.0), ValueError, r"state\[0\]\['step'\] is -1.0; expected a count"),
        (lambda: spoilt(amsgrad=True), TypeError, "amsgrad=True is not supported"),
        (lambda: spoilt(lr=-1.0), ValueError, "lr is -1.0"),
        (lambda: spoilt(betas=None), ValueError, r"a saved group has the options .*; expected betas among them"),
        (lambda: optim.SGD(ours(arrays())).state_dict(), ValueError, "a saved group has .*; expected betas"),
    ],
)
def test_a_state_that_is_not_this_optimizers_is_an_error_and_changes_nothing(make, error, text):
    params = ours(arrays())
    optimizer = optim.Adam(params, lr=0.25)
    history(optimizer, params, gradients(1))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=f"^Adam(.load_state_dict)?: {text}"):
        optimizer.load_state_dict(make())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for n, state in before["state"].items():
        for key, value in state.items():
            assert_same(after["state"][n][key].numpy(), value.numpy())
