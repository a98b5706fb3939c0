"""Losses of numbers and their gradients on the CPU: the compiled kernels, two for each kind.

    y[j] = l(x[j], t[j])    dx[j] = g l'_x    dt[j] = g l'_t           as losses/reference.py has l

A kernel takes blocks of BLOCK numbers. Its kind's loops are functions (x, t, p, beta, y) of a block's arrays, where p
is pos_weight. All else is the same for all kinds: `_reduced` and `_gradients`, which Numba compiles with these loops in
their place. So a program compiles the kinds that it uses.
"""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.long_sums import total
from tilegrad.kernels.cpu.scalar_math import CONTRACT, exp, smaller
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.losses.cpu_log import cut_log, cut_log_of_rest, log1p_of_fraction
from tilegrad.kernels.losses.reference import LEAST_DENOMINATOR

BLOCK = 2048  # numbers: x, t and the losses are 24 KB, and stay in the nearest cache

_f = np.float32
_ZERO, _HALF, _ONE, _TWO = map(_f, (0, 0.5, 1, 2))
_LEAST = _f(LEAST_DENOMINATOR)


@njit(nogil=True, error_model="numpy")
def _reduced(loop, x, t, weight, p, beta, kept, memory, sums, count, result, begin, stop, part):
    """The losses of blocks begin to stop.

    weight  or no numbers
    memory  where the losses go, if they are kept; else BLOCK numbers for each part
    sums    of the blocks, if they are not kept; result: the sum over count, if there is one block
    """
    for block in range(begin, stop):
        first, last = block * BLOCK, smaller(block * BLOCK + BLOCK, x.size)
        at = first if kept else part * BLOCK
        y = memory[at : at + last - first]
        loop(x[first:last], t[first:last], p[first:last], beta, y)
        if weight.size:
            _scale(y, weight[first:last])
        if not kept:
            sums[block] = total(y)
            if sums.size == 1:
                result[0] = sums[0] / count


@njit(nogil=True, cache=True, error_model="numpy")
def join(sums, count, result, begin, stop, part, team):
    """result = the sum of the blocks' sums, over count."""
    if team:
        share(begin, stop, part, team)
        return
    summed = 0.0
    for block in range(sums.size):
        summed += sums[block]
    result[0] = summed / count


@njit(nogil=True, error_model="numpy")
def _gradients(by_x, by_t, sign, dy, x, t, weight, p, beta, count, dx, dt, begin, stop):
    """dx and dt of blocks begin to stop, if they are not empty. by_t has this sign. dy: one for all, or for each."""
    for block in range(begin, stop):
        first, last = block * BLOCK, smaller(block * BLOCK + BLOCK, x.size)
        if dx.size:
            by_x(x[first:last], t[first:last], p[first:last], beta, dx[first:last])
            _times(dx, dy, weight, count, first, last)
        if dt.size:
            by_t(x[first:last], t[first:last], p[first:last], beta, dt[first:last])
            _times(dt, dy, weight, sign * count, first, last)


@njit(nogil=True, error_model="numpy")
def _times(dx, dy, weight, count, first, last):
    """These times dy over count, and times the weight."""
    y = dx[first:last]
    if dy.size == 1:
        g = dy[0] / count
        for j in range(y.size):
            y[j] *= g
    else:
        g = dy[first:last]
        for j in range(y.size):
            y[j] *= g[j] / count
    if weight.size:
        _scale(y, weight[first:last])


@njit(nogil=True)
def _scale(y, by):
    for j in range(y.size):
        y[j] *= by[j]


@njit(nogil=True)
def _sign(d):
    """-1, 0 or 1; NaN stays NaN."""
    return _ONE if d > _ZERO else -_ONE if d < _ZERO else d


@njit(nogil=True)
def _above(x):
    """max(x, 0), but 0 for NaN."""
    return x if x > _ZERO else _ZERO


@njit(nogil=True)
def _mse(x, t, p, beta, y):
    for j in range(y.size):
        d = x[j] - t[j]
        y[j] = d * d


@njit(nogil=True, cache=True, error_model="numpy")
def mse(x, t, weight, p, beta, kept, memory, sums, count, result, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    _reduced(_mse, x, t, weight, p, np.float32(beta), kept, memory, sums, count, result, begin, stop, part)


@njit(nogil=True)
def _mse_slopes(x, t, p, beta, y):
    for j in range(y.size):
        y[j] = _TWO * (x[j] - t[j])


@njit(nogil=True, cache=True, error_model="numpy")
def mse_grad(dy, x, t, weight, p, beta, count, dx, dt, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    beta, count = np.float32(beta), np.float32(count)
    _gradients(_mse_slopes, _mse_slopes, _f(-1), dy, x, t, weight, p, beta, count, dx, dt, begin, stop)


@njit(nogil=True)
def _l1(x, t, p, beta, y):
    for j in range(y.size):
        y[j] = abs(x[j] - t[j])


@njit(nogil=True, cache=True, error_model="numpy")
def l1(x, t, weight, p, beta, kept, memory, sums, count, result, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    _reduced(_l1, x, t, weight, p, np.float32(beta), kept, memory, sums, count, result, begin, stop, part)


@njit(nogil=True)
def _l1_slopes(x, t, p, beta, y):
    for j in range(y.size):
        y[j] = _sign(x[j] - t[j])


@njit(nogil=True, cache=True, error_model="numpy")
def l1_grad(dy, x, t, weight, p, beta, count, dx, dt, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    beta, count = np.float32(beta), np.float32(count)
    _gradients(_l1_slopes, _l1_slopes, _f(-1), dy, x, t, weight, p, beta, count, dx, dt, begin, stop)


@njit(nogil=True, error_model="numpy")
def _smooth_l1(x, t, p, beta, y):
    inverse, half = _HALF / beta, _HALF * beta
    for j in range(y.size):
        size = abs(x[j] - t[j])
        square = size * size * inverse
        y[j] = square if size < beta else size - half


@njit(nogil=True, cache=True, error_model="numpy")
def smooth_l1(x, t, weight, p, beta, kept, memory, sums, count, result, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    _reduced(_smooth_l1, x, t, weight, p, np.float32(beta), kept, memory, sums, count, result, begin, stop, part)


@njit(nogil=True, error_model="numpy")
def _smooth_l1_slopes(x, t, p, beta, y):
    for j in range(y.size):
        d = x[j] - t[j]
        inner, outer = d / beta, _sign(d)
        y[j] = inner if abs(d) < beta else outer


@njit(nogil=True, cache=True, error_model="numpy")
def smooth_l1_grad(dy, x, t, weight, p, beta, count, dx, dt, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    beta, count = np.float32(beta), np.float32(count)
    _gradients(_smooth_l1_slopes, _smooth_l1_slopes, _f(-1), dy, x, t, weight, p, beta, count, dx, dt, begin, stop)


@njit(nogil=True)
def _huber(x, t, p, beta, y):
    half = _HALF * beta
    for j in range(y.size):
        size = abs(x[j] - t[j])
        square, line = size * size * _HALF, (size - half) * beta
        y[j] = square if size <= beta else line


@njit(nogil=True, cache=True, error_model="numpy")
def huber(x, t, weight, p, beta, kept, memory, sums, count, result, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    _reduced(_huber, x, t, weight, p, np.float32(beta), kept, memory, sums, count, result, begin, stop, part)


@njit(nogil=True)
def _huber_slopes(x, t, p, beta, y):
    for j in range(y.size):
        d = x[j] - t[j]
        outer = _sign(d) * beta
        y[j] = d if abs(d) <= beta else outer


@njit(nogil=True, cache=True, error_model="numpy")
def huber_grad(dy, x, t, weight, p, beta, count, dx, dt, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    beta, count = np.float32(beta), np.float32(count)
    _gradients(_huber_slopes, _huber_slopes, _f(-1), dy, x, t, weight, p, beta, count, dx, dt, begin, stop)


@njit(nogil=True, fastmath=CONTRACT)
def _bce(x, t, p, beta, y):
    for j in range(y.size):
        y[j] = -(t[j] * cut_log(x[j]) + (_ONE - t[j]) * cut_log_of_rest(x[j]))


@njit(nogil=True)
def _any_outside(x):
    """Whether a number is not within 0 and 1."""
    found = 0
    for j in range(x.size):
        found += not _ZERO <= x[j] <= _ONE
    return found > 0


@njit(nogil=True, cache=True, error_model="numpy")
def bce(x, t, weight, p, beta, kept, memory, sums, count, result, wrong, begin, stop, part, team):
    """wrong: written to where an x is no probability."""
    if team:
        share(begin, stop, part, team)
        return
    for block in range(begin, stop):
        if _any_outside(x[block * BLOCK : block * BLOCK + BLOCK]):
            wrong[0] = block
        _reduced(_bce, x, t, weight, p, np.float32(beta), kept, memory, sums, count, result, block, block + 1, part)


@njit(nogil=True, error_model="numpy")
def _bce_slopes(x, t, p, beta, y):
    for j in range(y.size):
        below = x[j] * (_ONE - x[j])
        below = _LEAST if below < _LEAST else below
        y[j] = (x[j] - t[j]) / below


@njit(nogil=True)
def _bce_target_slopes(x, t, p, beta, y):
    for j in range(y.size):
        y[j] = cut_log_of_rest(x[j]) - cut_log(x[j])


@njit(nogil=True, cache=True, error_model="numpy")
def bce_grad(dy, x, t, weight, p, beta, count, dx, dt, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    beta, count = np.float32(beta), np.float32(count)
    _gradients(_bce_slopes, _bce_target_slopes, _ONE, dy, x, t, weight, p, beta, count, dx, dt, begin, stop)


@njit(nogil=True)
def _logits(x, t, p, beta, y):
    for j in range(y.size):
        rest = log1p_of_fraction(exp(-abs(x[j])))
        y[j] = t[j] * (_above(-x[j]) + rest) + (_ONE - t[j]) * (_above(x[j]) + rest)


@njit(nogil=True, cache=True, error_model="numpy")
def logits(x, t, weight, p, beta, kept, memory, sums, count, result, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    _reduced(_logits, x, t, weight, p, np.float32(beta), kept, memory, sums, count, result, begin, stop, part)


@njit(nogil=True, error_model="numpy")
def _logits_slopes(x, t, p, beta, y):
    for j in range(y.size):
        e = exp(-abs(x[j]))
        of_one, of_zero = (e, _ONE) if x[j] > _ZERO else (_ONE, e)
        y[j] = ((_ONE - t[j]) * of_zero - t[j] * of_one) / (_ONE + e)


@njit(nogil=True)
def _logits_target_slopes(x, t, p, beta, y):
    for j in range(y.size):
        y[j] = -x[j]


@njit(nogil=True, cache=True, error_model="numpy")
def logits_grad(dy, x, t, weight, p, beta, count, dx, dt, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    beta, count = np.float32(beta), np.float32(count)
    _gradients(_logits_slopes, _logits_target_slopes, _ONE, dy, x, t, weight, p, beta, count, dx, dt, begin, stop)


@njit(nogil=True)
def _positive_logits(x, t, p, beta, y):
    for j in range(y.size):
        rest = log1p_of_fraction(exp(-abs(x[j])))
        y[j] = p[j] * t[j] * (_above(-x[j]) + rest) + (_ONE - t[j]) * (_above(x[j]) + rest)


@njit(nogil=True, cache=True, error_model="numpy")
def positive_logits(x, t, weight, p, beta, kept, memory, sums, count, result, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    _reduced(_positive_logits, x, t, weight, p, np.float32(beta), kept, memory, sums, count, result, begin, stop, part)


@njit(nogil=True, error_model="numpy")
def _positive_logits_slopes(x, t, p, beta, y):
    for j in range(y.size):
        e = exp(-abs(x[j]))
        of_one, of_zero = (e, _ONE) if x[j] > _ZERO else (_ONE, e)
        y[j] = ((_ONE - t[j]) * of_zero - p[j] * t[j] * of_one) / (_ONE + e)


@njit(nogil=True)
def _positive_logits_target_slopes(x, t, p, beta, y):
    for j in range(y.size):
        rest = log1p_of_fraction(exp(-abs(x[j])))
        y[j] = p[j] * _above(-x[j]) - _above(x[j]) + (p[j] - _ONE) * rest


@njit(nogil=True, cache=True, error_model="numpy")
def positive_logits_grad(dy, x, t, weight, p, beta, count, dx, dt, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    beta, count = np.float32(beta), np.float32(count)
    _gradients(
        _positive_logits_slopes,
        _positive_logits_target_slopes,
        _ONE,
        dy,
        x,
        t,
        weight,
        p,
        beta,
        count,
        dx,
        dt,
        begin,
        stop,
    )


FORWARD = mse, l1, smooth_l1, huber, bce, logits, positive_logits
BACKWARD = mse_grad, l1_grad, smooth_l1_grad, huber_grad, bce_grad, logits_grad, positive_logits_grad
