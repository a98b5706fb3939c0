"""Functions of a block of float32 values that Triton's language does not have, for use inside kernels.

`tl.exp(x)` is the instruction ex2.approx.ftz of x * log2(e): good to 2 ulp near 0 (PTX ISA, ex2), but the rounding of
that product costs another |x| / 3 ulp, and subnormal results are 0. Where a result is proportional to the exponential
far from 0, `exp` is used.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E: tl.constexpr = tl.constexpr(1.44269502162933349609375)  # log2(e), as float32 holds it
_LOG2_E_REST: tl.constexpr = tl.constexpr(1.925963033500e-8)  # and what that leaves
_ROUNDER: tl.constexpr = tl.constexpr(12582912.0 + 127)  # 1.5 * 2^23: adding it rounds to an int in the lowest bits


@triton.jit
def exp(x):
    """exp(x) for x <= 0, to about 2 ulp, subnormal results too.

    exp(x) = 2^n 2^r with n = round(x log2(e)), at least -126, and r = x log2(e) - n exactly, by fused multiply-adds.
    """
    biased = tl.maximum(x * _LOG2_E + _ROUNDER, _ROUNDER - 126.0)  # n + 127, the exponent's bits, in the lowest bits
    n = biased - _ROUNDER
    r = tl.fma(x, _LOG2_E, -n)
    r = tl.fma(x, _LOG2_E_REST, r)
    two_to_n = (biased.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
    return tl.abs(tl.exp2(r) * two_to_n)  # abs is free, and tells the compiler that 1 + exp(x) can be divided by as is


@triton.jit
def gaussian(x):
    """exp(-x^2) to about 2 ulp: x^2 as a rounded product s and the rest r, exp(-s - r) = exp(-s) (1 - r)."""
    a = tl.minimum(tl.abs(x), 16.0, propagate_nan=tl.PropagateNan.ALL)  # beyond, the result is 0
    s = a * a
    e = exp(-s)
    return e - e * tl.fma(a, a, -s)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), from e = exp(-|x|): no overflow, and the tail keeps its digits."""
    e = exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def sigmoid_and_slope(x):
    """(s, s') = (sigmoid(x), e / (1 + e)^2), e = exp(-|x|): s (1 - s) would lose its digits where s is nearly 1."""
    e = exp(-tl.abs(x))
    r = 1.0 / (1.0 + e)
    tail = e * r
    return tl.where(x >= 0.0, r, tail), tail * r


@triton.jit
def normal_cdf(x):
    """Phi(x) = (1 + erf(x / sqrt 2)) / 2; the lower tail keeps its digits, which 1 + erf loses.

    Phi(-a) = 2^p(a) for a = |x|, p the polynomial of degree 10 with p(0) = -1 that is nearest to log2 Phi(-a) on
    [0, 6], to 7e-8 of max(1, |p|) (least squares, reweighted towards the largest error after Lawson). Beyond 6, where
    Phi is below 1e-9, p keeps falling. Error: 3 ulp above x = -1, then rising with |p| to 50 ulp at -5. It takes half
    of the instructions that tl.erf does.
    """
    a = tl.abs(x)
    p = -1.862387577e-8 * a + 5.959019518e-7
    p = p * a - 8.140672435e-6
    p = p * a + 6.000118083e-5
    p = p * a - 2.233553969e-4
    p = p * a - 1.150886747e-4
    p = p * a + 7.083638106e-3
    p = p * a - 5.252904817e-2
    p = p * a - 4.591946602e-1
    p = p * a - 1.151106715
    tail = tl.exp2(p * a - 1.0)
    return tl.where(x < 0.0, tail, 1.0 - tail)


@triton.jit
def tanh(x):
    """tanh to a few ulp: an odd polynomial below 0.625, 1 - 2 / (exp(2|x|) + 1) above.

    Coefficients: S. L. Moshier, Cephes mathematical library, tanhf.c.
    """
    size = tl.abs(x)
    z = x * x
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    small = p * z * size + size
    large = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return _with_sign_of(x, tl.where(size < 0.625, small, large))


@triton.jit
def _with_sign_of(x, size):
    """size >= 0 with the sign of x, that of zero too."""
    sign = x.to(tl.int32, bitcast=True) & -0x80000000
    return (size.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
