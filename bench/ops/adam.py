"""adam: one step of Adam (Kingma & Ba 2015, algorithm 1) over N parameters, in place."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from tilegrad.bench.ops.op import Inputs, Op, Shape, Sizes, Variant, normal

STEP, LR = 10, 1e-2  # large enough for the check to see an update that is 1 % off


def _draw(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    n = shape[0]
    p, g, m, v = (normal(rng, n) for _ in range(4))
    return {"p": p, "g": g, "m": m, "v": v * v, "before": np.array([STEP - 1], np.float32)}


def _forward(k: Any, i: Inputs) -> Any:
    k.adam_step([i.p], [i.g], [i.m], [i.v], STEP, LR)
    return i.p, i.m, i.v


def _torch(torch: Any, i: Inputs) -> Any:
    # torch.optim.Adam's own function, without the optimizer around it; it counts the steps in `before`
    step = i.before.view(())
    numbers = {"beta1": 0.9, "beta2": 0.999, "lr": LR, "weight_decay": 0.0, "eps": 1e-8, "maximize": False}
    adam = importlib.import_module("torch.optim.adam").adam
    adam([i.p], [i.g], [i.m], [i.v], [], [step], fused=True, amsgrad=False, **numbers)
    return i.p, i.m, i.v


VARIANT = Variant(
    name="adam_step",
    names=("p", "g", "m", "v"),
    draw=_draw,
    forward=_forward,
    backward=None,
    torch=_torch,
    wide=("before",),
    bytes={"forward": lambda shape, size: 7 * shape[0] * size},  # read p, g, m, v; write p, m, v
    # m: g - m, * (1 - b1), m +;  v: g g, * (1 - b2), * b2, +;  p: sqrt, /, + eps, m /, * step size, p -
    flops={"forward": lambda shape: 13 * shape[0]},
    uses={"forward": ("adam_step",)},
    rowwise={"forward": ("p", "g", "m", "v")},
)

OP = Op(
    name="adam",
    axes=("N",),
    cpu=(
        Sizes((93_322,), "the parameters of the seed CNN", quick=True),
        Sizes((1 << 22,), "16 MiB an array: beyond L2", quick=True),
    ),
    cuda=(
        Sizes((1 << 26,), "256 MiB an array", quick=True),
        Sizes((93_322,), "the parameters of the seed CNN: the launch is what costs"),
    ),
    toy=(1000,),
    variants=(VARIANT,),
    dtypes=("float32", "float64"),  # moments of 16-bit parameters are float32: other bytes
)
