"""The benchmarks' nets learn what torch's learn: the same weights at first, the same batches, and at the end one loss.

Rounding grows over the steps, so that what is compared is the mean loss of the last epoch. A mistake in a gradient, in
an optimizer or in a captured step shows there: with BatchNorm's gradient taken for that of evaluation it is off by
several times the margin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import tilegrad as tg
from tilegrad.bench.nets import batchnorm_cnn, residual_cnn, transformer
from tilegrad.data import mnist

ROWS, BATCH = 2000, 50
MARGIN = 0.02  # of torch's mean loss in the last epoch; measured: 2e-4 at most
Batch = tuple[np.ndarray, np.ndarray]


def drawn_digits() -> Batch:
    """Ten smooth pictures in noise: the suite has no network, and so no MNIST."""
    rng = np.random.default_rng(2)
    pictures = np.kron(rng.standard_normal((10, 1, 7, 7)), np.ones((1, 1, 4, 4)))
    labels = rng.integers(0, 10, ROWS)
    return (pictures[labels] + 4 * rng.standard_normal((ROWS, 1, 28, 28))).astype(np.float32), labels


def mnist_digits() -> Batch:
    """The first rows of MNIST, which are downloaded where they are not in the user's cache."""
    images, labels = mnist()
    scaled = (images[:ROWS].reshape(ROWS, 1, 28, 28).astype(np.float32) / 255 - 0.1307) / 0.3081
    return scaled, labels[:ROWS].astype(np.int64)


def copied_tokens() -> Batch:
    """16 tokens of 10 kinds; each place is asked for the one two places before it, which only attention can fetch."""
    tokens = np.random.default_rng(2).integers(0, 10, (ROWS, 16))
    return tokens, np.roll(tokens, 2, 1)


class Task(NamedTuple):
    net: Callable[[Any], Any]
    data: Callable[[], Batch]
    epochs: int
    lr: float
    learnt: float  # the mean loss of the last epoch is below that


TASKS = {
    "BatchNorm CNN": Task(batchnorm_cnn, drawn_digits, 3, 1e-3, 0.3),
    "residual CNN": Task(residual_cnn, drawn_digits, 3, 1e-3, 0.3),
    "transformer": Task(transformer, copied_tokens, 2, 1e-3, 0.05),
}


def batches(task: Task) -> Iterator[Batch]:
    x, t = task.data()
    rng = np.random.default_rng(3)
    for _ in range(task.epochs):
        order = rng.permutation(ROWS)
        for start in range(0, ROWS, BATCH):
            chosen = order[start : start + BATCH]
            yield x[chosen], t[chosen].reshape(-1)


def torchs(task: Task, model: Any) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=task.lr)
    losses = []
    for x, t in batches(task):
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(t))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def ours(task: Task, weights: dict[str, np.ndarray]) -> list[float]:
    model = task.net(tg.nn)
    model.load_state_dict(weights)
    optimizer = tg.optim.Adam(model.parameters(), lr=task.lr)

    @tg.capture
    def step(x: tg.Tensor, t: tg.Tensor) -> tg.Tensor:
        loss = tg.nn.functional.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return [step(tg.tensor(x), tg.tensor(t)).item() for x, t in batches(task)]


def check(task: Task) -> None:
    model = task.net(torch.nn)
    weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    want, got = torchs(task, model), ours(task, weights)
    an_epoch = ROWS // BATCH
    assert np.mean(want[-an_epoch:]) < task.learnt
    assert got[0] == pytest.approx(want[0], rel=1e-4)
    assert np.mean(got[-an_epoch:]) == pytest.approx(np.mean(want[-an_epoch:]), rel=MARGIN)


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_that_torch_reaches(name):
    check(TASKS[name])


@pytest.mark.exhaustive  # as all that may need the network
@pytest.mark.parametrize("name", ["BatchNorm CNN", "residual CNN"])
def test_the_loss_that_torch_reaches_on_mnist(name):
    check(TASKS[name]._replace(data=mnist_digits, learnt=0.15))
