"""50 steps of every optimizer against torch's, with the same gradients; every option is on in some case."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.optim.pairs import arrays, assign, gradients, history, ours, torchs
from tilegrad import optim

STEPS = 50

# The first steps of parameter 1 and the middle ones of parameter 2 have no gradient; parameter 3 gets only three.
MISSING = [(s, 1) for s in range(4)] + [(s, 2) for s in range(20, 26)] + [(s, 3) for s in range(STEPS) if s % 17]

SGD = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.02},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02, "nesterov": True},
    {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.02, "maximize": True},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02, "nesterov": True, "maximize": True},
    {},
]
ADAM = [
    {},
    {"lr": 0.03, "weight_decay": 0.05},
    {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3},
    {"lr": 0.03, "betas": (0.0, 0.99), "weight_decay": 0.05, "maximize": True},
    {"lr": 0.03, "weight_decay": 0.05, "decoupled_weight_decay": True},
]
ADAMW = [
    {},
    {"lr": 0.03, "weight_decay": 0.5},
    {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3, "maximize": True},
    {"lr": 0.03, "weight_decay": 0.0},
]
CASES = [(name, options) for name, cases in {"SGD": SGD, "Adam": ADAM, "AdamW": ADAMW}.items() for options in cases]


def case_id(value):
    return value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"


def trajectories(name, make_groups, options, dtype, grads):
    """The history of our parameters, of torch's in float64, and of torch's in dtype."""
    values = arrays(dtype=dtype)
    results = []
    for library, params in (
        (optim, ours(values)),
        (torch.optim, torchs([v.astype(np.float64) for v in values])),
        (torch.optim, torchs(values)),
    ):
        optimizer = getattr(library, name)(make_groups(params), **options)
        results.append(history(optimizer, params, grads))
    return results


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("missing", [(), MISSING], ids=["all gradients", "some without"])
@pytest.mark.parametrize("name, options", CASES, ids=case_id)
def test_50_steps(name, options, missing, dtype):
    assert_close(*trajectories(name, list, options, dtype, gradients(STEPS, missing=missing)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "name, first, second, options",
    [
        ("SGD", {"lr": 0.2, "momentum": 0.0}, {"weight_decay": 0.1}, {"lr": 0.05, "momentum": 0.9}),
        ("SGD", {"nesterov": True, "momentum": 0.8}, {"maximize": True}, {"lr": 0.05}),
        ("Adam", {"lr": 0.1, "betas": (0.5, 0.9)}, {"weight_decay": 0.1, "eps": 0.1}, {}),
        ("AdamW", {"lr": 0.1, "weight_decay": 0.0}, {"maximize": True}, {"lr": 0.01, "weight_decay": 0.3}),
    ],
)
def test_groups_have_options_of_their_own(name, first, second, options, dtype):
    def groups(params):
        return [{"params": params[:1] + params[2:3], **first}, {"params": [params[1], params[3]], **second}]

    assert_close(*trajectories(name, groups, options, dtype, gradients(STEPS, missing=MISSING)))


def test_options_may_change_between_steps():
    results = []
    for library, params in (
        (optim, ours(arrays(dtype=np.float64))),
        (torch.optim, torchs(arrays(dtype=np.float64))),
    ):
        optimizer = library.SGD(params, lr=0.1)
        rows = [history(optimizer, params, gradients(5))]
        optimizer.param_groups[0].update(lr=0.01, momentum=0.9, weight_decay=0.1)
        rows.append(history(optimizer, params, gradients(20, seed=2)))
        results.append(np.concatenate(rows))
    assert_close(*results)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_lr_may_be_a_tensor_that_is_changed_in_place(name):
    grads = gradients(10)
    with_tensor, with_float = ours(arrays()), ours(arrays())
    lr = tg.tensor(0.5, dtype=tg.float64)
    a = getattr(optim, name)(with_tensor, lr=lr)
    b = getattr(optim, name)(with_float, lr=0.5)
    assert_same(history(a, with_tensor, grads[:5]), history(b, with_float, grads[:5]))
    lr.fill_(0.25)
    b.param_groups[0]["lr"] = 0.25
    assert_same(history(a, with_tensor, grads[5:]), history(b, with_float, grads[5:]))


@pytest.mark.parametrize("name, options", [("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {})])
def test_what_is_remembered_is_torchs(name, options):
    grads = gradients(10, missing=[(s, p) for s, p in MISSING if p != 3] + [(s, 3) for s in range(10)])
    params, want_params = ours(arrays(dtype=np.float64)), torchs(arrays(dtype=np.float64))
    optimizer = getattr(optim, name)(params, **options)
    oracle = getattr(torch.optim, name)(want_params, **options)
    history(optimizer, params, grads)
    history(oracle, want_params, grads)
    for param, want_param in zip(params, want_params):
        got, want = optimizer.state[param], oracle.state[want_param]
        assert set(got) == set(want)
        for key, value in want.items():
            assert_close(got[key].numpy().astype(np.float64), value.numpy().astype(np.float64))
    assert not optimizer.state[params[3]]  # it never had a gradient


@pytest.mark.parametrize("name, options", [("SGD", {"momentum": 0.9}), ("Adam", {"lr": 0.05}), ("AdamW", {"lr": 0.05})])
def test_float16_parameters_have_float32_memories(name, options):
    grads = gradients(STEPS)
    params = ours(arrays(dtype=np.float16))
    optimizer = getattr(optim, name)(params, **options)
    assign(params, grads[0])
    optimizer.step()
    # The first step, whose memories are the gradient times a constant: one rounding of the exact result.
    wide = ours([a.astype(np.float64) for a in arrays(dtype=np.float16)])
    assign(wide, [g.astype(np.float16) for g in grads[0]])
    getattr(optim, name)(wide, **options).step()
    for param, want in zip(params, wide):
        assert param.dtype == np.float16
        assert {s.dtype for s in optimizer.state[param].values()} == {np.dtype(np.float32)}
        assert_close(param.detach().numpy(), want.detach().numpy(), want.detach().numpy().astype(np.float16))


@pytest.mark.parametrize("name, options", [("SGD", {"momentum": 0.9}), ("AdamW", {})])
def test_parameters_of_any_layout(name, options):
    """A transposed parameter, as a convolution's weight in channels-last memory is, with a gradient that is not."""
    grads = gradients(10)
    params = [tg.from_numpy(np.array(a, order="F")).requires_grad_() for a in arrays()]
    got = history(getattr(optim, name)(params, **options), params, grads)
    want, baseline = (
        history(getattr(torch.optim, name)(oracles, **options), oracles, grads)
        for oracles in (torchs(arrays(dtype=np.float64)), torchs(arrays()))
    )
    assert_close(got, want, baseline)
