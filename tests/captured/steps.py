"""What a captured step does, on any device: the function's own work, bit for bit, however the program goes on.

tests/cuda/test_capture.py and tests/captured/test_steps.py run these, each on its device.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn, optim
from tilegrad.nn import functional as F

STEPS = 10
ON = {"device": "cpu"}  # of the module that runs these; it says so for every test


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def batches(rng, shape=(5, 6), classes=4, n=STEPS):
    """n batches of inputs and labels on the device."""
    x = rng.standard_normal((n, *shape)).astype(np.float32)
    t = rng.integers(0, classes, (n, shape[0]))
    return [(tg.tensor(a, device=ON["device"]), tg.tensor(b, device=ON["device"])) for a, b in zip(x, t, strict=True)]


class Program:
    """A small net with dropout, its optimizer and schedule, and a step, captured or not."""

    def __init__(self, captured, optimizer="adamw", inside=True, **options):
        tg.manual_seed(7)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4)).to(ON["device"])
        make = {
            "adamw": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
            "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
            "plain": lambda p: optim.SGD(p, lr=0.1),
        }[optimizer]
        self.optimizer = make(self.model.parameters())
        self.schedule = optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=0.2, total_steps=40, cycle_momentum=optimizer != "plain"
        )
        self.inside = inside  # of the step: the schedule's own
        self.step = tg.capture(self.plain, **options) if captured else self.plain

    def plain(self, x, t):
        loss = F.cross_entropy(self.model(x), t)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.inside:
            self.schedule.step()
        return loss

    def run(self, data):
        losses = []
        for x, t in data:
            losses.append(self.step(x, t).detach())
            if not self.inside:
                self.schedule.step()
        return losses

    def state(self):
        """Everything that training changes, on the host."""
        tensors = [*self.model.parameters(), *[p.grad for p in self.model.parameters()]]
        tensors += [s for p in self.model.parameters() for s in self.optimizer.state[p].values() if s is not None]
        rates = [self.schedule.get_last_lr(), self.schedule.last_epoch, tg.random.default_generator.get_state()]
        return [t.detach().cpu().numpy() for t in tensors], rates


def assert_graphs(step, n):
    """So many were captured, and no call is refused."""
    assert not [shape.refused for shape in step._shapes.values() if shape.refused]
    assert len(graphs(step)) == n


def values(losses):
    return [loss.item() for loss in losses]


def eager(optimizer="adamw"):
    """The losses of ten plain steps, and what they leave."""
    return eager_on(ON["device"], optimizer)


def graphs(step):
    return [account for shape in step._shapes.values() for account in shape.accounts]


@cache
def eager_on(device, optimizer):
    program = Program(False, optimizer)
    losses = values(program.run(batches(np.random.default_rng(0))))
    return losses, program.state()


def assert_as_eager(program, losses, optimizer="adamw"):
    want, (arrays, rates) = eager(optimizer)
    found, found_rates = program.state()
    assert values(losses) == want
    assert found_rates == rates
    for x, y in zip(found, arrays, strict=True):
        assert_same(x, y)


@pytest.mark.parametrize("inside", [True, False], ids=["schedule inside", "schedule outside"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "plain"])
def test_ten_steps_with_schedule_dropout_and_decay_are_the_eager_ones(optimizer, inside, rng):
    eager(optimizer)  # first: it sets the seed
    captured = Program(True, optimizer, inside)
    losses = captured.run(batches(rng))
    assert len(set(values(losses))) == STEPS
    assert_as_eager(captured, losses, optimizer)
    assert_graphs(captured.step, 1)


def test_shapes_live_side_by_side(rng):
    """A ragged last batch and the full ones, in turns; each is captured once, and counts go on across both."""
    full, ragged = batches(rng), batches(rng, (3, 6))
    data = [pair for both in zip(full, ragged, strict=True) for pair in both][:8]
    want = values(Program(False).run(data))
    captured = Program(True, warmup=1)
    assert values(captured.run(data)) == want
    assert_graphs(captured.step, 2)


def test_eager_steps_between_launches(rng):
    eager()
    data = batches(rng)
    captured = Program(True, warmup=1)
    losses = captured.run(data[:4])
    losses += [captured.plain(*data[4]).detach()]
    losses += captured.run(data[5:])
    assert_as_eager(captured, losses)
    assert_graphs(captured.step, 1)


def test_training_and_evaluation_are_captured_apart(rng):
    tg.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)).to(ON["device"])
    forward = tg.capture(lambda x: model(x), warmup=1)
    (x, _), *_ = batches(rng, n=1)
    with tg.no_grad():
        for _ in range(3):
            model.train()
            assert (forward(x) == 0).any().item()
            model.eval()
            assert_same(forward(x).cpu().numpy(), model(x).cpu().numpy())
    assert_graphs(forward, 2)


def test_a_function_that_switches_the_mode_itself_is_captured_once(rng):
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)).to(ON["device"])
    (x, _), *_ = batches(rng, n=1)

    @tg.capture(warmup=1)
    def evaluated(x):
        model.eval()
        y = model(x)
        model.train()
        return y

    seen = [evaluated(x).cpu().numpy() for _ in range(4)]
    for y in seen[1:]:
        assert_same(y, seen[0])
    assert (seen[0] != 0).all()
    assert_graphs(evaluated, 1)


def test_other_parameters_are_captured_anew(rng):
    """A parameter that is replaced, or moved to other memory, is not the one that a graph knows."""
    model = nn.Linear(6, 4).to(ON["device"])
    forward = tg.capture(lambda x: model(x), warmup=1)
    (x, _), *_ = batches(rng, n=1)
    with tg.no_grad():
        for _ in range(3):
            forward(x)
        model.weight = nn.Parameter(tg.zeros(4, 6, device=ON["device"]))
        assert_same(forward(x).cpu().numpy(), model(x).cpu().numpy())
        forward(x)
        model.bias.data = model.bias.data + 1
        for _ in range(2):
            assert_same(forward(x).cpu().numpy(), model(x).cpu().numpy())
        model.weight.fill_(2.0)  # in place: the graph sees it
        assert_same(forward(x).cpu().numpy(), model(x).cpu().numpy())
        assert_graphs(forward, 3)


def test_members_of_a_fused_sequence_are_captured_anew(rng):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).to(ON["device"])
    forward = tg.capture(lambda x: model(x), warmup=1)
    (x, _), *_ = batches(rng, n=1)
    with tg.no_grad():
        for _ in range(3):
            forward(x)
        model[0].weight = nn.Parameter(tg.ones(4, 6, device=ON["device"]))
        for _ in range(2):
            assert_same(forward(x).cpu().numpy(), model(x).cpu().numpy())
        model.append(nn.Tanh())
        for _ in range(2):
            assert_same(forward(x).cpu().numpy(), model(x).cpu().numpy())
    assert_graphs(forward, 3)


def test_a_parameter_that_is_frozen_is_captured_anew(rng):
    data = batches(rng, n=6)

    def run(captured):
        program = Program(captured, "plain", **({"warmup": 1} if captured else {}))
        losses = program.run(data[:3])
        program.model[0].weight.requires_grad_(False)
        return values(losses + program.run(data[3:])), program.model[0].weight.detach().cpu().numpy()

    (got, got_weight), (want, want_weight) = run(True), run(False)
    assert got == want
    assert_same(got_weight, want_weight)


def test_options_and_state_of_the_optimizer_are_part_of_the_step(rng):
    data = batches(rng)

    def run(captured):
        program = Program(captured, **({"warmup": 1} if captured else {}))
        losses = program.run(data[:4])
        saved = program.optimizer.state_dict()
        program.optimizer.param_groups[0]["weight_decay"] = 0.5
        losses += program.run(data[4:6])
        program.optimizer.load_state_dict(saved)
        losses += program.run(data[6:9])
        return values(losses), program

    want, _ = run(False)
    got, captured = run(True)
    assert got == want
    assert_graphs(captured.step, 3)


def test_moments_that_are_forgotten_begin_anew(rng):
    data = batches(rng, n=6)

    def run(captured):
        program = Program(captured, "sgd", **({"warmup": 1} if captured else {}))
        losses = program.run(data[:3])
        program.optimizer.state.clear()
        return values(losses + program.run(data[3:]))

    assert run(True) == run(False)


def test_a_seed_that_is_set_again_gives_the_same_numbers(rng):
    drop = tg.capture(lambda x: F.dropout(x, 0.5), warmup=1)
    x = tg.ones(64, device=ON["device"])
    seen = []
    for _ in range(3):
        tg.manual_seed(11)
        seen.append([drop(x).cpu().numpy() for _ in range(3)])
    for run in seen[1:]:
        for a, b in zip(run, seen[0], strict=True):
            assert_same(a, b)
    assert not (seen[0][0] == seen[0][1]).all()


@pytest.mark.parametrize("drop", ["zero_grad", "set to zero", "by hand", "every other step"])
def test_gradients_are_dropped_or_added_up_as_in_the_function(drop, rng):
    """zero_grad in the step or outside, gradients that are added up over two steps, and ones set to None by hand."""
    data = batches(rng, n=12)

    def run(captured):
        tg.manual_seed(1)
        model = nn.Linear(6, 4).to(ON["device"])
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def step(x, t):
            if drop == "zero_grad":
                optimizer.zero_grad()
            if drop == "set to zero":
                optimizer.zero_grad(set_to_none=False)
            if drop == "by hand":
                for p in model.parameters():
                    p.grad = None
            loss = F.cross_entropy(model(x), t)
            loss.backward()
            optimizer.step()
            return loss

        call = tg.capture(step, warmup=1) if captured else step
        losses, counts = [], []
        for i, (x, t) in enumerate(data):
            losses.append(call(x, t).detach())
            if captured:
                counts.append(len(graphs(call)))
            if drop == "every other step" and i % 2:
                optimizer.zero_grad()
        assert len(set(counts[6:])) <= 1  # what recurs is not captured again
        return values(losses), [p.grad for p in model.parameters()], call

    want, grads, _ = run(False)
    got, captured_grads, call = run(True)
    assert got == want
    for a, b in zip(captured_grads, grads, strict=True):
        if b is None:
            assert a is None
        else:
            assert_same(a.cpu().numpy(), b.cpu().numpy())
    assert 1 <= len(graphs(call)) <= 4, call.summary()


def test_running_statistics_move(rng):
    def run(captured):
        tg.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).to(ON["device"])
        call = tg.capture(lambda x: model(x), warmup=1) if captured else lambda x: model(x)
        with tg.no_grad():
            outputs = [call(x).cpu().numpy() for x, _ in data]
        if captured:
            assert_graphs(call, 1)
        return outputs, [b.cpu().numpy() for b in model.buffers()]

    data = batches(rng, n=5)
    moved = run(True)
    for got, want in zip(moved, run(False), strict=True):
        for a, b in zip(got, want, strict=True):
            assert_same(a, b)


def test_several_steps_in_one_graph(rng):
    """steps=3: as many calls, with a schedule inside; arguments and results have a new first dimension."""
    data = batches(rng)
    want, _ = eager()
    program = Program(True, warmup=1, steps=3)
    losses = []
    for i in range(0, 9, 3):
        x, t = (tg.stack(list(column)) for column in zip(*data[i : i + 3], strict=True))
        losses.append(program.step(x, t))
    assert [loss.shape for loss in losses] == [(3,)] * 3
    assert sum([loss.tolist() for loss in losses], []) == want[:9]
    assert_graphs(program.step, 1)
    with pytest.raises(ValueError, match=r"plain: tensor 0 of the arguments is \(5, 6\); expected \(3, ...\)"):
        program.step(*data[0])


def test_nested_arguments_and_results(rng):
    @tg.capture(warmup=1)
    def both(pair, *, scale, extra):
        return {"sum": (pair[0] + pair[1]) * scale, "list": [extra["x"] + 1, "text"], "none": None}

    xs = [tg.tensor([float(i), 2.0], device=ON["device"]) for i in range(4)]
    for i in range(4):
        out = both([xs[i], xs[3]], scale=2, extra={"x": xs[i]})
        assert out["sum"].tolist() == [2 * (i + 3.0), 8.0]
        assert out["list"][0].tolist() == [i + 1.0, 3.0]
        assert (out["list"][1], out["none"]) == ("text", None)
    assert both([xs[0], xs[3]], scale=3, extra={"x": xs[0]})["sum"].tolist() == [9.0, 12.0]  # another constant
    assert_graphs(both, 1)
    assert (both.__name__, both.__wrapped__.__name__) == ("both", "both")


def test_a_method_and_a_step_within_a_step(rng):
    class Net:
        def __init__(self, factor):
            self.factor = factor

        @tg.capture(warmup=1)
        def scaled(self, x):
            return inner(x) * self.factor

    @tg.capture(warmup=1)
    def inner(x):
        return x + 1

    a, b = Net(2.0), Net(3.0)
    x = tg.ones(3, device=ON["device"])
    for _ in range(3):
        assert (a.scaled(x).tolist(), b.scaled(x).tolist()) == ([4.0] * 3, [6.0] * 3)
    for net in (a, b):
        assert_graphs(net.scaled, 1)


def test_a_function_without_tensors_is_captured_by_its_results():
    counter = tg.zeros(1, device=ON["device"])

    @tg.capture(warmup=1)
    def count():
        counter.add_(1)
        return counter

    assert [count().item() for _ in range(4)] == [1.0, 2.0, 3.0, 4.0]
    assert_graphs(count, 1)
