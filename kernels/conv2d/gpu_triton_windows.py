"""Where the windows of a convolution read, inside kernels; and what its launchers share.

A convolution and its gradient to the input are one walk, over the pixels of the array that is written. Pixel (i, j)
gathers from the other array, its *source*, at

    (row + u * step_h, col + v * step_w),    u < taps_h,  v < taps_w

    forward       (row, col) = (i, j) * stride - padding and the step is the dilation
    to the input  the pixels of one *phase*, i mod stride, are read by the same taps: every (stride / g)-th from a first
                  one on, g = gcd(stride, dilation). Within a phase (row, col) advances by 1 and the step is
                  -dilation / g, so that a strided gradient is stride_h * stride_w dense convolutions without a
                  multiplication by zero, and every pixel is written once
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.conv2d.reference import Conv
from tilegrad.kernels.device import gpu
from tilegrad.kernels.sizes import next_power_of_2
from tilegrad.kernels.windows import Windows

FEW = 4  # channels a sum runs over, per tap, up to which the direct kernels serve (see conv2d/gpu_triton_direct.py)


@triton.jit
def pixel(m, rows, cols):
    """(image, row, col) of the m-th pixel of a batch of images of that size."""
    line = m // cols
    return line // rows, line % rows, m % cols


@triton.jit
def advance(image, row, col, by, rows, cols):
    """The pixels `by` further on, as `pixel` would give them: without a division for each."""
    lines = by // cols
    col += by % cols
    over = col >= cols
    col = tl.where(over, col - cols, col)
    row += lines % rows + over.to(tl.int32)
    over = row >= rows
    row = tl.where(over, row - rows, row)
    return image + lines // rows + over.to(tl.int32), row, col


@triton.jit
def wide(number, WIDE: tl.constexpr):
    """A number of which offsets are products: in 64 bits where these need them."""
    if WIDE:
        number = tl.cast(number, tl.int64)
    return number


@triton.jit
def tile_index(count, others, WIDE: tl.constexpr):
    """(tile of pixels, tile of channels, which of `others`) of this program: groups, or phases, or both.

    There are `count` tiles of channels a tile of pixels. Programs that run at the same time share their pixels, the
    larger operand, in the L2 cache. All are along one axis of the grid: CUDA counts the others in 16 bits.
    """
    index = wide(tl.program_id(0), WIDE)
    tile = index // others
    return tile // count, tile % count, index % others


@triton.jit
def phase_taps(phase, padding, KERNEL: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, EVERY: tl.constexpr):
    """(first, count, start): the taps that read the pixels of a phase, and where the first one's output lies.

    Tap k reads pixel i where stride divides i + padding - k * dilation: if any, one of the first EVERY = stride / g.
    """
    first = KERNEL
    for back in tl.static_range(EVERY):
        k = EVERY - 1 - back
        first = tl.where((phase + padding - k * DILATION) % STRIDE == 0, k, first)
    # No tap at all is first = KERNEL, or one in [KERNEL, EVERY): the count is 0 for both.
    count = (KERNEL - first + EVERY - 1) // EVERY
    return first, count, (phase + padding - first * DILATION) // STRIDE


@triton.jit
def phase_size(images, height, width, phase_h, phase_w, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr):
    """(images, rows, cols) of a phase: no image where the phase lies beyond them.

    Rows and cols are 1 there, for `pixel` divides by them. By zero, LLVM and the PTX manual leave the result open; on a
    GPU it is -1, which is less than any number of images.
    """
    rows, cols = tl.cdiv(height - phase_h, STRIDE_H), tl.cdiv(width - phase_w, STRIDE_W)
    if STRIDE_H * STRIDE_W > 1:  # the only phase of stride 1 is the image; what costs a register would spill there
        images = tl.where(rows * cols > 0, images, 0)
        rows, cols = tl.maximum(rows, 1), tl.maximum(cols, 1)
    return images, rows, cols


def phase_constants(w: Windows) -> dict[str, int]:
    """The constexprs of a gradient to the input that follow from the geometry."""
    (sh, sw), (dh, dw) = w.stride, w.dilation
    return {
        "EVERY_H": sh // gcd(sh, dh),
        "EVERY_W": sw // gcd(sw, dw),
        "STEP_H": -(dh // gcd(sh, dh)),
        "STEP_W": -(dw // gcd(sw, dw)),
    }


def window_constants(w: Windows) -> dict[str, int]:
    """Kernel size, stride and dilation as constexprs: a net has few, and division by them becomes multiplication."""
    (kh, kw), (sh, sw), (dh, dw) = w.kernel, w.stride, w.dilation
    return {"KERNEL_H": kh, "KERNEL_W": kw, "STRIDE_H": sh, "STRIDE_W": sw, "DILATION_H": dh, "DILATION_W": dw}


def channels_last(x: Any) -> Any:
    """x (N, C, H, W), or a copy of it, that is dense (N, H, W, C) in memory."""
    last = x.transpose(0, 2, 3, 1)
    return x if last.flags.c_contiguous else gpu.xp().ascontiguousarray(last).transpose(0, 3, 1, 2)


def is_channels_last(x: Any) -> bool:
    """Whether x (N, C, H, W) is dense (N, H, W, C) in memory, and not in C order as well."""
    return not x.flags.c_contiguous and x.transpose(0, 2, 3, 1).flags.c_contiguous


def inputs_last(w: Any, s: Conv) -> tuple[Any, tuple[int, int, int]]:
    """The weight in memory as (O, taps, C / groups), and its strides (tap, O, C / groups)."""
    return channels_last(w), (s.in_channels, s.window_size, 1)


def outputs_last(w: Any, s: Conv) -> tuple[Any, tuple[int, int, int]]:
    """The weight in memory as (groups, C / groups, taps, O / groups), and its strides (tap, O / groups, C / groups)."""
    by_group = w.reshape(s.groups, s.out_channels, s.in_channels, *s.windows.kernel)
    w = gpu.xp().ascontiguousarray(by_group.transpose(0, 2, 3, 4, 1))
    return w, (s.out_channels, 1, s.taps * s.out_channels)


def steps(x: Any) -> tuple[int, ...]:
    """The strides of x in elements."""
    size = x.itemsize
    return tuple(stride // size for stride in x.strides)


def kind(dtype: np.dtype, precision: str) -> str:
    """Which configurations serve: "half", or the precision of float32; all but "ieee" use tensor cores."""
    return "half" if dtype.itemsize == 2 else precision


def block(n: int, most: int) -> int:
    """The smallest power of two that holds n, from 16, the least side of a product, to `most`."""
    return min(most, max(16, next_power_of_2(n)))
