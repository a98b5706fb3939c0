"""Loops of the activations, erf and their gradients over float32 numbers in a row, compiled into vectors.

Every loop takes slices first: their indices count from 0, and an index that could be negative would keep LLVM from
vectorising the loop. Formulas are the reference's, except where those lose digits in float32. In the comments e is
exp(-|x|), which comes in parts (cpu.scalar_math.exp_in_parts), and d is 1 + e. The largest errors over all of float32,
in units in the last place:

    sigmoid 2.1, silu 3.0, gelu 5.8 and below -8, where it is less than 1e-14, 6.2, by the tanh formula 2.7; erf 1.2;
    the gradients of silu and gelu 5.6, between -2 and 0, where they pass through 0, in units of 1/4; erf's 2.4; the
    other gradients 1.5

One core with AVX-512, 65,536 numbers in its cache: gelu takes 21 microseconds. With x^2 split at 12 bits, with 2^n as
two factors, each of half of n, and with n converted from float to int it took 3 more; with the tail of the normal
distribution as a polynomial of degree 11 in 1 / (1 + x/2), not as a quotient, 7 more.
"""

from __future__ import annotations

import math

import numpy as np

from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.scalar_math import (
    CONTRACT,
    erf_of_small,
    exp_in_parts,
    gaussian_in_parts,
    normal_in_parts,
    normal_tail,
    wide_exp_in_parts,
)
from tilegrad.kernels.cpu.team import share

_f = np.float32
_ONE, _ZERO = _f(1), _f(0)
_INV_SQRT_2PI = _f(1 / math.sqrt(2 * math.pi))
_U1, _U3 = math.sqrt(8 / math.pi), math.sqrt(8 / math.pi) * 0.044715  # 2u = _U1 x + _U3 x^3
_DU1, _DU3 = _f(_U1), _f(3 * _U3)
_TWO, _SQRT_2, _ERF_SLOPE = _f(2), _f(math.sqrt(2)), _f(2 / math.sqrt(math.pi))
_SATURATED = _f(30)  # beyond it sigmoid(2u) is 0 or 1


@njit(nogil=True, cache=True)
def relu(x, y, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    x, y = x[begin:stop], y[begin:stop]
    for i in range(y.size):
        y[i] = _ZERO if x[i] <= _ZERO else x[i]


@njit(nogil=True, cache=True)
def relu_grad(dy, y, dx, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    dy, y, dx = dy[begin:stop], y[begin:stop], dx[begin:stop]
    for i in range(dx.size):
        dx[i] = _ZERO if y[i] <= _ZERO else dy[i]


@njit(nogil=True, cache=True)
def leaky_relu(x, slope, y, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    x, y, slope = x[begin:stop], y[begin:stop], np.float32(slope)
    for i in range(y.size):
        below = x[i] * slope
        y[i] = x[i] if x[i] > _ZERO else below


@njit(nogil=True, cache=True)
def leaky_relu_grad(dy, x, slope, dx, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    dy, x, dx, slope = dy[begin:stop], x[begin:stop], dx[begin:stop], np.float32(slope)
    for i in range(dx.size):
        below = dy[i] * slope
        dx[i] = dy[i] if x[i] > _ZERO else below


@njit(nogil=True, cache=True, fastmath=CONTRACT, error_model="numpy")
def sigmoid(x, y, begin, stop, part, team):
    """1 or e, over d."""
    if team:
        share(begin, stop, part, team)
        return
    x, y = x[begin:stop], y[begin:stop]
    for i in range(y.size):
        g, p, h = exp_in_parts(-abs(x[i]))
        e = g * p * h
        y[i] = (_ONE if x[i] > _ZERO else e) / (_ONE + e)


@njit(nogil=True, cache=True)
def sigmoid_grad(dy, y, dx, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    dy, y, dx = dy[begin:stop], y[begin:stop], dx[begin:stop]
    for i in range(dx.size):
        dx[i] = dy[i] * (y[i] * (_ONE - y[i]))


@njit(nogil=True, cache=True, fastmath=CONTRACT, error_model="numpy")
def silu(x, y, begin, stop, part, team):
    """x or x e, over d."""
    if team:
        share(begin, stop, part, team)
        return
    x, y = x[begin:stop], y[begin:stop]
    for i in range(y.size):
        g, p, h = exp_in_parts(-abs(x[i]))
        below = x[i] * g * p * h
        y[i] = (x[i] if x[i] > _ZERO else below) / (_ONE + g * p * h)


@njit(nogil=True, cache=True, fastmath=CONTRACT, error_model="numpy")
def silu_grad(dy, x, dx, begin, stop, part, team):
    """dy (d + x e) / d^2 above 0 and dy e (d + x) / d^2 below."""
    if team:
        share(begin, stop, part, team)
        return
    dy, x, dx = dy[begin:stop], x[begin:stop], dx[begin:stop]
    for i in range(dx.size):
        g, p, h = exp_in_parts(-abs(x[i]))
        d = _ONE + g * p * h
        above = x[i] > _ZERO
        small = (x[i] if above else d + x[i]) * g * p * h
        dx[i] = dy[i] * ((d + small if above else small) / (d * d))


@njit(nogil=True, cache=True)
def tanh_grad(dy, y, dx, begin, stop, part, team):
    """dy (1 - y) (1 + y): where y is nearly 1, the first factor is exact, and 1 - y^2 has few digits."""
    if team:
        share(begin, stop, part, team)
        return
    dy, y, dx = dy[begin:stop], y[begin:stop], dx[begin:stop]
    for i in range(dx.size):
        dx[i] = dy[i] * ((_ONE - y[i]) * (_ONE + y[i]))


@njit(nogil=True, cache=True, fastmath=CONTRACT, error_model="numpy")
def gelu(x, y, begin, stop, part, team):
    """x (1 - q) above 0 and x q below, q = Phi(-|x|): 1 + erf would lose the digits of a small result."""
    if team:
        share(begin, stop, part, team)
        return
    x, y = x[begin:stop], y[begin:stop]
    for i in range(y.size):
        g, p, h = normal_in_parts(abs(x[i]))
        tail, above = normal_tail(abs(x[i])), x[i] > _ZERO
        q = (tail if above else x[i] * tail) * g * p * h
        y[i] = x[i] * (_ONE - q) if above else q


@njit(nogil=True, cache=True, fastmath=CONTRACT, error_model="numpy")
def gelu_grad(dy, x, dx, begin, stop, part, team):
    """dy (1 - q) above 0 and dy q below, q = Phi(-|x|) - |x| phi(x)."""
    if team:
        share(begin, stop, part, team)
        return
    dy, x, dx = dy[begin:stop], x[begin:stop], dx[begin:stop]
    for i in range(dx.size):
        size = abs(x[i])
        g, p, h = normal_in_parts(size)
        q = (normal_tail(size) - size * _INV_SQRT_2PI) * g * p * h
        dx[i] = dy[i] * (_ONE - q if x[i] > _ZERO else q)


@njit(nogil=True, cache=True, fastmath=CONTRACT, error_model="numpy")
def gelu_tanh(x, y, begin, stop, part, team):
    """silu with e = exp(-|2u|)."""
    if team:
        share(begin, stop, part, team)
        return
    x, y = x[begin:stop], y[begin:stop]
    for i in range(y.size):
        wide = abs(np.float64(x[i]))
        g, p, h = wide_exp_in_parts(-wide * (_U1 + _U3 * (wide * wide)))
        below = x[i] * g * p * h
        y[i] = (x[i] if x[i] > _ZERO else below) / (_ONE + g * p * h)


@njit(nogil=True, cache=True, fastmath=CONTRACT, error_model="numpy")
def gelu_tanh_grad(dy, x, dx, begin, stop, part, team):
    """silu_grad's with e = exp(-|2u|), and 2 x u' for its factor x."""
    if team:
        share(begin, stop, part, team)
        return
    dy, x, dx = dy[begin:stop], x[begin:stop], dx[begin:stop]
    for i in range(dx.size):
        wide = abs(np.float64(x[i]))
        g, p, h = wide_exp_in_parts(-wide * (_U1 + _U3 * (wide * wide)))
        d = _ONE + g * p * h
        v = -_SATURATED if x[i] < -_SATURATED else x[i]
        v = _SATURATED if v > _SATURATED else v  # its cube must not overflow
        w = v * (_DU1 + _DU3 * (v * v)) + (x[i] - x[i])  # infinity gives NaN, as infinity times 0 does
        above = x[i] > _ZERO
        small = (w if above else d + w) * g * p * h
        dx[i] = dy[i] * ((d + small if above else small) / (d * d))


@njit(nogil=True, cache=True, fastmath=CONTRACT, error_model="numpy")
def erf(x, y, begin, stop, part, team):
    """The polynomial up to 1, and 1 - 2q beyond, q = Phi(-sqrt(2) |x|), with the sign of x."""
    if team:
        share(begin, stop, part, team)
        return
    x, y = x[begin:stop], y[begin:stop]
    for i in range(y.size):
        size = abs(x[i])
        g, p, h = gaussian_in_parts(size)
        far = _ONE - _TWO * (normal_tail(size * _SQRT_2) * g * p * h)
        y[i] = erf_of_small(x[i]) if size <= _ONE else far if x[i] > _ZERO else -far


@njit(nogil=True, cache=True, fastmath=CONTRACT, error_model="numpy")
def erf_grad(dy, x, dx, begin, stop, part, team):
    """dy 2/sqrt(pi) exp(-x^2)."""
    if team:
        share(begin, stop, part, team)
        return
    dy, x, dx = dy[begin:stop], x[begin:stop], dx[begin:stop]
    for i in range(dx.size):
        g, p, h = gaussian_in_parts(abs(x[i]))
        dx[i] = dy[i] * (_ERF_SLOPE * p * g * h)
