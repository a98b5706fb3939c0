"""Whole nets in a captured step on the CPU: tests/captured/nets.py, and nets of random layers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilegrad as tg
from tests.captured.nets import *  # noqa: F403
from tests.captured.nets import CLASSES, NETS, Training, assert_as_plain, images
from tests.captured.steps import graphs
from tilegrad import kernels, nn
from tilegrad.nn import functional as F


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield


class Of(nn.Module):
    """A function as a layer."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x)


class Around(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x)


LAYERS = {  # of (N, 4, H, W), which they keep
    "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "grouped conv": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2),
    "1 x 1": lambda: nn.Conv2d(4, 4, 1, bias=False),
    "batch norm": lambda: nn.BatchNorm2d(4),
    "batch norm without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "norm of width": lambda: Of(lambda x: F.layer_norm(x, x.shape[-1:])),
    "residual": lambda: Around(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky relu": lambda: nn.LeakyReLU(0.1),
    "elu": nn.ELU,
    "dropout": lambda: nn.Dropout(0.3),
    "max pool": lambda: nn.MaxPool2d(3, 1, 1),
    "avg pool": lambda: nn.AvgPool2d(3, 1, 1),
    "softmax": lambda: nn.Softmax(1),
    "scaled": lambda: Of(lambda x: x * tg.linspace(0.5, 1.5, 4)[:, None, None] - x.mean((2, 3), keepdim=True)),
    "noisy": lambda: Of(lambda x: x + 0.1 * tg.randn_like(x)),
    "clamped": lambda: Of(lambda x: x.clamp(-1, 2)),
    "chosen": lambda: Of(lambda x: tg.where(x > 0, x, 0.1 * x.exp())),
    "shuffled": lambda: Of(lambda x: x[:, [2, 0, 3, 1]]),
    "turned": lambda: Of(lambda x: x.transpose(2, 3).flip(2)),
    "in parts": lambda: Of(lambda x: tg.cat([x[:, 2:].relu(), x[:, :2] * 2], 1)),
    "attending": lambda: Of(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
    "written to": lambda: Of(_filled),
    "by rank": lambda: Of(lambda x: x * x.argsort(3).float().softmax(3)),
}


def _filled(x):
    y = x * 2
    y[:, 0] = x[:, 1]
    y[y > 3] = 3.0
    return y


LOSSES = {
    "cross entropy": F.cross_entropy,
    "smoothed": lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1),
    "nll": lambda y, t: F.nll_loss(y.log_softmax(1), t),
    "bce": lambda y, t: F.binary_cross_entropy(y.sigmoid(), F.one_hot(t, CLASSES).float()),
    "mse": lambda y, t: F.mse_loss(y.softmax(1), F.one_hot(t, CLASSES).float()),
    "hinge": lambda y, t: (1 + y - y.gather(1, t[:, None])).relu().mean(),
}


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    layers=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=5),
    loss=st.sampled_from(sorted(LOSSES)),
    optimizer=st.sampled_from(["adam", "sgd"]),
    steps=st.sampled_from([1, 1, 2]),
    n=st.integers(1, 4),
)
def test_nets_of_random_layers(layers, loss, optimizer, steps, n):
    def make():
        first, last = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(36, CLASSES)
        return nn.Sequential(first, *[LAYERS[name]() for name in layers], nn.Flatten(), last)

    assert_as_plain(make, images, LOSSES[loss], optimizer, steps, train=3, evaluate=2, n=n)


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer(layer):
    def make():
        return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), LAYERS[layer](), nn.Flatten(), nn.Linear(36, CLASSES))

    assert_as_plain(make, images, LOSSES["hinge"], train=3, evaluate=2)


@pytest.mark.parametrize("net", ["convolutions with batch norm", "transformer"])
def test_batches_of_other_sizes_are_captured_beside(net):
    def run(is_captured):
        training = Training(*NETS[net], "adam", is_captured)
        return [x for n in (3, 2, 3, 3, 2, 2) for x in training.run(1, 1, n)[0]], training

    (got, training), (want, _) = run(True), run(False)
    for a, b in zip(got, want, strict=True):
        assert a.tobytes() == b.tobytes()
    assert len(graphs(training.train)) == 2


@pytest.mark.parametrize("net", ["convolutions with batch norm", "transformer"])
def test_parameters_and_buffers_that_are_replaced(net):
    """A layer that is another one, and a state that is loaded in place."""

    def run(is_captured):
        training = Training(*NETS[net], "sgd", is_captured)
        kept = training.run()[0]
        state = {name: x.clone() * 0.5 for name, x in training.model.state_dict().items() if x.dtype == tg.float32}
        training.model.load_state_dict(state, strict=False)
        kept += training.run()[0]
        layers = training.model.blocks if net == "transformer" else training.model
        layers[1] = type(layers[1])(8, 2) if net == "transformer" else nn.BatchNorm2d(4)
        return kept + training.run()[0]

    for a, b in zip(run(True), run(False), strict=True):
        assert a.tobytes() == b.tobytes()


def test_threads_have_steps_of_their_own():
    """Each captures and launches its net while the others do."""
    found, names = {}, ["convolutions with batch norm", "recurrent", "mse"]

    nets = {name: Training(*NETS[name], "adam", False).run(train=8)[0] for name in names}
    made = threading.Lock()

    def run(name):
        with made:  # weights are drawn from the stream of the process
            training = Training(*NETS[name], "adam", True)
        with kernels.use("cpu"):
            found[name] = training.run(train=8)[0]

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        for a, b in zip(found[name], nets[name], strict=True):
            assert a.tobytes() == b.tobytes()


def test_a_bad_token_in_a_later_batch():
    training = Training(*NETS["transformer"], "adam", True)
    training.run()
    (x, t), before = training.batch(3), [p.numpy().copy() for p in training.model.state_dict().values()]
    x[1, 2] = 99
    training.model.train()
    with pytest.raises(IndexError, match="embedding: indices run from 0 to 99"):
        training.train(x, t)
    for a, b in zip(training.model.state_dict().values(), before, strict=True):
        assert a.numpy().tobytes() == b.tobytes()
    assert np.isfinite(training.train(*training.batch(3)).item())
    assert len(graphs(training.train)) == 1
