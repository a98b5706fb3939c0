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

from typing import Any

import numpy as np
import triton.language as tl

from tilegrad.kernels.conv2d import gpu_triton_direct as direct
from tilegrad.kernels.conv2d.gpu_triton_configs import multiprocessors, rounded, tuned_grad_weight
from tilegrad.kernels.conv2d.gpu_triton_windows import (
    FEW,
    advance,
    block,
    channels_last,
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
from tilegrad.kernels.launch.triton_kernel import cdiv, kernel
from tilegrad.kernels.launch.tuning import Config
from tilegrad.kernels.windows import Pair

WARPS = 8  # of a multiprocessor, to keep busy by cutting the pixels into shares
STEPS = 4  # of BLOCK_P pixels, at least, in a share
EXACT = 16  # rows up to which memory bounds the product even on the float32 pipes: nothing is gained by rounding
SUM_SHARES, SUM_BLOCK = 16, 128  # the tile of the second kernel: 16 loads a thread on their way at once


@kernel
def _conv2d_grad_weight_kernel(
    dy_ptr, x_ptr, out_ptr, pixels, share, height, width, out_height, out_width, in_channels, out_channels, groups,
    padding_h, padding_w, out_share, out_o, out_c, out_tap,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """dy (pixels, groups * out_channels), x (N, height, width, groups * in_channels), dense; out (shares, groups *
    out_channels, in_channels, taps) with strides out_*, the sums over `share` pixels each. Axes 1 and 2 of the grid:
    share and group.
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
        m += BLOCK_P
        image, i, j = advance(image, i, j, BLOCK_P, out_height, out_width)

    to_row = c * out_c + tap * out_tap
    to_col = (group * out_channels + o) * out_o + tl.program_id(1).to(tile_r.dtype) * out_share
    dw = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + to_row[:, None] + to_col[None, :], dw, mask=of_rows[:, None] & of_cols[None, :])


@kernel
def _sum_shares_kernel(
    workspace_ptr, dw_ptr, size, shares, in_channels,
    TAPS: tl.constexpr, WIDE: tl.constexpr, SHARES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """workspace (shares, O, TAPS, in_channels) float32, dw (O, in_channels, TAPS), dense, of `size` elements."""
    index = tl.program_id(0)
    if WIDE:
        index = index.to(tl.int64)
    e = index * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, shares, SHARES):
        share = first + tl.arange(0, SHARES).to(index.dtype)
        mask = (share < shares)[:, None] & (e < size)[None, :]
        acc += tl.sum(tl.load(workspace_ptr + (share * size)[:, None] + e[None, :], mask=mask, other=0.0), axis=0)
    c, tap, o = e % in_channels, e // in_channels % TAPS, e // (in_channels * TAPS)
    at = (o * in_channels + c) * TAPS + tap
    tl.store(dw_ptr + at, acc.to(dw_ptr.dtype.element_ty), mask=e < size)


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
    dtype, s = check_grad_weight(dy, x, w_shape, stride, padding, dilation, groups, precision)
    no_float64("conv2d_grad_weight", dtype)
    dw = gpu.xp().empty(s.w_shape, dtype)
    if dw.size:
        dy, x = channels_last(dy), channels_last(x)
        if s.groups > 1 and s.in_channels <= FEW:
            _few_channels(dy, x, dw, s)
        else:
            _product(dy, x, dw, s, precision)
    return dw


def _few_channels(dy: Any, x: Any, dw: Any, s: Conv) -> None:
    tiles = s.window_size * cdiv(s.w_shape[0], direct.BLOCK_N)
    share = _share(dy.size // s.w_shape[0], tiles, direct.WARPS_P, direct.BLOCK_P)
    _in_shares(dw, dy, s, share, lambda out, out_steps: direct.grad_weight(dy, x, out, s, share, out_steps))


def _product(dy: Any, x: Any, dw: Any, s: Conv, precision: str) -> None:
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

        def into(out: Any, out_steps: tuple[int, ...]) -> None:
            grid = tiles, max(1, cdiv(pixels, share)), s.groups
            wide = are_wide(dy, x, out)
            _conv2d_grad_weight_kernel(
                grid, dy, x, out, pixels, share, *sizes, *out_steps, **constants, WIDE=wide, **most
            )

        _in_shares(dw, dy, s, share, into)

    tuned = _TUNED[kind(dy.dtype, precision)]
    run(tuned.choose((rounded(pixels), s.window_size, s.out_channels, s.groups), dy.dtype, run))


def _share(pixels: int, tiles: int, warps: int, block_p: int) -> int:
    """How many pixels each program sums: as many shares as keep WARPS warps of every multiprocessor busy."""
    wanted = max(1, WARPS * multiprocessors(launch.architecture()) // (warps * tiles))
    steps = max(STEPS, cdiv(pixels, block_p * wanted))
    return steps * block_p


def _in_shares(dw: Any, dy: Any, s: Conv, share: int, into: Any) -> None:
    """dw as the sum of what into(out, strides of (share, O, C, tap)) writes for each share of the pixels of dy."""
    shares = cdiv(dy.size // s.w_shape[0], share)
    if shares <= 1:
        into(dw, (0, s.window_size, s.taps, 1))
        return
    workspace = gpu.xp().empty((shares, dw.size), np.float32)
    into(workspace, (dw.size, s.window_size, 1, s.in_channels))
    wide = are_wide(workspace)
    grid = (cdiv(dw.size, SUM_BLOCK),)
    _sum_shares_kernel(
        grid, workspace, dw, dw.size, shares, s.in_channels, TAPS=s.taps, WIDE=wide, SHARES=SUM_SHARES, BLOCK=SUM_BLOCK
    )
