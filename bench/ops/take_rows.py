"""take_rows: M rows of a table (N, C) by their index, and the gradient to the table."""

from __future__ import annotations

import numpy as np

from tilegrad.bench.ops.op import Op, Shape, Sizes, Variant, normal

INDEX = 8  # bytes: int64


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    rows, width, taken = shape
    return {"x": normal(rng, rows, width), "index": rng.integers(0, rows, taken), "dy": normal(rng, taken, width)}


VARIANT = Variant(
    name="take_rows",
    names=("x", "index"),
    draw=_draw,
    forward=lambda k, i: k.take_rows(i.x, i.index),
    backward=lambda k, i, _: k.take_rows_grad(i.dy, i.index, len(i.x)),
    torch=lambda torch, i: torch.nn.functional.embedding(i.index, i.x),
    bytes={
        # read the rows and the index, write y; read dy and the index, write dx
        "forward": lambda shape, size: 2 * shape[1] * shape[2] * size + INDEX * shape[2],
        "backward": lambda shape, size: (shape[0] + shape[2]) * shape[1] * size + INDEX * shape[2],
    },
    flops={"forward": lambda shape: 0, "backward": lambda shape: shape[1] * shape[2]},
    uses={"forward": ("take_rows",), "backward": ("take_rows_grad",)},
    terms={"backward": lambda shape: shape[2]},
)

OP = Op(
    name="take_rows",
    axes=("N", "C", "M"),
    cpu=(
        Sizes((50_000, 512, 8192), "a language model's tokens", quick=True),
        Sizes((1000, 128, 1024), "a small transformer's 16 x 64 tokens"),
    ),
    cuda=(
        Sizes((50_257, 1024, 65_536), "64 x 1024 tokens of a language model", quick=True),
        Sizes((1000, 128, 1024), "a small transformer's: the launches are what costs"),
    ),
    toy=(9, 5, 12),
    variants=(VARIANT,),
)
