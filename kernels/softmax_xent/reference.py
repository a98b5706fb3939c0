"""Cross-entropy of a softmax against class indices, and its gradient: the NumPy specification.

With labels t, class weights w (1 where not given) and label smoothing e, row i that is not ignored has

    log p_ij = (z_ij - m_i) - s_i,   m_i = max_j z_ij,   s_i = log sum_j exp(z_ij - m_i)
    loss_i   = -(1 - e) w_t log p_it - e/C sum_j w_j log p_ij

An ignored row has loss 0. The result is loss_i for each row (`reduction` "none"), their sum ("sum"), or their sum
over the sum of w_t of the rows that are not ignored ("mean"; NaN where all are ignored). This is
torch.nn.functional.cross_entropy. Label smoothing: Szegedy et al. 2016.

m and s are kept apart for the gradient: in m + s the digits of s would be lost beside a large m.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, is_int, one_of, require

REDUCTIONS = ("mean", "sum", "none")

_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")


@_quiet
def softmax_xent(
    z: np.ndarray,
    t: np.ndarray,
    weight: np.ndarray | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The loss (see the head of this file) and what its gradient needs.

    z       (N, C) float16 | bfloat16 | float32 | float64, any strides, C >= 1
    t       (N,) int32 | int64, each 0 <= t < C or ignore_index
    weight  (C,) of z's dtype, or None
    ->      loss () for "mean" and "sum", (N,) for "none"; m (N,); s (N,), so that p = exp((z - m) - s);
            total (), what "mean" divides by, 1 for the others. All float32, or float64 for float64 z

    Traffic: reads N*C*itemsize once where a row fits in cache, writes 12 N bytes (24 N for float64).
    Raises ValueError for shapes, ranges, the reduction and a label out of range (naming the first such row),
    TypeError for dtypes.
    """
    op = "softmax_xent"
    check_softmax_xent(op, z, t, weight, label_smoothing, ignore_index, reduction)
    check_labels(op, t, z.shape[1], ignore_index)
    accumulate = accumulator(z.dtype)
    z = z.astype(accumulate, copy=False)
    kept, target, row_weight = _rows(t, weight, ignore_index, accumulate)

    m = z.max(1, initial=-np.inf)
    shifted = z - m[:, None]
    s = np.log(np.exp(shifted).sum(1))
    loss = row_weight * (s - shifted[np.arange(len(t)), target])
    if label_smoothing:
        classes = z.shape[1]
        w = np.ones(classes, accumulate) if weight is None else weight.astype(accumulate, copy=False)
        smooth = ((s[:, None] - shifted) * w).sum(1)
        loss = (1 - label_smoothing) * loss + (label_smoothing / classes) * smooth
    loss[~kept] = 0
    total = row_weight.sum() if reduction == "mean" else accumulate.type(1)
    if reduction != "none":
        loss = loss.sum() / total
    return np.asarray(loss), m, s, np.asarray(total)


@_quiet
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
    """The gradient of softmax_xent's loss with respect to z.

        dz_ij = g_i ( (1 - e) w_t (p_ij - [j = t]) + e/C (p_ij sum_k w_k - w_j) ),   p = exp((z - m) - s)

    with g_i = dloss / total, and 0 for an ignored row.

    dloss           () for "mean" and "sum", (N,) for "none", any strides; dtype of m and s
    z, t, weight    as softmax_xent took them; m, s, total as it gave them
    ->              dz (N, C) of z's dtype, in z's memory order

    Traffic: reads and writes N*C*itemsize once.
    Raises as softmax_xent does, and for m, s, total or dloss of another shape or dtype.
    """
    check_softmax_xent_grad(dloss, z, t, m, s, total, weight, label_smoothing, ignore_index, reduction)
    check_labels("softmax_xent_grad", t, z.shape[1], ignore_index)
    (rows, classes), dtype, accumulate = z.shape, z.dtype, accumulator(z.dtype)
    z = z.astype(accumulate, copy=False)
    kept, target, row_weight = _rows(t, weight, ignore_index, accumulate)
    g = np.where(kept, dloss / total, 0)
    at_target = (1 - label_smoothing) * g * row_weight

    dz = z - m[:, None]
    dz -= s[:, None]
    np.exp(dz, out=dz)
    if label_smoothing:
        w = np.ones(classes, accumulate) if weight is None else weight.astype(accumulate, copy=False)
        everywhere = (label_smoothing / classes) * g
        dz *= (at_target + everywhere * w.sum())[:, None]
        dz -= everywhere[:, None] * w
    else:
        dz *= at_target[:, None]
    dz[np.arange(rows), target] -= at_target
    return dz.astype(dtype, copy=False)


def _rows(
    t: np.ndarray, weight: np.ndarray | None, ignore_index: int, accumulate: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row: whether it counts, a target safe to index with, and its class weight (0 if ignored)."""
    kept = t != ignore_index
    target = np.where(kept, t, 0)
    if weight is None:
        return kept, target, kept.astype(accumulate)
    return kept, target, np.where(kept, weight[target], 0).astype(accumulate)


def check_softmax_xent_grad(
    dloss: Any,
    z: Any,
    t: Any,
    m: Any,
    s: Any,
    total: Any,
    weight: Any | None,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> None:
    """Raise as softmax_xent_grad does, but for labels out of range."""
    op = "softmax_xent_grad"
    check_softmax_xent(op, z, t, weight, label_smoothing, ignore_index, reduction)
    rows, dtype, accumulate = z.shape[0], z.dtype, accumulator(z.dtype)
    loss_shape = (rows,) if reduction == "none" else ()
    shapes = {"dloss": loss_shape, "m": (rows,), "s": (rows,), "total": ()}
    saved = float_dtype(op, dloss=dloss, m=m, s=s, total=total)
    if saved != accumulate:
        raise TypeError(f"{op}: dloss, m, s and total are {saved} but z is {dtype}; expected {accumulate}")
    for (name, shape), a in zip(shapes.items(), (dloss, m, s, total), strict=True):
        if a.shape != shape:
            raise ValueError(f"{op}: {name} is {a.shape}; expected {shape} for z {z.shape}, {reduction!r}")


def check_softmax_xent(
    op: str,
    z: Any,
    t: Any,
    weight: Any | None,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> None:
    """Raise as softmax_xent does, in the name of `op`, but for labels out of range."""
    float_dtype(op, z=z, weight=weight)
    found = getattr(t, "dtype", None)
    if found not in (np.int32, np.int64):
        found = f"a {type(t).__name__}" if found is None else found
        raise TypeError(f"{op}: t is {found}; expected an int32 or int64 array")
    if not is_int(ignore_index):
        raise TypeError(f"{op}: ignore_index is {ignore_index!r}; expected an int")
    if not isinstance(label_smoothing, Real):
        raise TypeError(f"{op}: label_smoothing is {label_smoothing!r}; expected a real number")
    if z.ndim != 2 or z.shape[1] == 0:
        raise ValueError(f"{op}: z is {z.shape}; expected (N, C) with C >= 1")
    rows, classes = z.shape
    if t.shape != (rows,):
        raise ValueError(f"{op}: z is {z.shape} but t is {t.shape}; expected t of shape ({rows},)")
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"{op}: weight is {weight.shape}; expected ({classes},)")
    require(0 <= label_smoothing <= 1, op, f"label_smoothing is {label_smoothing}; expected 0 to 1")
    one_of(op, "reduction", reduction, REDUCTIONS)


def check_labels(op: str, t: np.ndarray, classes: int, ignore_index: int) -> None:
    """Raise ValueError, naming the first row whose label is out of range."""
    wrong = np.flatnonzero(((t < 0) | (t >= classes)) & (t != ignore_index))
    if len(wrong):
        raise label_error(op, classes, ignore_index, int(wrong[0]), int(t[wrong[0]]))


def label_error(op: str, classes: int, ignore_index: int, row: int, label: int) -> ValueError:
    """What is wrong with a label out of range."""
    expected = f"0 <= t < {classes}, or ignore_index {ignore_index}"
    return ValueError(f"{op}: t[{row}] is {label}; expected {expected}")
