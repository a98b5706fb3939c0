"""The scalar functions that compiled kernels share, against float64, in units in the last place."""

import math

import numpy as np
import pytest
from numba import njit

from tests.compare import assert_same
from tilegrad.kernels.cpu.scalar_math import exp_in_parts, normal_in_parts, normal_tail, wide_exp_in_parts

FURTHEST = 14.6  # where x erfc(-x / sqrt 2) rounds to 0


@njit()
def product_of_parts(function, v, scale, out):
    for i in range(out.size):
        g, p, h = function(v[i])
        out[i] = scale[i] * g * p * h


@njit(error_model="numpy")
def tails(a, out):
    for i in range(out.size):
        out[i] = normal_tail(a[i])


def scaled(function, v, scale=1.0):
    out, scale = np.empty(v.size, np.float32), np.full(v.size, scale, np.float32)
    product_of_parts(function, v, scale, out)
    return out


def units(got, want):
    unit = np.spacing(want.astype(np.float32)).astype(np.float64)
    return (np.abs(got - want) / unit).max()


@pytest.mark.parametrize("scale", [1.0, 2.0**-20, 1.5], ids=str)
def test_parts_of_the_exponential(scale):
    """A subnormal result is rounded once. A product of float32 adds half a unit."""
    v = -np.concatenate([np.logspace(-9, math.log10(87), 20001), np.linspace(0, 104, 20001)])
    narrow = v.astype(np.float32)
    assert units(scaled(exp_in_parts, narrow, scale), scale * np.exp(narrow.astype(np.float64))) <= 1.5
    assert units(scaled(wide_exp_in_parts, v, scale), scale * np.exp(v)) <= 1.5


def test_parts_of_the_normal_density():
    """Though a^2/2 is no float32: rounded to one it would put the result off by up to 50 units."""
    a = np.concatenate([np.logspace(-20, 1, 20001), np.linspace(0, FURTHEST, 40001)]).astype(np.float32)
    a = a[a < 14.4]
    assert units(scaled(normal_in_parts, a), np.exp(-0.5 * a.astype(np.float64) ** 2)) <= 1.5


def test_the_scaled_tail_of_the_normal_distribution():
    a = np.concatenate([np.logspace(-20, 1, 20001), np.linspace(0, FURTHEST, 40001)]).astype(np.float32)
    out, wide = np.empty_like(a), a.astype(np.float64).tolist()
    tails(a, out)
    want = np.array([math.erfc(x * math.sqrt(0.5)) / 2 * math.exp(x * x / 2) for x in wide])
    assert units(out, want) <= 4.6


def test_ends_and_what_is_no_number():
    """Where the exponential is 0, a finite number times it is 0 and an infinite one NaN."""
    far = np.array([-176, -1e30, -np.inf, np.nan], np.float32)
    for function, v in ((exp_in_parts, far), (wide_exp_in_parts, far.astype(np.float64)), (normal_in_parts, -far)):
        assert_same(scaled(function, v, np.finfo(np.float32).max), np.array([0, 0, 0, np.nan], np.float32))
        assert np.isnan(scaled(function, v, np.inf)).all()
    out = np.empty(3, np.float32)
    tails(np.array([0, np.inf, np.nan], np.float32), out)
    assert out[0] == 0.5
    assert 0 < out[1] < 0.03
    assert np.isnan(out[2])
