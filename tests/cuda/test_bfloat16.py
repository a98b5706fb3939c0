"""bfloat16 on device cuda: the same tables as on the CPU (tests/test_bfloat16.py), by the same law."""

from __future__ import annotations

import numpy as np
import pytest
from ml_dtypes import bfloat16

import tilegrad as tg
from tests import oracle
from tests import test_bfloat16 as table
from tests.compare import assert_close, assert_same
from tests.test_bfloat16 import halves

ON_HOST = ("embedding", "nll_loss", "nll_loss sum")  # their rows and labels are named in the table, on the CPU


@pytest.mark.parametrize("name", [name for name in table.ONE_FORMULA if name not in ON_HOST])
def test_an_op_is_the_truth_rounded(name):
    ours, theirs, *shapes = table.ONE_FORMULA[name]
    arrays = [halves(*s, seed=i) for i, s in enumerate(shapes)]
    leaves = [tg.tensor(a, device="cuda", requires_grad=True) for a in arrays]
    y = ours(*leaves)
    assert y.device == "cuda"
    assert_close(y.detach().cpu().numpy(), *oracle.value(theirs or ours, *arrays))
    dy = halves(*y.shape, seed=9)
    y.backward(tg.tensor(dy, device="cuda"))
    for leaf, pair in zip(leaves, oracle.gradients(theirs or ours, dy, *arrays), strict=True):
        assert_close(leaf.grad.cpu().numpy(), *pair)


@pytest.mark.parametrize("name", [*table.EXACT_UNARY, *table.EXACT_BINARY])
def test_special_values(name):
    unary = name in table.EXACT_UNARY
    op = (table.EXACT_UNARY if unary else table.EXACT_BINARY)[name]
    arrays = [table.SPECIAL] if unary else [table.SPECIAL, table.OTHER]
    want = op(*map(tg.Tensor, arrays))
    got = op(*(tg.tensor(a, device="cuda") for a in arrays))
    assert got.device == "cuda"
    assert_same(got.cpu().numpy(), want.numpy())


def test_order():
    x = np.array([2, np.nan, -1, 2, np.inf, -np.inf, np.nan, -1, 0], bfloat16)
    for descending in (False, True):
        for got, want in zip(
            tg.tensor(x, device="cuda").sort(descending=descending),
            tg.Tensor(x).sort(descending=descending),
            strict=True,
        ):
            assert_same(got.cpu().numpy(), want.numpy())


def test_creation_and_numbers():
    x = tg.tensor([1.0, 3.0], dtype="bfloat16", device="cuda")
    for y in (x * 2.5, 1 - x, x / 3, x**2, x // 2, x % 2, x + 10**30, tg.randn_like(x), tg.full_like(x, 0.1)):
        assert y.dtype == tg.bfloat16 and y.device == "cuda"
    assert (x * 2.5).tolist() == [2.5, 7.5] and x[1].item() == 3 and x.float().tolist() == [1.0, 3.0]
    assert repr(x) == "tensor([1., 3.], dtype=bfloat16, device='cuda')"
    filled = tg.empty(1000, dtype="bfloat16", device="cuda")
    for fill, bound in ((lambda: filled.uniform_(-0.1, 0.1), 0.1001), (lambda: filled.normal_(0.0, 0.01), 0.1)):
        values = fill().cpu().numpy().astype(np.float64)
        assert 0 < abs(values).max() <= bound and len(np.unique(values)) > 300
