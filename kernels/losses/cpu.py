"""Losses of numbers against numbers on the CPU, compiled: one pass over memory, where NumPy makes one an operation.

Served here are float32 arrays, and the 16-bit types by way of float32; float64 is left to the reference. Arrays of
another memory order than x's are copied first.

BLOCK numbers are taken at a time, which stay in the nearest cache from the loop of their kind to those of the weight
and of the sum. A sum has a part for each block, in float64, and the parts are added in their order: the bits do not
depend on the number of threads.
"""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.effects import contiguous, guard, whole
from tilegrad.kernels.cpu.halves import HALVES, in_float32
from tilegrad.kernels.losses import cpu_loops as loops
from tilegrad.kernels.losses import reference
from tilegrad.kernels.losses.cpu_loops import BLOCK
from tilegrad.kernels.losses.probabilities import check_probabilities
from tilegrad.kernels.losses.reference import KINDS, check_loss, check_loss_grad
from tilegrad.kernels.sizes import cdiv

_float32 = np.dtype(np.float32)
_NOTHING = np.empty(0, _float32)

Array = np.ndarray


def elementwise_loss(
    x: Array,
    t: Array,
    kind: str,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    beta: float = 1.0,
    reduction: str = "mean",
) -> Array:
    """losses.reference.elementwise_loss. Traffic: reads 8 bytes an element, and writes 4 for "none"."""
    dtype = check_loss("elementwise_loss", x, t, kind, weight, pos_weight, beta, reduction)
    arguments = x, t, kind, weight, pos_weight, beta, reduction
    if dtype in HALVES and x.size:
        return whole(in_float32, elementwise_loss, 1, *arguments)
    if dtype != _float32 or not x.size:
        return whole(reference.elementwise_loss, *arguments)
    order = _order(x)
    given = [_flat(a, order) for a in (x, t, weight, pos_weight)]
    blocks, kept = cdiv(x.size, BLOCK), reduction == "none"
    y = buffers.empty(_shape(x, order), _float32) if kept else np.empty((), _float32)
    result = y.reshape(-1)
    memory = result if kept else np.empty(min(threads.num_threads(), blocks) * BLOCK, _float32)
    sums, count = np.empty(blocks), _count(x, reduction)
    arrays = *given, float(beta), int(kept), memory, sums, count, result
    kernel, pieces = loops.FORWARD[_place(kind, pos_weight)], _pieces(x, blocks)
    if kind == "binary_cross_entropy":
        wrong = np.full(1, -1)
        threads.share(kernel, pieces, blocks, *arrays, wrong)
        guard(wrong, _raise, wrong, given[0])
    else:
        threads.share(kernel, pieces, blocks, *arrays)
    if not kept and blocks > 1:
        threads.share(loops.join, 1, 1, sums, count, result)
    return _back(y, order) if kept else y


def elementwise_loss_grad(
    dy: Array,
    x: Array,
    t: Array,
    kind: str,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    beta: float = 1.0,
    reduction: str = "mean",
    to_x: bool = True,
    to_t: bool = False,
) -> tuple[Array, ...]:
    """losses.reference.elementwise_loss_grad. Traffic: reads 8 and writes 4 bytes an element, for both 8."""
    dtype = check_loss_grad(dy, x, t, kind, weight, pos_weight, beta, reduction)
    arguments = dy, x, t, kind, weight, pos_weight, beta, reduction, to_x, to_t
    if dtype in HALVES and x.size:
        return whole(in_float32, elementwise_loss_grad, 2, *arguments)
    if dtype != _float32 or not x.size:
        return whole(reference.elementwise_loss_grad, *arguments)
    order = _order(x)
    given = [_flat(a, order) for a in (dy if reduction == "none" else dy.reshape(1), x, t, weight, pos_weight)]
    found = [buffers.empty(_shape(x, order), _float32) for asked in (to_x, to_t) if asked]
    results = iter(found)
    targets = [next(results).reshape(-1) if asked else _NOTHING for asked in (to_x, to_t)]
    blocks = cdiv(x.size, BLOCK)
    kernel, pieces = loops.BACKWARD[_place(kind, pos_weight)], _pieces(x, blocks)
    threads.share(kernel, pieces, blocks, *given, float(beta), _count(x, reduction), *targets)
    return tuple([_back(each, order) for each in found])


def _place(kind: str, pos_weight: Array | None) -> int:
    """Of the kind among the loops."""
    return KINDS.index(kind) if pos_weight is None else len(KINDS)


def _count(x: Array, reduction: str) -> float:
    """What a sum is divided by."""
    return float(x.size if reduction == "mean" else 1)


def _pieces(x: Array, blocks: int) -> int:
    return blocks if x.nbytes > threads.WORTH_SHARING else 1


def _order(x: Array) -> list[int] | None:
    """The axes, outermost in memory first, if that is not C order."""
    return None if x.flags.c_contiguous else sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))


def _shape(x: Array, order: list[int] | None) -> tuple[int, ...]:
    return x.shape if order is None else tuple([x.shape[axis] for axis in order])


def _flat(a: Array | None, order: list[int] | None) -> Array:
    """The numbers in x's memory order; nothing for None."""
    if a is None:
        return _NOTHING
    a = a if order is None or a.shape == (1,) else a.transpose(order)
    return contiguous(a).reshape(-1)


def _back(y: Array, order: list[int] | None) -> Array:
    return y if order is None else y.transpose(np.argsort(order))


def _raise(wrong: Array, x: Array) -> None:
    wrong[0] = -1
    check_probabilities(x)
