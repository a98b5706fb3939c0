"""Matrix multiplication on a GPU, in Triton.

        y[..., m, n] = activation(sum over k of a[..., m, k] * b[..., k, n] + bias[n])

One program sums one (BLOCK_M, BLOCK_N) tile of y in float32 registers, BLOCK_K terms a step; bias and activation are
applied to the sums before the only rounding. Programs are numbered in groups of GROUP_M rows of tiles, so that those
that run at one time share rows of a and columns of b in the L2 cache.

Operands are read by their strides, whatever these are: a transposed view costs no copy, and a broadcast batch has a
stride of 0. Products of float16 and bfloat16 are summed in float32 by the tensor cores; those of float32 are what
`precision` says, and "ieee" keeps the tensor cores out of it.

Few tiles and a long sum (a weight's gradient: K is the batch) would leave most of the GPU idle. Then the sum is cut
into parts, whose results a second kernel adds, in order: two runs give the same bits.

Floor: 2 M N K FLOP; reads a and b and writes y, each once, (M K + K N + M N) * itemsize. From the L2 cache a tile reads
(BLOCK_M + BLOCK_N) K * itemsize for its 2 BLOCK_M BLOCK_N K FLOP. P parts write and read 8 P M N bytes more.

Not built: loads by TMA descriptors, persistent programs, warp specialisation. They pay on sm_90 and later, by how much
depends on the shape, and each has shapes on which it loses: a choice to be made with a GPU at hand. 64-bit addresses
cost the inner loop one addition a pointer; 32-bit ones would not reach beyond 2^31 elements.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.activations.gpu_triton import activate, relu_grad
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import triton_kernel as launch
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.launch.tuning import Bucket, Config, Tuned
from tilegrad.kernels.matmul.gpu_geometry import MOST_AXES, Geometry, broadcast_lead, geometry, row_major
from tilegrad.kernels.matmul.gpu_triton_configs import bucket_of, kind_of, parts_of, sums_of, tuned_products
from tilegrad.kernels.matmul.reference import check_matmul
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.sum.gpu_triton import sum

_SLOPE: tl.constexpr = tl.constexpr(0.01)  # of the activation "leaky_relu", as in the reference
_HALVED = 64  # sums a thread, from which a tile's epilogue is computed in halves
_SUM_BLOCK = 256  # elements a program of the second kernel: 2 a thread, so that small results still fill the GPU
_SMALL = 1 << 25  # multiply-adds: at a third of the float32 peak 3 us, of which a mask on the way costs a fifth
_SHORT = 1024  # rows up to which the product for dw, its pipeline a stage shorter, sums dz too in less than a launch
_STAGES_WITH_SUMS = 3  # at most, in parts one fewer: beside the places of one more the sums of rows spill on sm_80
_DIVISOR = 16  # of sizes and strides: whether it divides one is what the compiler is told of it
_REMEMBERED = 1024  # combinations of arguments whose plan is kept


@triton.jit
def _grouped(pid, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """(row, column) of the tile that program pid computes: down GROUP_M tiles, then one to the right."""
    group = GROUP_M * tiles_n
    first = pid // group * GROUP_M
    height = tl.minimum(tiles_m - first, GROUP_M)
    return first + pid % group % height, pid % group // height


@triton.jit
def _finish(acc, bias_ptr, y_ptr, z_ptr, rows, cols, M, N, bias_n, ACTIVATION: tl.constexpr):
    """z[rows, cols] = acc + bias[cols], and y = activation of that."""
    wide = cols.to(tl.int64)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + wide * bias_n, mask=cols < N, other=0.0).to(tl.float32)[None, :]
    at = rows.to(tl.int64)[:, None] * N + wide[None, :]
    inside = (rows < M)[:, None] & (cols < N)[None, :]
    if z_ptr is not None:
        tl.store(z_ptr + at, acc.to(z_ptr.dtype.element_ty), mask=inside)
    y = activate(acc, _SLOPE, ACTIVATION).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + at, y, mask=inside)


@triton.jit
def _load(ptrs, rows_inside, inside, MASKED: tl.constexpr, EVEN_K: tl.constexpr):
    """A tile of a or of its mask, 0 outside. Only where MASKED are there rows beyond the last one."""
    if MASKED and EVEN_K:
        tile = tl.load(ptrs, mask=rows_inside[:, None], other=0.0)
    elif MASKED:
        tile = tl.load(ptrs, mask=rows_inside[:, None] & inside[None, :], other=0.0)
    elif EVEN_K:
        tile = tl.load(ptrs)
    else:
        tile = tl.load(ptrs, mask=inside[None, :], other=0.0)
    return tile


@kernel
def _matmul_kernel(
    a_ptr,
    b_ptr,
    bias_ptr,
    y_ptr,
    mask_ptr,
    sums_ptr,
    z_ptr,
    M,
    N,
    K,
    a_m,
    a_k,
    b_k,
    b_n,
    bias_n,
    inner,
    a_outer,
    a_inner,
    b_outer,
    b_inner,
    share,
    AXES: tl.constexpr,
    SPLIT: tl.constexpr,
    EVEN_K: tl.constexpr,
    HALVED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    FLIPPED: tl.constexpr,
    IN_REGISTERS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """a (batch, M, K), b (batch, K, N), bias (N,) or None, y (batch, M, N) dense; one program a tile of y.

    mask   laid out as a, which counts where mask > 0; or None. Of a single product, as sums is
    sums   (M,), or with SPLIT (parts, M): a summed over K; or None
    z      as y, without the activation; or None, as it is with SPLIT
    AXES   batch axes: 0; 1, of strides a_inner and b_inner; or 2, of `inner` the inner one
    SPLIT  program_id(1) sums `share` terms, a multiple of BLOCK_K, the last one fewer; y (parts, batch, M, N)
    HALVED the epilogue takes half of the tile's columns at a time: the compiler computes an activation for all elements
           of a thread together, and for 64 or more registers spill
    FLIPPED  the tile is summed as b^T a^T: wgmma takes 64 rows or more, of which BLOCK_N has enough
    IN_REGISTERS  wgmma takes a from registers. Where it takes a as it was loaded, and a is summed too, Triton 3.6 and
           3.9 keep one place too few for a in shared memory: a later load overwrites what wgmma still reads (Triton,
           pull request 7110). The selection that prevents it keeps all of a, which the compiler cannot know
    MASKED a is dense along M, and 16 does not divide M: rows beyond the last one are masked. Of rows that wrap around
           the compiler would not know that they are neighbours, and read along K
    """
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    tiles = tiles_m * tiles_n
    pid = tl.program_id(0)
    tile_m, tile_n = _grouped(pid % tiles, tiles_m, tiles_n, GROUP_M)
    product = (pid // tiles).to(tl.int64)
    if AXES == 1:
        a_ptr += product * a_inner
        b_ptr += product * b_inner
    if AXES == 2:
        a_ptr += product // inner * a_outer + product % inner * a_inner
        b_ptr += product // inner * b_outer + product % inner * b_inner
    length = K
    if SPLIT:
        start = tl.program_id(1).to(tl.int64) * share
        length = tl.minimum(K - start, share).to(share.dtype)
        a_ptr += start * a_k
        b_ptr += start * b_k
        product += tl.program_id(1).to(tl.int64) * (tl.num_programs(0) // tiles)

    # Beyond the last row and column the tile wraps around: what is read there is valid, and its sums are not stored.
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    a_rows = rows.to(tl.int64) if MASKED else (rows % M).to(tl.int64)
    b_cols = ((tile_n * BLOCK_N + tl.arange(0, BLOCK_N)) % N).to(tl.int64)
    terms = tl.arange(0, BLOCK_K)
    wide = terms.to(tl.int64)
    a_ptrs = a_ptr + a_rows[:, None] * a_m + wide[None, :] * a_k
    b_ptrs = b_ptr + wide[:, None] * b_k + b_cols[None, :] * b_n
    if mask_ptr is not None:
        if SPLIT:
            mask_ptr += start * a_k
        mask_ptrs = mask_ptr + a_rows[:, None] * a_m + wide[None, :] * a_k
    if sums_ptr is not None:
        total = tl.zeros((BLOCK_M,), tl.float32)
    a_step = tl.cast(a_k, tl.int64) * BLOCK_K
    b_step = tl.cast(b_k, tl.int64) * BLOCK_K

    if FLIPPED:
        acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(tl.cdiv(length, BLOCK_K)):
        inside = terms < length - step * BLOCK_K
        a = _load(a_ptrs, rows < M, inside, MASKED, EVEN_K)
        if EVEN_K:
            b = tl.load(b_ptrs)
        else:
            b = tl.load(b_ptrs, mask=inside[:, None], other=0.0)
        if mask_ptr is not None:
            shown = _load(mask_ptrs, rows < M, inside, MASKED, EVEN_K)
            a = tl.where(shown.to(tl.float32) <= 0, 0.0, a.to(tl.float32)).to(a.dtype)  # as relu_grad has it
            mask_ptrs += a_step
        if IN_REGISTERS:
            a = tl.where(inside[None, :], a, 0.0)
        if sums_ptr is not None:
            total += tl.sum(a.to(tl.float32), axis=1)
        if FLIPPED:
            acc = tl.dot(tl.trans(b), tl.trans(a), acc, input_precision=PRECISION)
        else:
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        a_ptrs += a_step
        b_ptrs += b_step

    if sums_ptr is not None:  # every tile of a row of tiles has summed the same: the first tells
        if SPLIT:
            sums_ptr += tl.program_id(1).to(tl.int64) * M
        told = tl.where(tile_n == 0, M, 0)
        tl.store(sums_ptr + rows, total.to(sums_ptr.dtype.element_ty), mask=rows < told)
    if FLIPPED:
        acc = tl.trans(acc)
    y_ptr += product * M * N
    if z_ptr is not None:
        z_ptr += product * M * N
    cols = tile_n * BLOCK_N
    if HALVED:
        half: tl.constexpr = BLOCK_N // 2
        left, right = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, half)), (0, 2, 1)))
        _finish(left, bias_ptr, y_ptr, z_ptr, rows, cols + tl.arange(0, half), M, N, bias_n, ACTIVATION)
        _finish(right, bias_ptr, y_ptr, z_ptr, rows, cols + half + tl.arange(0, half), M, N, bias_n, ACTIVATION)
    else:
        _finish(acc, bias_ptr, y_ptr, z_ptr, rows, cols + tl.arange(0, BLOCK_N), M, N, bias_n, ACTIVATION)


@kernel
def _add_parts_kernel(
    parts_ptr,
    bias_ptr,
    y_ptr,
    z_ptr,
    size,
    N,
    bias_n,
    PARTS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """parts (PARTS, size) float32, bias (N,) or None, y (size,) dense, N its last axis; the first part first.

    z   as y, without the activation; or None

    A sum is cut only where its result is a few tiles: PARTS * size is far below 2^31.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    total = tl.load(parts_ptr + i, mask=inside, other=0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(parts_ptr + part * size + i, mask=inside, other=0.0)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + (i % N).to(tl.int64) * bias_n, mask=inside, other=0.0).to(tl.float32)
    if z_ptr is not None:
        tl.store(z_ptr + i, total.to(z_ptr.dtype.element_ty), mask=inside)
    tl.store(y_ptr + i, activate(total, _SLOPE, ACTIVATION).to(y_ptr.dtype.element_ty), mask=inside)


class _Launch(NamedTuple):
    """What a configuration makes of a plan."""

    grid: tuple[int, int]
    numbers: tuple[int, ...]  # of _matmul_kernel
    constexprs: dict[str, Any]  # and its options
    parts: int
    config: Config  # kept, so that its id stays its own


class _Plan(NamedTuple):
    """All that follows from the shapes, strides and dtypes of a call: worked out once, training repeats them."""

    shape: tuple[int, ...]
    dtype: np.dtype
    tuned: Tuned | None = None  # None: the result is empty
    kind: str = ""
    bucket: Bucket = ()
    geometry: Geometry | None = None
    bias_n: int = 1
    activation: str | None = None
    precision: str = "ieee"
    copied: tuple[tuple[int, tuple[int, ...]], ...] = ()  # (operand, shape to copy it in)
    launches: dict[int, _Launch] | None = None  # by the id of the configuration


_TUNED = tuned_products((_matmul_kernel, _add_parts_kernel))
_plans: dict[Any, _Plan] = {}


def matmul(a: Any, b: Any, bias: Any | None = None, activation: str | None = None, precision: str = "ieee") -> Any:
    """As matmul.reference.matmul, for float16, bfloat16 and float32.

    Traffic: at the head of this file. An operand is copied only where its batch axes need more strides than two.
    """
    return _product(a, b, bias, activation, precision)


def matmul_kept(a: Any, b: Any, bias: Any | None, activation: str | None, precision: str = "ieee") -> tuple[Any, Any]:
    """As matmul.reference.matmul_kept, for float16, bfloat16 and float32.

    Traffic: matmul's, and M N itemsize for z.
    """
    plan = _planned(a, b, bias, activation, precision)
    z = gpu.xp().empty(plan.shape, plan.dtype)
    return z, _computed(plan, a, b, bias, z=z)


def product_into(y: Any, a: Any, b: Any, bias: Any | None = None) -> Callable[[], Any]:
    """What computes y = a @ b + bias when it is called: a step of another primitive, which takes it again and again.

    y   in C order, of the shape of a @ b; of the dtype of a and b or float32, to which the sums are rounded
    """
    plan = _planned(a, b, bias, None, "ieee")
    assert y.shape == plan.shape and y.flags.c_contiguous and y.dtype in (plan.dtype, np.float32)
    return partial(_computed, plan, a, b, bias, y=y)


def linear_grad(dy: Any, y: Any, x: Any, w: Any, bias: bool = False, precision: str = "ieee") -> tuple[Any, ...]:
    """As matmul.reference.linear_grad, for float16, bfloat16 and float32. Deterministic.

    In small products relu's mask is applied to dy as it is read, and db is added up from the tiles of dy that the
    product for dw has at hand: launches cost more there than what passes through registers. In large ones each step of
    the sum would wait for that, and both have launches of their own, which read dy once more.

    Traffic: that of the products; and of relu_grad and sum, where they are launched.
    """
    found, mask = [], None
    other = w if w is not None else x
    small = other is not None and dy.size * other.shape[-1] <= _SMALL
    if y is None or not (small and _are_laid_out_alike(dy, y)):
        dy = dy if y is None else relu_grad(dy, y)
    else:
        mask = y
    if w is not None:
        found.append(_product(dy, w, None, None, precision, mask))
    if x is not None:
        at_hand = bias and small and 0 < dy.size and dy.shape[0] <= _SHORT
        sums = gpu.xp().empty(dy.shape[1], dy.dtype) if at_hand else None
        turned = None if mask is None else mask.T
        found.append(_product(dy.T, x, None, None, precision, turned, sums))
        if sums is not None:
            found.append(sums)
            return tuple(found)
    if bias:
        found.append(sum(dy if mask is None else relu_grad(dy, mask), (0,)))
    return tuple(found)


def _are_laid_out_alike(dy: Any, y: Any) -> bool:
    """Whether two matrices of one shape and dtype have their elements at the same places, which strides count."""
    alike = dy.shape == y.shape and dy.dtype == y.dtype and dy.strides == y.strides and dy.ndim == 2
    return alike and not any([stride % dy.itemsize for stride in dy.strides])


def _product(
    a: Any, b: Any, bias: Any, activation: str | None, precision: str, mask: Any = None, sums: Any = None
) -> Any:
    """matmul, of a where mask > 0 if there is one; a's sums over K go to `sums` (M,), if that is given."""
    return _computed(_planned(a, b, bias, activation, precision), a, b, bias, mask, sums)


def _planned(a: Any, b: Any, bias: Any, activation: str | None, precision: str) -> _Plan:
    try:
        of_bias = None if bias is None else (bias.shape, bias.strides, bias.dtype)
        key = a.shape, a.strides, a.dtype, b.shape, b.strides, b.dtype, of_bias, activation, precision
        plan = _plans.get(key)
    except (AttributeError, TypeError):  # no array, or no string
        check_matmul(a, b, bias, activation, precision)
        raise
    if plan is None:
        plan = _plan(a, b, bias, activation, precision)
        if len(_plans) >= _REMEMBERED:
            _plans.clear()
        _plans[key] = plan
    return plan


def _computed(
    plan: _Plan, a: Any, b: Any, bias: Any, mask: Any = None, sums: Any = None, z: Any = None, y: Any = None
) -> Any:
    """The product of that plan, in y if it is given; z, if it is given, gets it without the activation."""
    y = gpu.xp().empty(plan.shape, plan.dtype) if y is None else y
    if plan.tuned is None:
        if sums is not None:
            sums.fill(0)
        return y
    if plan.copied:
        a, b, bias = _copies(plan, a, b, bias)
    run = partial(_run, plan, a, b, bias, y, mask, sums, z)
    run(plan.tuned.choose(plan.bucket, plan.dtype, run))
    return y


def _plan(a: Any, b: Any, bias: Any | None, activation: str | None, precision: str) -> _Plan:
    dtype = no_float64("matmul", check_matmul(a, b, bias, activation, precision))
    lead = broadcast_lead(a.shape, b.shape)
    shape = *lead, a.shape[-2], b.shape[-1]
    if 0 in shape:
        return _Plan(shape, dtype)
    g, copied = _geometry(a, b, lead)
    kind = kind_of(dtype, precision)
    bias_n = 1
    if bias is not None:
        bias_n, broken = divmod(bias.strides[0], bias.itemsize)
        if broken:
            bias_n, copied = 1, (*copied, (2, bias.shape))
    bucket = bucket_of(g.batch, g.m, g.n, g.k, g.a_k == 1, g.b_k == 1)
    precision = precision if kind != "half" else "ieee"
    return _Plan(shape, dtype, _TUNED[kind], kind, bucket, g, bias_n, activation, precision, copied, {})


def _geometry(a: Any, b: Any, lead: tuple[int, ...]) -> tuple[Geometry, tuple[tuple[int, tuple[int, ...]], ...]]:
    """How the kernel walks a and b, and which of them must be copied for it, in which shape: as a rule none."""
    whole = [(*lead, *x.shape[-2:]) for x in (a, b)]
    for copy_a, copy_b in ((False, False), (True, False), (False, True), (True, True)):
        if any(s % a.itemsize for s in (() if copy_a else a.strides) + (() if copy_b else b.strides)):
            continue  # a field of packed records: offsets are no whole elements
        walks = []
        for x, shape, copied in ((a, whole[0], copy_a), (b, whole[1], copy_b)):
            walks += (shape, row_major(shape)) if copied else (x.shape, [s // x.itemsize for s in x.strides])
        g = geometry(*walks)
        if len(g.axes) <= MOST_AXES:
            break
    return g, tuple((i, whole[i]) for i, copied in enumerate((copy_a, copy_b)) if copied)


def _copies(plan: _Plan, *operands: Any) -> list[Any]:
    result = list(operands)
    for i, shape in plan.copied:
        result[i] = gpu.xp().broadcast_to(result[i], shape).copy()
    return result


def _run(plan: _Plan, a: Any, b: Any, bias: Any, y: Any, mask: Any, sums: Any, z: Any, config: Config) -> None:
    """y = activation(a @ b + bias), with that configuration."""
    grid, numbers, constexprs, parts, _ = plan.launches.get(id(config)) or _launch(plan, config)
    if sums is not None:
        most = _STAGES_WITH_SUMS if parts == 1 else _STAGES_WITH_SUMS - 1
        as_loaded = mask is None and plan.kind in ("half", "tf32") and 90 <= launch.architecture() < 120
        constexprs = constexprs | {"num_stages": min(most, config["num_stages"]), "IN_REGISTERS": as_loaded}
    if (sums is not None or mask is not None) and a.itemsize == 4 and _is_read_by_element(plan.geometry):
        constexprs = constexprs | {"num_stages": 1}
    if parts == 1:
        _matmul_kernel(grid, a, b, bias, y, mask, sums, z, *numbers, **constexprs)
        return
    of_parts = gpu.xp().empty(parts * y.size, np.float32)
    sums_of_parts = None if sums is None else gpu.xp().empty(parts * sums.size, np.float32)
    _matmul_kernel(grid, a, b, None, of_parts, mask, sums_of_parts, None, *numbers, **constexprs)
    _add_parts(parts, of_parts, bias, plan.bias_n, plan.activation, y, z)
    if sums is not None:
        _add_parts(parts, sums_of_parts, None, 1, None, sums)


def _is_read_by_element(g: Geometry) -> bool:
    """Whether the compiler knows no elements of a to be neighbours on a boundary of 16 bytes.

    It copies such floats to shared memory one by one, and what is not for a product alone across the banks, 32 to one
    (Triton 3.9). With a single stage they pass through registers instead.
    """
    along, apart = (g.m, g.a_k) if g.a_m == 1 else (g.k, g.a_m)
    return 1 not in (g.a_m, g.a_k) or along % _DIVISOR > 0 or apart % _DIVISOR > 0


def _add_parts(
    parts: int, of_parts: Any, bias: Any, bias_n: int, activation: str | None, y: Any, z: Any = None
) -> None:
    add = (cdiv(y.size, _SUM_BLOCK),)
    _add_parts_kernel(
        add, of_parts, bias, y, z, y.size, y.shape[-1], bias_n, PARTS=parts, ACTIVATION=activation, BLOCK=_SUM_BLOCK
    )


def _launch(plan: _Plan, config: Config) -> _Launch:
    g = plan.geometry
    assert g is not None and plan.launches is not None
    block_k = config["BLOCK_K"]
    parts = parts_of(plan.kind, launch.architecture(), config, g.batch, g.m, g.n, g.k)
    share = cdiv(cdiv(g.k, block_k), parts) * block_k
    parts = cdiv(g.k, share) if parts > 1 else 1
    tiles = g.batch * cdiv(g.m, config["BLOCK_M"]) * cdiv(g.n, config["BLOCK_N"])
    (_, a_outer, b_outer), (inner, a_inner, b_inner) = ((1, 0, 0), (1, 0, 0), *g.axes)[-2:]
    sizes = g.m, g.n, g.k, g.a_m, g.a_k, g.b_k, g.b_n, plan.bias_n
    numbers = *sizes, inner, a_outer, a_inner, b_outer, b_inner, share if parts > 1 else 0
    constexprs = {
        "AXES": len(g.axes),
        "SPLIT": parts > 1,
        "EVEN_K": g.k % block_k == 0,
        "HALVED": sums_of(config) >= _HALVED,
        "ACTIVATION": plan.activation if parts == 1 else None,
        "PRECISION": plan.precision,
        "IN_REGISTERS": False,
        "MASKED": g.a_m == 1 != g.a_k and g.m % _DIVISOR > 0,
        **config,
    }
    found = plan.launches[id(config)] = _Launch((tiles, parts), numbers, constexprs, parts, config)
    return found
