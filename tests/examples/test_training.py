"""What the training program computes: the loop that its flags describe, written out."""

from __future__ import annotations

import math

import pytest

import tilegrad as tg
from tests.examples.programs import tiny, train
from tilegrad import nn, optim
from tilegrad.data import image_batch, mnist
from tilegrad.nn import functional as F


def plain_losses(folder, epochs, optimizer_of):
    """The losses of the tiny net, batch 64, seed 4, step by step and not captured."""
    tg.manual_seed(4)
    images, labels = mnist(folder)
    images, labels = tg.tensor(images[:, None]), tg.tensor(labels, dtype=tg.int64)
    model = tiny()
    optimizer = optimizer_of(model.parameters())
    total = epochs * math.ceil(len(labels) / 64)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=total)
    losses = []
    for _ in range(epochs):
        for index in tg.randperm(len(labels)).split(64):
            loss = F.cross_entropy(model(image_batch(images, index, 0.13066, 0.30811)), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("more", "optimizer_of"),
    [
        ((), lambda parameters: optim.Adam(parameters, lr=2e-3)),
        (("--weight-decay", 0.3), lambda parameters: optim.AdamW(parameters, lr=2e-3, weight_decay=0.3)),
    ],
    ids=["Adam", "AdamW"],
)
def test_the_losses_are_those_of_the_plain_loop(more, optimizer_of, digits):
    run = train("--data", digits, "--epochs", 3, "--lr", 2e-3, "--seed", 4, *more)
    assert run["losses"] == plain_losses(digits, 3, optimizer_of)


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def test_augmentation_is_of_the_seed_and_new_in_every_epoch(digits):
    """Two steps of one image, with a net that draws nothing and hardly learns."""
    flags = ("--data", digits, "--epochs", 2, "--limit", 1, "--lr", 1e-9)
    shown = [train(*flags, "--augment", "--seed", seed, net=linear)["losses"] for seed in (1, 1, 2)]
    assert shown[0] == shown[1] != shown[2]
    assert abs(shown[0][0] - shown[0][1]) > 0.01
    plain = train(*flags, "--seed", 1, net=linear)["losses"]
    assert plain[0] == pytest.approx(plain[1], abs=1e-5)
