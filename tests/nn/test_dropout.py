"""Dropout: what is kept, how often, scaled by how much, and that the gradient takes the same mask."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn
from tilegrad.nn import functional as F

FUNCTIONS = {"dropout": F.dropout, "dropout2d": F.dropout2d}


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_scale(p):
    tg.manual_seed(0)
    n = 200_000
    y = F.dropout(tg.ones(n), p).numpy()
    kept = y != 0
    assert_same(y[kept], np.full(kept.sum(), np.float32(1 / (1 - p))))
    assert abs(kept.mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / n)  # five standard errors


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_channels_stand_or_fall_together(p):
    tg.manual_seed(0)
    x = tg.rand(200, 100, 2, 3) + 1
    y = F.dropout2d(x, p).numpy()
    kept = (y != 0).all(axis=(2, 3))
    dropped = (y == 0).all(axis=(2, 3))
    assert (kept ^ dropped).all()
    assert_same(y[kept], (x.numpy() * np.float32(1 / (1 - p)))[kept])
    assert abs(kept.mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / kept.size)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_gradient_takes_the_same_mask(name, dtype):
    x = tg.rand(8, 6, 3, 3, dtype=dtype) + 1
    x.requires_grad_()
    y = FUNCTIONS[name](x, 0.5)
    dy = tg.randn(8, 6, 3, 3, dtype=dtype)
    y.backward(dy)
    assert_same(x.grad.numpy(), np.where(y.detach().numpy() != 0, dy.numpy() * 2, 0))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_off(name):
    x = tg.randn(2, 3, 4, 4)
    assert FUNCTIONS[name](x, 0.5, training=False) is x
    assert FUNCTIONS[name](x, 0.0) is x
    assert_same(FUNCTIONS[name](x, 1.0).numpy(), np.zeros((2, 3, 4, 4), np.float32) * x.numpy())


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d"])
def test_layer(name):
    layer = getattr(nn, name)(0.4)
    x = tg.ones(4, 5, 3, 3)
    assert repr(layer) == f"{name}(p=0.4, inplace=False)"
    tg.manual_seed(3)
    first = layer(x).numpy()
    second = layer(x).numpy()
    assert (first != second).any()
    tg.manual_seed(3)
    assert_same(layer(x).numpy(), first)
    assert layer.eval()(x) is x


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d"])
def test_in_place(name):
    tg.manual_seed(5)
    want = getattr(nn, name)(0.4)(tg.ones(4, 5, 3, 3)).numpy()
    tg.manual_seed(5)
    x = tg.ones(4, 5, 3, 3)
    assert getattr(nn, name)(0.4, inplace=True)(x) is x
    assert_same(x.numpy(), want)
    assert getattr(nn, name)(0.4, inplace=True).eval()(x) is x
    assert_same(x.numpy(), want)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.Dropout(1.5), ValueError, "Dropout: p is 1.5; expected 0 <= p <= 1"),
        (lambda: nn.Dropout2d(-0.1), ValueError, "Dropout2d: p is -0.1; expected 0 <= p <= 1"),
        (lambda: nn.Dropout("0.5"), TypeError, "Dropout: p is '0.5'; expected a number"),
        (lambda: nn.Dropout(float("nan")), ValueError, "Dropout: p is nan; expected 0 <= p <= 1"),
        (lambda: F.dropout(tg.ones(3), 2), ValueError, "dropout: p is 2; expected 0 <= p <= 1"),
        (lambda: F.dropout(tg.ones(3, dtype="int64")), TypeError, "dropout: expected a floating-point tensor"),
        (lambda: F.dropout2d(tg.ones(3)), ValueError, "dropout2d: input is (3,); expected (N, C, H, W)"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("shape", [(50, 40), (50, 40, 6), (20, 30, 2, 3, 2)], ids=str)
def test_channels_are_what_the_first_two_dimensions_count(shape):
    x = tg.ones(*shape, requires_grad=True)
    y = F.dropout2d(x, 0.5)
    y.sum().backward()
    channels = y.detach().numpy().reshape(*shape[:2], -1)
    assert_same(channels, np.repeat(channels[:, :, :1], channels.shape[2], 2))
    assert set(np.unique(channels)) == {0, 2} and 0.4 < (channels > 0).mean() < 0.6
    assert_same(x.grad.numpy(), y.detach().numpy())
    x = tg.ones(*shape)
    assert F.dropout2d(x, 0.5, inplace=True) is x and set(np.unique(x.numpy())) == {0, 2}
