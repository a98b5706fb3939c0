"""attention: y = softmax(q k^T / sqrt(D)) v of q, k, v (B, H, T, D), causal or not."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.bench.ops.op import Inputs, Op, Shape, Sizes, Variant, normal

SCORE = 5  # FLOP of a score beside the products: scale, max, - m, exp, sum
SLOPE = 4  # and of its gradient: exp, - sum, times p, times scale


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    """Views of a layer's results (B, T, H, D), as heads are."""
    batch, heads, length, width = shape
    return {name: normal(rng, batch, length, heads, width).transpose(0, 2, 1, 3) for name in ("q", "k", "v", "dy")}


def _scores(shape: Shape, causal: bool) -> int:
    batch, heads, length, _ = shape
    return batch * heads * (length * (length + 1) // 2 if causal else length * length)


def _forward_bytes(shape: Shape, size: int) -> int:
    batch, heads, length, width = shape
    rows = batch * heads * length
    return 4 * rows * width * size + rows * max(4, size)  # read q, k, v; write y and lse


def _backward_bytes(shape: Shape, size: int) -> int:
    batch, heads, length, width = shape
    rows = batch * heads * length
    return 8 * rows * width * size + rows * max(4, size)  # read dy, q, k, v, y and lse; write dq, dk, dv


def _variant(name: str, causal: bool) -> Variant:
    def scale(i: Inputs) -> float:
        return i.q.shape[3] ** -0.5

    def forward(k: Any, i: Inputs) -> Any:
        return k.attention(i.q, i.k, i.v, None, causal, scale(i))

    def backward(k: Any, i: Inputs, outputs: tuple[Any, ...]) -> Any:
        return k.attention_grad(i.dy, i.q, i.k, i.v, *outputs, None, causal, scale(i))

    def cupy(cp: Any, i: Inputs) -> Any:
        s = cp.matmul(i.q, i.k.swapaxes(-1, -2)) * scale(i)
        if causal:
            s = cp.where(cp.tri(s.shape[-1], dtype=bool), s, -np.inf)
        e = cp.exp(s - s.max(-1, keepdims=True))
        return cp.matmul((e / e.sum(-1, keepdims=True)).astype(i.v.dtype), i.v)

    return Variant(
        name=name,
        names=("q", "k", "v"),
        draw=_draw,
        forward=forward,
        backward=backward,
        torch=lambda torch, i: torch.nn.functional.scaled_dot_product_attention(i.q, i.k, i.v, is_causal=causal),
        cupy=cupy,
        wrt=("q", "k", "v"),
        bytes={"forward": _forward_bytes, "backward": _backward_bytes},
        flops={
            "forward": lambda shape: _scores(shape, causal) * (4 * shape[3] + SCORE),  # q k^T and p v
            # q k^T again, dy v^T, and dv, dk and dq
            "backward": lambda shape: _scores(shape, causal) * (10 * shape[3] + SCORE + SLOPE),
        },
        uses={"forward": ("attention",), "backward": ("attention_grad",)},
        terms={"forward": lambda shape: shape[2], "backward": lambda shape: shape[2]},
        rowwise={"forward": ("q", "k", "v"), "backward": ("q", "k", "v", "dy")},
        fusible=True,
    )


OP = Op(
    name="attention",
    axes=("B", "H", "T", "D"),
    cpu=(
        Sizes((16, 4, 64, 32), "a small transformer's layer", quick=True),
        Sizes((8, 4, 128, 32), "twice as long"),
        Sizes((2, 4, 512, 64), "several blocks of keys"),
    ),
    cuda=(
        Sizes((4, 16, 2048, 64), "a language model's layer", quick=True),
        Sizes((2, 16, 2048, 128), "wider heads"),
        Sizes((16, 4, 64, 32), "a small transformer's layer: the launch is what costs"),
    ),
    toy=(1, 2, 8, 16),
    variants=(_variant("attention", False), _variant("causal attention", True)),
)
