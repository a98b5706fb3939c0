"""Losses of numbers against numbers on a GPU, in Triton: the formulas of losses/reference.py.

    loss        a program takes some tiles of BLOCK neighbouring elements of memory. It stores their losses ("none"), or
                adds them in float32, element by element, and sums the block when it has seen all tiles. A second
                launch, of one program, adds what the programs have; one program alone needs none
    gradients   a program takes one tile, and writes dx, dt or both

Tiles and programs depend on the number of elements alone, so the bits of a sum are the same in every run: no atomics.
Any strides: x is copied to dense memory if it has holes, and the others if they lie in another order than x.

float16, bfloat16 and float32, computed in float32. An x of binary_cross_entropy that is no probability is noted
(kernels/launch/faults.py), and nothing waits for the device.

Traffic: the loss reads x and t once, the weights that there are, and writes x.size elements or next to nothing. The
gradients read the same, and a dy of x's shape for "none", and write what is asked for. That is the floor; for logits
and float16 the arithmetic (an exponential, a logarithm of 12 instructions, a division) is near it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.activations.gpu_triton_math import exp as _exp
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.dense import dense, dense_as, empty_like
from tilegrad.kernels.launch import faults
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_faults import note
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.losses.gpu_triton_math import cut_log as _cut_log
from tilegrad.kernels.losses.gpu_triton_math import cut_log_of_rest as _cut_log_of_rest
from tilegrad.kernels.losses.gpu_triton_math import log1p_of_fraction as _log1p_of_fraction
from tilegrad.kernels.losses.reference import check_loss, check_loss_grad, probability_error
from tilegrad.kernels.sizes import cdiv

BLOCK = 1024  # 4 warps, 8 elements a thread: one 16-byte load of halves, two of floats
PROGRAMS = 1024  # that add: enough to fill any card, and few enough to be added by one
_MOST_PLACE = tl.constexpr((1 << 31) - 2)  # that a fault can name


@triton.jit
def _sign(d):
    """-1, 0 or 1; NaN stays NaN."""
    return tl.where(d > 0, 1.0, tl.where(d < 0, -1.0, d))


@triton.jit
def _above(x):
    """max(x, 0), but 0 for NaN."""
    return tl.where(x > 0, x, 0.0)


@triton.jit
def _loss(x, t, p, beta, KIND: tl.constexpr):
    if KIND == "mse_loss":
        loss = (x - t) * (x - t)
    elif KIND == "l1_loss":
        loss = tl.abs(x - t)
    elif KIND == "smooth_l1_loss":
        size = tl.abs(x - t)
        loss = tl.where(size < beta, size * size * (0.5 / beta), size - 0.5 * beta)
    elif KIND == "huber_loss":
        size = tl.abs(x - t)
        loss = tl.where(size <= beta, size * size * 0.5, (size - 0.5 * beta) * beta)
    elif KIND == "binary_cross_entropy":
        loss = -(t * _cut_log(x) + (1.0 - t) * _cut_log_of_rest(x))
    else:
        tl.static_assert(KIND == "binary_cross_entropy_with_logits", "no such kind")
        rest = _log1p_of_fraction(_exp(-tl.abs(x)))
        loss = p * t * (_above(-x) + rest) + (1.0 - t) * (_above(x) + rest)
    return loss


@triton.jit
def _slope(x, t, p, beta, KIND: tl.constexpr):
    """The derivative by x."""
    if KIND == "mse_loss":
        slope = 2.0 * (x - t)
    elif KIND == "l1_loss":
        slope = _sign(x - t)
    elif KIND == "smooth_l1_loss":
        slope = tl.where(tl.abs(x - t) < beta, (x - t) / beta, _sign(x - t))
    elif KIND == "huber_loss":
        slope = tl.where(tl.abs(x - t) <= beta, x - t, _sign(x - t) * beta)
    elif KIND == "binary_cross_entropy":
        below = x * (1.0 - x)
        slope = (x - t) / tl.where(below < 1e-12, 1e-12, below)
    else:
        e = _exp(-tl.abs(x))
        of_one, of_zero = tl.where(x > 0, e, 1.0), tl.where(x > 0, 1.0, e)
        slope = ((1.0 - t) * of_zero - p * t * of_one) / (1.0 + e)
    return slope


@triton.jit
def _target_slope(x, slope, p, KIND: tl.constexpr):
    """The derivative by t; slope is the one by x."""
    if KIND == "binary_cross_entropy":
        slope = _cut_log_of_rest(x) - _cut_log(x)
    elif KIND == "binary_cross_entropy_with_logits":
        slope = p * _above(-x) - _above(x) + (p - 1.0) * _log1p_of_fraction(_exp(-tl.abs(x)))
    else:
        slope = -slope
    return slope


@triton.jit
def _given(ptr, i, inside):
    """A weight in float32; 1 where there is none."""
    if ptr is not None:
        weight = tl.load(ptr + i, mask=inside).to(tl.float32)
    else:
        weight = tl.zeros(i.shape, tl.float32) + 1.0
    return weight


@triton.jit
def _losses_of(
    x_ptr, t_ptr, weight_ptr, p_ptr, y_ptr, fault_ptr, i, inside, beta, KIND: tl.constexpr, KEPT: tl.constexpr
):  # fmt: skip
    """The losses of elements i, stored if KEPT.

    inside: which of them there are; None: all. Under a mask that may end anywhere, loads do not vectorise.
    """
    x = tl.load(x_ptr + i, mask=inside).to(tl.float32)
    t = tl.load(t_ptr + i, mask=inside).to(tl.float32)
    loss = _loss(x, t, _given(p_ptr, i, inside), beta, KIND) * _given(weight_ptr, i, inside)
    if fault_ptr is not None:
        wrong = ((x >= 0) & (x <= 1)) == 0
        loss = tl.where(wrong, float("nan"), loss)
        if inside is not None:
            wrong = wrong & inside
        note(fault_ptr, tl.minimum(i, _MOST_PLACE), tl.zeros_like(i), wrong)
    if KEPT:
        tl.store(y_ptr + i, loss.to(y_ptr.dtype.element_ty), mask=inside)
    return loss


@kernel
def _loss_kernel(
    x_ptr, t_ptr, weight_ptr, p_ptr, y_ptr, fault_ptr, n, tiles, beta, count,
    KIND: tl.constexpr, KEPT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x, t, weight, p, and y if KEPT: n elements of dense memory; weight and p may be None. fault: a slot, or None.

    Otherwise y: (programs,), of each the sum over count.
    """
    begin = tl.program_id(0).to(tl.int64) * tiles * BLOCK
    total = tl.zeros([BLOCK], tl.float32)
    for tile in range(tiles):
        start = begin + tile * BLOCK
        i = start + tl.arange(0, BLOCK)
        if start + BLOCK <= n:
            total += _losses_of(x_ptr, t_ptr, weight_ptr, p_ptr, y_ptr, fault_ptr, i, None, beta, KIND, KEPT)
        else:
            loss = _losses_of(x_ptr, t_ptr, weight_ptr, p_ptr, y_ptr, fault_ptr, i, i < n, beta, KIND, KEPT)
            total += tl.where(i < n, loss, 0.0)
    if not KEPT:
        tl.store(y_ptr + tl.program_id(0), (tl.sum(total, 0) / count).to(y_ptr.dtype.element_ty))


@kernel
def _join_kernel(parts_ptr, y_ptr, n, count, BLOCK: tl.constexpr):
    """y: () = the sum of parts, (n,) float32, over count."""
    i = tl.arange(0, BLOCK)
    total = tl.sum(tl.load(parts_ptr + i, mask=i < n, other=0.0), 0)
    tl.store(y_ptr, (total / count).to(y_ptr.dtype.element_ty))


@triton.jit
def _gradients_of(
    dy_ptr, x_ptr, t_ptr, weight_ptr, p_ptr, dx_ptr, dt_ptr, i, inside, beta, count,
    KIND: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    x = tl.load(x_ptr + i, mask=inside).to(tl.float32)
    t = tl.load(t_ptr + i, mask=inside).to(tl.float32)
    p = _given(p_ptr, i, inside)
    if EACH:
        g = tl.load(dy_ptr + i, mask=inside).to(tl.float32)
    else:
        g = tl.load(dy_ptr).to(tl.float32) / count
    g = g * _given(weight_ptr, i, inside)
    slope = _slope(x, t, p, beta, KIND)
    if dx_ptr is not None:
        tl.store(dx_ptr + i, (g * slope).to(dx_ptr.dtype.element_ty), mask=inside)
    if dt_ptr is not None:
        dt = g * _target_slope(x, slope, p, KIND)
        tl.store(dt_ptr + i, dt.to(dt_ptr.dtype.element_ty), mask=inside)


@kernel
def _loss_grad_kernel(
    dy_ptr, x_ptr, t_ptr, weight_ptr, p_ptr, dx_ptr, dt_ptr, n, beta, count,
    KIND: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All: n elements of dense memory; dy: () unless EACH. weight, p, dx and dt may be None."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    i = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        _gradients_of(
            dy_ptr, x_ptr, t_ptr, weight_ptr, p_ptr, dx_ptr, dt_ptr, i, None, beta, count, KIND, EACH
        )  # fmt: skip
    else:
        _gradients_of(
            dy_ptr, x_ptr, t_ptr, weight_ptr, p_ptr, dx_ptr, dt_ptr, i, i < n, beta, count, KIND, EACH
        )  # fmt: skip


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
    dtype = no_float64(op, check_loss(op, x, t, kind, weight, pos_weight, beta, reduction))
    xp, n = gpu.xp(), x.size
    arrays = _alike(x, t, weight, pos_weight)
    kind, kept = _without_corner(kind, beta), reduction == "none"
    tiles = 1 if kept else max(1, cdiv(cdiv(n, BLOCK), PROGRAMS))
    programs = cdiv(n, tiles * BLOCK) if kept else max(1, cdiv(n, tiles * BLOCK))
    count = float(n if reduction == "mean" else 1)
    y = empty_like(arrays[0]) if kept else xp.empty((), dtype)
    parts = y if kept or programs == 1 else xp.empty(programs, np.float32)
    fault = faults.watch(probability_error) if kind == "binary_cross_entropy" else None
    divisor = count if parts is y else 1.0
    options = {"KIND": kind, "KEPT": kept, "BLOCK": BLOCK}
    _loss_kernel((programs,), *arrays, parts, fault, n, tiles, float(beta), divisor, **options)
    if parts is not y:
        _join_kernel((1,), parts, y, programs, count, BLOCK=PROGRAMS, num_warps=8)
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
    no_float64("elementwise_loss_grad", check_loss_grad(dy, x, t, kind, weight, pos_weight, beta, reduction))
    arrays, n = _alike(x, t, weight, pos_weight), x.size
    each = reduction == "none"
    dy = dense_as(dy, arrays[0]) if each else dy
    found = [empty_like(arrays[0]) if asked else None for asked in (to_x, to_t)]
    options = {"KIND": _without_corner(kind, beta), "EACH": each, "BLOCK": BLOCK}
    count = float(n if reduction == "mean" else 1)
    _loss_grad_kernel((cdiv(n, BLOCK),), dy, *arrays, *found, n, float(beta), count, **options)
    return tuple([a for a in found if a is not None])


def _alike(x: Any, *others: Any) -> list[Any]:
    """All as dense memory in x's order; None stays None."""
    x = dense(x)
    return [x, *[None if a is None else dense_as(a, x) for a in others]]


def _without_corner(kind: str, beta: float) -> str:
    """smooth_l1_loss without a square part is l1_loss."""
    return "l1_loss" if kind == "smooth_l1_loss" and beta == 0 else kind
