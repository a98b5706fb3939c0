"""Batch normalisation in training, of images in both memory orders, with relu and without, and all its gradients.

And with a residual that is added before relu, as a block of a residual net ends (He et al. 2016).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tilegrad.bench.ops.op import Inputs, Op, Shape, Sizes, Variant, channels_last, normal

EPS = 1e-5
SAVED = 4  # bytes of a channel's mean or variance; 8 in float64


def _check(shape: Shape) -> None:
    if math.prod(shape) < 2 * shape[1]:
        raise ValueError("expected at least two values a channel")


def _drawn(images: Any, added: tuple[str, ...]) -> Any:
    def draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
        x, dy, more = images(rng, *shape), images(rng, *shape), {name: images(rng, *shape) for name in added}
        return {"x": x, **more, "weight": normal(rng, shape[1]), "bias": normal(rng, shape[1]), "dy": dy}

    return draw


def _bytes(arrays: int, vectors: int) -> Any:
    """Of so many arrays as x, so many as weight, and two moments a channel."""

    def count(shape: Shape, size: int) -> int:
        return arrays * math.prod(shape) * size + vectors * shape[1] * size + 2 * shape[1] * max(SAVED, size)

    return count


def _flops(each: int, channel: int) -> Any:
    return lambda shape: each * math.prod(shape) + channel * shape[1]


def _variant(name: str, images: Any, activation: str | None, *added: str) -> Variant:
    """added: nothing, or "residual"."""

    def forward(k: Any, i: Inputs) -> Any:
        mean, var = k.batch_moments(i.x)
        residual = (i.residual,) if added else ()
        return k.batch_norm(i.x, mean, var, i.weight, i.bias, EPS, None, activation, *residual), mean, var

    def backward(k: Any, i: Inputs, outputs: tuple[Any, ...]) -> Any:
        y, *moments = outputs
        given = i.dy, i.x, *moments, i.weight, i.bias, EPS, None, activation, False, True, True
        if not added:
            return k.batch_norm_grad(*given)
        dx, dw, db, dz = k.batch_norm_grad(*given, y)
        return dx, dz, dw, db

    def torch(torch: Any, i: Inputs) -> Any:
        y = torch.nn.functional.batch_norm(i.x, None, None, i.weight, i.bias, True, 0.1, EPS)
        y = y + i.residual if added else y
        return torch.relu(y) if activation else y

    inputs = "x", *added, "weight", "bias"
    # read x for the moments and again for y, weight and bias, write y and the moments; read dy and x for the sums and
    # again for dx, weight (and bias, for relu's mask) and the moments, write dx and two gradients
    arrays, vectors = (3, 5), (2, 4 if activation else 3)
    # sum, x - mean, square, sum, * rstd, * weight, + bias (and max), and / / + sqrt / a channel;
    # (mask: * + >), sum, - *, dz xhat and its sum, dz weight, xhat c2, - - *, and + sqrt / and two means a channel
    each = (8, 13) if activation else (7, 10)
    if added:
        # read it too; read dy, x and y for the sums, without bias, write dz, read dz and x, write dx. + residual; y > 0
        arrays, vectors, each = (4, 7), (2, 3), (9, 11)
    return Variant(
        name=name,
        names=inputs,
        draw=_drawn(images, added),
        forward=forward,
        backward=backward,
        torch=torch,
        wrt=inputs,
        bytes={"forward": _bytes(arrays[0], vectors[0]), "backward": _bytes(arrays[1], vectors[1])},
        flops={"forward": _flops(each[0], 5), "backward": _flops(each[1], 5)},
        uses={"forward": ("batch_moments", "batch_norm"), "backward": ("batch_norm_grad",)},
        terms=dict.fromkeys(("forward", "backward"), lambda shape: math.prod(shape) // shape[1]),
        fusible=True,
    )


OP = Op(
    name="batch_norm",
    axes=("N", "C", "H", "W"),
    cpu=(
        Sizes((64, 32, 28, 28), "the first layer of a small CNN, batch 64", quick=True),
        Sizes((64, 64, 14, 14), "its second"),
        Sizes((32, 256, 14, 14), "a middle layer of ResNet"),
    ),
    cuda=(
        Sizes((256, 64, 56, 56), "200 MB of float32", quick=True),
        Sizes((64, 32, 28, 28), "the first layer of a small CNN, batch 64: few tiles"),
    ),
    toy=(2, 3, 6, 5),
    dtypes=("float32", "float16", "bfloat16", "float64"),
    variants=(
        _variant("batch_norm", channels_last, None),
        _variant("batch_norm + relu", channels_last, "relu"),
        _variant("batch_norm, C order", normal, None),
        _variant("batch_norm + relu, C order", normal, "relu"),
        _variant("batch_norm + residual + relu", channels_last, "relu", "residual"),
    ),
    check=_check,
)
