"""pool: max_pool2d and avg_pool2d over windows of 2 x 2, stride 2, and their gradients."""

from __future__ import annotations

import numpy as np

from tilegrad.bench.ops.op import Op, Shape, Sizes, Variant, channels_last

WINDOW = (2, 2)
TAP = 1  # bytes: which of the window's pixels was the largest


def _check(shape: Shape) -> None:
    if min(shape[2:]) < 2:
        raise ValueError("expected H and W of at least 2")


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    n, c, h, w = shape
    return {"x": channels_last(rng, n, c, h, w), "dy": channels_last(rng, n, c, h // 2, w // 2)}


def _pixels(shape: Shape) -> tuple[int, int]:
    """Of x and y."""
    n, c, h, w = shape
    return n * c * h * w, n * c * (h // 2) * (w // 2)


def _max_bytes(shape: Shape, size: int) -> int:
    x, y = _pixels(shape)
    return x * size + y * size + y * TAP  # read x, write y and the taps; backward: read dy and the taps, write dx


def _avg_bytes(shape: Shape, size: int) -> int:
    x, y = _pixels(shape)
    return x * size + y * size  # read x, write y; backward: read dy, write dx


MAX = Variant(
    name="max_pool2d",
    names=("x",),
    draw=_draw,
    forward=lambda k, i: k.max_pool2d(i.x, WINDOW, WINDOW),
    backward=lambda k, i, outputs: k.max_pool2d_grad(i.dy, outputs[1], i.x.shape, WINDOW, WINDOW),
    torch=lambda torch, i: torch.nn.functional.max_pool2d(i.x, 2),
    bytes={"forward": _max_bytes, "backward": _max_bytes},
    flops={"forward": lambda shape: 3 * _pixels(shape)[1], "backward": lambda shape: 0},  # 3 comparisons; only moves
    uses={"forward": ("max_pool2d",), "backward": ("max_pool2d_grad",)},
    rowwise={"forward": ("x", "dy"), "backward": ("x", "dy")},
)

AVG = Variant(
    name="avg_pool2d",
    names=("x",),
    draw=_draw,
    forward=lambda k, i: k.avg_pool2d(i.x, WINDOW, WINDOW),
    backward=lambda k, i, _: k.avg_pool2d_grad(i.dy, i.x.shape, WINDOW, WINDOW),
    torch=lambda torch, i: torch.nn.functional.avg_pool2d(i.x, 2),
    bytes={"forward": _avg_bytes, "backward": _avg_bytes},
    # 3 sums and a division a window; one division
    flops={"forward": lambda shape: 4 * _pixels(shape)[1], "backward": lambda shape: _pixels(shape)[1]},
    uses={"forward": ("avg_pool2d",), "backward": ("avg_pool2d_grad",)},
    rowwise={"forward": ("x", "dy"), "backward": ("x", "dy")},
)

OP = Op(
    name="pool",
    axes=("N", "C", "H", "W"),
    cpu=(
        Sizes((128, 32, 26, 26), "the seed CNN's first pooling, batch 128", quick=True),
        Sizes((128, 64, 11, 11), "its second: an odd side"),
    ),
    cuda=(
        Sizes((256, 64, 56, 56), "200 MB of float32", quick=True),
        Sizes((128, 64, 11, 11), "the seed CNN's second pooling: an odd side"),
    ),
    toy=(2, 3, 6, 5),
    variants=(MAX, AVG),
    check=_check,
)
