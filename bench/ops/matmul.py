"""matmul: y (M, N) = a (M, K) @ b (K, N), alone and with bias and GELU in the epilogue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tilegrad.bench.ops.op import Inputs, Op, Shape, Sizes, Variant, normal

GELU_FLOPS = 5  # x / 2 (1 + erf(x sqrt(1/2))): three products, an erf, a sum


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    m, n, k = shape
    return {"a": normal(rng, m, k), "b": normal(rng, k, n), "dy": normal(rng, m, n)}


def _draw_with_bias(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    return _draw(rng, shape) | {"bias": normal(rng, shape[1])}


def _backward(k: Any, i: Inputs, _: Any) -> Any:
    return k.matmul(i.dy, i.b.T, precision=i.precision), k.matmul(i.a.T, i.dy, precision=i.precision)


def _forward_bytes(shape: Shape, size: int) -> int:
    m, n, k = shape
    return (m * k + k * n + m * n) * size  # read a and b, write y


def _backward_bytes(shape: Shape, size: int) -> int:
    m, n, k = shape
    # da: read dy and b, write da;  db: read a and dy, write db
    return (m * n + k * n + m * k) * size + (m * k + m * n + k * n) * size


def _products(shape: Shape) -> int:
    m, n, k = shape
    return 2 * m * n * k  # a product and a sum for each of the M N K terms


def _kept_by_torch(torch: Any, i: Inputs) -> Any:
    z = torch.addmm(i.bias, i.a, i.b)
    return z, torch.nn.functional.gelu(z)


PLAIN = Variant(
    name="matmul",
    names=("a", "b"),
    draw=_draw,
    forward=lambda k, i: k.matmul(i.a, i.b, precision=i.precision),
    backward=_backward,
    torch=lambda torch, i: torch.matmul(i.a, i.b),
    cupy=lambda cupy, i: cupy.matmul(i.a, i.b),
    wrt=("a", "b"),
    bytes={"forward": _forward_bytes, "backward": _backward_bytes},
    flops={"forward": _products, "backward": lambda shape: 2 * _products(shape)},
    uses={"forward": ("matmul",), "backward": ("matmul",)},
    terms={"forward": lambda shape: shape[2], "backward": lambda shape: max(shape[:2])},
    rowwise={"forward": ("a",)},
)

FUSED = Variant(
    name="matmul + bias + gelu",
    names=("a", "b", "bias"),
    draw=_draw_with_bias,
    forward=lambda k, i: k.matmul(i.a, i.b, i.bias, "gelu", i.precision),
    backward=None,
    torch=lambda torch, i: torch.nn.functional.gelu(torch.addmm(i.bias, i.a, i.b)),
    bytes={"forward": lambda shape, size: _forward_bytes(shape, size) + shape[1] * size},  # and read bias
    # the products; for each element of y the sum with the bias, and gelu
    flops={"forward": lambda shape: _products(shape) + (1 + GELU_FLOPS) * shape[0] * shape[1]},
    uses={"forward": ("matmul",)},
    terms={"forward": lambda shape: shape[2]},
    rowwise={"forward": ("a",)},
    fusible=True,
)

KEPT = replace(
    FUSED,
    name="matmul + bias + gelu, both kept",
    forward=lambda k, i: k.matmul_kept(i.a, i.b, i.bias, "gelu", i.precision),
    torch=_kept_by_torch,
    bytes={"forward": lambda shape, size: _forward_bytes(shape, size) + (1 + shape[0]) * shape[1] * size},  # bias, z
    uses={"forward": ("matmul_kept",)},
)

OP = Op(
    name="matmul",
    axes=("M", "N", "K"),
    cpu=(
        Sizes((1024, 1024, 1024), "square: what the cores can do", quick=True),
        Sizes((512, 128, 784), "the seed MLP's first layer, batch 512", quick=True),
        Sizes((32, 64, 128), "its second layer, batch 32: the call is what costs"),
        Sizes((15488, 64, 288), "the seed CNN's second convolution as a product, batch 128"),
        Sizes((16, 4096, 4096), "few rows: bound by memory"),
    ),
    cuda=(
        Sizes((4096, 4096, 4096), "square: what the tensor cores can do", quick=True),
        Sizes((8192, 8192, 8192), "square, many waves"),
        Sizes((512, 128, 784), "the seed MLP's first layer, batch 512", quick=True),
        Sizes((16, 4096, 4096), "few rows: bound by memory"),
    ),
    toy=(16, 24, 8),
    variants=(PLAIN, FUSED, KEPT),
    precisions=("ieee", "tf32", "tf32x3"),
)
