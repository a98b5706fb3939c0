"""Cross-entropy of a softmax on the CPU, compiled: one pass over z, where NumPy makes five and calls twenty functions.

Rows are taken some 4096 numbers at a time, so that the exponentials, most of the work, are one loop long enough for
vectors however few the classes are. Served here is float32 without class weights and label smoothing; all else is the
reference's. The rows of a small net's batch are too few to be worth sharing out. 512 rows of 10 classes, one core with
AVX-512, both calls with their checks:

    | form                                                 | loss, gradient (microseconds) |
    | exp of the C library, number by number               |            45, 63             |
    | exp_in_place over all rows at once, checks in a row  |            26, 19             |
"""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels import softmax_xent_reference as reference
from kernels.exp_cpu import exp_in_place

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
    """softmax_xent_reference.softmax_xent. Traffic: reads 4 N C bytes once from memory, writes 12 N."""
    if not _is_served(z, t, weight, label_smoothing, ignore_index, reduction):
        return reference.softmax_xent(z, t, weight, label_smoothing, ignore_index, reduction)
    losses, m, s = np.empty((3, len(t)), np.float32)
    z, t = _dense(z), _dense(t)
    shifted = np.empty(_rows_at_once(z) * z.shape[1], np.float32)
    loss, total, wrong = _losses(z, t, ignore_index, _CODE[reduction], losses, m, s, shifted)
    if wrong >= 0:
        reference.check_labels("softmax_xent", t, z.shape[1], ignore_index)
    loss = losses if reduction == "none" else np.asarray(loss, np.float32)
    return loss, m, s, np.asarray(total, np.float32)


def _is_served(z, t, weight, label_smoothing, ignore_index, reduction) -> bool:
    """Whether these pass every check of the reference's but for labels out of range, and are what the loops take."""
    if weight is not None or type(label_smoothing) not in (float, int) or label_smoothing != 0:
        return False
    if type(z) is not np.ndarray or z.dtype != _float32 or z.ndim != 2 or not z.shape[1]:
        return False
    if type(t) is not np.ndarray or t.dtype not in _LABELS or t.shape != z.shape[:1]:
        return False
    return type(ignore_index) is int and reduction in _CODE


@njit(nogil=True, cache=True, error_model="numpy")
def _losses(z, t, ignore_index, reduction, losses, m, s, shifted):
    rows, classes = z.shape
    loss, kept = 0.0, 0
    wrong = _first_wrong(t, classes, ignore_index)
    if wrong >= 0:
        return loss, kept, wrong
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
    if reduction == _MEAN:
        return loss / kept, kept, wrong
    return loss, 1, wrong


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
    """softmax_xent_reference.softmax_xent_grad. Traffic: reads and writes 4 N C bytes once."""
    served = _is_served(z, t, weight, label_smoothing, ignore_index, reduction)
    if (
        not served
        or not z.flags.c_contiguous
        or not _are_saved(dloss, m, s, total, () if reduction != "none" else t.shape, t.shape)
    ):
        return reference.softmax_xent_grad(dloss, z, t, m, s, total, weight, label_smoothing, ignore_index, reduction)
    dz = np.empty(z.shape, np.float32)
    z, t, m, s, per_row = map(_dense, (z, t, m, s, dloss.reshape(-1)))
    if _gradient(per_row, z, t, m, s, np.float32(total), ignore_index, dz, _rows_at_once(z)) >= 0:
        reference.check_labels("softmax_xent_grad", t, z.shape[1], ignore_index)
    return dz


def _are_saved(dloss, m, s, total, loss_shape, rows) -> bool:
    """Whether these pass every check of the reference's."""
    for a, shape in ((dloss, loss_shape), (m, rows), (s, rows), (total, ())):
        if type(a) is not np.ndarray or a.dtype != _float32 or a.shape != shape:
            return False
    return True


def _rows_at_once(z: np.ndarray) -> int:
    """How many rows have about _CHUNK numbers, at least one."""
    return max(1, min(len(z), _CHUNK // z.shape[1]))


def _dense(a: np.ndarray) -> np.ndarray:
    """a, or a copy where it is not the kind of array that the loops are compiled for."""
    return a if a.flags.carray else np.array(a, order="C")


@njit(nogil=True, cache=True, error_model="numpy")
def _gradient(dloss, z, t, m, s, total, ignore_index, dz, chunk):
    """dz, `chunk` rows at a time; dloss is one for all rows or one for each. Returns as _first_wrong does."""
    rows, classes = z.shape
    wrong = _first_wrong(t, classes, ignore_index)
    if wrong >= 0:
        return wrong
    step = 1 if len(dloss) == rows else 0
    for first in range(0, rows, chunk):
        last = min(first + chunk, rows)
        for i in range(first, last):
            for j in range(classes):
                dz[i, j] = (z[i, j] - m[i]) - s[i]
        exp_in_place(dz[first:last].reshape(-1), (last - first) * classes)
        for i in range(first, last):
            kept = t[i] != ignore_index
            g = dloss[i * step] / total if kept else np.float32(0)
            for j in range(classes):
                dz[i, j] = g * dz[i, j]
            if kept:
                dz[i, t[i]] -= g
    return wrong


@njit(nogil=True, cache=True)
def _first_wrong(t, classes, ignore_index):
    """The first row whose label is out of range, or -1."""
    for i in range(t.size):
        if (t[i] < 0 or t[i] >= classes) and t[i] != ignore_index:
            return i
    return -1
