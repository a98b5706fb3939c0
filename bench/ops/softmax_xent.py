"""softmax_xent: the mean cross-entropy of softmax(z (N, C)) against N class indices, in one kernel."""

from __future__ import annotations

import numpy as np

from tilegrad.bench.ops.op import Op, Shape, Sizes, Variant, normal

LABEL, LOSS = 8, 4  # bytes: t is int64; m, s and a loss are float32 for every dtype of at most 32 bits


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    rows, classes = shape
    return {
        "z": 3 * normal(rng, rows, classes),
        "t": rng.integers(0, classes, rows),
        "dloss": np.array([1.5], np.float32),
    }


def _forward_bytes(shape: Shape, size: int) -> int:
    rows, classes = shape
    saved = max(LOSS, size)
    # read z and t; write m and s a row, and the mean with what it was divided by
    return rows * classes * size + rows * LABEL + 2 * rows * saved + 2 * saved


def _backward_bytes(shape: Shape, size: int) -> int:
    rows, classes = shape
    saved = max(LOSS, size)
    # read z, t, m, s, the incoming gradient and the divisor; write dz
    return 2 * rows * classes * size + rows * LABEL + 2 * rows * saved + 2 * saved


VARIANT = Variant(
    name="softmax_xent",
    names=("z", "t"),
    draw=_draw,
    forward=lambda k, i: k.softmax_xent(i.z, i.t),
    backward=lambda k, i, outputs: k.softmax_xent_grad(i.dloss.reshape(()), i.z, i.t, *outputs[1:]),
    torch=lambda torch, i: torch.nn.functional.cross_entropy(i.z, i.t),
    wrt=("z",),
    incoming="dloss",
    wide=("dloss",),
    bytes={"forward": _forward_bytes, "backward": _backward_bytes},
    flops={
        # max, z - m, exp, sum; a row: log, z_t - m, s -, and the sum over the rows; one division by N
        "forward": lambda shape: 4 * shape[0] * shape[1] + 4 * shape[0] + 1,
        # z - m, - s, exp, * g; a row: the target's - g; once: dloss / N
        "backward": lambda shape: 4 * shape[0] * shape[1] + shape[0] + 1,
    },
    uses={"forward": ("softmax_xent",), "backward": ("softmax_xent_grad",)},
    terms={"forward": max, "backward": max},  # the classes of a row, the rows of the mean
    fusible=True,
)

OP = Op(
    name="softmax_xent",
    axes=("N", "C"),
    cpu=(
        Sizes((4096, 1024), "rows of 4 KiB", quick=True),
        Sizes((512, 10), "the seed nets' loss, batch 512", quick=True),
        Sizes((256, 50257), "a language model's vocabulary"),
    ),
    cuda=(
        Sizes((65536, 1024), "many short rows", quick=True),
        Sizes((2048, 50257), "a language model's vocabulary"),
        Sizes((512, 10), "the seed nets' loss: the launch is what costs"),
    ),
    toy=(4, 50),
    variants=(VARIANT,),
)
