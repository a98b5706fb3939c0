"""softmax and log_softmax along the rows of x (N, C)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.bench.ops.op import Inputs, Op, Shape, Sizes, Variant, normal


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    return {"x": 3 * normal(rng, *shape), "dy": normal(rng, *shape)}


def _cupy_softmax(cp: Any, i: Inputs) -> Any:
    e = cp.exp(i.x - i.x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _cupy_log_softmax(cp: Any, i: Inputs) -> Any:
    shifted = i.x - i.x.max(-1, keepdims=True)
    return shifted - cp.log(cp.exp(shifted).sum(-1, keepdims=True))


def _variant(name: str, torch: Any, cupy: Any, flops: dict[str, Any]) -> Variant:
    return Variant(
        name=name,
        names=("x",),
        draw=_draw,
        forward=lambda k, i: getattr(k, name)(i.x),
        backward=lambda k, i, outputs: getattr(k, f"{name}_grad")(i.dy, outputs[0]),
        torch=torch,
        cupy=cupy,
        bytes={
            "forward": lambda shape, size: 2 * shape[0] * shape[1] * size,  # read x, write y
            "backward": lambda shape, size: 3 * shape[0] * shape[1] * size,  # read dy and y, write dx
        },
        flops=flops,
        uses={"forward": (name,), "backward": (f"{name}_grad",)},
        terms={"forward": lambda shape: shape[1], "backward": lambda shape: shape[1]},
        rowwise={"forward": ("x",), "backward": ("x", "dy")},
        fusible=True,
    )


VARIANTS = (
    _variant(
        "softmax",
        lambda torch, i: torch.softmax(i.x, -1),
        _cupy_softmax,
        {
            "forward": lambda shape: 5 * shape[0] * shape[1],  # max, x - m, exp, sum, quotient
            "backward": lambda shape: 4 * shape[0] * shape[1],  # dy y, sum, dy - sum, y *
        },
    ),
    _variant(
        "log_softmax",
        lambda torch, i: torch.log_softmax(i.x, -1),
        _cupy_log_softmax,
        {
            "forward": lambda shape: 5 * shape[0] * shape[1] + shape[0],  # max, x - m, exp, sum, - log; a log a row
            "backward": lambda shape: 4 * shape[0] * shape[1],  # sum, exp, exp *, dy -
        },
    ),
)

OP = Op(
    name="softmax",
    axes=("N", "C"),
    cpu=(
        Sizes((4096, 1024), "attention scores: rows of 4 KiB", quick=True),
        Sizes((512, 10), "the seed nets' classes, batch 512: the call is what costs"),
        Sizes((256, 50257), "a language model's vocabulary: rows beyond L1"),
    ),
    cuda=(
        Sizes((65536, 1024), "attention scores: many short rows", quick=True),
        Sizes((8192, 32768), "the longest row that one program holds in registers"),
        Sizes((512, 131072), "rows beyond registers"),
    ),
    toy=(4, 100),
    variants=VARIANTS,
)
