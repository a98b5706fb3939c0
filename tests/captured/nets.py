"""Whole nets, captured: their trainings and evaluations have the bits of the plain ones.

tests/captured/test_nets.py and tests/cuda/test_capture_nets.py run these, each on its device.
"""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import ON, assert_graphs
from tests.compare import assert_same
from tilegrad import nn, optim
from tilegrad.nn import functional as F

CLASSES, TOKENS, LENGTH = 5, 11, 6


class Residual(nn.Module):
    def __init__(self, channels, in_one):
        super().__init__()
        self.in_one = in_one  # whether the last norm, sum and relu are one primitive
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(2)])

    def forward(self, x):
        y = F.relu(self.norms[0](self.first(x)))
        y = self.second(y)
        return self.norms[1].forward_residual(y, x, "relu") if self.in_one else F.relu(x + self.norms[1](y))


class Block(nn.Module):
    """A transformer's, with attention written out."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        future = tg.ones(t, t, dtype=tg.bool, device=x.device).triu(1)
        scores = (q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5).masked_fill(future, -float("inf"))
        seen = self.dropout(scores.softmax(-1)) @ v
        x = x + self.dropout(self.out(seen.transpose(1, 2).reshape(n, t, width)))
        return x + self.dropout(self.mlp(self.norms[1](x)))


class Transformer(nn.Module):
    def __init__(self, width=8, heads=2):
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(Block(width, heads), Block(width, heads))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, TOKENS)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(tg.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(x))).flatten(0, 1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.of_input, self.of_state, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h = tg.zeros(x.shape[0], 8, device=x.device)
        for t in range(x.shape[1]):
            h = tg.tanh(self.of_input(x[:, t]) + self.of_state(h))
        return self.head(h)


def images(rng, n):
    return rng.standard_normal((n, 1, 8, 8)).astype(np.float32), rng.integers(0, CLASSES, n)


def sequences(rng, n):
    return rng.standard_normal((n, 4, 4)).astype(np.float32), rng.integers(0, CLASSES, n)


def texts(rng, n):
    tokens = rng.integers(0, TOKENS, (n, LENGTH + 1))
    return tokens[:, :-1].copy(), tokens[:, 1:].reshape(-1).copy()


def numbers(rng, n):
    return rng.standard_normal((n, 4)).astype(np.float32), rng.random((n, 3)).astype(np.float32)


def conv_norm_relu():
    layers = [layer for c, d in ((1, 4), (4, 8)) for layer in
              (nn.Conv2d(c, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU(), nn.MaxPool2d(2))]  # fmt: skip
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, CLASSES))


def residual():
    ends = nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
    return nn.Sequential(ends[0], Residual(4, False), nn.MaxPool2d(2), Residual(4, True), *ends[1:])


def small():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def by_hand(y, t):
    return ((y - t) ** 2 / (1 + t.abs())).mean() + 0.1 * (y * y).sum().sqrt() - tg.maximum(y, t).mean(0).amin()


NETS = {  # what makes it, its data, its loss
    "convolutions with batch norm": (conv_norm_relu, images, F.cross_entropy),
    "residual": (residual, images, F.cross_entropy),
    "transformer": (Transformer, texts, F.cross_entropy),
    "recurrent": (Recurrent, sequences, F.cross_entropy),
    "mse": (small, numbers, F.mse_loss),
    "l1": (small, numbers, F.l1_loss),
    "bce": (small, numbers, F.binary_cross_entropy_with_logits),
    "a loss by hand": (small, numbers, by_hand),
}
OPTIMIZERS = {
    "adam": lambda parameters: optim.Adam(parameters, lr=0.01),
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.02, momentum=0.9),
}


class Training:
    """A net, its optimizer, and two steps of it, captured or not: one that trains, one that evaluates."""

    def __init__(self, make, data, loss, optimizer, is_captured, steps=1):
        tg.manual_seed(2)
        self.rng, self.data, self.steps = np.random.default_rng(3), data, steps
        self.model = make().to(ON["device"])
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())

        def train(x, t):
            found = loss(self.model(x), t)
            self.optimizer.zero_grad()
            found.backward()
            self.optimizer.step()
            return found

        def evaluate(x, t):
            with tg.no_grad():
                return loss(self.model(x), t)

        self.is_captured = is_captured
        self.train = tg.capture(train, warmup=1, steps=steps) if is_captured else train
        self.evaluate = tg.capture(evaluate, warmup=1) if is_captured else evaluate

    def batch(self, n, steps=1):
        batches = [self.data(self.rng, n) for _ in range(steps)]
        stacked = map(np.stack, zip(*batches, strict=True)) if steps > 1 else batches[0]
        return [tg.tensor(x, device=ON["device"]) for x in stacked]

    def run(self, train=4, evaluate=3, n=3):
        """The losses, and all that is left, on the host."""
        seen = []
        self.model.train()
        for _ in range(train):
            x, t = self.batch(n, self.steps)
            if self.steps > 1 and not self.is_captured:
                seen.append(tg.stack([self.train(*each).detach() for each in zip(x, t, strict=True)]))
            else:
                seen.append(self.train(x, t))
        self.model.eval()
        seen += [self.evaluate(*self.batch(n)) for _ in range(evaluate)]
        left = [*self.model.state_dict().values(), *[p.grad for p in self.model.parameters() if p.grad is not None]]
        return [x.detach().cpu().numpy().copy() for x in seen + left], tg.random.default_generator.get_state()


def assert_as_plain(make, data, loss, optimizer="adam", steps=1, **options):
    """Both steps of the net, captured once each, do what the plain ones do. Returns the captured training."""
    want, state = Training(make, data, loss, optimizer, False, steps).run(**options)
    training = Training(make, data, loss, optimizer, True, steps)
    got, found = training.run(**options)
    assert found == state
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.tobytes() == b.tobytes(), f"{i}: {assert_same(a, b)}"
    for step in (training.train, training.evaluate):
        assert_graphs(step, 1)
    return training


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
def test_a_net_trains_and_evaluates_as_it_does_plainly(net, optimizer):
    assert_as_plain(*NETS[net], optimizer)


@pytest.mark.parametrize("net", NETS)
def test_several_steps_at_once(net):
    assert_as_plain(*NETS[net], steps=2, train=3)
