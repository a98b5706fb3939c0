"""Two training steps on the Numba kernels alone: the losses of the CPU, as far as float32 can tell."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_close
from tests.cuda.test_training import mlp
from tilegrad import kernels, nn, optim
from tilegrad.kernels.device import gpu
from tilegrad.nn import functional as F

STEPS = 2


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Dropout(0.25), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip


NETS = {"mlp": (mlp, (2, 784)), "cnn": (cnn, (2, 1, 6, 6))}
OPTIMIZERS = {
    "sgd": lambda params: optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adam": lambda params: optim.AdamW(params, lr=1e-2),
}


def train(net, optimizer, dtype, device):
    """(the losses, the parameters at the end); weights and batches are float32 whatever the dtype."""
    make, shape = NETS[net]
    tg.manual_seed(3)
    model = make().to(device, dtype)
    stepper = OPTIMIZERS[optimizer](model.parameters())
    images = tg.randn(STEPS, *shape).to(device, dtype)
    labels = tg.randint(0, 5, (STEPS, shape[0])).to(device)
    losses = []
    for x, t in zip(images, labels, strict=True):
        stepper.zero_grad()
        loss = F.cross_entropy(model(x), t)
        loss.backward()
        stepper.step()
        losses.append(loss.item())
    return np.array(losses, dtype), [p.detach().cpu().numpy() for p in model.parameters()]


@pytest.mark.parametrize(("net", "optimizer"), [("mlp", "sgd"), ("cnn", "sgd"), ("cnn", "adam")])
def test_the_losses_are_those_of_the_cpu(net, optimizer):
    with kernels.use("numba"):
        assert kernels.of(gpu.xp().zeros(1, np.float32)).__name__ == "tilegrad.kernels.backends.numba"
        got, got_params = train(net, optimizer, np.float32, "cuda")
    want, want_params = train(net, optimizer, np.float64, "cpu")
    baseline, baseline_params = train(net, optimizer, np.float32, "cpu")
    assert len(set(want)) == STEPS
    assert_close(got, want, baseline)
    for g, w, b in zip(got_params, want_params, baseline_params, strict=True):
        assert_close(g, w, b)
