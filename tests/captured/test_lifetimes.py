"""Captured steps whose memory is poisoned where no array lives (tests/captured/poison.py) do what plain ones do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilegrad as tg
from tests.captured.nets import NETS, Training, assert_as_plain, images
from tests.captured.poison import poisoned
from tests.captured.steps import graphs
from tests.captured.test_nets import CLASSES, LAYERS, LOSSES
from tilegrad import kernels, nn
from tilegrad.nn import functional as F


@pytest.fixture(autouse=True)
def counts():
    """How many arrays each program of a test plans."""
    with kernels.use("cpu"), poisoned() as counts:
        yield counts


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("net", NETS)
def test_a_net_does_what_it_does_plainly(net, steps, counts):
    assert_as_plain(*NETS[net], steps=steps, train=3)
    assert counts[0] > 5


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    layers=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6),
    loss=st.sampled_from(sorted(LOSSES)),
    optimizer=st.sampled_from(["adam", "sgd"]),
)
def test_nets_of_random_layers(layers, loss, optimizer):
    def make():
        first, last = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(36, CLASSES)
        return nn.Sequential(first, *[LAYERS[name]() for name in layers], nn.Flatten(), last)

    assert_as_plain(make, images, LOSSES[loss], optimizer, train=3, evaluate=2)


def test_two_nets_in_turns():
    """Each finds its memory as it left it."""

    def run(is_captured, in_turns):
        trainings = [Training(*NETS[net], "adam", is_captured) for net in ("residual", "transformer")]
        calls = [training for training in trainings for _ in range(4)]
        for training in trainings * 4 if in_turns else calls:
            yield training.run(train=1, evaluate=1)[0]

    want = list(run(False, False))
    got = list(run(True, True))
    for a, b in zip(got[::2] + got[1::2], want, strict=True):
        assert [x.tobytes() for x in a] == [x.tobytes() for x in b]


def test_what_a_launch_leaves_is_nobody_else_s(counts):
    """Results, gradients and stored tensors, while later launches run."""
    model, kept = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8)), []

    def fn(x):
        y = model(x)
        z = (y * y).relu() + 1
        model.zero_grad()
        z.sum().backward()
        return y.detach(), z[:, ::2], z

    step = tg.capture(fn, warmup=1)
    inputs = [tg.randn(16, 8) for _ in range(6)]
    for x in inputs:
        left = [*step(x), *[p.grad for p in model.parameters()]]
        kept.append((left, [tensor.numpy().tobytes() for tensor in left]))
    assert len(graphs(step)) == 1 and counts[0] > 2
    for x, (left, before) in zip(inputs, kept, strict=True):
        assert [tensor.numpy().tobytes() for tensor in left] == before
        plain = [*fn(x), *[p.grad for p in model.parameters()]]
        assert [tensor.detach().numpy().tobytes() for tensor in plain] == before


@pytest.mark.parametrize("captured", [True, False])
def test_gradients_after_a_launch_that_fails(captured):
    """What the first backward left is there, though later arrays of the step would have had its memory."""
    model, labels = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8)), tg.arange(8)

    def fn(x, t):
        model.zero_grad()
        model(x).tanh().sum().backward()
        y = model(x * 2).exp().log().tanh()
        return F.cross_entropy(y, t)

    step = tg.capture(fn, warmup=1) if captured else fn
    for _ in range(3):
        step(tg.randn(8, 8), labels)
    x = tg.randn(8, 8)
    with pytest.raises(ValueError, match="softmax_xent: t"):
        step(x, labels + 3)
    found = [p.grad.numpy().tobytes() for p in model.parameters()]
    model.zero_grad()
    model(x).tanh().sum().backward()
    assert found == [p.grad.numpy().tobytes() for p in model.parameters()]


def test_labels_that_the_step_computes_are_told_of_as_plainly():
    """They are in memory of the program's, which the error's text is made from."""
    w = tg.randn(40, 5)
    step = tg.capture(lambda x: F.cross_entropy(w.tanh(), (x * 2).long()), warmup=1)
    good, bad = tg.ones(40), tg.ones(40)
    bad[17] = 4.5
    for _ in range(3):
        step(good)
    assert len(graphs(step)) == 1
    with pytest.raises(ValueError) as plain:
        step._fn(bad)
    with pytest.raises(ValueError) as launched:
        step(bad)
    assert str(launched.value) == str(plain.value)


_PEAK = """
import tilegrad as tg
from tilegrad import kernels, nn, optim
from tilegrad.bench.memory import peak
from tilegrad.nn import functional as F

kernels.use("cpu")
layers = [layer for _ in range(6) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *layers, nn.Flatten(), nn.Linear(8 * 28 * 28, 10))
optimizer = optim.Adam(model.parameters())


@tg.capture
def step(x, t):
    loss = F.cross_entropy(model(x), t)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


found = []
for n in (1, 64):
    x, t = tg.randn(n, 1, 28, 28), tg.zeros(n, dtype=tg.int64)
    for _ in range(2):
        step(x, t)
    found.append(peak())
    for _ in range(3):
        step(x, t)
    found.append(peak())
print(*found, len([account for shape in step._shapes.values() for account in shape.accounts]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system tells resident memory elsewhere")
def test_a_captured_step_takes_no_more_than_the_plain_calls_before_it():
    """13 arrays of 1.6 MB live from the forward pass to the backward pass."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, timeout=120, env=environment)
    assert told.returncode == 0, told.stderr
    _, before, plain, captured, graphs = map(float, told.stdout.split())
    assert graphs == 2, told.stdout
    assert plain - before > 20
    assert captured - plain < 4
