"""Cross-entropy of a softmax and its gradient on a GPU, in Numba-CUDA: the formulas of softmax_xent/reference.py.

    forward    the lanes of a row stride over its classes, once, each with a running maximum and sum (Milakov &
               Gimelshein 2018, "Online normalizer calculation for softmax"). Trees in shared memory join them, and
               lane 0 does what is done once a row: the label, the loss, m and s. No (N, C) memory is taken

                 class   0 1 2 ... L-1 | 0 1 2 ... L-1 | ...      lane 0   (m, s) \\ tree
                 row i   lanes of y=0  | again, 4 loads           lane 1   (m, s) / of L   ->  lane 0: loss_i
                 row i+1 lanes of y=1  | in flight at once         ...

               (where rows are neighbours in memory, rows lie along x and lanes along y, as in softmax/gpu_numba.py)

    sum        "mean" and "sum" add the losses in a fixed order: each block SPAN rows, then one block adds the sums

    gradient   m and s are known, so every element is computed by itself: the same blocks, cut to _COLUMNS classes, no
               tree

Label smoothing needs sum_j w_j ((m + s) - z_ij). sum_j w_j (z_ij - m) is kept online too, and subtracted from
s sum_j w_j once m and s are known. For weights >= 0 that adds two terms >= 0, and nothing cancels.

Nothing is read or written beyond an array for a label that is out of range: its row is NaN, and the host raises the
reference's ValueError at the next synchronisation (kernels/launch/faults.py). Nothing waits for the device, and nothing
depends on the order in which blocks run: the one atomic operation is a minimum of integers.

float16 and float32, computed in float32. In all kernels z and dz are (rows, 1, classes), as the loads of
softmax/gpu_numba.py take them.

Traffic: the forward reads N*C*itemsize once and writes 12 N bytes (m, s, losses), for "mean" 4 N more; "mean" and "sum"
read 8 N and 4 N of them again. The gradient reads and writes N*C*itemsize once. A thread has four loads in flight, 16
bytes of float32: copy bandwidth is within reach of the gradient and of a forward over wide rows. A forward over narrow
rows is bound by its barriers. Few but very wide rows leave multiprocessors idle, since one block computes a row.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy import float32, int64

from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.dense import empty_like
from tilegrad.kernels.launch import faults
from tilegrad.kernels.launch.driver import MOST_ALONG
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_faults import note
from tilegrad.kernels.launch.numba_kernel import Axes, Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.softmax.gpu_numba import (
    EACH,
    MINUS_INF,
    THREADS,
    across,
    along,
    block_of,
    load,
    online,
    shift_of,
    store,
    tile,
    tree_max,
    tree_sum,
)
from tilegrad.kernels.softmax_xent.reference import check_softmax_xent, check_softmax_xent_grad, label_error

SPAN = 16 if SIMULATED else 16384  # rows whose losses one block adds
_COLUMNS = 128 if SIMULATED else 4096  # classes of a row that one block of the gradient takes at a time
MOST_BLOCKS = 2 if SIMULATED else MOST_ALONG[1]  # along y; then a block takes more classes

_ZERO, _ONE, _NAN = float32(0), float32(1), float32(np.nan)


@device
def _label(t, row, classes, ignore_index, fault):
    """(label, whether the row counts, whether its label is a class); notes a label that is a fault."""
    label = int64(t[row])
    kept = label != ignore_index
    is_class = label >= 0 and label < classes
    if kept and not is_class:
        note(fault, row, label)
    return label, kept, is_class


# --- the weight of class j, 1 without weights; 0 if there is no class j


@device
def _given_weight(weight, j, classes):
    return float32(weight[j]) if j < classes else _ZERO


@device
def _no_weight(weight, j, classes):
    return _ONE if j < classes else _ZERO


@functools.cache
def _softmax_xent_kernel(place: Any, weight_of: Any, smoothed: bool, mean: bool) -> Kernel:
    @kernel
    def _softmax_xent_kernel(z, t, weight, losses, m, s, counted, fault, ignore_index, at_label, each_class):
        """z: (rows, 1, classes); t, losses, m, s: (rows,); weight: (classes,), or anything; fault: a slot.

        counted: (rows,), the rows' weights, or anything but for `mean`. at_label, each_class: 1 - e and e/C.
        """
        shared = cuda.shared.array(THREADS, float32)
        lane, lanes, step, row = place()
        rows, classes = z.shape[0], z.shape[2]
        end = classes if row < rows else 0  # a row that does not exist still has to meet the barriers

        most, total = MINUS_INF, _ZERO
        spread, weights = _ZERO, _ZERO  # sum_j w_j (z_ij - shift), sum_j w_j
        for j in range(lane, end, EACH * lanes):
            before = shift_of(most)
            z0, z1, z2, z3 = load(z, row, 0, j, lanes, end, MINUS_INF)
            most, total = online(most, total, z0, z1, z2, z3)
            if smoothed:
                shift = shift_of(most)
                spread += weights * (before - shift)
                for k in range(j, min(j + EACH * lanes, end), lanes):  # the same four again, from L1
                    w = weight_of(weight, k, classes)
                    spread += w * (float32(z[row, 0, k]) - shift)
                    weights += w

        mine = most
        most = tree_max(mine, shared, lane, lanes, step)
        total = tree_sum(total * math.exp(mine - most), shared, lane, lanes, step)  # NaN where there are only -inf
        if smoothed:
            spread = tree_sum(spread + weights * (shift_of(mine) - shift_of(most)), shared, lane, lanes, step)
            weights = tree_sum(weights, shared, lane, lanes, step)

        if lane == 0 and row < rows:
            log_total = float32(math.log(total))
            m[row] = most
            s[row] = log_total
            label, kept, is_class = _label(t, row, classes, ignore_index, fault)
            counts = kept and is_class
            w = weight_of(weight, label if counts else classes, classes)
            loss = _NAN if kept else _ZERO
            if counts:
                loss = w * (log_total - (float32(z[row, 0, label]) - most))
                if smoothed:
                    loss = loss * at_label + (log_total * weights - spread) * each_class
            losses[row] = loss
            if mean:
                counted[row] = w

    return _softmax_xent_kernel


@functools.cache
def _sum_kernel(with_counted: bool, last: bool) -> Kernel:
    @kernel
    def _sum_kernel(x, counted, sums, totals, span):
        """x: (n,) -> sums: (blocks,), of `span` elements a block; with counted: (n,) -> totals: (blocks,) as well.

        last: a single block, which divides sum by total. Without counted, it writes 1 to totals; other blocks leave
        totals alone.
        """
        shared = cuda.shared.array(THREADS, float32)
        lane, lanes, step, block = along()
        begin = block * span
        s, w = _ZERO, _ZERO
        for i in range(begin + lane, min(begin + span, x.size), lanes):
            s += float32(x[i])
            if with_counted:
                w += counted[i]
        s = tree_sum(s, shared, lane, lanes, step)
        if with_counted:
            w = tree_sum(w, shared, lane, lanes, step)
        if lane == 0:
            if last and with_counted:
                s = s / w
            sums[block] = s
            if with_counted:
                totals[block] = w
            elif last:
                totals[block] = _ONE

    return _sum_kernel


@kernel
def _one_kernel(total):
    """total: (1,)."""
    total[0] = _ONE


@functools.cache
def _softmax_xent_grad_kernel(place: Any, weight_of: Any, smoothed: bool, weighted: bool) -> Kernel:
    @device
    def slope(z, j, m, s, classes, weight, label, at_target, everywhere, scale):
        """dz of class j."""
        dz = scale * math.exp((z - m) - s)
        if smoothed:
            dz -= everywhere * weight_of(weight, j, classes)
        return dz - at_target if j == label else dz

    @kernel
    def _softmax_xent_grad_kernel(
        dloss, z, t, m, s, total, weight, weight_sum, dz, fault, dloss_step, ignore_index, at_label, each_class
    ):
        """z, dz: (rows, 1, classes); dloss: (1,) with a step of 0, or (rows,) with one of 1; t, m, s: (rows,);

        total: (1,); weight: (classes,) if weighted, and weight_sum: (1,) if smoothed too, else anything. fault: a slot.
        """
        lane, lanes, _, row = place()
        if row >= z.shape[0]:
            return
        classes = z.shape[2]
        label, kept, is_class = _label(t, row, classes, ignore_index, fault)
        g = float32(dloss[row * dloss_step]) / total[0]
        if not is_class:
            g = _NAN
        if not kept:
            g = _ZERO
        at_target = g * weight_of(weight, label if kept and is_class else classes, classes) * at_label
        everywhere, scale = g * each_class, at_target
        if smoothed:
            scale += everywhere * (weight_sum[0] if weighted else float32(classes))

        most, log_total = m[row], s[row]
        begin = int64(cuda.blockIdx.y) * _COLUMNS
        while begin < classes:
            end = min(begin + _COLUMNS, classes)
            for j in range(begin + lane, end, EACH * lanes):
                a, b, c, d = load(z, row, 0, j, lanes, end, most)
                a = slope(a, j, most, log_total, classes, weight, label, at_target, everywhere, scale)
                b = slope(b, j + lanes, most, log_total, classes, weight, label, at_target, everywhere, scale)
                c = slope(c, j + 2 * lanes, most, log_total, classes, weight, label, at_target, everywhere, scale)
                d = slope(d, j + 3 * lanes, most, log_total, classes, weight, label, at_target, everywhere, scale)
                store(dz, row, 0, j, lanes, end, a, b, c, d)
            begin += int64(cuda.gridDim.y) * _COLUMNS

    return _softmax_xent_grad_kernel


def softmax_xent(
    z: Any,
    t: Any,
    weight: Any | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Any, Any, Any, Any]:
    """softmax_xent.reference.softmax_xent; a label out of range is raised by the next synchronisation."""
    op = "softmax_xent"
    check_softmax_xent(op, z, t, weight, label_smoothing, ignore_index, reduction)
    only_served(op, z.dtype)
    (rows, classes), ignore_index = z.shape, int(ignore_index)
    place, grid, block = _tile_of(z)
    mean = reduction == "mean"
    losses, m, s, total = _empty(rows), _empty(rows), _empty(rows), _empty()
    counted = _empty(rows) if mean else losses
    _softmax_xent_kernel(place, _no_weight if weight is None else _given_weight, label_smoothing != 0, mean)(
        grid,
        block,
        z[:, None],
        t,
        losses if weight is None else weight,
        losses,
        m,
        s,
        counted,
        faults.watch(label_error, op, classes, ignore_index),
        ignore_index,
        float(1 - label_smoothing),
        float(label_smoothing / classes),
    )
    if reduction == "none":
        _one_kernel((1,), (1,), total.reshape(1))
        return losses, m, s, total
    return _reduced(losses, counted if mean else None, total), m, s, total


def softmax_xent_grad(
    dloss: Any,
    z: Any,
    t: Any,
    m: Any,
    s: Any,
    total: Any,
    weight: Any | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """softmax_xent.reference.softmax_xent_grad; a label out of range is raised by the next synchronisation."""
    op = "softmax_xent_grad"
    check_softmax_xent_grad(dloss, z, t, m, s, total, weight, label_smoothing, ignore_index, reduction)
    only_served(op, z.dtype)
    classes, ignore_index = z.shape[1], int(ignore_index)
    weighted, smoothed = weight is not None, label_smoothing != 0
    dz = empty_like(z)
    place, (row_blocks,), block = _tile_of(dz)
    _softmax_xent_grad_kernel(place, _given_weight if weighted else _no_weight, smoothed, weighted)(
        (row_blocks, min(cdiv(classes, _COLUMNS), MOST_BLOCKS)),
        block,
        dloss if dloss.ndim else dloss.reshape(1),
        z[:, None],
        t,
        m,
        s,
        total.reshape(1),
        weight if weighted else m,
        _reduced(weight, None, _empty()).reshape(1) if weighted and smoothed else m,
        dz[:, None],
        faults.watch(label_error, op, classes, ignore_index),
        dloss.ndim,
        ignore_index,
        float(1 - label_smoothing),
        float(label_smoothing / classes),
    )
    return dz


def _tile_of(z: Any) -> tuple[Any, Axes, Axes]:
    """(place, grid, block) for rows of z, at most _COLUMNS wide."""
    rows, classes = z.shape
    is_across = abs(z.strides[0]) < abs(z.strides[1]) and 1 < rows and 1 < classes
    lanes, height = tile(rows, classes, is_across)
    return across if is_across else along, (cdiv(rows, height),), block_of(lanes, height, is_across)


def _reduced(x: Any, counted: Any | None, total: Any) -> Any:
    """The sum of x over the sum of what is counted, or over 1; this divisor goes to `total`. Added in a fixed order."""
    with_counted = counted is not None
    counted = counted if with_counted else x  # which nothing reads
    if x.size > SPAN:
        blocks = cdiv(x.size, SPAN)
        sums, counts = _empty(blocks), _empty(blocks)
        _sum_kernel(with_counted, False)((blocks,), (THREADS,), x, counted, sums, counts, SPAN)
        x, counted = sums, counts
    result = _empty()
    _sum_kernel(with_counted, True)((1,), (THREADS,), x, counted, result.reshape(1), total.reshape(1), x.size)
    return result


def _empty(*shape: int) -> Any:
    return gpu.xp().empty(shape, np.float32)
