"""The compiled activations against float64, in units in the last place, over all that float32 has; and in pieces."""

import math

import numpy as np
import pytest

from tests.compare import assert_same
from tests.layouts import untouched
from tilegrad.kernels.backends import cpu
from tilegrad.kernels.backends import reference as specification
from tilegrad.kernels.cpu import threads

ULP = {"sigmoid": 3, "silu": 3, "tanh": 3, "gelu": 5, "gelu_tanh": 3, "leaky_relu": 1, "relu": 0, "erf": 1.25}
ULP_GRAD = {"sigmoid": 3, "silu": 5, "tanh": 3, "gelu": 5, "gelu_tanh": 5, "leaky_relu": 0, "relu": 0, "erf": 2.5}
FROM_RESULT = ("sigmoid", "tanh")


def _erfc(x):
    return np.array([math.erfc(v) for v in x.tolist()])


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x > 0, 1, e) / (1 + e)


def _slope(x):
    e = np.exp(-np.abs(x))
    return e / (1 + e) ** 2


def _gate(x):
    return math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)


def _gate_slope(x):
    return math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x**2)


def _leak(x):
    return np.where(x > 0, 1, np.float64(np.float32(0.01)))


VALUES = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: x * _leak(x),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "gelu": lambda x: x * _erfc(-x * math.sqrt(0.5)) / 2,
    "gelu_tanh": lambda x: x * _sigmoid(_gate(x)),
    "erf": lambda x: np.array([math.erf(v) for v in x.tolist()]),
}
SLOPES = {
    "relu": lambda x: np.where(x > 0, 1.0, 0.0),
    "leaky_relu": _leak,
    "sigmoid": lambda y: y * (1 - y),
    "silu": lambda x: _sigmoid(x) + x * _slope(x),
    "tanh": lambda y: (1 - y) * (1 + y),
    "gelu": lambda x: _erfc(-x * math.sqrt(0.5)) / 2 + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    "gelu_tanh": lambda x: _sigmoid(_gate(x)) + x * _slope(_gate(x)) * _gate_slope(x),
    "erf": lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x),
}


def forward(backend, name, x):
    return backend.gelu(x, "tanh") if name == "gelu_tanh" else getattr(backend, name)(x)


def backward(backend, name, dy, x):
    return backend.gelu_grad(dy, x, "tanh") if name == "gelu_tanh" else getattr(backend, f"{name}_grad")(dy, x)


@pytest.fixture(scope="module")
def numbers():
    """Of every size there is, and many more where the functions bend."""
    sizes = np.logspace(-45, 38.5, 40001)
    rng = np.random.default_rng(0)
    parts = sizes, -sizes, np.linspace(-20, 20, 40001), np.linspace(-110, 90, 40001), 3 * rng.standard_normal(40001)
    return np.concatenate(parts).astype(np.float32)


def units(got, want, scale=0.0):
    """Errors in units in the last place of want, or of scale where that is larger. What is infinite must be."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = want.astype(np.float32)
    finite = np.isfinite(rounded)
    assert_same(got[~finite], rounded[~finite])
    unit = np.spacing(np.maximum(np.abs(rounded[finite]), np.float32(scale))).astype(np.float64)
    return np.abs(got[finite] - want[finite]) / unit


@pytest.mark.parametrize("name", VALUES)
def test_values_to_a_few_units_in_the_last_place(name, numbers):
    with np.errstate(over="ignore", under="ignore"):
        want = VALUES[name](numbers.astype(np.float64))
    assert units(forward(cpu, name, numbers), want).max() <= ULP[name]


@pytest.mark.parametrize("name", SLOPES)
def test_gradients_to_a_few_units_in_the_last_place(name, numbers):
    """Those of 1/4 where gradients are smaller between -2 and 0: silu's and gelu's are 0 in there."""
    x = forward(cpu, name, numbers) if name in FROM_RESULT else numbers[np.abs(numbers) < 1e30]
    with np.errstate(over="ignore", under="ignore"):
        want = SLOPES[name](x.astype(np.float64))
    got = backward(cpu, name, np.ones_like(x), x)
    among = (x > -2) & (x < 0)
    assert units(got[among], want[among], 0.25).max(initial=0) <= ULP_GRAD[name]
    assert units(got[~among], want[~among]).max() <= ULP_GRAD[name]


@pytest.mark.parametrize("name", VALUES)
def test_what_is_no_number_or_nearly_none(name):
    """As the specification has it, at every place in a vector and behind the last one."""
    least, most = np.float32(1e-45), np.finfo(np.float32).max
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0, least, -least, most, -most], np.float32)
    x = np.tile(x, 5)[:43]
    with untouched(x):
        y, dx = forward(cpu, name, x), backward(cpu, name, np.ones_like(x), x)
    wanted = forward(specification, name, x)
    assert_same(y, wanted)
    if name != "relu":
        assert_same(np.signbit(y) & (y == y), np.signbit(wanted) & (wanted == wanted))
    assert_same(dx, backward(specification, name, np.ones_like(x), x))


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (3, 2, 1, 0)], ids=str)
def test_pieces_give_the_same_bits_and_keep_the_memory_order(name, order, monkeypatch):
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 9, 11, 23, 31)).astype(np.float32).transpose(0, *(1 + np.array(order)))
    results = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "_count", count)
        with untouched(x, dy):
            results.append((forward(cpu, name, x), backward(cpu, name, dy, x)))
    for y, dx in results:
        assert y.strides == dx.strides == x.strides
        assert_same(y.view(np.int32), results[0][0].view(np.int32))
        assert_same(dx.view(np.int32), results[0][1].view(np.int32))


def test_gaps_in_memory_and_a_slope_that_is_an_int_are_the_specifications():
    x, dy = np.random.default_rng(2).standard_normal((2, 5, 6, 7)).astype(np.float32)
    for a in (x[:, ::2], np.broadcast_to(x[0], x.shape)):
        assert_same(cpu.silu(a), specification.silu(a))
    assert_same(cpu.leaky_relu(x, 2), specification.leaky_relu(x, 2))
    assert_same(cpu.silu_grad(dy[:, ::2], x[:, ::2]), specification.silu_grad(dy[:, ::2], x[:, ::2]))


def test_two_memory_orders_give_the_bits_of_one():
    x, dy = np.random.default_rng(2).standard_normal((2, 5, 6, 7)).astype(np.float32)
    turned = [a.transpose(2, 0, 1).copy().transpose(1, 2, 0) for a in (dy, x)]
    for a, b in ((turned[0], x), (dy, turned[1])):
        with untouched(a, b):
            assert_same(cpu.silu_grad(a, b), cpu.silu_grad(dy, x))
    assert_same(cpu.leaky_relu_grad(dy, x, 2), specification.leaky_relu_grad(dy, x, 2))
