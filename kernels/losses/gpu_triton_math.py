"""Logarithms of a block of float32 values to about 2 ulp, for use inside kernels.

`tl.log(x)` is lg2.approx, whose error near 1 is 2^-22 of 1, not of the result (PTX ISA, lg2). So here is the method of
kernels/losses/cpu_log.py, with its coefficients: log(2^k (1 + f)) = k log 2 + log(1 + f).
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_HIGH: tl.constexpr = tl.constexpr(0.693359375)
_LOG2_LOW: tl.constexpr = tl.constexpr(-2.12194440e-4)
_ROOT: tl.constexpr = tl.constexpr(0.41421356)
_LESS: tl.constexpr = tl.constexpr(0.29289322)
_BITS_OF_ROOT: tl.constexpr = tl.constexpr(0x3F3504F3)  # sqrt(1/2)


@triton.jit
def _log_of_near_1(f):
    """log(1 + f), sqrt(1/2) <= 1 + f <= sqrt(2)."""
    q = -0.076345004 * f + 0.12761582
    q = q * f - 0.13160183
    q = q * f + 0.14201757
    q = q * f - 0.16623357
    q = q * f + 0.20001227
    q = q * f - 0.2500082
    q = q * f + 0.33333331
    return f - f * f * (0.5 - f * q)


@triton.jit
def log1p_of_fraction(e):
    """log(1 + e), 0 <= e <= 1; NaN stays NaN."""
    large = e > _ROOT
    value = _log_of_near_1(tl.where(large, (e - 1.0) * 0.5, e))  # log((1 + e) / 2)
    return tl.where(large, (value + _LOG2_LOW) + _LOG2_HIGH, value)


@triton.jit
def cut_log(x):
    """log x, not below -100; 0 <= x <= 1."""
    tiny = x < 7.888609e-31  # 2^-100: a subnormal number has no exponent of its own
    bits = tl.where(tiny, x * 4294967296.0, x).to(tl.int32, bitcast=True) - _BITS_OF_ROOT
    k = (bits >> 23).to(tl.float32) - tl.where(tiny, 32.0, 0.0)
    f = ((bits & 0x7FFFFF) + _BITS_OF_ROOT).to(tl.float32, bitcast=True) - 1.0
    value = (_log_of_near_1(f) + k * _LOG2_LOW) + k * _LOG2_HIGH
    return tl.where(value < -100.0, -100.0, value)


@triton.jit
def cut_log_of_rest(x):
    """log(1 - x), not below -100; 0 <= x <= 1. Small x keep their digits, which 1 - x has not."""
    return tl.where(x < _LESS, _log_of_near_1(-x), cut_log(1.0 - x))
