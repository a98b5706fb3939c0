"""Rows of a table on "cuda": their gradients are added in the order of their places, with the CPU's bits."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad.nn import functional as F

TAKES = {
    "embedding": lambda x, i: F.embedding(i, x),
    "embedding with padding": lambda x, i: F.embedding(i, x, padding_idx=2),
    "index_select": lambda x, i: x.index_select(0, i.reshape(-1)),
    "x[i]": lambda x, i: x[i],
}


@pytest.mark.parametrize("name", TAKES)
@pytest.mark.parametrize("is_captured", [False, True])
def test_the_cpus_bits(name, is_captured):
    rng = np.random.default_rng(0)
    x, at = rng.standard_normal((5, 7)).astype(np.float32), rng.integers(0, 5, (3, 4))
    g = rng.standard_normal((12, 7)).astype(np.float32)

    def gradient(device):
        table, index = tg.tensor(x, device=device, requires_grad=True), tg.tensor(at, device=device)
        dy = tg.tensor(g, device=device)

        def step(index):
            table.grad = None
            y = TAKES[name](table, index).reshape(12, 7)
            y.backward(dy)
            return y

        step = tg.capture(step, warmup=1) if is_captured else step
        for _ in range(3):
            step(index)
        return table.grad.cpu().numpy()

    assert_same(gradient("cuda"), gradient("cpu"))
