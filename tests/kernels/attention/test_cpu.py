"""The compiled attention: the same bits however its items are shared out, and heads of few batches parted."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compare import assert_same
from tilegrad.kernels.backends import cpu
from tilegrad.kernels.cpu import threads


@pytest.mark.parametrize("sizes", [(3, 4, 70, 32), (1, 1, 200, 64)], ids=str)
def test_pieces_give_the_same_bits(sizes, monkeypatch):
    """Several heads, and one whose queries are parted: by its sizes, never by the threads there are."""
    b, h, t, d = sizes
    dy, q, k, v = np.random.default_rng(0).standard_normal((4, b, h, t, d), dtype=np.float32)
    results = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "_count", count)
        y, lse = cpu.attention(q, k, v, None, True, 0.2, 0.1, 3, 5)
        results.append((y, lse, *cpu.attention_grad(dy, q, k, v, y, lse, None, True, 0.2, 0.1, 3, 5)))
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            assert_same(got, want)
