"""Two small nets and their training loop: one program, run by tilegrad and by torch.

    losses, params = train(OURS, "mlp", "adamw", np.float32)
    losses, params = train(TORCH, "mlp", "adamw", np.float64)

Both start from the same float32 weights and see the same float32 batches: what differs is who computes, and in
which dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import tilegrad as tg
from tilegrad import nn, optim

OURS = SimpleNamespace(nn=nn, optim=optim, tensor=tg.tensor)
TORCH = SimpleNamespace(nn=torch.nn, optim=torch.optim, tensor=torch.tensor)

STEPS = 50
CLASSES = 10


# --- nets: the seed nets with fewer units ----------------------------------------------------------------------------


def _mlp(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def _cnn(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 2 * 2, CLASSES),
    )


# name -> how it is built, the shape of an image, and how far its pictures stand out of the noise
NETS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], float]] = {
    "mlp": (_mlp, (784,), 0.2),
    "cnn": (_cnn, (1, 14, 14), 2.0),
}


def build(library: Any, net: str, dtype: type[np.floating] = np.float32, seed: int = 0) -> Any:
    """The net with He's initialisation (He et al. 2015) and biases that are not 0, rounded to float32."""
    rng = np.random.default_rng(seed)
    model = NETS[net][0](library.nn)
    weights = {}
    for name, param in model.state_dict().items():
        fan_in = np.prod(param.shape[1:]) if param.ndim > 1 else 100
        weight = np.sqrt(2 / fan_in) * rng.standard_normal(tuple(param.shape))
        weights[name] = library.tensor(weight.astype(np.float32).astype(dtype))
    model = model.double() if dtype == np.float64 else model
    model.load_state_dict(weights)
    return model


def batches(net: str, size: int = 32, seed: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For ever: epochs of 200 noisy pictures of ten, in a new order each; the last batch of an epoch has 8."""
    _, image, signal = NETS[net]
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((CLASSES, *(n // 2 if n > 1 else 1 for n in image)))
    pictures = np.kron(coarse, np.ones([2 if n > 1 else 1 for n in (1, *image)]))  # smooth: convolutions can learn it
    labels = rng.integers(0, CLASSES, 200)
    images = (signal * pictures[labels] + rng.standard_normal((200, *image))).astype(np.float32)
    while True:
        order = rng.permutation(200)
        for start in range(0, 200, size):
            batch = order[start : start + size]
            yield images[batch], labels[batch]


# --- recipes: an optimizer with weight decay, and a schedule ---------------------------------------------------------


def _sgd(optim: Any, model: Any) -> tuple[Any, Any]:
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2)
    return optimizer, optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS)


def _adam(optim: Any, model: Any) -> tuple[Any, Any]:
    optimizer = optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-2)
    return optimizer, optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)


def _adamw(optim: Any, model: Any) -> tuple[Any, Any]:
    params = list(model.parameters())
    weights = {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.1}
    biases = {"params": [p for p in params if p.ndim == 1], "lr": 2e-2}
    optimizer = optim.AdamW([weights, biases], lr=1e-2)
    warm_up = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    decay = optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5)
    return optimizer, optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], milestones=[10])


RECIPES: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}


def train(
    library: Any, net: str, recipe: str, dtype: type[np.floating], steps: int = STEPS, seed: int = 0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(the loss of every step, the parameters at the end)."""
    model = build(library, net, dtype, seed)
    criterion = library.nn.CrossEntropyLoss()
    optimizer, scheduler = RECIPES[recipe](library.optim, model)
    losses = []
    for _, (x, t) in zip(range(steps), batches(net, seed=seed + 1)):
        optimizer.zero_grad()
        loss = criterion(model(library.tensor(x.astype(dtype))), library.tensor(t))
        loss.backward()
        library.nn.utils.clip_grad_norm_(model.parameters(), max_norm=2.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return np.array(losses, dtype), [np.array(p.detach().numpy()) for p in model.parameters()]
