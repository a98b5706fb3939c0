"""The nets whose training steps are measured: each is written once, from tilegrad.nn or torch.nn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


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


def batchnorm_cnn(nn: Any) -> Any:
    """conv32-BatchNorm-ReLU-pool-conv64-BatchNorm-ReLU-pool-dense10 for (N, 1, 28, 28)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 10),
    )  # fmt: skip


def residual_cnn(nn: Any) -> Any:
    """Stages of 16 and 32 channels for (N, 1, 28, 28): conv-BatchNorm-ReLU, relu(x + f(x)), pool (He et al. 2016).

    The end of a block asks tilegrad's BatchNorm for norm, sum and relu in one primitive, `forward_residual`. torch has
    no such call and does the three one by one, as a program for both libraries would.
    """

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.f = nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            )  # fmt: skip
            self.norm: Any = nn.BatchNorm2d(channels)

        def forward(self, x: Any) -> Any:
            if hasattr(self.norm, "forward_residual"):
                return self.norm.forward_residual(self.f(x), x, "relu")
            return nn.functional.relu(x + self.norm(self.f(x)))

    def stage(before: int, channels: int) -> list[Any]:
        conv = nn.Conv2d(before, channels, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(channels), nn.ReLU(), Block(channels), nn.MaxPool2d(2)]

    return nn.Sequential(*stage(1, 16), *stage(16, 32), nn.Flatten(), nn.Linear(32 * 7 * 7, 10))


VOCABULARY, TOKEN_CLASSES, WIDTH, HEADS, DEPTH, LONGEST = 1000, 10, 128, 4, 2, 512


def transformer(nn: Any) -> Any:
    """Classes for each of (N, T) tokens, (N T, 10): two layers of width 128, normalised first (Xiong et al. 2020)."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            n, length, _ = x.shape
            qkv = self.qkv(x).reshape(n, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
            return self.out(y.transpose(1, 2).reshape(n, length, WIDTH))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.Sequential(nn.LayerNorm(WIDTH), Attention())
            self.mlp = nn.Sequential(
                nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
            )

        def forward(self, x: Any) -> Any:
            x = x + self.attention(x)
            return x + self.mlp(x)

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONGEST, WIDTH)
            self.layers = nn.Sequential(*(Layer() for _ in range(DEPTH)))
            self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKEN_CLASSES))

        def forward(self, tokens: Any) -> Any:
            x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
            return self.head(self.layers(x)).reshape(-1, TOKEN_CLASSES)

    return Transformer()


def lstm(nn: Any) -> Any:
    """Classes for each of (N, T, 128) frames, (N T, 10): an LSTM of width 128 and a linear layer on its outputs."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, TOKEN_CLASSES)

        def forward(self, frames: Any) -> Any:
            return self.head(self.lstm(frames)[0]).reshape(-1, TOKEN_CLASSES)

    return Tagger()


def _images(rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((batch, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, batch)


def _texts(rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
    shape = batch, LENGTHS.get(batch, 64)
    return rng.integers(0, VOCABULARY, shape), rng.integers(0, TOKEN_CLASSES, shape)


def _frames(rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((batch, FRAMES, WIDTH), dtype=np.float32), rng.integers(
        0, TOKEN_CLASSES, (batch, FRAMES)
    )


class Net(NamedTuple):
    """A net whose training step is measured.

    make     (nn of either library) -> the net
    batches  at which it is measured where none is asked for
    draw     (rng, batch) -> its input, and the classes of what it is asked about; their shape is the row's
    counted  what a rate counts
    has_formats  whether it takes images through convolutions, for which torch has two memory formats
    is_seed  whether its time with the reference tells something: a step of the others takes seconds
    """

    make: Callable[[Any], Any]
    batches: tuple[int, ...]
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]] = _images
    counted: str = "images"
    has_formats: bool = True
    is_seed: bool = False


NETS = {"CNN": cnn, "MLP": mlp}
LENGTHS = {16: 64, 8: 128}  # of the texts in a batch
FRAMES = 64  # of a sequence
TRAINED = {
    "CNN": Net(cnn, (32, 128, 512), is_seed=True),
    "MLP": Net(mlp, (32, 128, 512), has_formats=False, is_seed=True),
    "BatchNorm CNN": Net(batchnorm_cnn, (64, 256)),
    "residual CNN": Net(residual_cnn, (64, 256)),
    "transformer": Net(transformer, tuple(LENGTHS), _texts, "tokens", has_formats=False),
    "LSTM": Net(lstm, (32,), _frames, "frames", has_formats=False),
}
LAYERS_BATCH = 128

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
