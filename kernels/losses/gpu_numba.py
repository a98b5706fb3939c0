"""Losses of numbers against numbers on a GPU, in Numba-CUDA: the formulas of losses/reference.py.

    y[i] = l(x[i], t[i]) w[i], or the sum of that        dx[i] = g w[i] l'(x[i], t[i])

    block 0         block 1                  x, memory order
    |0 1 2 ... 255| |0 1 2 ... 255| |...     thread t of block b takes element 256 b + t, and those a grid apart
     \\ tree: sum 0 / \\ tree: sum 1 /        a second launch, of one block, adds the sums

A sum's order depends on the number of elements alone: no atomics. Any strides: x is copied to dense memory if it has
holes, and the others if they lie in another order than x. float16 is computed in float32 and rounded once. The
functions exp, log and log1p are those of libdevice, good to an ulp or two.

An x of binary_cross_entropy that is no probability is noted (kernels/launch/faults.py), and nothing waits for the
device.

Traffic: the loss reads x and t once, the weights that there are, and writes x.size elements or next to nothing. The
gradients read the same, and a dy of x's shape for "none", and write what is asked for. A thread has one load of each
array in flight; losses/gpu_triton.py has 16-byte loads.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy import float32, int64

from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.dense import dense, dense_as, empty_like, memory_order
from tilegrad.kernels.launch import faults
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_faults import note
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.losses.reference import KINDS, OF_DIFFERENCES, check_loss, check_loss_grad, probability_error
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.softmax.gpu_numba import THREADS, along, tree_sum

MOST_BLOCKS = 4 if SIMULATED else 1024  # beyond that a thread takes several elements, a grid apart
_MOST_PLACE = int64((1 << 31) - 2)  # that a fault can name

_ZERO, _HALF, _ONE, _TWO = float32(0), float32(0.5), float32(1), float32(2)
_LEAST_LOG, _LEAST = float32(-100), float32(1e-12)


@device
def _sign(d):
    """-1, 0 or 1; NaN stays NaN."""
    if d > _ZERO:
        return _ONE
    return -_ONE if d < _ZERO else d


@device
def _above(x):
    """max(x, 0), but 0 for NaN."""
    return x if x > _ZERO else _ZERO


@device
def _cut_log(x):
    """log x, not below -100; 0 <= x <= 1."""
    return max(float32(math.log(x)), _LEAST_LOG) if x > _ZERO else _LEAST_LOG


@device
def _cut_log_of_rest(x):
    """log(1 - x), not below -100; 0 <= x <= 1."""
    return max(float32(math.log1p(-x)), _LEAST_LOG) if x < _ONE else _LEAST_LOG


@device
def _rest(x):
    """log(1 + exp(-|x|))."""
    return float32(math.log1p(float32(math.exp(-abs(x)))))


# --- l(x, t), its derivative by x, and by t for what is no function of x - t; p is pos_weight


@device
def _mse(x, t, p, beta):
    return (x - t) * (x - t)


@device
def _mse_slope(x, t, p, beta):
    return _TWO * (x - t)


@device
def _l1(x, t, p, beta):
    return abs(x - t)


@device
def _l1_slope(x, t, p, beta):
    return _sign(x - t)


@device
def _smooth_l1(x, t, p, beta):
    size = abs(x - t)
    return size * size * (_HALF / beta) if size < beta else size - _HALF * beta


@device
def _smooth_l1_slope(x, t, p, beta):
    return (x - t) / beta if abs(x - t) < beta else _sign(x - t)


@device
def _huber(x, t, p, beta):
    size = abs(x - t)
    return size * size * _HALF if size <= beta else (size - _HALF * beta) * beta


@device
def _huber_slope(x, t, p, beta):
    return x - t if abs(x - t) <= beta else _sign(x - t) * beta


@device
def _bce(x, t, p, beta):
    return -(t * _cut_log(x) + (_ONE - t) * _cut_log_of_rest(x))


@device
def _bce_slope(x, t, p, beta):
    return (x - t) / max(x * (_ONE - x), _LEAST)


@device
def _bce_target_slope(x, t, p, beta):
    return _cut_log_of_rest(x) - _cut_log(x)


@device
def _logits(x, t, p, beta):
    rest = _rest(x)
    return p * t * (_above(-x) + rest) + (_ONE - t) * (_above(x) + rest)


@device
def _logits_slope(x, t, p, beta):
    e = float32(math.exp(-abs(x)))
    of_one, of_zero = (e, _ONE) if x > _ZERO else (_ONE, e)
    return ((_ONE - t) * of_zero - p * t * of_one) / (_ONE + e)


@device
def _logits_target_slope(x, t, p, beta):
    return p * _above(-x) - _above(x) + (p - _ONE) * _rest(x)


_LOSSES = dict(zip(KINDS, (_mse, _l1, _smooth_l1, _huber, _bce, _logits)))
_SLOPES = dict(zip(KINDS, (_mse_slope, _l1_slope, _smooth_l1_slope, _huber_slope, _bce_slope, _logits_slope)))
_TARGET_SLOPES = dict(zip(KINDS[len(OF_DIFFERENCES) :], (_bce_target_slope, _logits_target_slope)))


@device
def _none(weight, i):
    return _ONE


@device
def _each(weight, i):
    return float32(weight[i])


@functools.cache
def _loss_kernel(kind: str, kept: bool, weight_of: Any, p_of: Any) -> Kernel:
    loss_of, is_checked = _LOSSES[kind], kind == "binary_cross_entropy"

    @kernel
    def _loss_kernel(x, t, weight, p, y, fault, beta, count):
        """x, t, weight, p, and y if kept: n elements of dense memory. fault: a slot, or anything if nothing is checked.

        Otherwise y: (blocks,), of each the sum over count.
        """
        shared = cuda.shared.array(THREADS, float32)
        lane, lanes, step, block = along()
        total = _ZERO
        i = cuda.grid(1)
        while i < x.size:
            v = float32(x[i])
            loss = loss_of(v, float32(t[i]), p_of(p, i), beta) * weight_of(weight, i)
            if is_checked and not _ZERO <= v <= _ONE:
                note(fault, min(i, _MOST_PLACE), 0)
                loss = float32(np.nan)
            if kept:
                y[i] = loss
            total += loss
            i += cuda.gridsize(1)
        if not kept:
            total = tree_sum(total, shared, lane, lanes, step)
            if lane == 0:
                y[block] = total / count

    return _loss_kernel


@kernel
def _join_kernel(parts, y, count):
    """y: (1,) = the sum of parts, float32, over count; by one block."""
    shared = cuda.shared.array(THREADS, float32)
    lane, lanes, step, _ = along()
    total = _ZERO
    for i in range(lane, parts.size, lanes):
        total += parts[i]
    total = tree_sum(total, shared, lane, lanes, step)
    if lane == 0:
        y[0] = total / count


@functools.cache
def _loss_grad_kernel(kind: str, each: bool, to_x: bool, to_t: bool, weight_of: Any, p_of: Any) -> Kernel:
    slope_of, of_difference = _SLOPES[kind], kind in OF_DIFFERENCES
    target_slope_of = _TARGET_SLOPES.get(kind, slope_of)

    @kernel
    def _loss_grad_kernel(dy, x, t, weight, p, dx, dt, beta, count):
        """All: n elements of dense memory; dy: (1,) unless each. What is not asked for may be anything."""
        i = cuda.grid(1)
        while i < x.size:
            v, target, q = float32(x[i]), float32(t[i]), p_of(p, i)
            g = float32(dy[i if each else 0]) / count * weight_of(weight, i)
            slope = slope_of(v, target, q, beta)
            if to_x:
                dx[i] = g * slope
            if to_t:
                dt[i] = g * (-slope if of_difference else target_slope_of(v, target, q, beta))
            i += cuda.gridsize(1)

    return _loss_grad_kernel


def elementwise_loss(
    x: Any,
    t: Any,
    kind: str,
    weight: Any | None = None,
    pos_weight: Any | None = None,
    beta: float = 1.0,
    reduction: str = "mean",
) -> Any:
    """losses.reference.elementwise_loss; an x that is no probability is raised by the next synchronisation."""
    op = "elementwise_loss"
    dtype = only_served(op, check_loss(op, x, t, kind, weight, pos_weight, beta, reduction))
    xp, kept = gpu.xp(), reduction == "none"
    x, arrays = _alike(x, t, weight, pos_weight)
    blocks = min(max(1, cdiv(x.size, THREADS)), MOST_BLOCKS)
    count = float(x.size if reduction == "mean" else 1)
    y = empty_like(x) if kept else xp.empty((), dtype)
    target = memory_order(y)
    parts = target if kept or blocks == 1 else xp.empty(blocks, np.float32)
    fault = faults.watch(probability_error) if kind == "binary_cross_entropy" else target
    launch = _loss_kernel(_without_corner(kind, beta), kept, *_readers(weight, pos_weight))
    launch((blocks,), (THREADS,), *arrays, parts, fault, float(beta), count if parts is target else 1.0)
    if parts is not target:
        _join_kernel((1,), (THREADS,), parts, target, count)
    return y


def elementwise_loss_grad(
    dy: Any,
    x: Any,
    t: Any,
    kind: str,
    weight: Any | None = None,
    pos_weight: Any | None = None,
    beta: float = 1.0,
    reduction: str = "mean",
    to_x: bool = True,
    to_t: bool = False,
) -> tuple[Any, ...]:
    """losses.reference.elementwise_loss_grad."""
    only_served("elementwise_loss_grad", check_loss_grad(dy, x, t, kind, weight, pos_weight, beta, reduction))
    x, arrays = _alike(x, t, weight, pos_weight)
    each = reduction == "none"
    dy = memory_order(dense_as(dy, x)) if each else dy.reshape(1)
    found = [empty_like(x) if asked else None for asked in (to_x, to_t)]
    targets = [arrays[0] if a is None else memory_order(a) for a in found]
    readers = _readers(weight, pos_weight)
    launch = _loss_grad_kernel(_without_corner(kind, beta), each, bool(to_x), bool(to_t), *readers)
    count = float(x.size if reduction == "mean" else 1)
    grid = (min(cdiv(x.size, THREADS), MOST_BLOCKS),)
    launch(grid, (THREADS,), dy, *arrays, *targets, float(beta), count)
    return tuple([a for a in found if a is not None])


def _readers(weight: Any, pos_weight: Any) -> tuple[Any, Any]:
    return _none if weight is None else _each, _none if pos_weight is None else _each


def _alike(x: Any, *others: Any) -> tuple[Any, list[Any]]:
    """x as dense memory, and all in its memory order; x itself for None."""
    x = dense(x)
    return x, [memory_order(x if a is None else dense_as(a, x)) for a in (x, *others)]


def _without_corner(kind: str, beta: float) -> str:
    """smooth_l1_loss without a square part is l1_loss."""
    return "l1_loss" if kind == "smooth_l1_loss" and beta == 0 else kind
