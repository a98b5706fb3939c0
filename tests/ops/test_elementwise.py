"""Elementwise ops against torch: values, gradients, broadcasting, ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.ops.same import assert_same_op, random

SHAPES = [
    (1, 1),  # degenerate
    (5, 10),  # ragged
    (0, 10),  # empty
    (),  # no dimensions
    (2, 3, 4),  # channels-last differs from row-major
]

PAIRS = [
    ((5, 10), (5, 10)),  # equal
    ((5, 10), (10,)),  # a row for every row
    ((5, 1), (1, 10)),  # both stretched
    ((5, 10), ()),  # a number for all
    ((), (5, 10)),  # all for a number
    ((4, 1, 3), (2, 1)),  # stretched in the middle, and a new dimension in front
    ((0, 10), (1, 10)),  # 1 stretched to nothing
    ((), ()),
]

UNARY = {
    # name: a map of standard normal numbers into the op's domain, away from kinks
    "abs": None,
    "neg": None,
    "square": None,
    "exp": None,
    "expm1": None,
    "log": np.abs,
    "log2": np.abs,
    "log10": np.abs,
    "log1p": np.abs,
    "sqrt": np.abs,
    "rsqrt": np.abs,
    "reciprocal": None,
    "sin": None,
    "cos": None,
    "tan": None,
    "arcsin": lambda x: 0.9 * np.sin(x),
    "arccos": lambda x: 0.9 * np.sin(x),
    "arctan": None,
    "asin": lambda x: 0.9 * np.sin(x),
    "acos": lambda x: 0.9 * np.sin(x),
    "atan": None,
    "sinh": None,
    "cosh": None,
    "tanh": None,
    "erf": None,
    "sigmoid": None,
    "relu": None,
    "sign": None,
    "floor": None,
    "ceil": None,
    "trunc": None,
    "round": lambda x: 3 * x,
    "isnan": None,
    "isinf": None,
    "isfinite": None,
    "logical_not": np.round,
    "clone": None,
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_unary(name, shape):
    x = np.asarray((UNARY[name] or np.asarray)(random(*shape)))
    assert_same_op(lambda x: getattr(x, name)(), None, x)
    if name in dir(tg):
        assert_same_op(getattr(tg, name), getattr(torch, name), x, layouts=["contiguous"])


@pytest.mark.parametrize("name", [n for n in UNARY if n not in ("isnan", "isinf", "isfinite", "relu", "neg", "square")])
def test_float_functions_turn_integers_into_float32(name):
    x = np.array([[1, 0], [1, 1]])
    if name in ("abs", "sign", "floor", "ceil", "trunc", "round", "clone", "logical_not"):
        assert_same_op(lambda x: getattr(x, name)(), None, x - 3 * x[::-1])
    else:
        assert_same_op(lambda x: getattr(x, name)(), None, x)


BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floor_divide": lambda a, b: a // b,
    "remainder": lambda a, b: a % b,
    "maximum": lambda a, b: a.maximum(b),
    "minimum": lambda a, b: a.minimum(b),
    "max of two": lambda a, b: a.max(b),
    "min of two": lambda a, b: a.min(b),
    "div floor": lambda a, b: a.div(b, rounding_mode="floor"),
    "div trunc": lambda a, b: a.div(b, rounding_mode="trunc"),
    "add alpha": lambda a, b: a.add(b, alpha=-0.3),
    "sub alpha": lambda a, b: a.sub(b, alpha=2),
}
COMPARISONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "logical_and": lambda a, b: a.logical_and(b),
    "logical_or": lambda a, b: a.logical_or(b),
    "logical_xor": lambda a, b: a.logical_xor(b),
}
NOT_DIFFERENTIABLE_IN_TORCH = ["floor_divide"]


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, shapes):
    a, b = random(*shapes[0], seed=1), random(*shapes[1], seed=2)
    b = b + np.sign(b)  # a divisor away from 0
    assert_same_op(BINARY[name], None, a, b, gradients=name not in NOT_DIFFERENTIABLE_IN_TORCH)


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
def test_pow(shapes):
    a, b = np.abs(random(*shapes[0], seed=1)) + 0.1, random(*shapes[1], seed=2)
    assert_same_op(lambda a, b: a**b, None, a, b)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, -0.5, 2.5])
def test_pow_by_a_number(exponent):
    x = random(5, 10)
    if exponent != int(exponent):
        x = np.abs(x)
    elif exponent >= 0:
        x[0, 0] = 0.0  # 0^b has the slope 0, 1 for b = 1
    assert_same_op(lambda x: x**exponent, None, x)


def test_derivatives_of_the_power_0_at_0():
    """Constant 1: no derivative of any order is nan."""
    x = tg.tensor([0.0, 2.0], requires_grad=True)
    (first,) = tg.grad((x ** tg.zeros(2)).sum(), [x], create_graph=True)
    (second,) = tg.grad(first.sum(), [x])
    assert first.tolist() == second.tolist() == [0.0, 0.0]


def test_a_number_to_a_power():
    assert_same_op(lambda x: 2.5**x, None, random(5, 10))
    assert_same_op(lambda x: 0.0**x, None, np.array([0.0, 1.0, 2.0]))  # 0 where the exponent is >= 0


@pytest.mark.parametrize(
    "op",
    [
        lambda x: 3 + x,
        lambda x: x + 3,
        lambda x: 0.1 - x,
        lambda x: x - 0.1,
        lambda x: 0.1 * x,
        lambda x: x * -2,
        lambda x: 1 / x,
        lambda x: x / 3,
        lambda x: -x,
        lambda x: abs(x),
        lambda x: x + True,
    ],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_python_numbers_are_rounded_once(op, shape):
    assert_same_op(op, None, random(*shape))


@pytest.mark.parametrize(
    "op", [lambda x: 7 // x, lambda x: x // 7, lambda x: 7 % x, lambda x: x % 7, lambda x: x % -0.3, lambda x: x**2]
)
def test_division_operators_with_numbers(op):
    assert_same_op(op, None, random(5, 10), gradients=False)
    assert_same_op(op, None, np.array([-9, -7, -1, 1, 3, 8]), gradients=False)


def test_integer_division_is_exact_and_rounds_as_named():
    a, b = np.meshgrid([-(2**62) - 1, -8, -7, -1, 0, 1, 7, 8, 2**62 + 1], [-3, -1, 1, 3, 7])
    for mode in ("floor", "trunc"):
        assert_same_op(lambda a, b, mode=mode: a.div(b, rounding_mode=mode), None, a, b)
    assert_same_op(lambda a, b: a % b, None, a, b)
    assert_same_op(lambda a, b: a // b, None, a, b)


def test_floored_division_passes_a_zero_gradient():
    a, b = tg.tensor([3.5, -3.5], requires_grad=True), tg.tensor([2.0, 2.0], requires_grad=True)
    (a // b).sum().backward()
    assert a.grad.tolist() == b.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison(name, shapes):
    a, b = np.round(random(*shapes[0], seed=1)), np.round(random(*shapes[1], seed=2))
    assert_same_op(COMPARISONS[name], None, a, b)
    assert_same_op(COMPARISONS[name], None, a.astype(np.int64), b.astype(np.int32))
    if b.ndim == 0 and not name.startswith("logical"):
        assert_same_op(lambda a: COMPARISONS[name](a, b.item()), None, a)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_bitwise(dtype):
    a, b = np.arange(12).reshape(3, 4).astype(dtype), np.array([5, 0, 3, 255]).astype(dtype)
    for op in (lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a ^ b, lambda a, b: ~a):
        assert_same_op(op, None, a, b)
    assert_same_op(lambda a: a & True, None, a)
    assert_same_op(lambda a: True ^ a, None, a)


# --- ties and bounds -------------------------------------------------------------------------------------------------


def test_maximum_shares_the_gradient_of_ties():
    a, b = np.array([1.0, 2.0, 3.0, -0.0]), np.array([1.0, 3.0, 2.0, 0.0])
    assert_same_op(lambda a, b: a.maximum(b), None, a, b)
    assert_same_op(lambda a, b: a.minimum(b), None, a, b)


def test_maximum_beside_nan():
    a, b = np.array([np.nan, 1.0, np.nan]), np.array([1.0, np.nan, np.nan])
    assert_same_op(lambda a, b: a.maximum(b), None, a, b)
    assert_same_op(lambda a, b: a.minimum(b), None, a, b)


@pytest.mark.parametrize(
    "bounds",
    [
        {"min": -0.5},
        {"max": 0.5},
        {"min": -0.5, "max": 0.5},
        {"min": 0.5, "max": -0.5},  # crossed: max wins
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_clamp_by_numbers(bounds, shape):
    x = random(*shape)
    x.flat[:2] = (0.5, -0.5)[: x.size]  # on the bounds
    gradients = bounds.get("min", -1) < bounds.get("max", 1)
    assert_same_op(lambda x: x.clamp(**bounds), None, x, gradients=gradients)
    assert_same_op(lambda x: x.clip(**bounds), None, x, layouts=["contiguous"], gradients=gradients)


@pytest.mark.parametrize("shapes", PAIRS[:6], ids=str)
def test_clamp_by_tensors(shapes):
    x, low = random(*shapes[0], seed=1), random(*shapes[1], seed=2)
    assert_same_op(lambda x, low: x.clamp(min=low), None, x, low)
    assert_same_op(lambda x, low: x.clamp(max=low), None, x, low)
    assert_same_op(lambda x, low: x.clamp(low, low + 1.0), None, x, low)


def test_clamp_promotes_integers_beside_floats():
    assert_same_op(lambda x: x.clamp(1, 3), None, np.arange(5))
    assert_same_op(lambda x: x.clamp(0.5), None, np.arange(5))


# --- selection -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
def test_where(shapes):
    a, b = random(*shapes[0], seed=1), random(*shapes[1], seed=2)
    mask = random(*np.broadcast_shapes(*shapes), seed=3) > 0
    assert_same_op(lambda a, b, m: tg.where(m, a, b), lambda a, b, m: torch.where(m, a, b), a, b, mask)


def test_where_broadcasts_the_condition_and_takes_numbers():
    a, mask = random(5, 10), random(5, 1) > 0
    assert_same_op(lambda a, m: tg.where(m, a, 0.1), lambda a, m: torch.where(m, a, 0.1), a, mask)
    assert_same_op(lambda a, m: tg.where(m, 0.1, a), lambda a, m: torch.where(m, 0.1, a), a, mask)
    assert_same_op(lambda m: tg.where(m, 1.0, 0.0), lambda m: torch.where(m, 1.0, 0.0), mask)
    assert_same_op(lambda m: tg.where(m, 1, 0), lambda m: torch.where(m, 1, 0), mask)


@pytest.mark.parametrize("mask_shape", [(5, 10), (10,), (5, 1), ()], ids=str)
def test_masked_fill(mask_shape):
    x, mask = random(5, 10), np.asarray(random(*mask_shape, seed=3) > 0)
    assert_same_op(lambda x, m: x.masked_fill(m, 0.1), None, x, mask)
    assert_same_op(lambda x, m: x.masked_fill(m, -np.inf), None, x, mask)


@pytest.mark.parametrize(("shape", "mask_shape"), [((5,), (5, 5)), ((5, 1), (1, 5)), ((), (3,))], ids=str)
def test_masked_fill_broadcasts_x_to_the_mask(shape, mask_shape):
    x, mask = np.asarray(random(*shape)), random(*mask_shape, seed=3) > 0
    assert_same_op(lambda x, m: x.masked_fill(m, 0.1), None, x, mask)
    with pytest.raises(ValueError, match="masked_fill_: the result is"):
        tg.tensor(x).masked_fill_(tg.tensor(mask), 0.1)


# --- numbers beside integers -----------------------------------------------------------------------------------------


def test_powers_of_integers():
    n = np.array([-3, -2, -1, 0, 1, 2, 3])
    a, b = np.repeat(n, 7), np.tile(n, 7)
    for dtype in (np.int64, np.int32, np.int8):
        assert_same_op(lambda a, b: a**b, None, a.astype(dtype), b.astype(dtype))
        for base in (2, 1, -1, 0):
            assert_same_op(lambda b, n=base: n**b, None, n.astype(dtype))
    assert_same_op(lambda b: 300**b, None, np.array([1, 2], np.uint8).astype(np.int16))
    assert_same_op(lambda b: 2**b, None, random(5))


@pytest.mark.parametrize("n", [-1, -3, -255])
def test_a_negative_number_beside_uint8_is_its_twos_complement(n):
    x = np.array([0, 1, 3, 200, 255], np.uint8)
    for op in (
        lambda x: x + n,
        lambda x: x * n,
        lambda x: n - x,
        lambda x: x.clamp(min=n),
        lambda x: x.masked_fill(x > 2, n),
        lambda x: x.add(x, alpha=n),
        lambda x: x.sub(x, alpha=n),
    ):
        assert_same_op(op, None, x)
    with pytest.raises(ValueError, match="-256 does not fit uint8"):
        tg.tensor(x) + -256


def test_square_counts_bools():
    assert_same_op(lambda x: x.square(), None, np.array([True, False]))


@pytest.mark.parametrize("decimals", [0, 1, 3, -2])
def test_round_to_decimals(decimals):
    assert_same_op(lambda x: x.round(decimals=decimals), None, random(50) * 1000, layouts=["contiguous"])


# --- equality as a whole ---------------------------------------------------------------------------------------------


def test_allclose_and_equal_answer_as_torch():
    x = random(5, 10)
    variants = [x, x + 1e-9, x * (1 + 1e-4), np.where(x > 1, np.nan, x), x[:, :1]]
    for a in variants[:4]:
        for b in variants:
            ours, theirs = [tg.Tensor(v) for v in (a, b)], [torch.from_numpy(v.copy()) for v in (a, b)]
            for options in ({}, {"rtol": 0.0, "atol": 1e-8}, {"equal_nan": True}):
                assert tg.allclose(*ours, **options) is torch.allclose(*theirs, **options)
            assert tg.equal(*ours) is torch.equal(*theirs)
