"""Losses of n numbers against as many, averaged, and the gradient to the numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tilegrad.bench.ops.op import Op, Shape, Sizes, Variant, normal

Draw = Callable[[np.random.Generator, Shape], dict[str, np.ndarray]]


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    x, t = normal(rng, *shape), normal(rng, *shape)
    return {"x": x, "t": t, "dloss": np.array([1.5], np.float32)}


def _draw_probabilities(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    """Of both: not so near to 0 and 1 that 16 bits would round them there."""
    drawn = _draw(rng, shape)
    return drawn | {name: (0.05 + 0.9 / (1 + np.exp(-drawn[name]))).astype(np.float32) for name in ("x", "t")}


def _draw_logits(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    return _draw_probabilities(rng, shape) | {"x": 2 * normal(rng, *shape)}


def _variant(kind: str, forward: int, backward: int, draw: Draw = _draw) -> Variant:
    """forward, backward: operations of an element, but for the + of the sum, and the * by the incoming gradient."""

    def flops(each: int) -> Callable[[Shape], int]:
        return lambda shape: (each + 1) * shape[0] + 1  # and / by how many there are

    return Variant(
        name=kind,
        names=("x", "t"),
        draw=draw,
        forward=lambda k, i: k.elementwise_loss(i.x, i.t, kind),
        backward=lambda k, i, _: k.elementwise_loss_grad(i.dloss.reshape(()), i.x, i.t, kind),
        torch=lambda torch, i: getattr(torch.nn.functional, kind)(i.x, i.t),
        incoming="dloss",
        # read x and t, write the loss; read x, t and the incoming gradient, write dx
        bytes={
            "forward": lambda shape, size: 2 * shape[0] * size + size,
            "backward": lambda shape, size: 3 * shape[0] * size + size,
        },
        flops={"forward": flops(forward), "backward": flops(backward)},
        uses={"forward": ("elementwise_loss",), "backward": ("elementwise_loss_grad",)},
        terms={"forward": lambda shape: shape[0]},
        fusible=True,
    )


OP = Op(
    name="losses",
    axes=("N",),
    cpu=(
        Sizes((1_000_000,), "4 MB each", quick=True),
        Sizes((1280,), "128 x 10 outputs of a small net"),
    ),
    cuda=(
        Sizes((1 << 26,), "256 MB each", quick=True),
        Sizes((1280,), "128 x 10 outputs of a small net: the launch is what costs"),
    ),
    toy=(1100,),
    variants=(
        _variant("mse_loss", 2, 2),  # - *;  - *
        _variant("l1_loss", 2, 3),  # - abs;  - > <
        _variant("smooth_l1_loss", 6, 6),  # - abs * * < -;  - / > < abs <
        _variant("huber_loss", 7, 6),  # - abs * * <= - *;  - > < * abs <=
        _variant("binary_cross_entropy", 7, 5, _draw_probabilities),  # log log1p - * * + -;  - - * max /
        # abs exp log1p max max + + * - * +;  abs exp > + - * * - /
        _variant("binary_cross_entropy_with_logits", 11, 9, _draw_logits),
    ),
    dtypes=("float32", "float64", "float16", "bfloat16"),  # torch's gradients in 16 bits are rounded on the way
)
