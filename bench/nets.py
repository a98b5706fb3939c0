"""The two seed nets, from tilegrad.nn or torch.nn."""

from __future__ import annotations

from typing import Any


def cnn(nn: Any) -> Any:
    """conv32-pool-conv64-pool-conv64-dense64-dense10 for (N, 1, 28, 28)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def mlp(nn: Any) -> Any:
    """784-128-64-10 for (N, 1, 28, 28)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


NETS = {"CNN": cnn, "MLP": mlp}

# The CNN's layers with the images that reach them: (name, layer, channels, side)
LAYERS = (
    ("conv 1 to 32", lambda nn: nn.Conv2d(1, 32, 3), (1, 28, 28)),
    ("relu 32 x 26 x 26", lambda nn: nn.ReLU(), (32, 26, 26)),
    ("pool 32 x 26 x 26", lambda nn: nn.MaxPool2d(2), (32, 26, 26)),
    ("conv 32 to 64", lambda nn: nn.Conv2d(32, 64, 3), (32, 13, 13)),
    ("relu 64 x 11 x 11", lambda nn: nn.ReLU(), (64, 11, 11)),
    ("pool 64 x 11 x 11", lambda nn: nn.MaxPool2d(2), (64, 11, 11)),
    ("conv 64 to 64", lambda nn: nn.Conv2d(64, 64, 3), (64, 5, 5)),
    ("dense 576 to 64", lambda nn: nn.Linear(576, 64), (576,)),
    ("dense 64 to 10", lambda nn: nn.Linear(64, 10), (64,)),
)
