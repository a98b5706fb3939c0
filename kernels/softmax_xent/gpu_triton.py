"""Cross-entropy of a softmax and its gradient on a GPU, in Triton: the formulas of softmax_xent/reference.py.

    forward    a program reads ROWS rows of z once, block by block, with a running maximum and sum (Milakov &
               Gimelshein 2018, "Online normalizer calculation for softmax"), so that 256k classes are no worse than
               10; no (N, C) memory is taken. "mean" and "sum" then add the losses in a fixed order, in 1 or 2 stages
    gradient   m and s are known, so every element is computed by itself, in programs of ROWS x BLOCK elements

Label smoothing needs sum_j w_j ((m + s) - z_ij). sum_j w_j (z_ij - m) is kept online too, and subtracted from
s sum_j w_j once m and s are known. For weights >= 0 that adds two terms >= 0, and nothing cancels.

Nothing is read or written beyond an array for a label that is out of range: its row is NaN, and the host raises the
reference's ValueError at the next synchronisation (kernels/launch/faults.py). Nothing waits for the device, and nothing
depends on the order in which programs run.

float16, bfloat16 and float32, computed in float32; the device's exp is ex2.approx, good to 2 ulp beside the maximum.

Tiles: 16 elements a thread and at most 8 warps, in the loop too: while one program reduces, several others on the same
SM have loads in flight.

The loop over the classes is pipelined where the programs are few (`_stages`): two blocks are copied to shared memory
ahead of the one that is reduced. What that should bring, reasoned and not measured: a load takes some 0.8 us to arrive,
a reduction with its barriers some 0.4. With one program an SM, as for 128 rows of 128k classes, a block of 16 KB takes
1.2 us: 14 GB/s of the SM's share of 32 GB/s (4.2 TB/s over 132 SMs). Pipelined, a block is asked for two reductions
before it is used, and takes (0.8 + 0.4) / 2 = 0.6 us: twice as fast. Where more programs share an SM, one loads while
another reduces: 6 of them have up to 96 KB in flight, and 26 KB suffice for 32 GB/s at 0.8 us. Pipelining would change
nothing there but that, in float32, 5 programs fit for 6 (47 registers for 38, 32 KB of shared memory).

Traffic: the forward reads N*C*itemsize once and writes 12 N bytes (m, s, losses), for "mean" 4 N more; "mean" and "sum"
read 8 N and 4 N of them again. The gradient reads and writes N*C*itemsize once. The floor is that over the bandwidth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.dense import dense, empty_like
from tilegrad.kernels.launch import faults
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_faults import note
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.softmax.gpu_triton import shift_of, tile
from tilegrad.kernels.softmax_xent.reference import check_softmax_xent, check_softmax_xent_grad, label_error

TILE = 4096  # elements of a program at once
FEW = 512  # programs, which run all at once on 128 SMs: 4 on each, pipelined or not
SPAN = 16384  # rows whose losses one program adds
_SUMMED = 4096  # of them at once


@triton.jit
def _labels(t_ptr, t_step, row, inside, classes, ignore_index, fault_ptr):
    """(label, whether the row counts, whether its label is a class) of each row; notes a label that is a fault."""
    label = tl.load(t_ptr + row * t_step, mask=inside, other=0).to(tl.int64)
    kept = inside & (label != ignore_index)
    is_class = (label >= 0) & (label < classes)
    note(fault_ptr, row, label, kept & (is_class == 0))
    return label, kept, is_class


@triton.jit
def _weights(weight_ptr, index, step, inside):
    """Class weights in float32, 1 where there are none; 0 where not inside."""
    if weight_ptr is not None:
        w = tl.load(weight_ptr + index * step, mask=inside, other=0.0).to(tl.float32)
    else:
        w = inside.to(tl.float32)
    return w


@kernel
def _softmax_xent_kernel(
    z_ptr,
    t_ptr,
    weight_ptr,
    loss_ptr,
    m_ptr,
    s_ptr,
    counted_ptr,
    total_ptr,
    fault_ptr,
    rows,
    classes,
    z_row,
    z_column,
    t_step,
    weight_step,
    ignore_index,
    at_label,
    each_class,
    SMOOTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """z: (rows, classes); t: (rows,); weight: (classes,) or None; each with its strides, in elements.

    loss, m, s: (rows,). counted: (rows,), the rows' weights, or None. total: () to be 1, or None. fault: a slot.
    at_label, each_class: 1 - e and e/C. STAGES: as `_stages` gives it.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    z_rows = z_ptr + row * z_row

    m = tl.full([ROWS], float("-inf"), tl.float32)
    s = tl.zeros([ROWS], tl.float32)
    shift = shift_of(m)
    smooth = tl.zeros([ROWS], tl.float32)  # sum_j w_j (z_ij - shift)
    weight_sum = tl.zeros([1], tl.float32)
    for start in tl.range(0, classes, BLOCK, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK).to(tl.int64)
        is_class = column < classes
        within = inside[:, None] & is_class[None, :]
        z = tl.load(z_rows[:, None] + (column * z_column)[None, :], mask=within, other=float("-inf")).to(tl.float32)
        m_before = m
        shift_before = shift
        m = tl.maximum(m, tl.max(z, 1))
        shift = shift_of(m)
        shifted = z - shift[:, None]
        s = s * tl.exp(m_before - shift) + tl.sum(tl.exp(shifted), 1)
        if SMOOTH:
            w = _weights(weight_ptr, column, weight_step, is_class)
            terms = tl.where(is_class[None, :], shifted * w[None, :], 0.0)
            smooth += weight_sum * (shift_before - shift) + tl.sum(terms, 1)
            weight_sum += tl.sum(w, 0)

    m = tl.where((s != s) & (tl.abs(m) < float("inf")), s, m)  # a GPU's maximum passes over NaN, the sum does not
    s = tl.where(m == float("-inf"), float("nan"), tl.log(s))
    tl.store(m_ptr + row, m, mask=inside)
    tl.store(s_ptr + row, s, mask=inside)

    label, kept, is_class = _labels(t_ptr, t_step, row, inside, classes, ignore_index, fault_ptr)
    counts = kept & is_class
    z_label = tl.load(z_rows + label * z_column, mask=counts, other=0.0).to(tl.float32)
    w_label = _weights(weight_ptr, label, weight_step, counts)
    loss = w_label * (s - (z_label - m))
    if SMOOTH:
        loss = loss * at_label + (s * weight_sum - smooth) * each_class
    loss = tl.where(kept, tl.where(is_class, loss, float("nan")), 0.0)
    tl.store(loss_ptr + row, loss, mask=inside)
    if counted_ptr is not None:
        tl.store(counted_ptr + row, w_label, mask=inside)
    if total_ptr is not None:
        tl.store(total_ptr, 1.0, mask=tl.program_id(0) == 0)


@kernel
def _sum_kernel(
    x_ptr,
    counted_ptr,
    sum_ptr,
    total_ptr,
    n,
    span,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """x: (n,), counted: (n,) or None -> sum, total: (programs,), of `span` elements a program.

    LAST: a single program, which divides sum by total; total is 1 where nothing is counted.
    """
    begin = tl.program_id(0).to(tl.int64) * span
    end = tl.minimum(begin + span, n)
    x_sum = tl.zeros([BLOCK], tl.float32)
    counted_sum = tl.zeros([BLOCK], tl.float32)
    for start in range(begin, end, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x_sum += tl.load(x_ptr + i, mask=i < end, other=0.0).to(tl.float32)
        if counted_ptr is not None:
            counted_sum += tl.load(counted_ptr + i, mask=i < end, other=0.0)
    x_total = tl.sum(x_sum, 0)
    counted = tl.sum(counted_sum, 0)
    if LAST:
        if counted_ptr is not None:
            x_total = x_total / counted
        else:
            counted = 1.0
    tl.store(sum_ptr + tl.program_id(0), x_total)
    if total_ptr is not None:
        tl.store(total_ptr + tl.program_id(0), counted)


@kernel
def _softmax_xent_grad_kernel(
    dloss_ptr,
    z_ptr,
    t_ptr,
    m_ptr,
    s_ptr,
    total_ptr,
    weight_ptr,
    weight_sum_ptr,
    dz_ptr,
    fault_ptr,
    rows,
    classes,
    dloss_step,
    z_row,
    z_column,
    t_step,
    m_step,
    s_step,
    weight_step,
    dz_row,
    dz_column,
    ignore_index,
    at_label,
    each_class,
    SMOOTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """z, dz: (rows, classes); dloss: () by a stride of 0, or (rows,); t, m, s: (rows,); total: (); weight: (classes,).

    weight may be None; weight_sum: (), the sum of weight where both it and the smoothing are there. fault: a slot.
    """
    blocks = tl.cdiv(classes, BLOCK)
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = ((program % blocks) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    inside = row < rows
    within = inside[:, None] & (column < classes)[None, :]

    label, kept, is_class = _labels(t_ptr, t_step, row, inside, classes, ignore_index, fault_ptr)
    g = tl.load(dloss_ptr + row * dloss_step, mask=inside, other=0.0) / tl.load(total_ptr)
    g = tl.where(kept, tl.where(is_class, g, float("nan")), 0.0)
    at_target = g * _weights(weight_ptr, label, weight_step, kept & is_class) * at_label

    z = tl.load(z_ptr + (row * z_row)[:, None] + (column * z_column)[None, :], mask=within, other=0.0).to(tl.float32)
    m = tl.load(m_ptr + row * m_step, mask=inside, other=0.0)
    s = tl.load(s_ptr + row * s_step, mask=inside, other=0.0)
    p = tl.exp((z - m[:, None]) - s[:, None])
    if SMOOTH:
        everywhere = g * each_class
        w = _weights(weight_ptr, column, weight_step, column < classes)
        weight_sum = classes * 1.0 if weight_sum_ptr is None else tl.load(weight_sum_ptr)
        dz = p * (at_target + everywhere * weight_sum)[:, None] - everywhere[:, None] * w[None, :]
    else:
        dz = p * at_target[:, None]
    dz = tl.where(column[None, :] == label[:, None], dz - at_target[:, None], dz)
    at = (row * dz_row)[:, None] + (column * dz_column)[None, :]
    tl.store(dz_ptr + at, dz.to(dz_ptr.dtype.element_ty), mask=within)


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
    no_float64(op, z.dtype)
    (rows, classes), ignore_index = z.shape, int(ignore_index)
    z_row, z_column = _steps(z)
    height, block, num_warps = tile(rows, classes, z_row < z_column, TILE, TILE)
    losses, m, s, counted, total = _empty(rows), _empty(rows), _empty(rows), None, _empty()
    if reduction == "mean":
        counted = _empty(rows)
    programs = max(1, cdiv(rows, height))  # one at least, which writes total
    _softmax_xent_kernel(
        (programs,),
        z,
        t,
        weight,
        losses,
        m,
        s,
        counted,
        total if reduction == "none" else None,
        faults.watch(label_error, op, classes, ignore_index),
        rows,
        classes,
        z_row,
        z_column,
        *_steps(t),
        0 if weight is None else _steps(weight)[0],
        ignore_index,
        float(1 - label_smoothing),
        float(label_smoothing / classes),
        SMOOTH=label_smoothing != 0,
        ROWS=height,
        BLOCK=block,
        STAGES=_stages(programs, block < classes, z_row, z_column),
        num_warps=num_warps,
    )
    loss = losses if reduction == "none" else _reduced(losses, counted, total)
    return loss, m, s, total


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
    no_float64(op, z.dtype)
    (rows, classes), ignore_index = z.shape, int(ignore_index)
    dz = empty_like(z)
    dz_row, dz_column = _steps(dz)
    height, block, num_warps = tile(rows, classes, dz_row < dz_column, TILE, TILE)
    weight_sum = None if weight is None or not label_smoothing else _sum(weight)
    _softmax_xent_grad_kernel(
        (cdiv(rows, height) * cdiv(classes, block),),
        dloss,
        z,
        t,
        m,
        s,
        total,
        weight,
        weight_sum,
        dz,
        faults.watch(label_error, op, classes, ignore_index),
        rows,
        classes,
        _steps(dloss)[0] if dloss.ndim else 0,
        *_steps(z),
        *_steps(t),
        *_steps(m),
        *_steps(s),
        0 if weight is None else _steps(weight)[0],
        dz_row,
        dz_column,
        ignore_index,
        float(1 - label_smoothing),
        float(label_smoothing / classes),
        SMOOTH=label_smoothing != 0,
        ROWS=height,
        BLOCK=block,
        num_warps=num_warps,
    )
    return dz


def _stages(programs: int, looped: bool, *steps: int) -> int:
    """`num_stages` of the loop over the classes: 3 copies two blocks ahead, 1 none. (Triton's 2 would copy a block when
    the one before has been reduced, and wait for it at once.)

    looped  whether there is more than one block
    steps   z's strides, in elements

    cp.async is used where a thread copies 16 bytes at a time: one axis is contiguous, and 16 divides the other stride.
    Copied one by one, elements of float32 would take 16 instructions a thread; those of 16 bits cannot be copied so.
    """
    aligned = 1 in steps and all(step == 1 or step % 16 == 0 for step in steps)
    return 3 if looped and aligned and programs <= FEW else 1


def _reduced(losses: Any, counted: Any | None, total: Any) -> Any:
    """The sum of the losses over the sum of what is counted, or over 1; this divisor goes to `total`.

    The order of the additions depends on the number of losses alone.
    """
    n = losses.shape[0]
    if n > SPAN:
        programs = cdiv(n, SPAN)
        sums = _empty(programs), None if counted is None else _empty(programs)
        _sum_kernel((programs,), losses, counted, *sums, n, SPAN, LAST=False, BLOCK=_SUMMED, num_warps=8)
        (losses, counted), n = sums, programs
    loss = _empty()
    _sum_kernel((1,), losses, counted, loss, total, n, n, LAST=True, BLOCK=_SUMMED, num_warps=8)
    return loss


def _sum(x: Any) -> Any:
    """The sum of x (n,) as (), in float32."""
    total = _empty()
    _sum_kernel((1,), dense(x), None, total, None, x.size, x.size, LAST=False, BLOCK=_SUMMED, num_warps=8)
    return total


def _steps(x: Any) -> tuple[int, ...]:
    """The strides of x in elements."""
    itemsize = x.itemsize
    return tuple(stride // itemsize for stride in x.strides)


def _empty(*shape: int) -> Any:
    return gpu.xp().empty(shape, np.float32)
