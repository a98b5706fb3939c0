"""What a captured step knows of its optimizer: rates and schedules, which parameters there are, and their gradients.

Each test runs a program twice, captured and not, and compares everything that the two leave, bit for bit.
tests/cuda/test_capture_updates.py and tests/captured/test_updates.py run these, each on its device.
"""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import ON, graphs
from tests.compare import assert_same
from tilegrad import nn, optim
from tilegrad.nn import functional as F
from tilegrad.optim import lr_scheduler

CLASSES = 4


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def batches(n, rows=5):
    rng = np.random.default_rng(1)
    x, t = rng.standard_normal((n, rows, 6)).astype(np.float32), rng.integers(0, CLASSES, (n, rows))
    return [(tg.tensor(a, device=ON["device"]), tg.tensor(b, device=ON["device"])) for a, b in zip(x, t)]


def linear(seed=0):
    tg.manual_seed(seed)
    return nn.Linear(6, CLASSES).to(ON["device"])


def parameters():
    """Two, each with a gradient that stays."""
    rng = np.random.default_rng(2)
    values = [rng.standard_normal((2, *shape)).astype(np.float32) for shape in ((3,), (2, 5))]
    params = [nn.Parameter(tg.tensor(value, device=ON["device"])) for value, _ in values]
    for p, (_, grad) in zip(params, values):
        p.grad = tg.tensor(grad, device=ON["device"])
    return params


def times(n):
    """Arguments of n calls, for a step that has no use for them."""
    return [tg.ones(1, device=ON["device"])] * n


def host(x):
    """A copy of a tensor, an array, or None, on the host."""
    return None if x is None else x.detach().cpu().numpy().copy()


def everything(optimizer, *schedules):
    """What a training changes: values, gradients, what is remembered, rates, schedules, random numbers."""
    groups = optimizer.param_groups
    params = [p for group in groups for p in group["params"]]
    arrays = [host(x) for p in params for x in (p, p.grad, *optimizer.state.get(p, {}).values())]
    rates = [float(g["lr"]) for g in groups] + [g.get("momentum", g.get("betas")) for g in groups]
    return arrays, [rates, [s.state_dict() for s in schedules], tg.random.default_generator.get_state()]


def assert_equal(found, want):
    (arrays, rest), (expected, expected_rest) = found, want
    assert rest == expected_rest
    for x, y in zip(arrays, expected, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert_same(x, y)


def assert_same_run(run, most=None, refused=False, either=False):
    """run(capture), which returns lists of `everything`, gives the same with tilegrad.capture as without.

    most     graphs, and at least one
    refused  on the CPU all calls are plain ones
    either   on the CPU they may be
    """
    want = run(lambda fn: fn)
    steps = []

    def capture(fn):
        steps.append(tg.capture(fn, warmup=1))
        return steps[-1]

    found = run(capture)
    assert len(found) == len(want) > 0
    for x, y in zip(found, want):
        assert_equal(x, y)
    if either and ON["device"] == "cpu":
        return steps
    if refused and ON["device"] == "cpu":
        assert all(not graphs(step) and "runs plainly" in step.summary() for step in steps)
    else:
        for step in steps:
            assert 1 <= len(graphs(step)) <= (most or 100), step.summary()
    return steps


# --- rates and schedules


SCHEDULES = {
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.5, total_iters=4),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=3, eta_min=0.01),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=2, T_mult=2),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.25, total_iters=5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 3, 5], gamma=0.5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.ExponentialLR(o, 0.7)], milestones=[3]
    ),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.1),
}
OPTIMIZERS = {
    "SGD": lambda p, lr: optim.SGD(p, lr=lr, momentum=0.9),
    "Adam": lambda p, lr: optim.Adam(p, lr=lr),
}


def test_there_is_a_case_for_every_schedule():
    assert set(SCHEDULES) == set(lr_scheduler.__all__) - {"LRScheduler"}


def test_a_schedule_in_the_step_gives_each_launch_its_own_rate(scheduled):
    schedule, optimizer, kind = scheduled

    def run(capture):
        updates = OPTIMIZERS[optimizer](parameters(), 0.5 if kind == "number" else tg.tensor(0.5))
        rates = SCHEDULES[schedule](updates)

        @capture
        def step(x):
            updates.step()
            rates.step()
            return x

        return [(step(x), everything(updates, rates))[1] for x in times(6)]

    assert_same_run(run, most=1)


@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_a_schedule_before_the_update_and_two_in_one_step(kind):
    """The rate is read where the function reads it, however the schedules stand around the update."""

    def run(capture):
        updates = optim.SGD(parameters(), lr=1.0 if kind == "number" else tg.tensor(1.0))
        updates.step()
        first, second = lr_scheduler.ExponentialLR(updates, 0.5), lr_scheduler.StepLR(updates, 2)

        @capture
        def step(x):
            first.step()
            updates.step()
            second.step()
            updates.step()
            return x

        return [(step(x), everything(updates, first, second))[1] for x in times(6)]

    assert_same_run(run, most=1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_schedule_that_is_at_its_end_raises_after_the_update(optimizer):
    """The parameters have moved, the gradients and the counts are new, and the schedule is where it was."""

    def run(capture):
        params = parameters()
        updates = OPTIMIZERS[optimizer](params, 0.1)
        rates = lr_scheduler.OneCycleLR(updates, max_lr=0.5, total_steps=3)

        @capture
        def step(x):
            params[0].grad = tg.tanh(params[0].grad)
            updates.step()
            rates.step()
            return x

        seen = []
        for i, x in enumerate(times(5)):
            if i < 3:
                step(x)
            else:
                with pytest.raises(ValueError, match="OneCycleLR: step 4; expected at most total_steps=3"):
                    step(x)
            seen.append(everything(updates, rates))
        return seen

    assert_same_run(run, most=1)


@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_an_attempt_that_fails_leaves_the_rate_where_it_was(kind):
    """As all else: what is captured anew has not been done before it is launched."""
    lr = 1.0 if kind == "number" else tg.tensor(1.0)
    updates = optim.SGD(parameters(), lr=lr, momentum=0.9)
    rates = lr_scheduler.ExponentialLR(updates, 0.5)
    broken = [False]

    def plain(x):
        if broken == ["before"]:
            raise KeyError("mine")
        updates.step()
        rates.step()
        if broken == ["behind"]:
            raise KeyError("mine")
        return x

    step = tg.capture(plain, warmup=1)
    step(*times(1))
    for broken[0] in ("before", "behind"):
        before = everything(updates, rates)
        with pytest.raises(KeyError):
            step(*times(1))
        if broken == ["before"] or ON["device"] == "cuda":
            assert_equal(everything(updates, rates), before)
        else:  # on the CPU the function has run plainly then, once
            assert everything(updates, rates)[1][0][0] == before[1][0][0] / 2
        assert updates.param_groups[0]["lr"] is lr or kind == "number"
    broken[0] = None
    step(*times(1)), step(*times(1))
    assert len(graphs(step)) == 1  # that it raised was no reason to give up


def test_a_refused_step_with_a_rate_in_a_tensor():
    def run(capture):
        updates = optim.Adam(parameters(), lr=tg.tensor(0.5))
        rates = lr_scheduler.ExponentialLR(updates, 0.5)

        @capture
        def step(x):
            updates.step()
            rates.step()
            x.sum().item()
            return x

        return [(step(x), everything(updates, rates))[1] for x in times(4)]

    if ON["device"] == "cpu":
        assert_same_run(run, refused=True)
    else:
        with pytest.raises(tg.CaptureError, match="item waits"):
            run(lambda fn: tg.capture(fn, warmup=1))


RATES = {
    "number": lambda: 0.25,
    "tensor": lambda: tg.tensor(0.75),
    "of the device": lambda: tg.tensor(0.125, device=ON["device"]),
    "float64": lambda: tg.tensor(0.3, dtype=tg.float64),
}


def test_a_rate_that_is_replaced_or_written_to(rates):
    first, second = rates

    def run(capture):
        updates = optim.SGD(parameters(), lr=RATES[first]())
        group = updates.param_groups[0]

        @capture
        def step(x):
            updates.step()
            return x

        seen = []
        for i, x in enumerate(times(7)):
            if i in (3, 6):  # the last equals the one before, and is another one
                group["lr"] = RATES[second]()
            if i in (2, 5) and isinstance(group["lr"], tg.Tensor):
                group["lr"].mul_(0.5)
            step(x)
            seen.append(everything(updates))
        return seen

    assert_same_run(run)


def test_options_set_by_hand_in_the_step_are_refused():
    """Python code of the step is not run again: a rate that it sets would stay what it was at first."""

    def run(capture):
        updates = optim.SGD(parameters(), lr=1.0)
        count = [0]

        @capture
        def step(x):
            updates.param_groups[0]["lr"] = 1 / (1 + count[0])
            updates.step()
            return x

        seen = []
        for x in times(4):
            step(x)
            count[0] += 1
            seen.append(everything(updates))
        return seen

    if ON["device"] == "cpu":
        (step,) = assert_same_run(run, refused=True)
        assert 'sets "lr" of an optimizer by hand' in step.summary()
    else:
        with pytest.raises(tg.CaptureError, match='sets "lr" of an optimizer by hand'):
            run(lambda fn: tg.capture(fn, warmup=1))


def test_a_rate_on_the_host_that_the_step_writes_to():
    """On the CPU the write is part of the program, or the step runs plainly; a GPU's graph cannot have it."""

    def run(capture):
        lr = tg.tensor(1.0)
        updates = optim.SGD(parameters(), lr=lr)

        @capture
        def step(x):
            lr.mul_(0.5)
            updates.step()
            return x

        return [(step(x), everything(updates))[1] for x in times(4)]

    if ON["device"] == "cpu":
        assert_same_run(run, either=True)
    else:
        with pytest.raises(tg.CaptureError, match="writes to a tensor of the host"):
            run(lambda fn: tg.capture(fn, warmup=1))


# --- what the options of the optimizer are


CHANGES = {
    "momentum from 0": (lambda p: optim.SGD(p, lr=0.1), {"momentum": 0.9}),
    "momentum to 0": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), {"momentum": 0.0}),
    "momentum": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), {"momentum": 0.5}),
    "dampening": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), {"dampening": 0.5}),
    "nesterov": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), {"nesterov": True}),
    "weight_decay": (lambda p: optim.SGD(p, lr=0.1), {"weight_decay": 0.1}),
    "maximize": (lambda p: optim.Adam(p, lr=0.1), {"maximize": True}),
    "beta1": (lambda p: optim.Adam(p, lr=0.1), {"betas": (0.5, 0.999)}),
    "beta2": (lambda p: optim.Adam(p, lr=0.1), {"betas": (0.9, 0.5)}),
    "eps": (lambda p: optim.Adam(p, lr=0.1), {"eps": 0.1}),
    "decoupled": (lambda p: optim.Adam(p, lr=0.1, weight_decay=0.1), {"decoupled_weight_decay": True}),
}


def test_an_option_that_is_changed(option):
    make, options = CHANGES[option]

    def run(capture):
        updates = make(parameters())

        @capture
        def step(x):
            updates.step()
            return x

        seen = []
        for i, x in enumerate(times(5)):
            if i == 2:
                updates.param_groups[0].update(options)
            step(x)
            seen.append(everything(updates))
        return seen

    assert_same_run(run, most=2)


WRONG = {
    "lr": ({"lr": -1.0}, "lr is -1.0"),
    "beta1": ({"betas": (1.5, 0.999)}, r"betas\[0\] is 1.5"),
    "beta2": ({"betas": (0.9, -1.0)}, r"betas\[1\] is -1.0"),
    "betas": ({"betas": 0.9}, "betas is 0.9"),
    "eps": ({"eps": -1.0}, "eps is -1.0"),
}


def test_an_option_that_is_wrong_is_told_where_the_function_would_tell_it(wrong):
    """Once all but the update is done: the gradients are those of the batch, and what is drawn is drawn."""
    options, message = WRONG[wrong]

    def run(capture):
        tg.manual_seed(0)
        w = nn.Parameter(tg.ones(8, device=ON["device"]))
        updates = optim.Adam([w], lr=0.1)
        rates = lr_scheduler.ExponentialLR(updates, 0.5)
        group = updates.param_groups[0]

        @capture
        def step(x):
            updates.zero_grad()
            F.dropout(w, 0.5).sum().backward()
            updates.step()
            rates.step()
            return x

        seen = []
        for i, x in enumerate(times(6)):
            before = dict(group)
            if i == 4:
                group.update(options)
                with pytest.raises((ValueError, TypeError), match=message):
                    step(x)
                group.update({name: before[name] for name in options})
            else:
                step(x)
            seen.append(everything(updates, rates))
        return seen

    assert_same_run(run, most=1)


CASES = {
    "scheduled": [
        *[(name, "SGD", "tensor") for name in SCHEDULES],
        *[(name, optimizer, "number") for name, optimizer in zip(SCHEDULES, 5 * ["SGD", "Adam"])],
        ("OneCycleLR", "Adam", "number"), ("OneCycleLR", "Adam", "tensor"), ("ExponentialLR", "Adam", "tensor"),
    ],
    "rates": [
        ("number", "tensor"), ("tensor", "number"), ("tensor", "tensor"), ("tensor", "float64"),
        ("number", "of the device"), ("of the device", "of the device"), ("of the device", "number"),
    ],
    "option": list(CHANGES),
    "wrong": list(WRONG),
}  # fmt: skip
FEW = {  # for a GPU: what the host knows is the same there, and a simulated launch takes a while
    "scheduled": [
        ("StepLR", "SGD", "tensor"), ("SequentialLR", "SGD", "tensor"), ("ExponentialLR", "SGD", "number"),
        ("OneCycleLR", "Adam", "tensor"),
    ],
    "rates": [("number", "tensor"), ("number", "of the device"), ("of the device", "of the device")],
    "option": ["momentum from 0", "momentum", "beta2"],
    "wrong": ["lr"],
}  # fmt: skip


def parametrize(metafunc, cases):
    """Give a test the cases of its arguments, as pytest_generate_tests."""
    for name in cases.keys() & set(metafunc.fixturenames):
        values = [x if isinstance(x, str) else pytest.param(x, id="-".join(x)) for x in cases[name]]
        metafunc.parametrize(name, values)
