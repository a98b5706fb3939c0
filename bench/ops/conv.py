"""conv: conv2d of square images and kernels, stride 1, with bias and ReLU; and its three gradients together."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tilegrad.bench.ops.op import Inputs, Op, Shape, Sizes, Variant, channels_last, normal


class Geometry(NamedTuple):
    """N images of C channels and SIDE x SIDE pixels, O kernels of KERNEL x KERNEL, PADDING on each side."""

    n: int
    c: int
    side: int
    o: int
    kernel: int
    padding: int

    @property
    def out(self) -> int:
        return self.side + 2 * self.padding - self.kernel + 1

    @property
    def elements(self) -> tuple[int, int, int]:
        """Of x, w and y."""
        x, w = self.n * self.c * self.side**2, self.o * self.c * self.kernel**2
        return x, w, self.n * self.o * self.out**2


def _check(shape: Shape) -> None:
    if Geometry(*shape).out < 1:
        raise ValueError("expected KERNEL <= SIDE + 2 PADDING")


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    g = Geometry(*shape)
    return {
        "x": channels_last(rng, g.n, g.c, g.side, g.side),
        "w": channels_last(rng, g.o, g.c, g.kernel, g.kernel),
        "bias": normal(rng, g.o),
        "dy": channels_last(rng, g.n, g.o, g.out, g.out),
    }


def _geometry(i: Inputs) -> tuple[Any, ...]:
    padding = (i.dy.shape[2] - i.x.shape[2] + i.w.shape[2] - 1) // 2
    return (1, 1), (padding, padding), (1, 1), 1


def _backward(k: Any, i: Inputs, _: Any) -> Any:
    dx = k.conv2d_grad_input(i.dy, i.w, i.x.shape, *_geometry(i), i.precision)
    dw = k.conv2d_grad_weight(i.dy, i.x, i.w.shape, *_geometry(i), i.precision)
    return dx, dw, k.conv2d_grad_bias(i.dy)


def _forward_bytes(shape: Shape, size: int) -> int:
    x, w, y = Geometry(*shape).elements
    return (x + w + shape[3] + y) * size  # read x, w and the bias, write y


def _backward_bytes(shape: Shape, size: int) -> int:
    x, w, y = Geometry(*shape).elements
    # dx: read dy and w, write dx;  dw: read dy and x, write dw;  db: read dy, write db
    return (y + w + x) * size + (y + x + w) * size + (y + shape[3]) * size


def _products(shape: Shape) -> int:
    g = Geometry(*shape)
    return 2 * g.elements[2] * g.c * g.kernel**2  # a product and a sum for each tap of each output


def _torch(torch: Any, i: Inputs) -> Any:
    return torch.nn.functional.conv2d(i.x, i.w, i.bias, padding=_geometry(i)[1])


def _torch_relu(torch: Any, i: Inputs) -> Any:
    return torch.nn.functional.relu(_torch(torch, i))


def _window(shape: Shape) -> int:
    g = Geometry(*shape)
    return g.c * g.kernel**2


def _places(shape: Shape) -> int:
    """Terms of an element of dw and of db, which are the longest sums of the backward."""
    g = Geometry(*shape)
    return max(g.n * g.out**2, g.o * g.kernel**2)


RELU = Variant(
    name="conv2d + bias + relu",
    names=("x", "w", "bias"),
    draw=_draw,
    forward=lambda k, i: k.conv2d(i.x, i.w, i.bias, *_geometry(i), "relu", i.precision),
    backward=None,
    torch=_torch_relu,
    bytes={"forward": _forward_bytes},
    # the products; the sum with the bias and the maximum for each element of y
    flops={"forward": lambda shape: _products(shape) + 2 * Geometry(*shape).elements[2]},
    uses={"forward": ("conv2d",)},
    terms={"forward": _window},
    rowwise={"forward": ("x", "dy")},
    fusible=True,
)

PLAIN = Variant(
    name="conv2d + bias",
    names=("x", "w", "bias"),
    draw=_draw,
    forward=lambda k, i: k.conv2d(i.x, i.w, i.bias, *_geometry(i), None, i.precision),
    backward=_backward,
    torch=_torch,
    wrt=("x", "w", "bias"),
    bytes={"forward": _forward_bytes, "backward": _backward_bytes},
    flops={
        "forward": lambda shape: _products(shape) + Geometry(*shape).elements[2],  # and the sum with the bias
        "backward": lambda shape: 2 * _products(shape) + Geometry(*shape).elements[2],  # dx, dw; db sums dy
    },
    uses={"forward": ("conv2d",), "backward": ("conv2d_grad_input", "conv2d_grad_weight", "conv2d_grad_bias")},
    terms={"forward": _window, "backward": _places},
    rowwise={"forward": ("x", "dy")},
)

OP = Op(
    name="conv",
    axes=("N", "C", "SIDE", "O", "KERNEL", "PADDING"),
    cpu=(
        Sizes((128, 1, 28, 32, 3, 0), "the seed CNN's first layer, batch 128: a single channel", quick=True),
        Sizes((128, 32, 13, 64, 3, 0), "its second layer: most of its arithmetic", quick=True),
        Sizes((128, 64, 5, 64, 3, 0), "its third layer: tiny images"),
        Sizes((4, 64, 56, 64, 3, 1), "ResNet's first stage: padded, large images"),
    ),
    cuda=(
        Sizes((128, 32, 13, 64, 3, 0), "the seed CNN's second layer, batch 128", quick=True),
        Sizes((32, 64, 56, 64, 3, 1), "ResNet's first stage", quick=True),
        Sizes((128, 1, 28, 32, 3, 0), "the seed CNN's first layer: one channel, no tensor-core work"),
        Sizes((32, 256, 14, 256, 3, 1), "ResNet's third stage: many channels"),
    ),
    toy=(2, 3, 6, 4, 3, 0),
    variants=(RELU, PLAIN),
    precisions=("ieee", "tf32"),
    check=_check,
)
