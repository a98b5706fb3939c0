"""Every schedule against torch's: the learning rates (and momenta) of two groups at every one of 70 steps."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close
from tilegrad import optim

STEPS = 70


def warm_up_then(make):
    def schedule(lr, o):
        parts = [lr.LinearLR(o, start_factor=0.1, total_iters=8), make(lr, o)]
        return lr.SequentialLR(o, parts, milestones=[8])

    return schedule


def three_in_a_row(lr, o):
    parts = [lr.ConstantLR(o, factor=0.5, total_iters=4), lr.ExponentialLR(o, gamma=0.9), lr.StepLR(o, step_size=7)]
    return lr.SequentialLR(o, parts, milestones=[10, 30])


def by_group(step):
    return 1 / (1 + step)


# name -> how torch and we make it, from the module lr_scheduler and the optimizer
SCHEDULES = {
    "StepLR": lambda lr, o: lr.StepLR(o, step_size=9, gamma=0.3),
    "StepLR every step": lambda lr, o: lr.StepLR(o, 1, 0.97),
    "MultiStepLR": lambda lr, o: lr.MultiStepLR(o, milestones=[30, 5, 12, 12, 69], gamma=0.5),
    "MultiStepLR from 0": lambda lr, o: lr.MultiStepLR(o, milestones=[0, 40], gamma=0.5),
    "ExponentialLR": lambda lr, o: lr.ExponentialLR(o, gamma=0.93),
    "ConstantLR": lambda lr, o: lr.ConstantLR(o),
    "ConstantLR for 20": lambda lr, o: lr.ConstantLR(o, factor=0.25, total_iters=20),
    "LinearLR": lambda lr, o: lr.LinearLR(o),
    "LinearLR down": lambda lr, o: lr.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=50),
    "LinearLR up": lambda lr, o: lr.LinearLR(o, start_factor=1e-3, end_factor=0.5, total_iters=66),
    "LambdaLR": lambda lr, o: lr.LambdaLR(o, lambda step: 0.95**step),
    "LambdaLR by group": lambda lr, o: lr.LambdaLR(o, [by_group, lambda step: math.sin(step) ** 2]),
    "CosineAnnealingLR": lambda lr, o: lr.CosineAnnealingLR(o, T_max=70),
    "CosineAnnealingLR up again": lambda lr, o: lr.CosineAnnealingLR(o, T_max=11, eta_min=1e-3),
    "CosineAnnealingLR of one step": lambda lr, o: lr.CosineAnnealingLR(o, T_max=1),
    "CosineAnnealingWarmRestarts": lambda lr, o: lr.CosineAnnealingWarmRestarts(o, T_0=12),
    "CosineAnnealingWarmRestarts twice as long": lambda lr, o: lr.CosineAnnealingWarmRestarts(o, 7, 2, eta_min=1e-3),
    "OneCycleLR": lambda lr, o: lr.OneCycleLR(o, max_lr=0.5, total_steps=70),
    "OneCycleLR by group": lambda lr, o: lr.OneCycleLR(
        o, max_lr=[0.5, 0.1], epochs=7, steps_per_epoch=11, base_momentum=[0.7, 0.8], max_momentum=[0.9, 0.99]
    ),
    "OneCycleLR linear": lambda lr, o: lr.OneCycleLR(o, 0.5, 75, anneal_strategy="linear", pct_start=0.45),
    "OneCycleLR three phases": lambda lr, o: lr.OneCycleLR(o, 0.5, 70, three_phase=True, div_factor=10.0),
    "OneCycleLR without momentum": lambda lr, o: lr.OneCycleLR(
        o, 0.5, 70, cycle_momentum=False, pct_start=0.0, final_div_factor=10.0
    ),
    "warm-up, cosine": warm_up_then(lambda lr, o: lr.CosineAnnealingLR(o, T_max=20)),
    "warm-up, lambda": warm_up_then(lambda lr, o: lr.LambdaLR(o, by_group)),
    "warm-up, restarts": warm_up_then(lambda lr, o: lr.CosineAnnealingWarmRestarts(o, 5, 3)),
    "warm-up, milestones": warm_up_then(lambda lr, o: lr.MultiStepLR(o, [0, 10, 20])),
    "warm-up, constant": warm_up_then(lambda lr, o: lr.ConstantLR(o, total_iters=10)),
    "warm-up, linear": warm_up_then(lambda lr, o: lr.LinearLR(o, start_factor=0.5, total_iters=30)),
    "warm-up, one cycle": warm_up_then(lambda lr, o: lr.OneCycleLR(o, 0.5, 62)),
    "three in a row": three_in_a_row,
}
ADAM_TOO = ["OneCycleLR", "OneCycleLR by group", "warm-up, one cycle"]  # which cycle beta1, where SGD has momentum
CASES = [("SGD", name) for name in SCHEDULES] + [("Adam", name) for name in ADAM_TOO]


def make_optimizer(library, kind):
    """An optimizer of one parameter in each of two groups, which step() leaves as they are: they have no gradients."""
    params = [torch.ones(1) if library is torch.optim else tg.ones(1) for _ in range(2)]
    return getattr(library, kind)([{"params": params[0]}, {"params": params[1], "lr": 0.02}], lr=0.1)


def momentum(group):
    return group["betas"][0] if "betas" in group else group["momentum"]


def rates(optimizer, *schedulers, steps=STEPS):
    """The rate and momentum of each group, before the first step and after each."""
    rows = []
    for step in range(steps + 1):
        if step:
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        rows.append([(float(group["lr"]), float(momentum(group))) for group in optimizer.param_groups])
        assert schedulers[-1].get_last_lr() == [lr for lr, _ in rows[-1]]
    return np.array(rows)


def schedule(library, kind, *names):
    optimizer = make_optimizer(library, kind)
    return optimizer, *(SCHEDULES[name](library.lr_scheduler, optimizer) for name in names)


@pytest.mark.parametrize("kind, name", CASES)
def test_every_step_is_torchs(kind, name):
    got = rates(*schedule(optim, kind, name))
    assert len(np.unique(got[:, :, 0], axis=0)) > 1  # the rate moves at all
    assert_close(got, rates(*schedule(torch.optim, kind, name)), elementwise=True)


@pytest.mark.parametrize(
    "names",
    [
        ("LinearLR", "ExponentialLR"),
        ("ConstantLR for 20", "StepLR", "MultiStepLR"),
        ("LinearLR up", "CosineAnnealingLR"),
        ("ExponentialLR", "CosineAnnealingLR of one step"),
    ],
)
def test_schedules_chained_on_one_optimizer_multiply_as_torchs_do(names):
    assert_close(rates(*schedule(optim, "SGD", *names)), rates(*schedule(torch.optim, "SGD", *names)), elementwise=True)


@pytest.mark.parametrize("name", ["LinearLR", "CosineAnnealingLR up again", "StepLR", "three in a row"])
def test_a_rate_in_a_tensor_is_written_in_place(name):
    plain = rates(*schedule(optim, "SGD", name))
    optimizer = make_optimizer(optim, "SGD")
    tensors = [tg.tensor(group["lr"], dtype=tg.float64) for group in optimizer.param_groups]
    for group, lr in zip(optimizer.param_groups, tensors):
        group["lr"] = lr
    got = rates(optimizer, SCHEDULES[name](optim.lr_scheduler, optimizer))
    assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, tensors))
    assert_close(got, plain)


# --- resuming


@pytest.mark.parametrize("at", [3, 8, 31], ids=lambda at: f"after {at} steps")
@pytest.mark.parametrize("kind, name", CASES)
def test_a_resumed_schedule_is_the_schedule(kind, name, at):
    want = rates(*schedule(optim, kind, name))
    optimizer, scheduler = schedule(optim, kind, name)
    rates(optimizer, scheduler, steps=at)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    rates(optimizer, scheduler, steps=5)  # what was saved must not go on with the original

    optimizer, scheduler = schedule(optim, kind, name)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    np.testing.assert_array_equal(rates(optimizer, scheduler, steps=STEPS - at), want[at:])


MADE_OTHERWISE = {
    "StepLR": lambda lr, o: lr.StepLR(o, step_size=2, gamma=0.9),
    "MultiStepLR": lambda lr, o: lr.MultiStepLR(o, milestones=[1, 33], gamma=0.1),
    "ExponentialLR": lambda lr, o: lr.ExponentialLR(o, gamma=0.5),
    "ConstantLR for 20": lambda lr, o: lr.ConstantLR(o, factor=0.75, total_iters=34),
    "LinearLR up": lambda lr, o: lr.LinearLR(o, start_factor=0.5, end_factor=0.1, total_iters=9),
    "CosineAnnealingLR up again": lambda lr, o: lr.CosineAnnealingLR(o, T_max=70),
    "CosineAnnealingWarmRestarts twice as long": lambda lr, o: lr.CosineAnnealingWarmRestarts(o, T_0=3),
    "OneCycleLR three phases": lambda lr, o: lr.OneCycleLR(o, 0.1, 71, pct_start=0.7, anneal_strategy="linear"),
    "warm-up, cosine": lambda lr, o: lr.SequentialLR(
        o, [lr.LinearLR(o, 0.5, total_iters=3), lr.CosineAnnealingLR(o, 50, 0.01)], [40]
    ),
}


@pytest.mark.parametrize("at", [5, 20])
@pytest.mark.parametrize("name", MADE_OTHERWISE)
def test_a_state_brings_the_numbers_that_its_schedule_was_made_with(name, at):
    want = rates(*schedule(optim, "SGD", name))
    optimizer, scheduler = schedule(optim, "SGD", name)
    rates(optimizer, scheduler, steps=at)
    saved = optimizer.state_dict(), scheduler.state_dict()
    optimizer = make_optimizer(optim, "SGD")
    scheduler = MADE_OTHERWISE[name](optim.lr_scheduler, optimizer)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    np.testing.assert_array_equal(rates(optimizer, scheduler, steps=STEPS - at), want[at:])


def emptied(value):
    """All lists and dicts in a state, emptied."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        emptied(item)
    if isinstance(value, (dict, list)):
        value.clear()


@pytest.mark.parametrize("kind, name", CASES)
def test_what_is_done_to_a_state_is_not_done_to_the_schedule(kind, name):
    """Neither to the one that gave it nor to the one that took it."""
    want = rates(*schedule(optim, kind, name))
    giving, taking = schedule(optim, kind, name), schedule(optim, kind, name)
    for pair in (giving, taking):
        rates(*pair, steps=7)
    state = giving[1].state_dict()
    taking[1].load_state_dict(state)
    emptied(state)
    for pair in (giving, taking):
        np.testing.assert_array_equal(rates(*pair, steps=STEPS - 7), want[7:])


@pytest.mark.parametrize("direction", ["from torch", "to torch"])
@pytest.mark.parametrize("kind, name", CASES)
def test_a_schedule_moves_between_the_libraries(kind, name, direction):
    source, target = (torch.optim, optim) if direction == "from torch" else (optim, torch.optim)
    optimizer, scheduler = schedule(source, kind, name)
    want = rates(optimizer, scheduler, steps=20)
    state = optimizer.state_dict()["param_groups"], scheduler.state_dict()
    state = copy.deepcopy(state)
    want = rates(optimizer, scheduler, steps=STEPS - 20)

    optimizer, scheduler = schedule(target, kind, name)
    optimizer.load_state_dict({"state": {}, "param_groups": state[0]})
    scheduler.load_state_dict(state[1])
    assert_close(rates(optimizer, scheduler, steps=STEPS - 20), want, elementwise=True)


AT_4 = {
    "ExponentialLR": lambda lr, o: lr.ExponentialLR(o, 0.93, last_epoch=4),
    "StepLR": lambda lr, o: lr.StepLR(o, 9, 0.3, last_epoch=4),
    "LinearLR": lambda lr, o: lr.LinearLR(o, last_epoch=4),
    "CosineAnnealingLR": lambda lr, o: lr.CosineAnnealingLR(o, 70, last_epoch=4),
    "CosineAnnealingWarmRestarts": lambda lr, o: lr.CosineAnnealingWarmRestarts(o, 12, last_epoch=4),
    "OneCycleLR": lambda lr, o: lr.OneCycleLR(o, 0.5, 70, last_epoch=4),
}


@pytest.mark.parametrize("name", AT_4)
def test_last_epoch_goes_on_as_torchs_does(name):
    results = []
    for library in (optim, torch.optim):
        optimizer, scheduler = schedule(library, "SGD", name)
        rates(optimizer, scheduler, steps=4)
        results.append(rates(optimizer, AT_4[name](library.lr_scheduler, optimizer), steps=20))
    assert_close(*results, elementwise=True)


# --- single points


@pytest.mark.parametrize("t_mult", [1, 2])
def test_warm_restarts_may_be_told_fractions_of_an_epoch(t_mult):
    results = []
    for library in (optim, torch.optim):
        optimizer = make_optimizer(library, "SGD")
        scheduler = library.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=3, T_mult=t_mult, eta_min=1e-3)
        rows = []
        for epoch in np.arange(0, 20, 0.3):
            optimizer.step()
            scheduler.step(float(epoch))
            rows.append(scheduler.get_last_lr())
        results.append(np.array(rows))
    assert_close(*results, elementwise=True)


def test_warm_restarts_told_an_epoch_find_every_restart():
    """243 = 1 + 2 (1 + 3 + 9 + 27 + 81): a logarithm of it, rounded, would miss the restart."""
    optimizer = make_optimizer(optim, "SGD")
    scheduler = optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=3)
    counted = [scheduler.get_last_lr()]
    optimizer.step()
    for _ in range(300):
        scheduler.step()
        counted.append(scheduler.get_last_lr())
    told = []
    for epoch in range(301):
        scheduler.step(epoch)
        told.append(scheduler.get_last_lr())
    assert told == counted
    assert counted[242] == [0.1, 0.02]


def test_a_sequence_in_a_sequence_is_the_flat_one():
    def linear(lr, o):
        return lr.LinearLR(o, total_iters=4)

    lr = optim.lr_scheduler
    flat = make_optimizer(optim, "SGD")
    parts = [linear(lr, flat), lr.ExponentialLR(flat, 0.5), lr.StepLR(flat, 3)]
    want = rates(flat, lr.SequentialLR(flat, parts, [5, 9]), steps=20)

    first = make_optimizer(optim, "SGD")
    inner = lr.SequentialLR(first, [linear(lr, first), lr.ExponentialLR(first, 0.5)], [5])
    np.testing.assert_array_equal(
        rates(first, lr.SequentialLR(first, [inner, lr.StepLR(first, 3)], [9]), steps=20), want
    )
    second = make_optimizer(optim, "SGD")
    inner = lr.SequentialLR(second, [lr.ExponentialLR(second, 0.5), lr.StepLR(second, 3)], [4])
    np.testing.assert_array_equal(
        rates(second, lr.SequentialLR(second, [linear(lr, second), inner], [5]), steps=20), want
    )


@pytest.mark.parametrize("pct_start, peak", [(0.1, 0), (1.0, 9)])
def test_one_cycle_with_a_phase_without_length_is_at_its_peak_there(pct_start, peak):
    """Where torch divides by zero: a way up that is over at step 0, or that takes all the steps."""
    optimizer = make_optimizer(optim, "SGD")
    got = rates(optimizer, optim.lr_scheduler.OneCycleLR(optimizer, 0.5, 10, pct_start=pct_start), steps=9)
    assert np.argmax(got[:, 0, 0]) == peak
    assert got[peak, 0].tolist() == [0.5, 0.85]


def test_one_cycle_is_asked_once_past_its_end():
    """A loop that steps the schedule after every batch ends there: half a cosine turns up, a line would be below 0."""
    results = []
    for library in (optim, torch.optim):
        optimizer, scheduler = schedule(library, "SGD", "OneCycleLR")
        results.append(rates(optimizer, scheduler, steps=70))
    assert_close(*results, elementwise=True)
    assert results[0][70, 0, 0] > results[0][69, 0, 0]

    optimizer = make_optimizer(optim, "Adam")
    got = rates(optimizer, optim.lr_scheduler.OneCycleLR(optimizer, 0.5, 10, anneal_strategy="linear"), steps=10)
    assert got[10].tolist() == got[9].tolist()
    optimizer.load_state_dict(optimizer.state_dict())


def test_a_schedule_of_ones_own_needs_get_lr_alone():
    class Halving(optim.lr_scheduler.LRScheduler):
        def get_lr(self):
            return [base / 2**self.last_epoch for base in self.base_lrs]

    optimizer = make_optimizer(optim, "SGD")
    got = rates(optimizer, Halving(optimizer), steps=3)
    np.testing.assert_array_equal(got[:, :, 0], np.outer([1, 0.5, 0.25, 0.125], [0.1, 0.02]))


def test_lambdas_that_are_objects_are_saved():
    class Decay:
        def __init__(self, rate):
            self.rate = rate

        def __call__(self, step):
            return self.rate**step

    lr = optim.lr_scheduler
    saved = lr.LambdaLR(make_optimizer(optim, "SGD"), [Decay(0.5), by_group]).state_dict()
    assert saved["lr_lambdas"] == [{"rate": 0.5}, None]
    optimizer = make_optimizer(optim, "SGD")
    scheduler = lr.LambdaLR(optimizer, [Decay(0.9), by_group])
    scheduler.load_state_dict(saved)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.05, 0.01]
