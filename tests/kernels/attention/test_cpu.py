"""The compiled attention: the same bits however its items are shared out, and heads of few batches parted."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad.kernels.backends import cpu, reference
from tilegrad.kernels.cpu import threads
from tilegrad.nn import functional as F


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


def _heads(x, width):
    """q, k and v (B, H, L, E) as views of one layer's output (B, L, 3 H E)."""
    b, t = x.shape[:2]
    return [each.reshape(b, t, -1, width).transpose(0, 2, 1, 3) for each in np.split(x, 3, -1)]


@pytest.mark.parametrize("length", [9, 70, 200])
def test_views_of_one_output_have_the_bits_of_copies(length):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, length, 3 * 64), dtype=np.float32)
    dy = rng.standard_normal((2, length, 64), dtype=np.float32)
    (dy,) = _heads(np.tile(dy, 3), 32)[:1]
    results = []
    for q, k, v in (_heads(x, 32), [each.copy() for each in _heads(x, 32)]):
        options = None, True, 0.2, 0.1, 3, 5
        y, lse = cpu.attention(q, k, v, *options)
        results.append((y, lse, *cpu.attention_grad(dy, q, k, v, y, lse, *options)))
    for got, want in zip(*results, strict=True):
        assert_same(got, want)


def test_views_of_one_output_are_not_copied():
    w = tg.ones(96, requires_grad=True)

    @tg.capture
    def step(x):
        q, k, v = [each.reshape(2, 40, 2, 16).transpose(1, 2) for each in (x * w).chunk(3, -1)]
        w.grad = None
        (F.scaled_dot_product_attention(q, k, v) ** 2).sum().backward()

    for _ in range(3):
        step(tg.ones(2, 40, 96))
    assert "forward_kernel" in step.summary() and "copyto" not in step.summary(), step.summary()


@pytest.mark.parametrize("offset", range(5))
@pytest.mark.parametrize("keys", [1, 6, 64, 131])
def test_dropped_weights_are_the_references_wherever_the_stream_begins(offset, keys):
    """Rows of a length that the stream's blocks of four words do not divide begin inside of one."""
    rng = np.random.default_rng(2)
    q, k = (rng.standard_normal((1, 2, n, 16), dtype=np.float32) for n in (3, keys))
    v = np.ones((1, 2, keys, 16), np.float32)  # the result counts what was kept
    options = None, False, 0.0, 0.5, 3, (1 << 34) + offset
    got, want = (backend.attention(q, k, v, *options)[0] for backend in (cpu, reference))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
