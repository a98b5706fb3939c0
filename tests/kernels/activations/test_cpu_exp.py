"""The exponential of the compiled cross-entropy, against NumPy's in float64."""

import numpy as np

from tilegrad.kernels.cpu.scalar_math import exp_in_place


def test_within_one_unit_in_the_last_place():
    x = -np.logspace(-9, np.log10(103.9), 20001).astype(np.float32)  # down to the least subnormal number
    y = x.copy()
    exp_in_place(y, y.size)
    want = np.exp(x.astype(np.float64))
    unit = np.spacing(want.astype(np.float32)).astype(np.float64)
    assert (np.abs(y - want) / unit).max() <= 1


def test_the_ends_of_the_range():
    x = np.array([0, -0.0, -104, -105, -1e30, -np.inf, np.nan], np.float32)
    exp_in_place(x, x.size)
    assert np.array_equal(x, np.array([1, 1, 0, 0, 0, 0, np.nan], np.float32), equal_nan=True)


def test_only_the_first_numbers_are_written():
    x = np.zeros(40, np.float32)
    exp_in_place(x, 33)
    assert (x[:33] == 1).all()
    assert (x[33:] == 0).all()
