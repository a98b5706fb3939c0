"""On a GPU too relu's mask is applied once, after max pooling, and gradients keep their bits."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import ops
from tilegrad.nn import functional as F
from tilegrad.ops import conv, pool


def gradients(step, form):
    rng = np.random.default_rng(0)
    x, w = (
        tg.tensor(rng.standard_normal(shape, dtype=np.float32), device="cuda", requires_grad=True)
        for shape in [(2, 3, 6, 6), (4, 3, 3, 3)]
    )

    def plain(g):
        x.grad = w.grad = None
        y = ops.max_pool2d(form(x, w).permute(0, 2, 3, 1).movedim(-1, 1), (2, 2), (2, 2))
        y.backward(g)
        return y

    call, found = step(plain), []
    for k in range(3):
        g = np.random.default_rng(k).standard_normal((2, 4, 2, 2), dtype=np.float32)
        y = call(tg.tensor(g, device="cuda"))
        found += [a.detach().cpu().numpy() for a in (y, x.grad, w.grad)]
    return found


FORMS = {
    "relu": lambda x, w: F.relu(F.conv2d(x, w)),
    "epilogue": lambda x, w: ops.conv2d(x, w, activation="relu"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_bits_stay(form, monkeypatch):
    masked = []
    is_masked = conv.is_masked
    monkeypatch.setattr(conv, "is_masked", lambda *args: masked.append(is_masked(*args)) or masked[-1])
    got = gradients(lambda f: tg.capture(f, warmup=1), FORMS[form])
    assert masked == ([True] * 2 if form == "epilogue" else [])
    plain = gradients(lambda f: f, FORMS[form])
    monkeypatch.setattr(pool, "is_unseen", lambda path: False)
    for a, b, c in zip(got, plain, gradients(lambda f: f, FORMS[form]), strict=True):
        assert_same(a, b)
        assert_same(a, c)
