"""Functions of one number, in forms that LLVM turns into vectors: no calls, no tables, no branches.

    exp(v) = 2^n exp(r),   n = round(v / log 2),   |r| <= log(2) / 2                 for v <= 0

in float32, with log 2 in two parts (Cody & Waite, "Software Manual for the Elementary Functions", 1980). It is off by
less than one unit in the last place, also where the result is a subnormal number. Numba's own exp calls the C library
for every element: 5,120 of them take 25 microseconds, here 1.5.

If v is the result of a formula, rounding it to float32 would put exp(v) off by some |v| / 2 units in the last place. So
`normal_in_parts` has a^2 exactly, as the square of a's first 12 bits plus the rest, and `wide_exp_in_parts` takes a
float64, reduces it and goes on in float32.

exp(r) = 1 + r + r^2 q(r), and erfc(a / sqrt 2) / 2 = exp(-a^2/2) s t(s - 0.6) with s = 1 / (1 + a / 2), much as in
Abramowitz & Stegun 7.1.26. The polynomials q, of degree 4, and t, of degree 11, minimise the largest relative error of
exp(r), and of erfc for a <= 19. They were found by Lawson's algorithm (reweighted least squares): the error is 3e-9
each, where half a unit in the last place is 3e-8 to 6e-8. Taken about 0.6, the middle of its range, t has terms that
hardly cancel. With 0.3 a in s instead of a / 2, t would be shorter (degree 9), but rounding s would weigh more: 4.5
units in the last place at most, instead of 3.3.

Products may be contracted with sums, so that a core with fused multiply-adds uses them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tilegrad.kernels.cpu.code import njit

_f = np.float32
CONTRACT = {"contract"}
_ONE, _ZERO = _f(1), _f(0)
_PER_LOG2 = _f(1 / math.log(2))
_LOG2_HIGH, _LOG2_LOW = _f(0.693359375), _f(-2.12194440e-4)
_ROUND = _f(1.5 * 2**23)  # adding it leaves no bits for a fraction
_WIDE_PER_LOG2, _WIDE_LOG2, _WIDE_ROUND = 1 / math.log(2), math.log(2), 1.5 * 2**52
_LEAST = _f(-176)  # here n is -254, and half of it -127: the bits of 2^-127 are 0
_FARTHEST = _f(18.77)  # the same for minus half of its square
_Q0, _Q1, _Q2, _Q3, _Q4 = map(_f, (0.49999994, 0.16666521, 0.04166839, 0.008368717, 0.0013814598))
_HALF, _MIDDLE = _f(0.5), _f(0.6)
_T0, _T1, _T2, _T3, _T4, _T5 = map(_f, (0.36977416, 0.3385519, 0.014281686, -0.13898258, 0.03959465, 0.06461051))
_T6, _T7, _T8, _T9 = map(_f, (-0.0734481, 0.013897628, 0.052628472, -0.07459996))
_T10, _T11 = map(_f, (-0.0012230185, 0.06991593))


@intrinsic
def _power_of_two(context: Any, k: Any) -> Any:
    """2^k as float32, -126 <= k <= 127: the exponent's bits. 0 for k = -127."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        word = ir.IntType(32)
        return b.bitcast(b.shl(b.add(args[0], word(127)), word(23)), ir.FloatType())

    return types.float32(types.int32), codegen


@njit(nogil=True, fastmath=CONTRACT)
def exp_in_parts(v):
    """(g, p, h), whose product is exp(v) for a float32 v <= 0. g h = 2^n: by itself 2^n may be too small a number.

    x exp(v) is x * g * p * h: a subnormal result is then rounded once, at the end. Below -176 g is 0, so that a finite
    x gives 0 and an infinite one NaN. NaN gives NaN.
    """
    v = _LEAST if v < _LEAST else v
    n = (v * _PER_LOG2 + _ROUND) - _ROUND
    return _parts((v - n * _LOG2_HIGH) - n * _LOG2_LOW, n)


@njit(nogil=True, fastmath=CONTRACT)
def exp(v):
    """exp(v) for a float32 v <= 176; NaN stays NaN."""
    g, p, h = exp_in_parts(v)
    return g * p * h


@njit(nogil=True, cache=True)
def exp_in_place(x, size):
    """x[i] = exp(x[i]) for i < size; x float32, one-dimensional, no number above 176. NaN stays NaN.

    Within one unit in the last place, where that is a subnormal number too.
    """
    x = x[:size]
    for i in range(x.size):
        x[i] = exp(x[i])


@njit(nogil=True, fastmath=CONTRACT)
def wide_exp_in_parts(v):
    """exp_in_parts of a float64."""
    v = -176.0 if v < -176.0 else v
    n = (v * _WIDE_PER_LOG2 + _WIDE_ROUND) - _WIDE_ROUND
    return _parts(np.float32(v - n * _WIDE_LOG2), np.float32(n))


@njit(nogil=True, fastmath=CONTRACT)
def normal_in_parts(a):
    """exp_in_parts of -a^2/2, for a >= 0."""
    a = _FARTHEST if a > _FARTHEST else a
    head = _head(a)
    large, small = _HALF * (head * head), _HALF * ((a - head) * (a + head))
    n = (_ROUND - (large + small) * _PER_LOG2) - _ROUND
    return _parts(((-large - n * _LOG2_HIGH) - small) - n * _LOG2_LOW, n)


@njit(nogil=True, fastmath=CONTRACT)
def _parts(r, n):
    q = _Q0 + r * (_Q1 + r * (_Q2 + r * (_Q3 + r * _Q4)))
    k = np.int32(n if n == n else _ZERO)
    half = k >> np.int32(1)
    return _power_of_two(half), _ONE + (r + r * r * q), _power_of_two(k - half)


@njit(nogil=True, fastmath=CONTRACT, error_model="numpy")
def normal_tail(a):
    """erfc(a / sqrt 2) / 2 over exp(-a^2/2) for a >= 0: the tail of the normal distribution beyond a, scaled."""
    s = _ONE / (_ONE + _HALF * a)
    u = s - _MIDDLE
    t = _T6 + u * (_T7 + u * (_T8 + u * (_T9 + u * (_T10 + u * _T11))))
    return s * (_T0 + u * (_T1 + u * (_T2 + u * (_T3 + u * (_T4 + u * (_T5 + u * t))))))


@intrinsic
def ordered(context: Any, x: Any) -> Any:
    """An int32 for a float32, in the same order. Integers have a maximum in vectors; floats do not, because of NaN.

    A NaN is larger than infinity, or smaller than -infinity if its sign is set.
    """

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _reversed_if_negative(b, b.bitcast(args[0], ir.IntType(32)))

    return types.int32(types.float32), codegen


@intrinsic
def of_ordered(context: Any, number: Any) -> Any:
    """The float32 that `ordered` turned into this int32."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return b.bitcast(_reversed_if_negative(b, args[0]), ir.FloatType())

    return types.float32(types.int32), codegen


def _reversed_if_negative(b: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """The bits; if the sign is set, all others are flipped."""
    word = ir.IntType(32)
    return b.xor(bits, b.and_(b.ashr(bits, word(31)), word(0x7FFFFFFF)))


@intrinsic
def _head(context: Any, x: Any) -> Any:
    """x cut to 12 bits, so that its square is exact."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        word = ir.IntType(32)
        return b.bitcast(b.and_(b.bitcast(args[0], word), word(0xFFFFF000)), ir.FloatType())

    return types.float32(types.float32), codegen
