"""Batch normalisation in training, of images in both memory orders, with relu and without, and all its gradients."""

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


def _drawn(images: Any) -> Any:
    def draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
        x, dy = images(rng, *shape), images(rng, *shape)
        return {"x": x, "weight": normal(rng, shape[1]), "bias": normal(rng, shape[1]), "dy": dy}

    return draw


def _bytes(arrays: int, vectors: int) -> Any:
    """Of so many arrays as x, so many as weight, and two moments a channel."""

    def count(shape: Shape, size: int) -> int:
        return arrays * math.prod(shape) * size + vectors * shape[1] * size + 2 * shape[1] * max(SAVED, size)

    return count


def _flops(each: int, channel: int) -> Any:
    return lambda shape: each * math.prod(shape) + channel * shape[1]


def _variant(name: str, images: Any, activation: str | None) -> Variant:
    def forward(k: Any, i: Inputs) -> Any:
        mean, var = k.batch_moments(i.x)
        return k.batch_norm(i.x, mean, var, i.weight, i.bias, EPS, None, activation), mean, var

    def backward(k: Any, i: Inputs, outputs: tuple[Any, ...]) -> Any:
        moments, affine = outputs[1:], (i.weight, i.bias)
        return k.batch_norm_grad(i.dy, i.x, *moments, *affine, EPS, None, activation, False, True, True)

    def torch(torch: Any, i: Inputs) -> Any:
        y = torch.nn.functional.batch_norm(i.x, None, None, i.weight, i.bias, True, 0.1, EPS)
        return torch.relu(y) if activation else y

    relu = activation is not None
    return Variant(
        name=name,
        names=("x", "weight", "bias"),
        draw=_drawn(images),
        forward=forward,
        backward=backward,
        torch=torch,
        wrt=("x", "weight", "bias"),
        # read x for the moments and again for y, weight and bias, write y and the moments; read dy and x for the sums
        # and again for dx, weight (and bias, for relu's mask) and the moments, write dx and two gradients
        bytes={"forward": _bytes(3, 2), "backward": _bytes(5, 4 if relu else 3)},
        # sum, x - mean, square, sum, * rstd, * weight, + bias (and max), and / / + sqrt / a channel;
        # (mask: * + >), sum, - *, dz xhat and its sum, dz weight, xhat c2, - - *, and + sqrt / and two means a channel
        flops={"forward": _flops(8 if relu else 7, 5), "backward": _flops(13 if relu else 10, 5)},
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
    ),
    check=_check,
)
