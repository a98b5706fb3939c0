"""Two small nets and their training loop, once in tilegrad and once in torch, from the same arrays.

    losses, params = train(OURS, MLP, "adamw", np.float32)
    losses, params = train(TORCH, MLP, "adamw", np.float64)

Both start from the same float32 weights and see the same float32 batches: what differs is who computes, and in
which dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import engine
from engine import ops, optim

STEPS = 50
CLASSES = 10


@dataclass(frozen=True)
class Net:
    """A net: the shape of one image, how far its pictures stand out of the noise, and the shapes of its parameters."""

    name: str
    image: tuple[int, ...]
    signal: float
    shapes: tuple[tuple[int, ...], ...]


# The seed nets with fewer units: 784 inputs as MNIST has them; two convolutions, each with a pool, and a linear layer.
MLP = Net("mlp", (784,), 0.2, ((32, 784), (32,), (16, 32), (16,), (CLASSES, 16), (CLASSES,)))
CNN = Net("cnn", (1, 14, 14), 2.0, ((8, 1, 3, 3), (8,), (8, 8, 3, 3), (8,), (CLASSES, 8 * 2 * 2), (CLASSES,)))


def weights(net: Net, seed: int = 0) -> list[np.ndarray]:
    """He's initialisation (He et al. 2015), with biases that are not 0; float32."""
    rng = np.random.default_rng(seed)
    fan_ins = [np.prod(shape[1:]) if len(shape) > 1 else 100 for shape in net.shapes]
    return [(rng.standard_normal(s) * np.sqrt(2 / n)).astype(np.float32) for s, n in zip(net.shapes, fan_ins)]


def batches(net: Net, size: int = 32, seed: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For ever: epochs of 200 noisy pictures of ten, in a new order each; the last batch of an epoch has 8."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((CLASSES, *(n // 2 if n > 1 else 1 for n in net.image)))
    pictures = np.kron(
        coarse, np.ones([2 if n > 1 else 1 for n in (1, *net.image)])
    )  # smooth: convolutions can learn them
    labels = rng.integers(0, CLASSES, 200)
    images = (net.signal * pictures[labels] + rng.standard_normal((200, *net.image))).astype(np.float32)
    while True:
        order = rng.permutation(200)
        for start in range(0, 200, size):
            batch = order[start : start + size]
            yield images[batch], labels[batch]


# --- the same net and loop in either library -------------------------------------------------------------------------


def _our_forward(net: Net, params: list[Any], x: Any) -> Any:
    if net is MLP:
        w1, b1, w2, b2, w3, b3 = params
        h = ops.linear(x, w1, b1, activation="relu")
        h = ops.linear(h, w2, b2, activation="relu")
        return ops.linear(h, w3, b3)
    k1, c1, k2, c2, w, b = params
    h = ops.max_pool2d(ops.conv2d(x, k1, c1).relu(), (2, 2), (2, 2))
    h = ops.max_pool2d(ops.conv2d(h, k2, c2, activation="relu"), (2, 2), (2, 2))
    return ops.linear(h.flatten(1), w, b)


def _torch_forward(net: Net, params: list[Any], x: Any) -> Any:
    F = torch.nn.functional
    if net is MLP:
        w1, b1, w2, b2, w3, b3 = params
        return F.linear(F.relu(F.linear(F.relu(F.linear(x, w1, b1)), w2, b2)), w3, b3)
    k1, c1, k2, c2, w, b = params
    h = F.max_pool2d(F.relu(F.conv2d(x, k1, c1)), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, k2, c2)), 2)
    return F.linear(h.flatten(1), w, b)


OURS = SimpleNamespace(
    tensor=lambda x: engine.tensor(x),
    parameter=lambda x: engine.tensor(x, requires_grad=True),
    forward=_our_forward,
    loss=ops.softmax_xent,
    optim=optim,
)
TORCH = SimpleNamespace(
    tensor=lambda x: torch.from_numpy(np.array(x)),
    parameter=lambda x: torch.from_numpy(np.array(x)).requires_grad_(),
    forward=_torch_forward,
    loss=torch.nn.functional.cross_entropy,
    optim=torch.optim,
)


# Each is an optimizer with weight decay and a schedule, made by the same call in both libraries.
def _sgd(optim: Any, params: list[Any]) -> tuple[Any, Any]:
    optimizer = optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-2)
    return optimizer, optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS)


def _adam(optim: Any, params: list[Any]) -> tuple[Any, Any]:
    optimizer = optim.Adam(params, lr=1e-2, weight_decay=1e-2)
    return optimizer, optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)


def _adamw(optim: Any, params: list[Any]) -> tuple[Any, Any]:
    weights = {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.1}
    biases = {"params": [p for p in params if p.ndim == 1], "lr": 2e-2}
    optimizer = optim.AdamW([weights, biases], lr=1e-2)
    warm_up = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    decay = optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5)
    return optimizer, optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], milestones=[10])


RECIPES: dict[str, Callable[[Any, list[Any]], tuple[Any, Any]]] = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}


def train(
    library: Any, net: Net, recipe: str, dtype: type[np.floating], steps: int = STEPS, seed: int = 0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(the loss of every step, the parameters at the end)."""
    params = [library.parameter(w.astype(dtype)) for w in weights(net, seed)]
    optimizer, scheduler = RECIPES[recipe](library.optim, params)
    losses = []
    for _, (x, t) in zip(range(steps), batches(net, seed=seed + 1)):
        optimizer.zero_grad()
        loss = library.loss(library.forward(net, params, library.tensor(x.astype(dtype))), library.tensor(t))
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return np.array(losses, dtype), [np.array(p.detach().numpy()) for p in params]
