"""What a schedule refuses: at once, with its name, and without a change to the optimizer."""

from __future__ import annotations

import warnings

import pytest

import tilegrad as tg
from tilegrad import optim
from tilegrad.optim import lr_scheduler as lr


def make_optimizer(**options):
    return optim.SGD([{"params": [tg.ones(1)]}, {"params": [tg.ones(1)], "lr": 0.02}], lr=0.1, **options)


def other():
    return lr.ExponentialLR(make_optimizer(), 0.5)


@pytest.mark.parametrize(
    "make, error, text",
    [
        (lambda o: lr.StepLR([0.1], 3), TypeError, "StepLR: optimizer is a list; expected an Optimizer"),
        (lambda o: lr.StepLR(o, 0), ValueError, "StepLR: step_size is 0; expected step_size >= 1"),
        (lambda o: lr.StepLR(o, 2.5), TypeError, "StepLR: step_size is 2.5; expected an integer"),
        (lambda o: lr.StepLR(o, 3, -1), ValueError, "StepLR: gamma is -1"),
        (lambda o: lr.StepLR(o, 3, last_epoch=-2), ValueError, "StepLR: last_epoch is -2"),
        (lambda o: lr.StepLR(o, 3, last_epoch=4), RuntimeError, r'StepLR: param_groups\[0\] has no "initial_lr"'),
        (lambda o: lr.MultiStepLR(o, [1, 2.0]), TypeError, r"MultiStepLR: milestones\[1\] is 2.0; expected an integer"),
        (lambda o: lr.MultiStepLR(o, [-1]), ValueError, r"MultiStepLR: milestones\[0\] is -1"),
        (lambda o: lr.ExponentialLR(o, float("nan")), ValueError, "ExponentialLR: gamma is nan"),
        (lambda o: lr.ConstantLR(o, 0.0), ValueError, "ConstantLR: factor is 0.0; expected 0 < factor <= 1"),
        (lambda o: lr.ConstantLR(o, total_iters=0), ValueError, "ConstantLR: total_iters is 0"),
        (lambda o: lr.LinearLR(o, 1.5), ValueError, "LinearLR: start_factor is 1.5; expected 0 < start_factor <= 1"),
        (
            lambda o: lr.LinearLR(o, 0.5, -0.5),
            ValueError,
            "LinearLR: end_factor is -0.5; expected 0 <= end_factor <= 1",
        ),
        (lambda o: lr.LinearLR(o, total_iters=0), ValueError, "LinearLR: total_iters is 0"),
        (lambda o: lr.LambdaLR(o, 0.5), TypeError, "LambdaLR: lr_lambda is a float; expected a function"),
        (lambda o: lr.LambdaLR(o, [abs]), ValueError, "LambdaLR: lr_lambda has 1 entries; expected 2"),
        (lambda o: lr.CosineAnnealingLR(o, 0), ValueError, "CosineAnnealingLR: T_max is 0"),
        (lambda o: lr.CosineAnnealingLR(o, 5, -1), ValueError, "CosineAnnealingLR: eta_min is -1"),
        (lambda o: lr.CosineAnnealingWarmRestarts(o, 0), ValueError, "CosineAnnealingWarmRestarts: T_0 is 0"),
        (lambda o: lr.CosineAnnealingWarmRestarts(o, 1, 0), ValueError, "CosineAnnealingWarmRestarts: T_mult is 0"),
        (lambda o: lr.OneCycleLR(o, 0.1), ValueError, "OneCycleLR: total_steps is None; expected it, or both epochs"),
        (lambda o: lr.OneCycleLR(o, 0.1, epochs=3), ValueError, "OneCycleLR: total_steps is None"),
        (lambda o: lr.OneCycleLR(o, 0.1, 0), ValueError, "OneCycleLR: total_steps is 0"),
        (lambda o: lr.OneCycleLR(o, 0.1, 9, pct_start=1.5), ValueError, "OneCycleLR: pct_start is 1.5"),
        (lambda o: lr.OneCycleLR(o, 0.1, 9, anneal_strategy="exp"), ValueError, "OneCycleLR: anneal_strategy is 'exp'"),
        (lambda o: lr.OneCycleLR(o, [0.1], 9), ValueError, "OneCycleLR: max_lr has 1 entries; expected 2"),
        (lambda o: lr.OneCycleLR(o, -0.1, 9), ValueError, "OneCycleLR: max_lr is -0.1"),
        (lambda o: lr.OneCycleLR(o, 0.1, 9, div_factor=0), ValueError, "OneCycleLR: div_factor is 0"),
        (lambda o: lr.OneCycleLR(o, 0.1, 9, max_momentum=1.0), ValueError, "OneCycleLR: max_momentum is 1.0"),
        (lambda o: lr.SequentialLR(o, [], []), ValueError, "SequentialLR: 0 schedulers but 0 milestones"),
        (lambda o: lr.SequentialLR(o, [o], []), TypeError, r"SequentialLR: schedulers\[0\] is a SGD"),
        (
            lambda o: lr.SequentialLR(o, [other()], []),
            ValueError,
            r"SequentialLR: schedulers\[0\] is on another optimizer",
        ),
    ],
)
def test_bad_arguments_are_errors_and_change_nothing(make, error, text):
    optimizer = make_optimizer()
    before = optimizer.state_dict()
    with pytest.raises(error, match=f"^{text}"):
        make(optimizer)
    assert optimizer.state_dict() == before


@pytest.mark.parametrize(
    "milestones, error, text",
    [
        ([], ValueError, "3 schedulers but 0 milestones"),
        ([5], ValueError, "3 schedulers but 1 milestones"),
        ([5, 5], ValueError, r"milestones are \[5, 5\]; expected each to be larger"),
        ([0, 5], ValueError, r"milestones\[0\] is 0"),
        ([1.0, 5], TypeError, r"milestones\[0\] is 1.0; expected an integer"),
    ],
)
def test_bad_milestones_are_errors(milestones, error, text):
    optimizer = make_optimizer()
    parts = [lr.ExponentialLR(optimizer, 0.5) for _ in range(3)]
    with pytest.raises(error, match=f"^SequentialLR: {text}"):
        lr.SequentialLR(optimizer, parts, milestones)
    with pytest.raises(ValueError, match="SequentialLR: last_epoch is 3; expected -1"):
        lr.SequentialLR(optimizer, parts, [1, 2], last_epoch=3)


def test_momentum_can_be_cycled_only_where_there_is_one():
    class Plain(optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

    optimizer = Plain([tg.ones(1)])
    with pytest.raises(ValueError, match="OneCycleLR: Plain has no momentum and no betas"):
        lr.OneCycleLR(optimizer, 0.5, 10)
    lr.OneCycleLR(optimizer, 0.5, 10, cycle_momentum=False)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)


def test_one_cycle_ends():
    optimizer = make_optimizer()
    scheduler = lr.OneCycleLR(optimizer, 0.5, 3)
    optimizer.step()
    for _ in range(3):
        scheduler.step()
    last = scheduler.get_last_lr()
    with pytest.raises(ValueError, match="OneCycleLR: step 4; expected at most total_steps=3"):
        scheduler.step()
    assert scheduler.last_epoch == 3
    assert scheduler.get_last_lr() == last


def test_a_group_added_later_is_an_error():
    optimizer = make_optimizer()
    scheduler = lr.ExponentialLR(optimizer, 0.5)
    lambda_ = lr.LambdaLR(optimizer, abs)
    optimizer.add_param_group({"params": [tg.ones(1)]})
    optimizer.step()
    with pytest.raises(RuntimeError, match="LambdaLR: 2 learning rates for 3 groups"):
        lambda_.step()
    scheduler.step()  # a factor serves any number of groups


def test_a_step_before_the_optimizers_first_warns():
    optimizer = make_optimizer()
    scheduler = lr.ExponentialLR(optimizer, 0.5)
    with pytest.warns(UserWarning, match=r"ExponentialLR: step\(\) was called before optimizer.step\(\)") as caught:
        scheduler.step()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()  # once is enough


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda s: s.pop("gamma"), r"missing keys \['gamma'\], unknown keys \[\]"),
        (lambda s: s.update(T_max=3), r"missing keys \[\], unknown keys \['T_max'\]"),
    ],
)
def test_a_state_of_another_schedule_is_an_error(change, text):
    scheduler = lr.StepLR(make_optimizer(), 3)
    saved = scheduler.state_dict()
    change(saved)
    with pytest.raises(ValueError, match=f"^StepLR.load_state_dict: {text}"):
        scheduler.load_state_dict(saved)
    with pytest.raises(TypeError, match="StepLR.load_state_dict: got a list"):
        scheduler.load_state_dict([])


def test_a_state_of_other_parts_is_an_error_and_changes_no_part():
    def sequence(last, milestone=2):
        optimizer = make_optimizer()
        optimizer.step()
        return lr.SequentialLR(optimizer, [lr.ExponentialLR(optimizer, 0.5), last(optimizer)], [milestone])

    target = sequence(lambda o: lr.StepLR(o, 3))
    source = sequence(lambda o: lr.CosineAnnealingLR(o, 3))
    source.step()
    before = target.state_dict()
    with pytest.raises(ValueError, match=r"StepLR.load_state_dict: missing keys \['gamma', 'step_size'\]"):
        target.load_state_dict(source.state_dict())
    assert target.state_dict() == before
    saved = target.state_dict()
    saved["_schedulers"].pop()
    with pytest.raises(ValueError, match="SequentialLR.load_state_dict: the state has 1 schedulers; expected 2"):
        target.load_state_dict(saved)

    lambdas = lr.LambdaLR(make_optimizer(), abs)
    saved = {**lambdas.state_dict(), "lr_lambdas": [None]}
    with pytest.raises(ValueError, match="LambdaLR.load_state_dict: the state has 1 lr_lambdas; expected 2"):
        lambdas.load_state_dict(saved)
