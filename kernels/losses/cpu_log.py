"""Logarithms of one float32, in forms that LLVM turns into vectors: no calls, no tables, no branches.

    log(2^k (1 + f)) = k log 2 + log(1 + f),   log(1 + f) = f - f^2/2 + f^3 q(f),   sqrt(1/2) <= 1 + f <= sqrt(2)

log 2 is in two parts (Cody & Waite, "Software Manual for the Elementary Functions", 1980). q is of degree 7. Its
coefficients minimise the largest relative error of log(1 + f), 6e-9, found by Lawson's algorithm (reweighted least
squares). Results are within two units in the last place.
"""

from __future__ import annotations

import math

import numpy as np

from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.scalar_math import CONTRACT, of_ordered, ordered

_f = np.float32
_ONE, _HALF = _f(1), _f(0.5)
_ROOT = _f(math.sqrt(2) - 1)
_LESS, _LEAST_LOG = _f(1 - math.sqrt(0.5)), _f(-100)
_LOG2_HIGH, _LOG2_LOW = _f(0.693359375), _f(-2.12194440e-4)
_TINY, _RAISE, _RAISED = _f(2.0**-100), _f(2.0**32), _f(32)
_BITS_OF_ROOT, _FRACTION, _SHIFT = np.int32(0x3F3504F3), np.int32(0x7FFFFF), np.int32(23)  # sqrt(1/2)
_Q = (0.33333331, -0.2500082, 0.20001227, -0.16623357, 0.14201757, -0.13160183, 0.12761582, -0.076345004)
_Q0, _Q1, _Q2, _Q3, _Q4, _Q5, _Q6, _Q7 = map(_f, _Q)


@njit(nogil=True, fastmath=CONTRACT)
def _log_of_near_1(f):
    """log(1 + f)."""
    q = _Q3 + f * (_Q4 + f * (_Q5 + f * (_Q6 + f * _Q7)))
    q = _Q0 + f * (_Q1 + f * (_Q2 + f * q))
    return f - f * f * (_HALF - f * q)


@njit(nogil=True, fastmath=CONTRACT)
def log1p_of_fraction(e):
    """log(1 + e), 0 <= e <= 1; NaN stays NaN."""
    large = e > _ROOT
    value = _log_of_near_1((e - _ONE) * _HALF if large else e)  # log((1 + e) / 2)
    return (value + _LOG2_LOW) + _LOG2_HIGH if large else value


@njit(nogil=True, fastmath=CONTRACT)
def cut_log(x):
    """log x, not below -100; 0 <= x <= 1."""
    tiny = x < _TINY
    bits = ordered(x * _RAISE if tiny else x) - _BITS_OF_ROOT
    k = np.float32(bits >> _SHIFT) - (_RAISED if tiny else _f(0))
    f = of_ordered((bits & _FRACTION) + _BITS_OF_ROOT) - _ONE
    value = (_log_of_near_1(f) + k * _LOG2_LOW) + k * _LOG2_HIGH
    return _LEAST_LOG if value < _LEAST_LOG else value


@njit(nogil=True, fastmath=CONTRACT)
def cut_log_of_rest(x):
    """log(1 - x), not below -100; 0 <= x <= 1. Small x keep their digits, which 1 - x has not."""
    near, far = _log_of_near_1(-x), cut_log(_ONE - x)
    return near if x < _LESS else far
