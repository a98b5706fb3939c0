"""Cross-entropy of a softmax on the CPU, compiled: one pass over z, where NumPy makes five and calls twenty functions.

Rows are taken some 4096 numbers at a time. The exponentials, which are most of the work, are then one loop, long enough
for vectors however few the classes are. Served here is float32 without class weights and label smoothing; all else is
left to the reference. A small net's batch has too few rows to be worth several threads. 512 rows of 10 classes, one
core with AVX-512, both calls with their checks:

    | form                                                 | loss, gradient (microseconds) |
    | exp of the C library, number by number               |            45, 63             |
    | exp_in_place over all rows at once, checks in a row  |            26, 19             |
"""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import dense, guard, whole
from tilegrad.kernels.cpu.scalar_math import exp_in_place
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.softmax_xent import reference

_MEAN, _SUM, _NONE = 0, 1, 2
_CODE = {"mean": _MEAN, "sum": _SUM, "none": _NONE}
_float32 = np.dtype(np.float32)
_CHUNK = 1 << 12  # numbers that are exponentiated at once
_LABELS = (np.dtype(np.int64), np.dtype(np.int32))


def softmax_xent(
    z: np.ndarray,
    t: np.ndarray,
    weight: np.ndarray | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """softmax_xent.reference.softmax_xent. Traffic: reads 4 N C bytes once from memory, writes 12 N."""
    if not _is_served(z, t, weight, label_smoothing, ignore_index, reduction):
        return whole(reference.softmax_xent, z, t, weight, label_smoothing, ignore_index, reduction)
    losses, m, s = np.empty((3, len(t)), np.float32)
    z, t = _plain(z), _plain(t)
    shifted = np.empty(_rows_at_once(z) * z.shape[1], np.float32)
    sums, wrong = np.empty(2, np.float32), np.empty(1, np.int64)
    threads.share(_losses, 1, 1, z, t, ignore_index, _CODE[reduction], losses, m, s, shifted, sums, wrong)
    guard(wrong, reference.check_labels, "softmax_xent", t, z.shape[1], ignore_index)
    return losses if reduction == "none" else sums[:1].reshape(()), m, s, sums[1:].reshape(())


def _is_served(z, t, weight, label_smoothing, ignore_index, reduction) -> bool:
    """Whether the loops serve these arguments, which then pass all checks but that of the labels' range."""
    if weight is not None or type(label_smoothing) not in (float, int) or label_smoothing != 0:
        return False
    if type(z) is not np.ndarray or z.dtype != _float32 or z.ndim != 2 or not z.shape[1]:
        return False
    if type(t) is not np.ndarray or t.dtype not in _LABELS or t.shape != z.shape[:1]:
        return False
    return type(ignore_index) is int and reduction in _CODE


@njit(nogil=True, cache=True, error_model="numpy")
def _losses(z, t, ignore_index, reduction, losses, m, s, shifted, sums, wrong, begin, stop, part, team):
    """sums: the loss, and what a mean is divided by. wrong: the first row whose label is out of range, or -1."""
    if team:
        share(begin, stop, part, team)
        return
    rows, classes = z.shape
    loss, kept = 0.0, 0
    wrong[0] = _first_wrong(t, classes, ignore_index)
    if wrong[0] >= 0:
        return
    chunk = shifted.size // classes  # rows
    for first in range(0, rows, chunk):
        last = min(first + chunk, rows)
        for i in range(first, last):
            most, at = np.float32(-np.inf), (i - first) * classes
            for j in range(classes):
                most = z[i, j] if z[i, j] > most or z[i, j] != z[i, j] else most
            for j in range(classes):
                shifted[at + j] = z[i, j] - most
            m[i] = most
        exp_in_place(shifted, (last - first) * classes)
        for i in range(first, last):
            total, at = 0.0, (i - first) * classes  # float64: a row may be 256k classes long
            for j in range(classes):
                total += shifted[at + j]
            s[i] = np.log(total)
            if t[i] == ignore_index:
                losses[i] = 0
                continue
            losses[i] = s[i] - (z[i, t[i]] - m[i])
            loss += losses[i]
            kept += 1
    sums[0] = loss / kept if reduction == _MEAN else loss
    sums[1] = kept if reduction == _MEAN else 1


def softmax_xent_grad(
    dloss: np.ndarray,
    z: np.ndarray,
    t: np.ndarray,
    m: np.ndarray,
    s: np.ndarray,
    total: np.ndarray,
    weight: np.ndarray | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> np.ndarray:
    """softmax_xent.reference.softmax_xent_grad. Traffic: reads and writes 4 N C bytes once."""
    served = _is_served(z, t, weight, label_smoothing, ignore_index, reduction)
    if (
        not served
        or not z.flags.c_contiguous
        or not _are_saved(dloss, m, s, total, () if reduction != "none" else t.shape, t.shape)
    ):
        options = weight, label_smoothing, ignore_index, reduction
        return whole(reference.softmax_xent_grad, dloss, z, t, m, s, total, *options)
    dz, wrong = buffers.empty(z.shape, np.float32), np.empty(1, np.int64)
    z, t, m, s, per_row, total = map(_plain, (z, t, m, s, dloss.reshape(-1), total.reshape(1)))
    threads.share(_gradient, 1, 1, per_row, z, t, m, s, total, ignore_index, dz, _rows_at_once(z), wrong)
    guard(wrong, reference.check_labels, "softmax_xent_grad", t, z.shape[1], ignore_index)
    return dz


def _are_saved(dloss, m, s, total, loss_shape, rows) -> bool:
    """Whether these pass all checks of the reference."""
    for a, shape in ((dloss, loss_shape), (m, rows), (s, rows), (total, ())):
        if type(a) is not np.ndarray or a.dtype != _float32 or a.shape != shape:
            return False
    return True


def _rows_at_once(z: np.ndarray) -> int:
    """How many rows make about _CHUNK numbers; at least one."""
    return max(1, min(len(z), _CHUNK // z.shape[1]))


def _plain(a: np.ndarray) -> np.ndarray:
    """a, or a copy if it is not the kind of array that the loops are compiled for."""
    return a if a.flags.carray else dense(a)


@njit(nogil=True, cache=True, error_model="numpy")
def _gradient(dloss, z, t, m, s, total, ignore_index, dz, chunk, wrong, begin, stop, part, team):
    """dz, `chunk` rows at a time. dloss: one for all rows, or one for each. wrong: as in _losses."""
    if team:
        share(begin, stop, part, team)
        return
    rows, classes = z.shape
    wrong[0] = _first_wrong(t, classes, ignore_index)
    if wrong[0] >= 0:
        return
    step = 1 if len(dloss) == rows else 0
    for first in range(0, rows, chunk):
        last = min(first + chunk, rows)
        for i in range(first, last):
            for j in range(classes):
                dz[i, j] = (z[i, j] - m[i]) - s[i]
        exp_in_place(dz[first:last].reshape(-1), (last - first) * classes)
        for i in range(first, last):
            kept = t[i] != ignore_index
            g = dloss[i * step] / total[0] if kept else np.float32(0)
            for j in range(classes):
                dz[i, j] = g * dz[i, j]
            if kept:
                dz[i, t[i]] -= g


@njit(nogil=True, cache=True)
def _first_wrong(t, classes, ignore_index):
    """The first row whose label is out of range, or -1."""
    for i in range(t.size):
        if (t[i] < 0 or t[i] >= classes) and t[i] != ignore_index:
            return i
    return -1
