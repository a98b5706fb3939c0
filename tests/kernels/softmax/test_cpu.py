"""The compiled softmax against float64, in units in the last place; and in pieces."""

import numpy as np
import pytest

from tests.compare import assert_same
from tests.layouts import untouched
from tilegrad.kernels.backends import cpu
from tilegrad.kernels.backends import reference as specification
from tilegrad.kernels.cpu import threads

NAMES = "softmax", "log_softmax"


@pytest.mark.parametrize("shape", [(300, 7), (2, 3, 65), (3, 5000), (1, 70001)], ids=str)
def test_to_a_few_units_in_the_last_place(shape):
    x = (20 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    with untouched(x):
        y, log = cpu.softmax(x), cpu.log_softmax(x)
    want, want_log = (getattr(specification, name)(x.astype(np.float64)) for name in NAMES)
    # x - m is rounded, by up to 2^-24 of itself, which is as much of its exponential
    shift = np.abs(x - x.max(-1, keepdims=True)).astype(np.float64)
    unit = np.maximum(np.spacing(want.astype(np.float32)), 2.0**-24 * shift * want)
    assert (np.abs(y - want) / unit).max() <= 4
    unit = np.spacing(np.maximum(np.maximum(np.abs(want_log), shift), 1).astype(np.float32))  # of the sum, 1 or more
    assert (np.abs(log - want_log) / unit).max() <= 2


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_no_numbers_are_the_specifications(name):
    nan, inf = np.float32(np.nan), np.float32(np.inf)
    ends = [[nan], [-nan], [inf], [-inf], [3e38], [-3e38], [0]]
    x = np.concatenate([np.full((7, 40), -1, np.float32), np.array(ends, np.float32)], axis=1)
    x = np.concatenate([x, np.full((2, 41), [[-inf], [-3e38]], np.float32)])
    got, want = getattr(cpu, name)(x), getattr(specification, name)(x)
    assert_same(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_give_the_same_bits(name, monkeypatch):
    x, dy = np.random.default_rng(1).standard_normal((2, 131, 513)).astype(np.float32)
    results = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "_count", count)
        y = getattr(cpu, name)(x)
        with untouched(dy, y):
            results.append((y, getattr(cpu, f"{name}_grad")(dy, y)))
    for y, dx in results:
        assert_same(y, results[0][0])
        assert_same(dx, results[0][1])


def test_the_gradient_of_what_is_no_logarithm_of_a_probability():
    y = np.array([[0, 50, 88, 100, 300, np.inf, -np.inf, -300]], np.float32)
    dy = np.ones_like(y)
    got, want = cpu.log_softmax_grad(dy, y), specification.log_softmax_grad(dy, y)
    np.testing.assert_allclose(got, want, rtol=1e-6)
