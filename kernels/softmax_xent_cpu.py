"""Cross-entropy of a softmax on the CPU, compiled: one pass over z, where NumPy makes five and calls twenty functions.

Served here is float32 without class weights and label smoothing; all else is the reference's. The rows of a small
net's batch are too few to be worth sharing out.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels import softmax_xent_reference as reference

_MEAN, _SUM, _NONE = 0, 1, 2
_CODE = {"mean": _MEAN, "sum": _SUM, "none": _NONE}


def softmax_xent(
    z: np.ndarray,
    t: np.ndarray,
    weight: np.ndarray | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """softmax_xent_reference.softmax_xent. Traffic: reads 4 N C bytes once from memory, writes 12 N."""
    reference.check_softmax_xent("softmax_xent", z, t, weight, label_smoothing, ignore_index, reduction)
    if z.dtype != np.float32 or weight is not None or label_smoothing:
        return reference.softmax_xent(z, t, weight, label_smoothing, ignore_index, reduction)
    _check_labels("softmax_xent", t, z.shape[1], ignore_index)
    losses, m, s = (np.empty(len(z), np.float32) for _ in range(3))
    loss, total = _losses(z, t, ignore_index, _CODE[reduction], losses, m, s)
    total = np.asarray(total, np.float32)
    return losses if reduction == "none" else np.asarray(loss, np.float32), m, s, total


@njit(nogil=True, cache=True, error_model="numpy")
def _losses(z, t, ignore_index, reduction, losses, m, s):
    rows, classes = z.shape
    loss, kept = 0.0, 0
    for i in range(rows):
        most = np.float32(-np.inf)
        for j in range(classes):
            most = z[i, j] if z[i, j] > most or z[i, j] != z[i, j] else most
        total = 0.0  # float64: a row may be 256k classes long
        for j in range(classes):
            total += np.exp(z[i, j] - most)
        m[i], s[i] = most, np.log(total)
        if t[i] == ignore_index:
            losses[i] = 0
            continue
        losses[i] = s[i] - (z[i, t[i]] - most)
        loss += losses[i]
        kept += 1
    if reduction == _MEAN:
        return loss / kept, kept
    return loss, 1


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
    served = z.dtype == np.float32 and weight is None and not label_smoothing and z.flags.c_contiguous
    if not served:
        return reference.softmax_xent_grad(dloss, z, t, m, s, total, weight, label_smoothing, ignore_index, reduction)
    reference.check_softmax_xent_grad(dloss, z, t, m, s, total, weight, label_smoothing, ignore_index, reduction)
    _check_labels("softmax_xent_grad", t, z.shape[1], ignore_index)
    dz = np.empty(z.shape, np.float32)
    _gradient(np.broadcast_to(dloss, len(z)), z, t, m, s, np.float32(total), ignore_index, dz)
    return dz


@njit(nogil=True, cache=True, error_model="numpy")
def _gradient(dloss, z, t, m, s, total, ignore_index, dz):
    rows, classes = z.shape
    for i in range(rows):
        kept = t[i] != ignore_index
        g = dloss[i] / total if kept else np.float32(0)
        for j in range(classes):
            dz[i, j] = g * np.exp((z[i, j] - m[i]) - s[i])
        if kept:
            dz[i, t[i]] -= g


def _check_labels(op: str, t: np.ndarray, classes: int, ignore_index: int) -> None:
    if _first_wrong(t, classes, ignore_index) < len(t):
        reference.check_labels(op, t, classes, ignore_index)


@njit(nogil=True, cache=True)
def _first_wrong(t, classes, ignore_index):
    for i in range(t.size):
        if (t[i] < 0 or t[i] >= classes) and t[i] != ignore_index:
            return i
    return t.size
