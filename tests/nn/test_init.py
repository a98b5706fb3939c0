"""Initialisation: formulas against torch's, moments and bounds within computed limits, determinism, errors."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn
from tilegrad.nn import init

SHAPES = [(400, 300), (40, 30, 10, 12), (2, 60000)]
FANS = {(400, 300): (300, 400), (40, 30, 10, 12): (3600, 4800), (2, 60000): (60000, 2)}


def assert_uniform(x, low, high):
    """Within [low, high), and mean and variance within five standard errors."""
    x = x.astype(np.float64)
    n, width = x.size, high - low
    ulp = 1 + 2**-22
    assert low * ulp <= x.min() and x.max() <= high * ulp
    assert x.max() - x.min() > 0.99 * width
    assert abs(x.mean() - (low + high) / 2) < 5 * width / math.sqrt(12 * n)
    assert abs(x.var() - width**2 / 12) < 5 * width**2 * math.sqrt(1 / 180 / n)


def assert_normal(x, mean, std):
    x = x.astype(np.float64)
    n = x.size
    assert abs(x.mean() - mean) < 5 * std / math.sqrt(n)
    assert abs(x.var() - std**2) < 5 * std**2 * math.sqrt(2 / n)
    share = ((x - mean) / std < 1).mean()
    assert abs(share - NormalDist().cdf(1)) < 5 * math.sqrt(0.25 / n)


def filled(function, shape, *args, dtype=None, **kwargs):
    tg.manual_seed(0)
    x = tg.empty(shape, dtype=dtype)
    assert function(x, *args, **kwargs) is x
    return x.numpy()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_xavier(shape):
    fan_in, fan_out = FANS[shape]
    bound = 1.5 * math.sqrt(6 / (fan_in + fan_out))
    assert_uniform(filled(init.xavier_uniform_, shape, 1.5), -bound, bound)
    assert_normal(filled(init.xavier_normal_, shape, 0.5), 0, 0.5 * math.sqrt(2 / (fan_in + fan_out)))


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize(
    ("nonlinearity", "a"), [("leaky_relu", 0), ("leaky_relu", math.sqrt(5)), ("relu", 0), ("tanh", 0)]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kaiming(shape, nonlinearity, a, mode):
    fan = FANS[shape][mode == "fan_out"]
    std = torch.nn.init.calculate_gain(nonlinearity, a) / math.sqrt(fan)
    bound = math.sqrt(3) * std
    options = {"a": a, "mode": mode, "nonlinearity": nonlinearity}
    assert_uniform(filled(init.kaiming_uniform_, shape, **options), -bound, bound)
    assert_normal(filled(init.kaiming_normal_, shape, **options), 0, std)


def test_uniform_and_normal():
    assert_uniform(filled(init.uniform_, (300, 300)), 0, 1)
    assert_uniform(filled(init.uniform_, (300, 300), -2.0, 5.0, dtype="float64"), -2, 5)
    assert_normal(filled(init.normal_, (300, 300)), 0, 1)
    assert_normal(filled(init.normal_, (300, 300), 3.0, 0.1), 3, 0.1)


@pytest.mark.parametrize(("mean", "std", "a", "b"), [(0, 1, -2, 2), (1, 0.5, 0.9, 3), (0, 1, 1.5, 2)], ids=str)
def test_trunc_normal(mean, std, a, b):
    x = filled(init.trunc_normal_, (300, 300), mean, std, a, b).astype(np.float64)
    assert a <= x.min() and x.max() <= b
    normal = NormalDist(mean, std)
    mass = normal.cdf(b) - normal.cdf(a)
    want = mean + std**2 * (normal.pdf(a) - normal.pdf(b)) / mass
    assert abs(x.mean() - want) < 5 * std / math.sqrt(x.size)
    middle = (a + b) / 2
    share = (normal.cdf(middle) - normal.cdf(a)) / mass
    assert abs((x < middle).mean() - share) < 5 * math.sqrt(0.25 / x.size)


def test_constants():
    assert_same(filled(init.zeros_, (2, 3)), np.zeros((2, 3), np.float32))
    assert_same(filled(init.ones_, (2, 3), dtype="float64"), np.ones((2, 3)))
    assert_same(filled(init.constant_, (2, 3), 2.5), np.full((2, 3), 2.5, np.float32))
    for shape in [(2, 3), (3, 2)]:
        assert_same(filled(init.eye_, shape), np.eye(*shape, dtype=np.float32))


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (4, 2, 3)], ids=str)
def test_orthogonal(shape):
    x = filled(init.orthogonal_, shape, 2.0, dtype="float64").reshape(shape[0], -1)
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    assert np.abs(gram - 4 * np.eye(len(gram))).max() < 1e-14 * len(gram) * 4
    assert (filled(init.orthogonal_, shape, dtype="float64").reshape(x.shape) * 2 == x).all()


def test_orthogonal_is_uniformly_distributed():
    """Without the signs of R, the first entry of a 2 x 2 matrix would always be negative."""
    tg.manual_seed(0)
    first = [init.orthogonal_(tg.empty(2, 2)).numpy()[0, 0] for _ in range(400)]
    assert abs(np.mean(np.array(first) > 0) - 0.5) < 5 * 0.5 / math.sqrt(400)


@pytest.mark.parametrize(
    "name", ["linear", "conv1d", "conv2d", "conv3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
)
def test_gain(name):
    assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Linear(300, 400), lambda: nn.Conv2d(12, 100, (5, 5)), lambda: nn.Conv2d(24, 100, (5, 5), groups=2)],
    ids=["linear", "conv", "grouped conv"],
)
def test_default_of_linear_and_conv(make):
    """kaiming_uniform(a = sqrt 5) is uniform within 1 / sqrt(fan_in), and so is the bias."""
    tg.manual_seed(0)
    layer = make()
    assert_uniform(layer.weight.detach().numpy(), -1 / math.sqrt(300), 1 / math.sqrt(300))
    tg.manual_seed(0)
    biases = np.concatenate([make().bias.detach().numpy() for _ in range(20)])
    assert_uniform(biases, -1 / math.sqrt(300), 1 / math.sqrt(300))


def test_one_seed_one_start():
    def start(seed):
        tg.manual_seed(seed)
        return [p.detach().numpy() for p in nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 2, 3)).parameters()]

    for a, b in zip(start(1), start(1), strict=True):
        assert_same(a, b)
    assert all((a != b).any() for a, b in zip(start(1), start(2), strict=True))


def test_a_generator_of_ones_own():
    def fill(seed):
        return init.kaiming_normal_(tg.empty(3, 4), generator=tg.Generator(seed)).numpy()

    tg.manual_seed(0)
    before = tg.random.default_generator.get_state()
    assert_same(fill(5), fill(5))
    assert (fill(5) != fill(6)).any()
    assert tg.random.default_generator.get_state() == before


def test_leaves_stay_leaves():
    p = nn.Parameter(tg.empty(3, 4))
    for function in (
        init.xavier_uniform_,
        init.kaiming_normal_,
        init.zeros_,
        init.trunc_normal_,
        init.orthogonal_,
        init.eye_,
    ):
        assert function(p) is p and p.is_leaf and p.requires_grad


def test_nothing_to_fill():
    for shape in [(0, 3), (3, 0)]:
        assert init.kaiming_uniform_(tg.empty(shape)).shape == shape
        assert init.xavier_normal_(tg.empty(shape)).shape == shape
        assert init.orthogonal_(tg.empty(shape)).shape == shape
    nn.Linear(0, 3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: init.xavier_uniform_(tg.empty(3)),
            ValueError,
            "xavier_uniform_: the tensor is (3,); expected at least",
        ),
        (
            lambda: init.kaiming_normal_(tg.empty(3)),
            ValueError,
            "kaiming_normal_: the tensor is (3,); expected at least",
        ),
        (
            lambda: init.kaiming_uniform_(tg.empty(3, 2), mode="fan"),
            ValueError,
            "kaiming_uniform_: mode is 'fan'; expected 'fan_in' or 'fan_out'",
        ),
        (
            lambda: init.kaiming_uniform_(tg.empty(3, 2), nonlinearity="swish"),
            ValueError,
            "calculate_gain: nonlinearity is 'swish'; expected one of 'leaky_relu', 'linear'",
        ),
        (lambda: init.calculate_gain("leaky_relu", "0.1"), TypeError, "calculate_gain: the negative slope is '0.1'"),
        (lambda: init.eye_(tg.empty(3)), ValueError, "eye_: the tensor is (3,); expected a matrix"),
        (lambda: init.orthogonal_(tg.empty(3)), ValueError, "orthogonal_: the tensor is (3,); expected at least 2"),
        (lambda: init.uniform_(tg.empty(3), 1.0, 0.0), ValueError, "uniform_: expected a <= b; got a=1.0, b=0.0"),
        (lambda: init.normal_(tg.empty(3), 0.0, -1.0), ValueError, "normal_: expected std >= 0; got -1.0"),
        (
            lambda: init.trunc_normal_(tg.empty(3), 0, 1, 5, 6),
            ValueError,
            "trunc_normal_: [5, 6] holds 2.9e-07 of N(",
        ),
        (lambda: init.trunc_normal_(tg.empty(3), b=-3.0), ValueError, "trunc_normal_: [-2.0, -3.0] holds"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)
