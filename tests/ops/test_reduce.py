"""Reductions and scans against torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.ops.same import assert_same_op, random

CASES = [
    # shape, dim
    ((1, 1), 0),  # degenerate
    ((5, 10), None),
    ((5, 10), 0),
    ((5, 10), -1),
    ((2, 3, 4), 1),
    ((2, 3, 4), (0, 2)),
    ((2, 3, 4), (-1, 0)),
    ((2, 3, 4), (0, 1, 2)),
    ((0, 10), 1),  # nothing to reduce
    ((), None),
    ((), 0),
    ((), -1),
    ((7,), ()),  # as None
    ((3, 1025), 1),  # long enough for sums to lose digits
]
EMPTY = [((0, 10), 0), ((0, 10), None), ((3, 0), (0, 1))]  # reductions of nothing


def options(dim, keepdim: bool):
    """Keyword arguments; torch wants no keepdim without a dim."""
    return {} if dim is None else {"dim": dim, "keepdim": keepdim}


def cases(*more):
    return pytest.mark.parametrize(("shape", "dim"), [*CASES, *more], ids=str)


@cases(*EMPTY)
@pytest.mark.parametrize("name", ["sum", "mean", "logsumexp", "var", "std"])
def test_reduction(name, shape, dim):
    if name == "logsumexp" and dim in (None, ()):  # torch wants a dim
        return
    if name in ("var", "std") and dim == ():  # torch's gradient is wrong here
        return
    x = random(*shape)
    # With correction 1, torch warns about the variance of one element, and of none.
    correction = {"correction": -1 if x.size == 0 else 0} if name in ("var", "std") else {}
    for keepdim in (False, True):
        assert_same_op(lambda x, k=keepdim: getattr(x, name)(**options(dim, k), **correction), None, x, scale=1.0)


@pytest.mark.parametrize("correction", [0, 1, 2, 0.5])
def test_variance_corrections(correction):
    x = 100 + random(5, 10)  # two passes: the digits that one pass would lose are there
    for dim in (None, 0, 1, (0, 1)):
        assert_same_op(lambda x, d=dim: x.var(d, correction=correction), None, x, scale=100.0)
        assert_same_op(lambda x, d=dim: x.std(d, correction=correction, keepdim=True), None, x, scale=100.0)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")
@pytest.mark.parametrize("correction", [3.5, 4, 4.5, 5, 7, 19, 20, 21.5, 100])
def test_variance_without_degrees_of_freedom(correction):
    """Of n numbers with a correction of n or more: inf, never negative; NaN where all numbers are equal."""
    x = random(5, 4)
    x[2], x[:, 1] = 3, 0.25
    x[2, 1] = 3
    for dim in (None, 0, 1, (0, 1)):
        for y in (x, np.full_like(x, 0.5)):
            for name in ("var", "std"):
                function = lambda x, n=name, d=dim: getattr(x, n)(d, correction=correction)  # noqa: E731
                assert_same_op(function, None, y, gradients=False)


def test_variance_takes_the_old_unbiased_flag():
    x = random(5, 10)
    for unbiased in (True, False):
        assert_same_op(lambda x, u=unbiased: x.var(1, unbiased=u), None, x)
        assert_same_op(lambda x, u=unbiased: x.var(1, u, True), None, x)


def test_variance_of_too_few_elements_is_nan():
    assert math.isnan(tg.ones(1).var().item()) and math.isnan(tg.ones(0).var().item())
    assert np.isnan(tg.ones(3, 1).std(1).numpy()).all()


def test_the_gradient_of_a_standard_deviation_of_0_is_0():
    assert_same_op(lambda x: x.std(1), None, np.full((2, 4), 3.0))


@cases()
@pytest.mark.parametrize("p", [2, 1, 3, 0.5, math.inf, -math.inf, 0, -1])
def test_norm(p, shape, dim):
    if abs(p) == math.inf and 0 in shape:
        return
    x = random(*shape)
    for keepdim in (False, True):
        assert_same_op(lambda x, k=keepdim: x.norm(p, **options(dim, k)), None, x, layouts=["contiguous", "framed"])


@pytest.mark.parametrize("p", [2, 3, 1])
def test_the_gradient_of_the_norm_of_zeros_is_0(p):
    x = np.array([[0.0, 0.0], [0.0, 2.0]])
    assert_same_op(lambda x: x.norm(p, 1), None, x)


@pytest.mark.parametrize("p", [-math.inf, -2, -0.5, 0.5, 1, 1.5, 2, 3, math.inf])
def test_the_norm_of_numbers_some_of_which_are_0(p):
    """Of a negative order it is 0, by a sum that is infinite."""
    assert_same_op(lambda x: x.norm(p, 1), None, np.array([[0.0, 1, -2], [3, 0, 0], [-1, 2, 4]]))


@cases()
@pytest.mark.parametrize("name", ["amax", "amin"])
def test_extremes(name, shape, dim):
    if 0 in shape and dim != 1:
        return
    x = np.round(random(*shape))  # with ties, which share the gradient
    for keepdim in (False, True):
        assert_same_op(lambda x, k=keepdim: getattr(x, name)(**options(dim, k)), None, x)


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize(
    ("shape", "dim"), [((1, 1), 0), ((5, 10), 0), ((5, 10), -1), ((2, 3, 4), 1), ((0, 10), 1), ((), 0)]
)
def test_extremes_with_their_indices(name, shape, dim):
    x = np.round(random(*shape))  # ties: the first one is returned, and takes the gradient
    for keepdim in (False, True):
        assert_same_op(lambda x, k=keepdim: tuple(getattr(x, name)(dim, keepdim=k)), None, x)
    assert_same_op(lambda x: getattr(x, "arg" + name)(dim), None, x)
    assert_same_op(lambda x: getattr(x, "arg" + name)(dim, keepdim=True), None, x)
    if x.size:
        assert_same_op(lambda x: getattr(x, name)(), None, x)
        assert_same_op(lambda x: getattr(x, "arg" + name)(), None, x)


def test_nan_is_an_extreme():
    x = np.array([[1.0, np.nan, 3.0, np.nan], [4.0, 1.0, 2.0, 0.0]])
    for name in ("max", "min"):
        assert_same_op(lambda x, n=name: tuple(getattr(x, n)(1)), None, x)
        assert_same_op(lambda x, n=name: getattr(x, n)(), None, x, gradients=False)
        assert_same_op(lambda x, n=name: getattr(x, "arg" + n)(1), None, x)


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
@pytest.mark.parametrize("dim", [None, 0, -1])
def test_any_and_all(dtype, dim):
    x = np.array([[0, 0, 1], [1, 1, 1], [0, 0, 0]]).astype(dtype)
    for name in ("any", "all"):
        for keepdim in (False, True):
            assert_same_op(lambda x, n=name, k=keepdim: getattr(x, n)(**options(dim, k)), None, x, gradients=False)
    assert_same_op(lambda x: x.any(), None, np.asarray(x[0, 0]), gradients=False)


@pytest.mark.parametrize(
    ("shape", "dim"), [((5, 10), None), ((5, 10), 1), ((2, 3, 4), -2), ((0, 10), 0), ((0, 10), 1), ((), None), ((), 0)]
)
@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_prod(shape, dim, zeros):
    x = random(*shape)
    if x.ndim:
        x[..., :zeros] = 0.0  # none, one, two zeros among the factors
    for keepdim in (False, True):
        assert_same_op(lambda x, k=keepdim: x.prod(**options(dim, k)), None, x)


@pytest.mark.parametrize(("shape", "dim"), [((5, 10), 0), ((5, 10), -1), ((2, 3, 4), 1), ((0, 10), 0), ((), 0)])
def test_scans(shape, dim):
    x = random(*shape)
    assert_same_op(lambda x: x.cumsum(dim), None, x, scale=1.0)
    assert_same_op(lambda x: x.cumprod(dim), None, x)
    assert_same_op(lambda x: x.cumsum(dim), None, (10 * x).astype(np.int32))
    assert_same_op(lambda x: x.cumprod(dim), None, (2 * x).astype(np.int32))


def test_cumprod_with_zeros():
    x = random(4, 6)
    x[0, 2] = x[1, 0] = x[1, 5] = x[2, 3] = x[2, 4] = 0.0
    assert_same_op(lambda x: x.cumprod(1), None, x)


def test_logsumexp_of_large_and_infinite_numbers():
    x = np.array([[1000.0, 1000.0], [-1000.0, -1001.0], [-np.inf, 0.0]])
    assert_same_op(lambda x: x.logsumexp(1), None, x, scale=1000.0)  # torch's gradient is exp(x - y)
    assert_same_op(lambda x: x.logsumexp((0, 1)), None, x, scale=1000.0)
    infinite = tg.tensor([[-np.inf, -np.inf], [np.inf, 1.0]]).logsumexp(1)
    assert infinite.tolist() == [-np.inf, np.inf]


def test_logsumexp_of_nothing_is_minus_infinity():
    assert tg.zeros(0, 3).logsumexp(0).tolist() == [-math.inf] * 3


def test_float16_accumulates_in_float32():
    """A float16 sum of 4096 halves, element by element, would stop at 1024, where 0.5 is half an ulp."""
    x = tg.tensor(np.full((4096, 2), 0.5, np.float16))
    for name, want in (("sum", 2048.0), ("mean", 0.5), ("var", 0.0), ("std", 0.0)):
        assert_same(getattr(x, name)(0).numpy(), np.full(2, want, np.float16))
    assert x.norm(2, 0).tolist() == [32.0, 32.0] and x.cumsum(0)[-1].tolist() == [2048.0, 2048.0]
    assert (x * 0.0 + 1.0)[:2048].cumsum(0)[-1].tolist() == [2048.0, 2048.0]
    big = tg.tensor(np.full(100, 60000.0, np.float16))  # the sum, and every square, is beyond float16
    assert big.mean().item() == 60000.0 and big.var().item() == 0.0


def test_sums_of_many_float32_numbers_keep_their_digits():
    x = random(200_003).astype(np.float32)
    assert_close(tg.tensor(x).sum().numpy(), np.asarray(x.sum(dtype=np.float64)), torch.from_numpy(x).sum().numpy())


@pytest.mark.parametrize("correction", [3, 4, 3.5])
@pytest.mark.parametrize("name", ["var", "std"])
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # torch's
def test_variance_with_a_correction_of_n_and_more(name, correction):
    x = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    assert_same_op(lambda x: getattr(x, name)(1, correction=correction), None, x, layouts=["contiguous"])


def test_variance_without_a_correction_is_unbiased_and_the_flag_may_come_first():
    x = random(5, 10)
    for name in ("var", "std"):
        assert_same_op(lambda x, n=name: getattr(x, n)(dim=None, correction=None), None, x)
        assert_same_op(lambda x, n=name: getattr(x, n)(1, correction=None, keepdim=True), None, x)
        for unbiased in (True, False):
            assert_same_op(lambda x, n=name, u=unbiased: getattr(x, n)(u), None, x)


@pytest.mark.parametrize(
    ("p", "dim"), [("fro", None), ("fro", 1), ("fro", (0, 2)), ("nuc", (0, 1)), ("nuc", (2, 0))], ids=str
)
def test_matrix_norms(p, dim):
    x = random(4, 3, 5)
    for keepdim in (False, True):
        assert_same_op(lambda x, k=keepdim: x.norm(p, **options(dim, k)), None, x, layouts=["contiguous", "framed"])
    assert_same_op(lambda x: x.norm(p), None, random(4, 3), layouts=["contiguous"])


def test_the_nuclear_norm_has_no_second_gradient():
    x = tg.tensor(random(3, 3), requires_grad=True)
    with pytest.raises(RuntimeError, match="norm: the gradient of p='nuc' has no gradient"):
        x.norm("nuc").backward(create_graph=True)


def test_the_norm_that_counts_has_a_graph_but_no_gradient():
    x = tg.tensor([0.0, 2.0], requires_grad=True)
    y = x.norm(0)
    assert y.requires_grad and y.item() == 1
    (y + (3 * x).sum()).backward()
    assert x.grad.tolist() == [3, 3]


def test_cumprod_takes_a_dtype():
    for dtype in ("float64", "int32"):
        want = torch.arange(1, 5).cumprod(0, dtype=getattr(torch, dtype)).numpy()
        assert_same(tg.arange(1, 5).cumprod(0, dtype=dtype).numpy(), want)
