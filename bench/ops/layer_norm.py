"""layer_norm and rms_norm of the rows of x (N, C), with weight and bias, and all their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.bench.ops.op import Op, Shape, Sizes, Variant, normal

EPS = 1e-5
SAVED = 4  # bytes of a row's mean or rstd; 8 in float64


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    x, dy = normal(rng, *shape), normal(rng, *shape)
    return {"x": x, "weight": normal(rng, shape[1]), "bias": normal(rng, shape[1]), "dy": dy}


def _bytes(arrays: int, vectors: int, saved: int) -> Any:
    """Of so many arrays as x, so many as weight, and so many numbers a row."""

    def count(shape: Shape, size: int) -> int:
        rows, n = shape
        return arrays * rows * n * size + vectors * n * size + saved * rows * max(SAVED, size)

    return count


def _flops(each: int, row: int) -> Any:
    return lambda shape: each * shape[0] * shape[1] + row * shape[0]


LAYER_NORM = Variant(
    name="layer_norm",
    names=("x", "weight", "bias"),
    draw=_draw,
    forward=lambda k, i: k.layer_norm(i.x, 1, i.weight, i.bias, EPS),
    backward=lambda k, i, outputs: k.layer_norm_grad(i.dy, i.x, *outputs[1:], i.weight, True, True),
    torch=lambda torch, i: torch.nn.functional.layer_norm(i.x, i.x.shape[1:], i.weight, i.bias, EPS),
    wrt=("x", "weight", "bias"),
    # read x, weight, bias, write y, mean, rstd; read dy, x, weight, mean, rstd, write dx and two gradients
    bytes={"forward": _bytes(2, 2, 2), "backward": _bytes(3, 3, 2)},
    # sum, x - mean, square, sum, * rstd, * weight, + bias, and / / + sqrt / a row; g, its sum, - *, g xhat and its sum,
    # xhat c2, - - *, dy xhat, two sums, and two means a row
    flops={"forward": _flops(7, 5), "backward": _flops(13, 2)},
    uses={"forward": ("layer_norm",), "backward": ("layer_norm_grad",)},
    terms={"forward": lambda shape: shape[1], "backward": max},
    fusible=True,
)

RMS_NORM = Variant(
    name="rms_norm",
    names=("x", "weight"),
    draw=_draw,
    forward=lambda k, i: k.rms_norm(i.x, 1, i.weight, EPS),
    backward=lambda k, i, outputs: k.rms_norm_grad(i.dy, i.x, outputs[1], i.weight, True),
    torch=lambda torch, i: torch.nn.functional.rms_norm(i.x, i.x.shape[1:], i.weight, EPS),
    wrt=("x", "weight"),
    bytes={"forward": _bytes(2, 1, 1), "backward": _bytes(3, 2, 1)},
    # square, sum, * rstd, * weight, and / + sqrt / a row; g, xhat, g xhat and its sum, xhat c2, - *, dy xhat and its
    # sum, and a mean a row
    flops={"forward": _flops(4, 4), "backward": _flops(9, 1)},
    uses={"forward": ("rms_norm",), "backward": ("rms_norm_grad",)},
    terms={"forward": lambda shape: shape[1], "backward": max},
    fusible=True,
)

OP = Op(
    name="layer_norm",
    axes=("N", "C"),
    cpu=(
        Sizes((1024, 128), "a small transformer's 16 x 64 tokens", quick=True),
        Sizes((2048, 768), "BERT's width"),
    ),
    cuda=(
        Sizes((65536, 1024), "many short rows", quick=True),
        Sizes((16384, 8192), "the longest row whose gradient stays in registers"),
        Sizes((2048, 65536), "rows beyond registers"),
    ),
    toy=(4, 100),
    variants=(LAYER_NORM, RMS_NORM),
)
