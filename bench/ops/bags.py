"""sum_bags: sums of B bags of L rows of a table (N, C), and the gradient to the table."""

from __future__ import annotations

import numpy as np

from tilegrad.bench.ops.op import Op, Shape, Sizes, Variant, normal

INDEX = 8  # bytes: int64


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    rows, width, bags, each = shape
    index, offsets = rng.integers(0, rows, bags * each), np.arange(0, bags * each, each)
    return {"x": normal(rng, rows, width), "index": index, "offsets": offsets, "dy": normal(rng, bags, width)}


def _indices(shape: Shape) -> int:
    return INDEX * shape[2] * (shape[3] + 1)


VARIANT = Variant(
    name="sum_bags",
    names=("x", "index", "offsets"),
    draw=_draw,
    forward=lambda k, i: k.sum_bags(i.x, i.index, i.offsets, len(i.offsets)),
    backward=lambda k, i, _: k.sum_bags_grad(i.dy, i.index, i.offsets, len(i.x)),
    torch=lambda torch, i: torch.nn.functional.embedding_bag(i.index, i.x, i.offsets, mode="sum"),
    bytes={
        # read the rows and both indices, write y; read dy and both indices, write dx
        "forward": lambda shape, size: shape[1] * shape[2] * (shape[3] + 1) * size + _indices(shape),
        "backward": lambda shape, size: (shape[0] + shape[2]) * shape[1] * size + _indices(shape),
    },
    flops={mode: lambda shape: shape[1] * shape[2] * shape[3] for mode in ("forward", "backward")},
    uses={"forward": ("sum_bags",), "backward": ("sum_bags_grad",)},
    terms={"forward": lambda shape: shape[3], "backward": lambda shape: shape[2] * shape[3]},
)

OP = Op(
    name="bags",
    axes=("N", "C", "B", "L"),
    cpu=(Sizes((10_000, 64, 256, 16), "a batch of short texts", quick=True),),
    cuda=(Sizes((50_257, 512, 4096, 64), "documents of 64 tokens", quick=True),),
    toy=(9, 5, 4, 3),
    variants=(VARIANT,),
)
