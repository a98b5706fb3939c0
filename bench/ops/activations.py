"""activations: elementwise functions of N numbers, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.bench.ops.op import Op, Shape, Sizes, Variant, normal


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    return {"x": normal(rng, *shape), "dy": normal(rng, *shape)}


def _activation(
    name: str, forward_flops: int, backward_flops: int, from_y: bool, torch: Callable, cupy: Callable | None
) -> Variant:
    def backward(k: Any, i: Any, outputs: tuple) -> Any:
        return getattr(k, f"{name}_grad")(i.dy, outputs[0] if from_y else i.x)

    return Variant(
        name=name,
        names=("x",),
        draw=_draw,
        forward=lambda k, i: getattr(k, name)(i.x),
        backward=backward,
        torch=torch,
        cupy=cupy,
        bytes={
            "forward": lambda shape, size: 2 * shape[0] * size,  # read x, write y
            "backward": lambda shape, size: 3 * shape[0] * size,  # read dy and x (or y), write dx
        },
        flops={
            "forward": lambda shape: forward_flops * shape[0],
            "backward": lambda shape: backward_flops * shape[0],
        },
        uses={"forward": (name,), "backward": (f"{name}_grad",)},
        rowwise={"forward": ("x",), "backward": ("x", "dy")},
        fusible=True,
    )


# FLOP an element, forward and backward, by the formulas of kernels/activations/reference.py:
VARIANTS = (
    # max;  a comparison
    _activation("relu", 1, 1, True, lambda t, i: t.relu(i.x), lambda cp, i: cp.maximum(i.x, 0)),
    # a comparison, a product;  the same
    _activation("leaky_relu", 2, 2, False, lambda t, i: t.nn.functional.leaky_relu(i.x), None),
    # x/2 (1 + erf(x c)): * erf + * *;  the cdf's * erf + *, then x x * c, exp, * c, x *, +, dy *
    _activation("gelu", 5, 12, False, lambda t, i: t.nn.functional.gelu(i.x), None),
    # x / (1 + exp(-x)): - exp + /;  the sigmoid's - exp + /, then x (1 - s): - * +, s *, dy *
    _activation("silu", 4, 9, False, lambda t, i: t.nn.functional.silu(i.x), lambda cp, i: i.x / (1 + cp.exp(-i.x))),
    # tanh;  dy (1 - y y): * - *
    _activation("tanh", 1, 3, True, lambda t, i: t.tanh(i.x), lambda cp, i: cp.tanh(i.x)),
    # 1 / (1 + exp(-x)): - exp + /;  dy y (1 - y): - * *
    _activation("sigmoid", 4, 3, True, lambda t, i: t.sigmoid(i.x), lambda cp, i: 1 / (1 + cp.exp(-i.x))),
    # erf;  dy c exp(-x x): * - exp * *
    _activation("erf", 1, 5, False, lambda t, i: t.erf(i.x), None),
)

OP = Op(
    name="activations",
    axes=("N",),
    cpu=(
        Sizes((2_768_896,), "128 x 32 x 26 x 26, the seed CNN's first activation, batch 128", quick=True),
        Sizes((65_536,), "512 x 128, the seed MLP's, batch 512"),
    ),
    cuda=(
        Sizes((1 << 26,), "256 MiB of float32: several times any L2 cache", quick=True),
        Sizes((65_536,), "512 x 128, the seed MLP's, batch 512: the launch is what costs"),
    ),
    toy=(1000,),
    variants=VARIANTS,
)
