"""Cross-entropy of a softmax on the CPU, compiled: one pass over z, where NumPy makes five and calls twenty functions.

Served here is float32 without class weights and label smoothing; all else is left to the reference.

Rows of up to 128 classes are taken some 4096 numbers at a time: the exponentials, which are most of the work, are then
one loop, long enough for vectors however few the classes are. Wider ones are taken row by row; each row is read from
memory once, and stays in the cache for its second pass. A small net's batch has too few rows to be worth several
threads. The losses are added in the order of the rows, whatever the number of threads.

512 rows of 10 classes, one core with AVX-512, both calls with their checks:

    | form                                                 | loss, gradient (microseconds) |
    | exp of the C library, number by number               |            45, 63             |
    | exp_in_place over all rows at once, checks in a row  |            26, 19             |

A row's maximum and the sum of its exponentials are vectors too: in one chain of comparisons, and one of additions in
float64, a number waits for the one before. Nanoseconds a row of 64 and of 77 classes, there: 170, 216 in chains, 41, 60
row by row with vectors, 23, 35 here, 27, 35 in PyTorch.
"""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.apart import load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import dense, guard, whole
from tilegrad.kernels.cpu.long_sums import REASSOC
from tilegrad.kernels.cpu.rows import row
from tilegrad.kernels.cpu.scalar_math import exp, exp_in_place, smaller
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.softmax.cpu import maximum, sum_of_exp
from tilegrad.kernels.softmax_xent import reference

_MEAN, _SUM, _NONE = 0, 1, 2
_CODE = {"mean": _MEAN, "sum": _SUM, "none": _NONE}
_float32 = np.dtype(np.float32)
_CHUNK = 1 << 12  # numbers that are exponentiated at once
_NARROW = 128  # classes at most of rows that are taken together
_WORTH_SHARING = 1 << 16  # bytes of z: exponentials that take one core some 10 microseconds
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
    sums, wrong, code = np.empty(2, np.float32), np.empty(1, np.int64), _CODE[reduction]
    rows, classes = z.shape
    most = rows if z.nbytes > _WORTH_SHARING else 1
    flat = z.reshape(-1), t, classes, ignore_index, code, losses, m, s, sums, wrong
    if classes <= _NARROW:
        chunk = _rows_at_once(z)
        shifted = np.empty(min(most, threads.num_threads()) * chunk * classes, np.float32)
        threads.share(_losses, most, rows, *flat, shifted, chunk)
    else:
        threads.share(_losses_of_rows, most, rows, *flat)
    guard(wrong, reference.check_labels, "softmax_xent", t, classes, ignore_index)
    if most > 1:
        threads.share(_reduced, 1, 1, losses, t, ignore_index, code, sums)
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
def _losses(
    z, t, classes, ignore_index, reduction, losses, m, s, sums, wrong, shifted, chunk, begin, stop, part, team
):  # fmt: skip
    """losses, m and s of these rows, and whoever has all of them adds them up.

    sums     the loss, and what a mean is divided by
    wrong    the first row whose label is out of range, or -1; all threads find the same
    shifted  room for `chunk` rows of each thread
    """
    if team:
        share(begin, stop, part, team)
        return
    wrong[0] = _first_wrong(t, classes, ignore_index)
    if wrong[0] >= 0:
        return
    own = row(shifted, part * chunk * classes, chunk * classes)
    for first in range(begin, stop, chunk):
        last = smaller(first + chunk, stop)
        for i in range(first, last):
            x, room = row(z, i * classes, classes), row(own, (i - first) * classes, classes)
            m[i] = most = maximum(x)
            for j in range(classes):
                store(room, j, load(x, j) - most)
        exp_in_place(own, (last - first) * classes)
        for i in range(first, last):
            x, total = row(z, i * classes, classes), _total(row(own, (i - first) * classes, classes))
            if total != total and _has_nan(x):  # the maximum of integers may have passed over it
                m[i] = np.nan
            s[i] = np.log(total)
            losses[i] = np.float32(0) if t[i] == ignore_index else s[i] - (x[t[i]] - m[i])
    if begin == 0 and stop == t.size:
        _add(losses, t, ignore_index, reduction, sums)


@njit(nogil=True, cache=True, error_model="numpy")
def _losses_of_rows(z, t, classes, ignore_index, reduction, losses, m, s, sums, wrong, begin, stop, part, team):
    """As _losses, row by row."""
    if team:
        share(begin, stop, part, team)
        return
    wrong[0] = _first_wrong(t, classes, ignore_index)
    if wrong[0] >= 0:
        return
    for i in range(begin, stop):
        x = row(z, i * classes, classes)
        m[i] = maximum(x)
        total = sum_of_exp(x, m[i])
        if total != total and _has_nan(x):  # as above
            m[i] = np.nan
        s[i] = np.log(total)
        losses[i] = np.float32(0) if t[i] == ignore_index else s[i] - (x[t[i]] - m[i])
    if begin == 0 and stop == t.size:
        _add(losses, t, ignore_index, reduction, sums)


@njit(nogil=True, fastmath=REASSOC)
def _total(x):
    total = 0.0
    for j in range(x.size):
        total += x[j]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _reduced(losses, t, ignore_index, reduction, sums, begin, stop, part, team):
    """sums, as in _losses, after several threads have found the losses."""
    if team:
        share(begin, stop, part, team)
        return
    _add(losses, t, ignore_index, reduction, sums)


@njit(nogil=True, error_model="numpy")
def _add(losses, t, ignore_index, reduction, sums):
    loss, kept = 0.0, 0
    for i in range(t.size):
        loss += losses[i]
        kept += t[i] != ignore_index
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
    rows, classes = z.shape
    most = rows if z.nbytes > _WORTH_SHARING else 1
    flat = per_row, z.reshape(-1), t, classes, m, s, total, ignore_index, dz.reshape(-1), wrong
    if classes <= _NARROW:
        threads.share(_gradient, most, rows, *flat, _rows_at_once(z))
    else:
        threads.share(_gradient_of_rows, most, rows, *flat)
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
def _gradient(dloss, z, t, classes, m, s, total, ignore_index, dz, wrong, chunk, begin, stop, part, team):
    """dz of these rows, `chunk` rows at a time. dloss: one for all rows, or one for each. wrong: as in _losses."""
    if team:
        share(begin, stop, part, team)
        return
    wrong[0] = _first_wrong(t, classes, ignore_index)
    if wrong[0] >= 0:
        return
    step = 1 if dloss.size == t.size else 0
    for first in range(begin, stop, chunk):
        last = smaller(first + chunk, stop)
        for i in range(first, last):
            x, dx, most, log = row(z, i * classes, classes), row(dz, i * classes, classes), m[i], s[i]
            for j in range(classes):
                store(dx, j, (load(x, j) - most) - log)
        exp_in_place(row(dz, first * classes, (last - first) * classes), (last - first) * classes)
        for i in range(first, last):
            dx, kept = row(dz, i * classes, classes), t[i] != ignore_index
            g = dloss[i * step] / total[0] if kept else np.float32(0)
            for j in range(classes):
                dx[j] = g * dx[j]
            if kept:
                dx[t[i]] -= g


@njit(nogil=True, cache=True, error_model="numpy")
def _gradient_of_rows(dloss, z, t, classes, m, s, total, ignore_index, dz, wrong, begin, stop, part, team):
    """As _gradient, row by row."""
    if team:
        share(begin, stop, part, team)
        return
    wrong[0] = _first_wrong(t, classes, ignore_index)
    if wrong[0] >= 0:
        return
    step = 1 if dloss.size == t.size else 0
    for i in range(begin, stop):
        x, dx, kept = row(z, i * classes, classes), row(dz, i * classes, classes), t[i] != ignore_index
        g = dloss[i * step] / total[0] if kept else np.float32(0)
        most, log = m[i], s[i]
        for j in range(classes):
            store(dx, j, g * exp((load(x, j) - most) - log))
        if kept:
            dx[t[i]] -= g


@njit(nogil=True)
def _has_nan(x):
    found = 0
    for j in range(x.size):
        found += x[j] != x[j]
    return found > 0


@njit(nogil=True, cache=True)
def _first_wrong(t, classes, ignore_index):
    """The first row whose label is out of range, or -1."""
    for i in range(t.size):
        if (t[i] < 0 or t[i] >= classes) and t[i] != ignore_index:
            return i
    return -1
