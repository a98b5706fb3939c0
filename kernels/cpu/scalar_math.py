"""Functions of one number, in forms that LLVM turns into vectors: no calls, no tables, no branches.

    exp(v) = 2^n exp(r),   n = round(v / log 2),   |r| <= log(2) / 2                 for v <= 0

in float32, with log 2 in two parts (Cody & Waite, "Software Manual for the Elementary Functions", 1980). It is off by
less than one unit in the last place, also where the result is a subnormal number. Numba's own exp calls the C library
for every element: 5,120 of them take 25 microseconds, here 1.5.

If v is the result of a formula, rounding it to float32 would put exp(v) off by some |v| / 2 units in the last place. So
`normal_in_parts` has a^2/2 and `gaussian_in_parts` a^2 exactly, as a rounded product and what a fused multiply-add says
it is off by (Dekker 1971), and `wide_exp_in_parts` takes a float64, reduces it and goes on in float32.

exp(r) = 1 + r + r^2 q(r), where q is of degree 4. erfc(a / sqrt 2) / 2 = exp(-a^2/2) n(a) / d(a), of degrees 4 and 5,
much as Cody 1969 ("Rational Chebyshev approximations for the error function") has it beyond 4: here one quotient serves
all of 0 <= a <= 14.6, beyond which x erfc rounds to 0. All coefficients are positive, so that nothing cancels. They
minimise the largest relative error, found by Lawson's algorithm (reweighted least squares): 3e-9 and 1.1e-8, where half
a unit in the last place is 3e-8 to 6e-8. Rounding the sums puts the quotient off by 4.4 units at most. erf's polynomial
up to 1, of degree 6 in x^2, was found in the same way, to 5e-9, and tanh's up to 0.6, of degree 4 in x^2, to 3e-9.

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
_WIDE_LEAST = -253 * math.log(2)
_LEAST = _f(-176)  # here n is -254, and half of it -127: the bits of 2^-127 are 0
_LEAST_IN_PARTS = _f(-253 * math.log(2))  # here n is -253, and 126 more -127
_FARTHEST = _f(math.sqrt(2 * 253 * math.log(2)))  # the same for minus half of its square
_FARTHEST_OF_SQUARE = _f(math.sqrt(253 * math.log(2)))  # and for minus its square
_SHIFT, _SHIFTED = np.int32(126), _f(2.0**-126)
_Q0, _Q1, _Q2, _Q3, _Q4 = map(_f, (0.49999994, 0.16666521, 0.04166839, 0.008368717, 0.0013814598))
_HALF = _f(0.5)
_N1, _N2, _N3, _N4 = map(_f, (0.43779606, 0.18283786, 0.040491253, 0.0040928377))
_E0, _E1, _E2, _E3 = map(_f, (0.128379166, -0.37612626, 0.112835854, -0.026853811))
_E4, _E5, _E6 = map(_f, (0.00518832775, -0.000801019254, 7.8538571e-5))
_T0, _T1, _T2, _T3, _T4 = map(_f, (-0.33333298, 0.13331924, -0.05378383, 0.02079597, -0.00589516))
_FROM_EXP = _f(0.55)  # beyond it 1 - exp(-2x) has all its digits
_D1, _D2, _D3, _D4, _D5 = map(_f, (1.6734769, 1.2009132, 0.46841463, 0.10150302, 0.010259102))


def _chosen(comparison: str) -> Any:
    @intrinsic
    def chosen(context: Any, a: Any, b: Any) -> Any:
        """That one of two integers. Numba's min and max are compiled anew for all options that a kernel may have."""

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return builder.select(builder.icmp_signed(comparison, *args), *args)

        return types.intp(types.intp, types.intp), codegen

    return chosen


smaller, larger = _chosen("<"), _chosen(">")


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

    x exp(v) is x * g * p * h: a subnormal result is then rounded once, at the end. g is 2^126 at most. Below -176 g is
    0, so that a finite x gives 0 and an infinite one NaN. NaN gives NaN.
    """
    v = _LEAST_IN_PARTS if v < _LEAST_IN_PARTS else v
    shifted = v * _PER_LOG2 + _ROUND
    n = shifted - _ROUND
    return _power_of_two(_whole(shifted) + _SHIFT), _exp_of_small((v - n * _LOG2_HIGH) - n * _LOG2_LOW), _SHIFTED


@njit(nogil=True, fastmath=CONTRACT)
def exp(v):
    """exp(v) for a float32 v <= 176; NaN stays NaN."""
    v = _LEAST if v < _LEAST else v
    shifted = v * _PER_LOG2 + _ROUND
    n, k = shifted - _ROUND, _whole(shifted)
    half = k >> np.int32(1)
    p = _exp_of_small((v - n * _LOG2_HIGH) - n * _LOG2_LOW)
    return _power_of_two(half) * p * _power_of_two(k - half)


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
    v = _WIDE_LEAST if v < _WIDE_LEAST else v
    n = (v * _WIDE_PER_LOG2 + _WIDE_ROUND) - _WIDE_ROUND
    k = np.int32(n if n == n else 0.0)
    return _power_of_two(k + _SHIFT), _exp_of_small(np.float32(v - n * _WIDE_LOG2)), _SHIFTED


@njit(nogil=True, fastmath=CONTRACT)
def normal_in_parts(a):
    """exp_in_parts of -a^2/2, for a >= 0."""
    a = _FARTHEST if a > _FARTHEST else a
    return _exp_of_minus(*_product(a, _HALF * a))


@njit(nogil=True, fastmath=CONTRACT)
def gaussian_in_parts(a):
    """exp_in_parts of -a^2, for a >= 0."""
    a = _FARTHEST_OF_SQUARE if a > _FARTHEST_OF_SQUARE else a
    return _exp_of_minus(*_product(a, a))


@njit(nogil=True, fastmath=CONTRACT)
def _exp_of_minus(large, small):
    """exp_in_parts of -(large + small), for small much below an ulp of exp's argument."""
    shifted = _ROUND - large * _PER_LOG2
    n = shifted - _ROUND
    r = ((-large - n * _LOG2_HIGH) - small) - n * _LOG2_LOW
    return _power_of_two(_whole(shifted) + _SHIFT), _exp_of_small(r), _SHIFTED


@njit(nogil=True)
def _product(a, b):
    """a b as a float32 and the rest. Nothing is contracted here: the rest is that of the rounded product."""
    large = a * b
    return large, _multiply_add(a, b, -large)


@njit(nogil=True, fastmath=CONTRACT)
def _exp_of_small(r):
    return _ONE + (r + r * r * (_Q0 + r * (_Q1 + r * (_Q2 + r * (_Q3 + r * _Q4)))))


@njit(nogil=True, fastmath=CONTRACT, error_model="numpy")
def normal_tail(a):
    """erfc(a / sqrt 2) / 2 over exp(-a^2/2) for a >= 0: the tail of the normal distribution beyond a, scaled."""
    a = _FARTHEST if a > _FARTHEST else a
    above = _HALF + a * (_N1 + a * (_N2 + a * (_N3 + a * _N4)))
    return above / (_ONE + a * (_D1 + a * (_D2 + a * (_D3 + a * (_D4 + a * _D5)))))


@njit(nogil=True, fastmath=CONTRACT)
def erf_of_small(x):
    """erf(x) for |x| <= 1, as x + x p(x^2): an error of p counts for an eighth at most. NaN stays NaN."""
    z = x * x
    p = _E0 + z * (_E1 + z * (_E2 + z * (_E3 + z * (_E4 + z * (_E5 + z * _E6)))))
    return x + x * p


@njit(nogil=True, fastmath=CONTRACT, error_model="numpy")
def sigmoid(x):
    """1 / (1 + exp(-x)): 1 or e, over 1 + e, of e = exp(-|x|). Within 2.1 units in the last place. NaN stays NaN."""
    g, p, h = exp_in_parts(-abs(x))
    e = g * p * h
    return (_ONE if x > _ZERO else e) / (_ONE + e)


@njit(nogil=True, fastmath=CONTRACT, error_model="numpy")
def tanh(x):
    """The hyperbolic tangent: x + x^3 p(x^2), and (1 - e) / (1 + e) of e = exp(-2|x|) beyond 0.55. NaN stays NaN.

    Within 2.2 units in the last place.
    """
    z, size = x * x, abs(x)
    g, p, h = exp_in_parts(-(size + size))
    e = g * p * h
    far = (_ONE - e) / (_ONE + e)
    near = x + x * z * (_T0 + z * (_T1 + z * (_T2 + z * (_T3 + z * _T4))))
    return near if size <= _FROM_EXP else far if x > _ZERO else -far


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
def _whole(context: Any, shifted: Any) -> Any:
    """n, an int32, of the float32 n + _ROUND: its last bits. Of NaN anything."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        word = ir.IntType(32)
        return b.sub(b.bitcast(args[0], word), word(int(_ROUND.view(np.int32))))

    return types.int32(types.float32), codegen


@intrinsic
def _multiply_add(context: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z, rounded once (a call of the C library on a core without fused multiply-adds)."""

    def codegen(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return b.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), codegen
