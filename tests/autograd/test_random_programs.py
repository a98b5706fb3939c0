"""Random programs of ops and in-place writes: the gradients are torch's, and those of finite differences.

Where torch refuses, because a write spoiled what it had saved, the engine may have kept less and go on: then finite
differences alone are the judge. Where the engine refuses, so must torch.
"""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import torch

import tilegrad as tg

SHAPE = (3, 4)
STEPS = {
    # name: (pool of tensors, two of them, a number, a row, a column) -> a new tensor, or None after a write
    "add": lambda a, b, c, i, j: a + b * c,
    "mul": lambda a, b, c, i, j: a * b,
    "tanh": lambda a, b, c, i, j: a.tanh(),
    "softmax": lambda a, b, c, i, j: a.softmax(1),
    "matmul": lambda a, b, c, i, j: (a.reshape(4, 3) @ b).sum(0) * c + a,
    "transpose": lambda a, b, c, i, j: a.T.reshape(SHAPE),
    "index": lambda a, b, c, i, j: a[[i, 0, i]],
    "sum": lambda a, b, c, i, j: a.sum(1, keepdim=True) + b,
    "max": lambda a, b, c, i, j: a.max(1)[0].reshape(3, 1) * b,
    "add_": lambda a, b, c, i, j: wrote(a.add_(b * c)),
    "sub_": lambda a, b, c, i, j: wrote(a.sub_(a.mean() * c)),
    "mul_": lambda a, b, c, i, j: wrote(a.mul_(c)),
    "mul_ by a tensor": lambda a, b, c, i, j: wrote(a.mul_(b * 1.0)),
    "tanh_": lambda a, b, c, i, j: wrote(a.tanh_()),
    "sigmoid_": lambda a, b, c, i, j: wrote(a.sigmoid_()),
    "clamp_": lambda a, b, c, i, j: wrote(a.clamp_(-1.0, 1.0)),
    "copy_": lambda a, b, c, i, j: wrote(a.copy_(b[i])),
    "row": lambda a, b, c, i, j: a.__setitem__(i, b[i] * c),
    "column": lambda a, b, c, i, j: a.__setitem__((slice(None), j), c),
}


def wrote(_):
    return None


def loss_of(seed, leaves):
    draw = random.Random(seed)
    pool = [x * 1.0 for x in leaves]
    for _ in range(draw.randint(3, 12)):
        step = STEPS[draw.choice(sorted(STEPS))]
        a, b = draw.choice(pool), draw.choice(pool)
        made = step(a, b, draw.choice([0.5, -1.25, 2.0]), draw.randrange(3), draw.randrange(4))
        pool += [] if made is None else [made]
    return sum((p * p).sum() * (k + 1) for k, p in enumerate(pool))


def values_of(seed):
    return [np.random.default_rng(seed + k).standard_normal(SHAPE) for k in range(3)]


def run(seed, leaf, grad):
    """The gradients, or None where the program is refused."""
    leaves = [leaf(v) for v in values_of(seed)]
    try:
        found = grad(loss_of(seed, leaves), leaves, allow_unused=True)
    except RuntimeError:
        return None
    return [np.zeros(SHAPE) if g is None else g.numpy() for g in found]


def test_random_programs():
    outcomes = Counter()
    for seed in range(400):
        got = run(seed, lambda v: tg.tensor(v, requires_grad=True), tg.grad)
        want = run(seed, lambda v: torch.tensor(v, requires_grad=True), torch.autograd.grad)
        outcomes[got is None, want is None] += 1
        if got is None:
            assert want is None, f"program {seed}: only the engine refuses"
            continue
        if want is None:
            assert_slope(seed, got)
            continue
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(
                g, w, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(w).max()), err_msg=f"program {seed}"
            )
    assert min(outcomes[False, False], outcomes[False, True]) > 20, outcomes  # both kinds were seen


def assert_slope(seed, gradients, h=1e-6):
    """<gradient, u> is the slope of the loss along a random direction u."""
    rng = np.random.default_rng(0)
    directions = [rng.standard_normal(SHAPE) for _ in gradients]
    ends = [
        loss_of(seed, [tg.Tensor(v + step * u) for v, u in zip(values_of(seed), directions)]).item() for step in (h, -h)
    ]
    slope = (ends[0] - ends[1]) / (2 * h)
    found = sum((g * u).sum() for g, u in zip(gradients, directions))
    assert abs(found - slope) <= 1e-4 * max(1.0, abs(slope)), f"program {seed}: {found}, differences {slope}"
