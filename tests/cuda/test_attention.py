"""Attention on device "cuda": the same as on the CPU, with the same weights dropped, plainly and captured."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_close
from tilegrad.nn import functional as F

OPTIONS = {"is_causal": True, "dropout_p": 0.3, "enable_gqa": True}


def run(device, shapes, rng_seed=0, **options):
    """[y, dq, dk, dv] as NumPy has them."""
    rng = np.random.default_rng(rng_seed)
    arrays = [tg.tensor(rng.standard_normal(s).astype(np.float32)).to(device) for s in shapes]
    for x in arrays:
        x.requires_grad = True
    tg.manual_seed(7)
    y = F.scaled_dot_product_attention(*arrays, **options)
    y.square().sum().backward()
    return [x.cpu().numpy() for x in (y.detach(), *[a.grad for a in arrays])]


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (((2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6)), OPTIONS),
        (((5, 260), (7, 260), (7, 4)), {}),  # wider than the kernels' registers
    ],
    ids=["heads", "wide"],
)
def test_as_on_the_cpu(shapes, options):
    for got, want in zip(run("cuda", shapes, **options), run("cpu", shapes, **options), strict=True):
        assert_close(got, want.astype(np.float64), want, scale=4.0)


def test_a_captured_step_drops_other_weights_at_each_launch():
    q, k, v = (tg.tensor(x).to("cuda") for x in np.random.default_rng(0).standard_normal((3, 1, 2, 4, 8)).astype("f4"))

    def attend(q):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)

    found = []
    for function in (attend, tg.capture(attend, warmup=1)):
        tg.manual_seed(3)
        found.append([function(q).cpu().numpy() for _ in range(4)])
    for plain, captured in zip(*found, strict=True):
        np.testing.assert_array_equal(captured, plain)
    assert len({y.tobytes() for y in found[0]}) == 4
