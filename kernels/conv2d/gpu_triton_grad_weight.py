"""Gradient of conv2d with respect to its weight on a GPU, in Triton: a matrix product over all pixels.

        dw = columns.T @ dy         (R, M) @ (M, O / groups) a group

R = KH KW C / groups rows (tap, channel), M = N OH OW pixels. The columns are gathered as in conv2d/gpu_triton.py. A
tile may span several taps, so that few channels fill it too: for one input channel all taps are the rows of one tile,
and x and dy are read once.

The sum is long and the result small: few tiles would leave most of the GPU idle. So the pixels are cut into shares,
whose sums are written to a float32 workspace (shares, O, taps, C / groups) and added in their order by a second kernel:
the result does not depend on which program runs first. How many shares follows from the sizes and the architecture.

Groups of up to FEW channels are summed by conv2d/gpu_triton_direct.py, into the same workspace.

Floor: 2 M R O FLOP; reads dy and x once from memory, writes dw once, and 8 bytes of workspace for each share and
element of dw. From the L2 cache: x once for every tap and block of O, dy once for every block of R.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import triton.language as tl

from tilegrad.kernels.conv2d import gpu_triton_direct as direct
from tilegrad.kernels.conv2d.gpu_triton_configs import multiprocessors, rounded, tuned_grad_weight
from tilegrad.kernels.conv2d.gpu_triton_windows import (
    FEW,
    advance,
    block,
    channels_last,
    is_channels_last,
    kind,
    pixel,
    tile_index,
    window_constants,
)
from tilegrad.kernels.conv2d.reference import Conv, check_grad_weight
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.addresses import are_wide
from tilegrad.kernels.launch import triton_kernel as launch
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.launch.tuning import Config
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.sum.gpu_triton import conv2d_grad_bias
from tilegrad.kernels.windows import Pair

WARPS = 8  # of a multiprocessor, to keep busy by cutting the pixels into shares
STEPS = 4  # of BLOCK_P pixels, at least, in a share
EXACT = 16  # rows up to which memory bounds the product even on the float32 pipes: nothing is gained by rounding
SUM_SHARES, SUM_BLOCK = 16, 128  # the tile of the second kernel: 16 loads a thread on their way at once


@kernel
def _conv2d_grad_weight_kernel(
    dy_ptr, x_ptr, out_ptr, bias_ptr, pixels, share, height, width, out_height, out_width, in_channels, out_channels,
    groups, padding_h, padding_w, out_share, out_o, out_c, out_tap,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """dy (pixels, groups * out_channels), x (N, height, width, groups * in_channels), dense; out (shares, groups *
    out_channels, in_channels, taps) with strides out_*, the sums over `share` pixels each; bias (shares, groups *
    out_channels), the sums of dy, its shares out_share apart, or None. Axes 1 and 2 of the grid: share and group.
    """
    tile_r, tile_o, _ = tile_index(tl.cdiv(out_channels, BLOCK_O), 1, WIDE)
    group = tl.program_id(2)  # along axis 0, as in the other products, it costs registers where there are none left
    r = tile_r * BLOCK_R + tl.arange(0, BLOCK_R)
    o = tile_o * BLOCK_O + tl.arange(0, BLOCK_O)
    tap, c = r // in_channels, r % in_channels
    of_rows, of_cols = tap < KERNEL_H * KERNEL_W, o < out_channels
    u, v = tap // KERNEL_W * DILATION_H - padding_h, tap % KERNEL_W * DILATION_W - padding_w
    to_tap = (u * width + v) * (groups * in_channels) + group * in_channels + c

    start = tl.program_id(1).to(tile_r.dtype) * share
    stop = tl.minimum(start + share, pixels)
    m = start + tl.arange(0, BLOCK_P)
    image, i, j = pixel(m, out_height, out_width)
    acc = tl.zeros((BLOCK_R, BLOCK_O), tl.float32)
    if bias_ptr is not None:
        total = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for _ in range(start, stop, BLOCK_P):
        live = m < stop
        row, col = i * STRIDE_H, j * STRIDE_W
        y, x = row[:, None] + u[None, :], col[:, None] + v[None, :]
        seen = live[:, None] & of_rows[None, :] & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        at = ((image * height + row) * width + col) * (groups * in_channels)
        columns = tl.load(x_ptr + at[:, None] + to_tap[None, :], mask=seen, other=0.0)
        at = m * (groups * out_channels) + group * out_channels
        dy = tl.load(dy_ptr + at[:, None] + o[None, :], mask=live[:, None] & of_cols[None, :], other=0.0)
        acc = tl.dot(tl.trans(columns), dy, acc, input_precision=PRECISION)
        if bias_ptr is not None:
            total += dy.to(tl.float32)
        m += BLOCK_P
        image, i, j = advance(image, i, j, BLOCK_P, out_height, out_width)

    to_row = c * out_c + tap * out_tap
    to_col = (group * out_channels + o) * out_o + tl.program_id(1).to(tile_r.dtype) * out_share
    dw = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + to_row[:, None] + to_col[None, :], dw, mask=of_rows[:, None] & of_cols[None, :])
    if bias_ptr is not None:  # every tile of rows has summed the same: the first tells
        db = tl.sum(total, axis=0).to(bias_ptr.dtype.element_ty)
        to_share = tl.program_id(1).to(tile_r.dtype) * out_share
        if tile_r == 0:
            tl.store(bias_ptr + to_share + group * out_channels + o, db, mask=of_cols)


@kernel
def _sum_shares_kernel(
    workspace_ptr, dw_ptr, db_ptr, size, width, shares, in_channels,
    TAPS: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, SHARES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """workspace (shares, width) float32, a row of it dw as (O, TAPS, in_channels), `size` elements, then db.

    dw is dense: in that order if LAST, else (O, in_channels, TAPS). db (width - size,), or None.
    """
    index = tl.program_id(0)
    if WIDE:
        index = index.to(tl.int64)
    e = index * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, shares, SHARES):
        share = first + tl.arange(0, SHARES).to(index.dtype)
        mask = (share < shares)[:, None] & (e < width)[None, :]
        acc += tl.sum(tl.load(workspace_ptr + (share * width)[:, None] + e[None, :], mask=mask, other=0.0), axis=0)
    at = e
    if not LAST:
        c, tap, o = e % in_channels, e // in_channels % TAPS, e // (in_channels * TAPS)
        at = (o * in_channels + c) * TAPS + tap
    tl.store(dw_ptr + at, acc.to(dw_ptr.dtype.element_ty), mask=e < size)
    if db_ptr is not None:
        tl.store(db_ptr + (e - size), acc.to(db_ptr.dtype.element_ty), mask=(e >= size) & (e < width))


_TUNED = tuned_grad_weight("conv2d_grad_weight", _conv2d_grad_weight_kernel)


def conv2d_grad_weight(
    dy: Any,
    x: Any,
    w_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    precision: str = "ieee",
) -> Any:
    """As conv2d.reference.conv2d_grad_weight, for float16, bfloat16 and float32. Deterministic.

    Traffic: reads dy and x at least once, writes dw once and 8 bytes for each of its elements and share; dy and x in
    another order than channels-last are read and written once more.
    """
    geometry = stride, padding, dilation, groups
    return grad_weight(dy, x, w_shape, geometry, precision)[0]


def grad_weight(
    dy: Any,
    x: Any,
    w_shape: tuple[int, int, int, int],
    geometry: tuple[Pair, Pair, Pair, int],
    precision: str,
    bias: bool = False,
    like: Any = None,
) -> tuple[Any, Any]:
    """(dw, db): to the weight, with its channels last in memory if those of `like` are; to the bias, None if not asked.

    On the float32 pipes db is added up from the tiles of dy that the product has at hand: one addition for BLOCK_R
    multiply-adds. Tensor cores take their operands past the registers and would have to wait for it, and 32 sums more a
    thread spill on sm_80: there db has a launch of its own, which reads dy once more.
    """
    dtype, s = check_grad_weight(dy, x, w_shape, *geometry, precision)
    no_float64("conv2d_grad_weight", dtype)
    last = like is not None and is_channels_last(like)
    # An array of its own, not a transposed view of one: the engine keeps it as the weight's gradient without a copy.
    dw = gpu.xp().empty_like(like, dtype) if last else gpu.xp().empty(s.w_shape, dtype)
    few = s.groups > 1 and s.in_channels <= FEW
    at_hand = kind(dtype, precision) == "ieee"
    db = None
    if bias:
        db = gpu.xp().empty(s.w_shape[0], dtype) if dw.size and at_hand and not few else conv2d_grad_bias(dy)
    if dw.size:
        dy, x = channels_last(dy), channels_last(x)
        if few:
            _few_channels(dy, x, _Into(dw, None, last), s)
        else:
            _product(dy, x, _Into(dw, db if at_hand else None, last), s, precision)
    return dw, db


class _Into(NamedTuple):
    """Where the gradients go: dw as grad_weight has it, db or None, and whether dw's channels are last."""

    dw: Any
    db: Any
    last: bool


def _few_channels(dy: Any, x: Any, into: _Into, s: Conv) -> None:
    tiles = s.window_size * cdiv(s.w_shape[0], direct.BLOCK_N)
    share = _share(dy.size // s.w_shape[0], tiles, direct.WARPS_P, direct.BLOCK_P)
    _in_shares(into, dy, s, share, lambda out, _, out_steps: direct.grad_weight(dy, x, out, s, share, out_steps))


def _product(dy: Any, x: Any, into: _Into, s: Conv, precision: str) -> None:
    if s.window_size <= EXACT:
        precision = "ieee"
    pixels = dy.size // s.w_shape[0]
    sizes = *s.windows.image, *s.windows.count, s.in_channels, s.out_channels, s.groups, *s.windows.padding
    constants = window_constants(s.windows) | {"PRECISION": precision}

    def run(config: Config) -> None:
        most = dict(config)
        most["BLOCK_R"] = block_r = block(s.window_size, most["BLOCK_R"])
        most["BLOCK_O"] = block_o = block(s.out_channels, most["BLOCK_O"])
        tiles = cdiv(s.window_size, block_r) * cdiv(s.out_channels, block_o)
        share = _share(pixels, tiles * s.groups, most["num_warps"], most["BLOCK_P"])

        def launch(out: Any, db: Any, out_steps: tuple[int, ...]) -> None:
            grid = tiles, max(1, cdiv(pixels, share)), s.groups
            wide = are_wide(dy, x, out)
            _conv2d_grad_weight_kernel(
                grid, dy, x, out, db, pixels, share, *sizes, *out_steps, **constants, WIDE=wide, **most
            )

        _in_shares(into, dy, s, share, launch)

    tuned = _TUNED[kind(dy.dtype, precision)]
    run(tuned.choose((rounded(pixels), s.window_size, s.out_channels, s.groups), dy.dtype, run))


def _share(pixels: int, tiles: int, warps: int, block_p: int) -> int:
    """How many pixels each program sums: as many shares as keep WARPS warps of every multiprocessor busy."""
    wanted = max(1, WARPS * multiprocessors(launch.architecture()) // (warps * tiles))
    steps = max(STEPS, cdiv(pixels, block_p * wanted))
    return steps * block_p


def _in_shares(into: _Into, dy: Any, s: Conv, share: int, launch: Any) -> None:
    """dw and db as the sums of what launch(dw, db, dw's strides of (share, O, C, tap)) writes for each share of dy's
    pixels.
    """
    dw, db, last = into
    shares = cdiv(dy.size // s.w_shape[0], share)
    as_sums = s.window_size, 1, s.in_channels  # (O, taps, C / groups)
    if shares <= 1:
        launch(dw, db, (0, *(as_sums if last else (s.window_size, s.taps, 1))))
        return
    width = dw.size + (0 if db is None else db.size)
    workspace = gpu.xp().empty((shares, width), np.float32)
    launch(workspace, None if db is None else workspace[:, dw.size :], (width, *as_sums))
    _sum_shares_kernel(
        (cdiv(width, SUM_BLOCK),), workspace, dw, db, dw.size, width, shares, s.in_channels,
        TAPS=s.taps, LAST=last, WIDE=are_wide(workspace), SHARES=SUM_SHARES, BLOCK=SUM_BLOCK,
    )  # fmt: skip
