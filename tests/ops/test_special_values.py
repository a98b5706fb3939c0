"""Infinities, NaN, zeros and overflow give what torch gives, and never a warning (which pytest makes an error)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tests.ops.same import assert_same_op
from tests.ops.test_elementwise import BINARY, COMPARISONS, UNARY
from tilegrad import ops
from tilegrad.nn import functional as F

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 1000.0, -1000.0, 1e30, -1e30, np.inf, -np.inf, np.nan, 1e-40])
LEFT, RIGHT = (a.ravel() for a in np.meshgrid(SPECIAL, SPECIAL))


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    assert_same_op(lambda x: getattr(x, name)(), None, SPECIAL, gradients=False, layouts=["contiguous"])


@pytest.mark.parametrize("name", [*BINARY, *COMPARISONS])
def test_binary(name):
    op = (BINARY | COMPARISONS)[name]
    a, b = LEFT, RIGHT
    if "div" in name or name == "remainder":  # a quotient beyond the digits of a float is anyone's guess
        fair = ~((np.abs(a) > 1e6) & np.isfinite(a) & (np.abs(b) < 1e6)) & (np.abs(b) != 1e-40)
        a, b = a[fair], b[fair]
    assert_same_op(op, None, a, b, gradients=False, layouts=["contiguous"])


def test_pow():
    assert_same_op(lambda a, b: a**b, None, LEFT, RIGHT, gradients=False, layouts=["contiguous"])


def test_the_sign_of_nan_is_0_and_so_is_the_gradient_of_abs_there():
    x = np.array([np.nan, -np.inf, -0.0, 0.0, 1e-300, np.inf])
    for name in ("sign", "abs"):
        assert_same_op(lambda x, n=name: getattr(x, n)(), None, x, layouts=["contiguous"])


def test_gradients_at_nan_are_those_of_torch():
    # torch's vectorised loops and their remainders disagree at nan: of elu the remainders are meant, of hardtanh not.
    x = np.array([np.nan, -np.inf, -1.0, 0.0, 2.0, np.inf])
    for name, repeat in {"elu": 1, "selu": 1, "leaky_relu": 1, "hardtanh": 16, "relu6": 16}.items():
        ours, theirs = getattr(F, name), getattr(torch.nn.functional, name)
        assert_same_op(ours, theirs, np.tile(x, repeat), layouts=["contiguous"])
    x = tg.tensor(x, requires_grad=True)  # torch's 1/6 of hardsigmoid is a float32, in float64 too
    F.hardsigmoid(x).sum().backward()
    assert_same(x.grad.numpy(), np.array([0.0, 0.0, 1 / 6, 1 / 6, 1 / 6, 0.0]))


def test_a_rounded_quotient_has_gradient_0_where_the_divisor_is_0_or_nan_too():
    a, b = np.array([1.0, 0.0, np.nan, 3.0, np.inf]), np.array([0.0, 0.0, 2.0, np.nan, -2.0])
    for mode in ("floor", "trunc"):
        assert_same_op(lambda a, b, m=mode: a.div(b, rounding_mode=m), None, a, b, layouts=["contiguous"])


@pytest.mark.parametrize("name", ["sum", "mean", "prod", "amax", "amin", "var", "std", "norm", "any", "all"])
def test_reductions(name):
    x = np.array([[np.inf, -np.inf], [np.inf, 1.0], [np.nan, 1.0], [1e15, 1e15], [0.0, np.inf]])
    with_dim = {"prod": (1,), "norm": (2, 1)}.get(name, (1,))
    assert_same_op(lambda x: getattr(x, name)(*with_dim), None, x, gradients=False, layouts=["contiguous"])


@pytest.mark.parametrize("name", ["cumsum", "cumprod", "softmax", "log_softmax", "logsumexp"])
def test_along_a_dimension(name):
    x = np.array([[1.0, -np.inf, 2.0], [1e30, 1e30, 1e30], [np.nan, 1.0, 1.0], [-1000.0, 0.0, 1000.0]])
    x = np.concatenate([x, [[np.inf, -np.inf, 1.0]]]) if name.startswith("cum") else x
    assert_same_op(lambda x: getattr(x, name)(1), None, x, gradients=False, layouts=["contiguous"])


def test_matmul():
    a = np.array([[np.inf, 1.0], [1e200, 1e200], [np.nan, 0.0]])
    b = np.array([[0.0, 1.0], [1.0, 1e200]])
    got = tg.Tensor(a) @ tg.Tensor(b)
    want = torch.from_numpy(a) @ torch.from_numpy(b)
    np.testing.assert_array_equal(got.numpy(), want.numpy())


@pytest.mark.parametrize(
    "op",
    [
        lambda x: x.log().sum(),
        lambda x: x.sqrt().sum(),
        lambda x: (1 / x).sum(),
        lambda x: x.rsqrt().sum(),
        lambda x: x.exp().sum(),
        lambda x: (x * x * x * x).sum(),
        lambda x: (x**-2).sum(),
        lambda x: x.relu().sum(),
        lambda x: x.abs().sum(),
        lambda x: x.tanh().sum(),
        lambda x: x.sigmoid().sum(),
        lambda x: x.norm(),
        lambda x: x.reshape(2, 2).std(1).sum(),
        lambda x: x.clamp(-1, 1).sum(),
    ],
)
def test_gradients_at_the_edges(op):
    assert_same_op(op, None, np.array([0.0, 0.0, 1e15, -1000.0]), layouts=["contiguous"])


def test_casts():
    x = tg.tensor([1e300, -1e300, np.nan, np.inf], dtype="float64")
    assert str(x.float().tolist()) == "[inf, -inf, nan, inf]"
    assert str(x.half().tolist()) == "[inf, -inf, nan, inf]"
    x.int(), x.long(), x.to("uint8")  # undefined in value, like in C, but quiet
    assert x.bool().tolist() == [True] * 4
    assert tg.tensor([1e300]).item() == tg.full((1,), 1e300).item() == np.inf
    assert tg.full((1,), 1e6, dtype="float16").item() == np.inf


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_numbers_that_overflow_the_dtype(dtype):
    x = tg.ones(1, dtype=dtype)
    assert (x * 1e300).item() == (x + 1e300).item() == np.inf
    y = tg.zeros(1, dtype=dtype)
    y[0] = -1e300
    assert y.item() == -np.inf and y.masked_fill(y < 0, 1e300).item() == np.inf
    assert y.fill_(1e300).item() == np.inf


def test_integers_wrap_around():
    x = np.array([127, -128], np.int8)
    for op in (lambda x: x + x, lambda x: x * x, lambda x: x - 1, lambda x: -x, lambda x: abs(x)):
        assert_same_op(op, None, x)
    assert_same_op(lambda x: x * x, None, np.array(2**62))


def test_nan_spoils_a_matmul_row_only_and_relu_passes_it():
    x = tg.tensor([[np.nan, 1.0], [2.0, 3.0]])
    y = ops.relu(x @ tg.ones(2, 2))
    assert np.isnan(y.numpy()).tolist() == [[True, True], [False, False]]
