"""Sums and products as if computed exactly and rounded once, in every rounding mode (PTX ISA 9.7.3, IEEE 754).

The exact product of two float32 is a float64. Its sum with a third number is not, and rounding twice (to float64, then
to float32) is wrong where the first rounding lands on the middle between two float32. So a sum is rounded to odd: where
it is not exact, to the neighbour with an odd last bit, which is no number and no middle of a narrower format. What is
rounded from there is rounded right (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
"""

from __future__ import annotations

from typing import Any

import numpy as np

_ONE, _INT = np.int64(1), np.int64


def odd_sum(a: Any, b: Any) -> Any:
    """a + b of float64, rounded to odd."""
    s = np.asarray(a + b)
    t = s - a
    error = (a - (s - t)) + (b - t)  # exact (Knuth's two-sum)
    bits = s.view(_INT)
    inexact = np.isfinite(s) & (error != 0) & (bits & _ONE == 0)
    if not inexact.any():
        return s
    toward = np.where((error > 0) == (s > 0), _ONE, -_ONE)  # away from zero, or toward it
    return np.where(inexact, bits + toward, bits).view(np.float64)


def narrowed(x: Any, mode: str) -> Any:
    """A float64, rounded to odd if it was not exact, as float32 in that mode: rn, rz, rm (down) or rp (up)."""
    nearest = x.astype(np.float32)
    if mode == "rn":
        return nearest
    back = nearest.astype(np.float64)
    too_high = (back > x) & ((mode == "rm") | ((mode == "rz") & (x > 0)))
    too_low = (back < x) & ((mode == "rp") | ((mode == "rz") & (x < 0)))
    lower = np.nextafter(nearest, np.float32(-np.inf))
    upper = np.nextafter(nearest, np.float32(np.inf))
    return np.where(too_high, lower, np.where(too_low, upper, nearest))


def odd_float32(x: Any) -> Any:
    """A float64, rounded to odd if it was not exact, as float32 rounded to odd: on the way to 16 bits."""
    truncated = narrowed(x, "rz")
    bits = truncated.view(np.uint32)
    inexact = (truncated.astype(np.float64) != x) & np.isfinite(truncated) & ~np.isnan(x)
    return np.where(inexact, bits | np.uint32(1), bits).view(np.float32)


def exact_fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c of float32 (or of what float32 holds), as float64 rounded to odd."""
    return odd_sum(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))


_LEAST_NORMAL = np.float64(np.finfo(np.float32).tiny).view(np.uint64) << np.uint64(1)  # without its sign


def fma32(a: Any, b: Any, c: Any) -> Any:
    """a * b + c of float32, rounded once to the nearest, ties to even."""
    c = c.astype(np.float64)
    product = a.astype(np.float64) * b.astype(np.float64)
    s = np.asarray(product + c)
    # Only where float64's rounding landed on a middle between two float32 does it matter what was rounded off; between
    # subnormal ones there are more middles. Zero is exact, and 0 - 1 the largest number.
    bits = s.view(np.uint64)
    risky = bits & np.uint64(0x1FFFFFFF) == np.uint64(0x10000000)
    risky |= (bits << np.uint64(1)) - np.uint64(1) < _LEAST_NORMAL
    if risky.any():
        product, c = (np.broadcast_to(x, s.shape)[risky] for x in (product, c))
        s[risky] = odd_sum(product, c)
    return s.astype(np.float32)


def to_bfloat16(x: Any) -> Any:
    """float32 as the bits of bfloat16, to nearest, ties to even; NaN is 0x7FFF (PTX ISA 9.7.9, cvt)."""
    bits = x.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded.astype(np.uint16))


def from_bfloat16(bits: Any) -> Any:
    """float32 of the bits of bfloat16, exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_float16(x: Any) -> Any:
    """float32 as float16, to nearest, ties to even; NaN is 0x7FFF."""
    half = x.astype(np.float16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), half.view(np.uint16)).view(np.float16)


def flushed(x: Any) -> Any:
    """float32 with subnormal numbers as zeros of their sign: .ftz (PTX ISA 9.7.3)."""
    bits = np.asarray(x).view(np.uint32)
    subnormal = bits & np.uint32(0x7F800000) == 0
    return np.where(subnormal, bits & np.uint32(0x80000000), bits).view(np.float32)
