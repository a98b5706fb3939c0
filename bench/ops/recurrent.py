"""A recurrent layer over a batch (T, B) of features (T B, H): the product with its inputs, and its T steps.

Without biases, from states of 0. The gradients are those of the inputs and of both weights. torch's weights lie apart:
on a GPU cuDNN copies them together at each call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.bench.ops.op import Inputs, Op, Shape, Sizes, Variant, normal


def _sizes(i: Inputs) -> tuple[int, ...]:
    batch = i.h0.shape[0]
    return (batch,) * (i.x.shape[0] // batch)


def _layer(k: Any, i: Inputs, name: str) -> tuple[Any, ...]:
    """What the backend's primitive gives: y first."""
    x = k.matmul(i.x, i.w_ih.T)
    if name == "lstm":
        return k.lstm(x, i.w_hh, i.h0, i.c0, _sizes(i))
    return k.gru(x, i.w_hh, None, i.h0, _sizes(i)) if name == "gru" else k.rnn(x, i.w_hh, i.h0, _sizes(i))


def _layer_grad(k: Any, i: Inputs, name: str, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradients of x, w_ih and w_hh. The states before the first step are 0, the others are y."""
    y = outputs[0]
    if name == "lstm":
        dx, *_ = k.lstm_grad(i.dy, None, None, i.w_hh, i.c0, *outputs[3:], _sizes(i))
    elif name == "gru":
        dx, dq, _ = k.gru_grad(i.dy, None, i.w_hh, i.h0, y, outputs[2], _sizes(i))
    else:
        dx, _ = k.rnn_grad(i.dy, None, i.w_hh, y, _sizes(i))
    of_states = dq if name == "gru" else dx
    batch = i.h0.shape[0]
    return k.matmul(dx, i.w_ih), k.matmul(dx.T, i.x), k.matmul(of_states[batch:].T, y[:-batch])


def _variant(name: str, gates: int, kept: int, flops: tuple[int, int]) -> Variant:
    """kept: float32 numbers of each state that the gradient needs; flops: of each state beside the products."""
    states = ("h0", "c0") if name == "lstm" else ("h0",)

    def draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
        steps, batch, width = shape
        arrays = {"x": normal(rng, steps * batch, width), "dy": normal(rng, steps * batch, width)}
        for weight in ("w_ih", "w_hh"):
            arrays[weight] = normal(rng, gates * width, width) / np.float32(2 * width**0.5)
        return arrays | {state: np.zeros((batch, width), np.float32) for state in states}

    def forward_bytes(shape: Shape, size: int) -> int:
        steps, batch, width = shape
        rows, weight = steps * batch, gates * width * width
        product = rows * width + weight + rows * gates * width
        # read the product, w_hh and the first states; write y and the last states, and what is kept
        layer = rows * gates * width + weight + 2 * len(states) * batch * width + rows * width
        return (product + layer) * size + kept * rows * width * max(4, size)

    def backward_bytes(shape: Shape, size: int) -> int:
        steps, batch, width = shape
        rows, weight = steps * batch, gates * width * width
        before = rows - batch
        # read dy and w_hh, and c0, or h0 and y, or y; write dx (and dq) and the gradients of the states
        given = {"lstm": batch * width, "gru": (batch + rows) * width, "rnn": rows * width}[name]
        written = (2 if name == "gru" else 1) * rows * gates * width + len(states) * batch * width
        layer = rows * width + weight + given + written
        # dx and w_ih to x; dx and x to w_ih; dx or dq and y, but for a step, to w_hh
        products = 2 * (rows * (gates + 1) * width + weight) + before * (gates + 1) * width + weight
        return (layer + products) * size + kept * rows * width * max(4, size)

    def count(products: Any, each: int) -> Any:
        """products of so many rows; each: operations of a state."""

        def flop(shape: Shape) -> int:
            steps, batch, width = shape
            return products(steps, batch) * 2 * gates * width * width + each * steps * batch * width

        return flop

    def torch_layer(torch: Any, i: Inputs) -> Any:
        batch, width = i.h0.shape
        x, first = i.x.reshape(-1, batch, width), [getattr(i, state)[None] for state in states]
        function = getattr(torch, "rnn_tanh" if name == "rnn" else name)
        weights = [i.w_ih, i.w_hh]
        y, *_ = function(x, first if name == "lstm" else first[0], weights, False, 1, 0.0, True, False, False)
        return y.reshape(-1, width)

    return Variant(
        name=name,
        names=("x", "w_ih", "w_hh", *states),
        draw=draw,
        forward=lambda k, i: _layer(k, i, name),
        backward=lambda k, i, outputs: _layer_grad(k, i, name, outputs),
        torch=torch_layer,
        wrt=("x", "w_ih", "w_hh"),
        bytes={"forward": forward_bytes, "backward": backward_bytes},
        flops={
            "forward": count(lambda steps, batch: 2 * steps * batch, flops[0]),
            # of the states, and to x, w_ih and w_hh
            "backward": count(lambda steps, batch: (4 * steps - 1) * batch, flops[1]),
        },
        uses={"forward": ("matmul", name), "backward": (f"{name}_grad", "matmul")},
        terms={"forward": lambda shape: shape[2], "backward": lambda shape: max(4 * shape[2], shape[0] * shape[1])},
        fusible=False,
    )


def _check(shape: Shape) -> None:
    if shape[0] < 2:
        raise ValueError("T of at least 2")


OP = Op(
    name="recurrent",
    axes=("T", "B", "H"),
    cpu=(
        Sizes((64, 32, 128), "sentences, in a small model", quick=True),
        Sizes((28, 128, 64), "rows of images"),
        Sizes((100, 16, 512), "a weight that no first cache holds"),
    ),
    cuda=(
        Sizes((128, 64, 512), "a language model's layer", quick=True),
        Sizes((64, 256, 1024), "steps that fill the GPU"),
        Sizes((512, 16, 128), "long and narrow: the launches are what costs"),
    ),
    toy=(3, 2, 8),
    # lstm: + four times, three sigmoids, tanh, f c + i g, o tanh
    #   +, tanh, dc * * - * + +, slopes 3 * (- *) and - + *, a product of three for each gate, dc f
    # gru: + twice, two sigmoids, x + r q, tanh, n + z (h - n)
    #   +, dn - * - * + *, dz - * * *, dr * * - *, dn r, dh z +
    # rnn: + tanh
    #   +, - * + *
    variants=(_variant("lstm", 4, 5, (22, 26)), _variant("gru", 3, 4, (16, 18)), _variant("rnn", 1, 0, (2, 5))),
    dtypes=("float32", "float16", "bfloat16", "float64"),
    check=_check,
)
