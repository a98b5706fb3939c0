"""arithmetic: elementwise functions and reductions of x (N, C), as the engine's ops call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import kernels
from tilegrad.bench.ops.op import Op, Shape, Sizes, Variant, normal
from tilegrad.tensor import wrap


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    x, z, row = normal(rng, *shape), normal(rng, *shape), normal(rng, shape[1])
    return {"x": x, "z": z, "row": row, "mask": normal(rng, *shape) > 0, "dy": normal(rng, *shape)}


def _variant(
    name: str,
    names: tuple[str, ...],
    ours: Callable[..., Any],
    torch: Callable[[Any, Any], Any],
    bytes: Callable[..., int],  # (rows, columns, size)
    flops: int,
    is_sum: bool = False,
) -> Variant:
    """A function whose backward is other ops: only its forward is measured."""

    def forward(k: Any, i: Any) -> Any:
        with kernels.use(k.__name__.rpartition(".")[2]), tg.no_grad():
            return ours(*[wrap(getattr(i, name)) for name in names]).data

    return Variant(
        name=name,
        names=names,
        draw=_draw,
        forward=forward,
        backward=None,
        torch=torch,
        bytes={"forward": lambda shape, size: bytes(*shape, size)},
        flops={"forward": lambda shape: flops * shape[0] * shape[1]},
        uses={"forward": ("UFUNCS",)},  # no primitives of the contract: NumPy's or CuPy's, or NumPy's on our threads
        terms={"forward": lambda shape: shape[1] if is_sum else 1},
    )


VARIANTS = (
    _variant("add", ("x", "z"), tg.add, lambda t, i: i.x + i.z, lambda n, c, s: 3 * n * c * s, 1),
    # read x and the row, write y
    _variant("mul by a row", ("x", "row"), tg.mul, lambda t, i: i.x * i.row, lambda n, c, s: (2 * n * c + c) * s, 1),
    _variant("exp", ("x",), tg.exp, lambda t, i: t.exp(i.x), lambda n, c, s: 2 * n * c * s, 1),
    # read the mask, of bytes, x and z, write y
    _variant(
        "where",
        ("mask", "x", "z"),
        tg.where,
        lambda t, i: t.where(i.mask, i.x, i.z),
        lambda n, c, s: n * c + 3 * n * c * s,
        1,
    ),
    # of rows: read x, write a number a row; + (and a division a row)
    _variant(
        "mean", ("x",), lambda x: tg.mean(x, 1), lambda t, i: i.x.mean(1), lambda n, c, s: (n * c + n) * s, 1, True
    ),
    # of rows: +, then - * +
    _variant("var", ("x",), lambda x: tg.var(x, 1), lambda t, i: i.x.var(1), lambda n, c, s: (n * c + n) * s, 4, True),
    _variant("max", ("x",), lambda x: tg.amax(x, 1), lambda t, i: i.x.amax(1), lambda n, c, s: (n * c + n) * s, 1),
)

OP = Op(
    name="arithmetic",
    axes=("N", "C"),
    cpu=(
        Sizes((4096, 676), "as many numbers as the seed CNN's first activation, batch 128", quick=True),
        Sizes((512, 128), "the seed MLP's hidden layer, batch 512"),
    ),
    cuda=(
        Sizes((65_536, 1024), "256 MiB of float32: several times any L2 cache", quick=True),
        Sizes((512, 128), "the seed MLP's hidden layer, batch 512: the launch is what costs"),
    ),
    toy=(8, 100),
    variants=VARIANTS,
)
