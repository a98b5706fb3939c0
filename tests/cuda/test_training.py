"""Three training steps on device cuda: the losses of the CPU, as far as float32 can tell."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_close
from tilegrad import nn, optim
from tilegrad.nn import functional as F

STEPS = 3


def mlp():
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 10),
    )


NETS = {"mlp": (mlp, (4, 784)), "cnn": (cnn, (3, 1, 14, 14))}
OPTIMIZERS = {
    "sgd": lambda params: optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adam": lambda params: optim.Adam(params, lr=1e-2),
}


@cache
def train(net, optimizer, dtype, device):
    """(the losses, the parameters at the end); weights and batches are float32 whatever the dtype."""
    make, shape = NETS[net]
    tg.manual_seed(3)
    model = make().to(device, dtype)
    stepper = OPTIMIZERS[optimizer](model.parameters())
    images = tg.randn(STEPS, *shape).to(device, dtype)
    labels = tg.randint(0, 10, (STEPS, shape[0])).to(device)
    losses = []
    for x, t in zip(images, labels, strict=True):
        stepper.zero_grad()
        loss = F.cross_entropy(model(x), t)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        stepper.step()
        losses.append(loss.item())
    assert {p.device for p in model.parameters()} == {p.grad.device for p in model.parameters()} == {device}
    assert all(s.device == device for p in model.parameters() for n, s in stepper.state[p].items() if n != "step")
    return np.array(losses, dtype), [p.detach().cpu().numpy() for p in model.parameters()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
def test_the_losses_are_those_of_the_cpu(net, optimizer):
    got, got_params = train(net, optimizer, np.float32, "cuda")
    want, want_params = train(net, optimizer, np.float64, "cpu")
    baseline, baseline_params = train(net, optimizer, np.float32, "cpu")
    assert len(set(want)) == STEPS
    assert_close(got, want, baseline)
    for g, w, b in zip(got_params, want_params, baseline_params, strict=True):
        assert_close(g, w, b)
