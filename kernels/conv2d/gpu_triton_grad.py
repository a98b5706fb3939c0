"""The gradients of conv2d together, on a GPU, in Triton: what they share is read, masked and put in order once.

        dz = dy where y > 0, or dy                          channels last in memory, as the two products take it
        dx = conv2d_grad_input(dz, w)                       conv2d/gpu_triton_grad_input.py
        dw, db = conv2d_grad_weight(dz, x), sum of dz       conv2d/gpu_triton_grad_weight.py, of one pass over dz

dz is dy itself where that has no relu and lies channels last. Otherwise it is written by one launch, which applies the
mask and the order together: what comes from behind a flattening lies in C order. The mask is not applied inside the
products. There it would be loaded once for each tap and tile, and a tile that passes through registers on its way from
memory to the product costs each step of the sum a round through shared memory; the launch it would save is 2 us.

Traffic: the floors of both products, in which dy counts once; a dz that is written adds 2 N O OH OW * itemsize, with
relu 3.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from tilegrad.kernels.activations.reference import check_alike
from tilegrad.kernels.conv2d.gpu_triton_grad_input import conv2d_grad_input
from tilegrad.kernels.conv2d.gpu_triton_grad_weight import grad_weight
from tilegrad.kernels.conv2d.gpu_triton_windows import channels_last as in_order
from tilegrad.kernels.conv2d.gpu_triton_windows import pixel, steps, wide
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.addresses import are_wide
from tilegrad.kernels.launch.triton_dtypes import float_dtype
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.sum.gpu_triton import conv2d_grad_bias
from tilegrad.kernels.windows import Pair, image_shape

BLOCK = 1024  # elements of a program of 4 warps
CHANNELS = 64  # of them along the channels, at most


@kernel
def _relu_grad_kernel(
    dy_ptr, y_ptr, dz_ptr, pixels, rows, cols, channels, dy_n, dy_c, dy_h, dy_w, y_n, y_c, y_h, y_w,
    WIDE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dy and y (N, channels, rows, cols), any strides; dz (pixels, channels) dense, pixels = N rows cols."""
    blocks = tl.cdiv(channels, BLOCK_C)
    block = wide(tl.program_id(0), WIDE)
    p = block // blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    c = (block % blocks * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    image, i, j = pixel(p, rows, cols)
    exists = (p < pixels)[:, None] & (c < channels)
    dy_at = image * wide(dy_n, WIDE) + i * wide(dy_h, WIDE) + j * wide(dy_w, WIDE)
    y_at = image * wide(y_n, WIDE) + i * wide(y_h, WIDE) + j * wide(y_w, WIDE)
    dy = tl.load(dy_ptr + dy_at[:, None] + c * wide(dy_c, WIDE), mask=exists)
    y = tl.load(y_ptr + y_at[:, None] + c * wide(y_c, WIDE), mask=exists)
    dz = tl.where(y.to(tl.float32) <= 0, 0.0, dy.to(tl.float32))  # selected, not multiplied: 0 * inf does not arise
    tl.store(dz_ptr + p[:, None] * channels + c, dz.to(dz_ptr.dtype.element_ty), mask=exists)


def conv2d_grad(
    dy: Any,
    y: Any,
    x: Any,
    w: Any,
    x_shape: tuple[int, int, int, int],
    w_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    bias: bool = False,
    like: Any = None,
    precision: str = "ieee",
) -> tuple[Any, ...]:
    """As conv2d.reference.conv2d_grad, for float16, bfloat16 and float32. Deterministic."""
    geometry = stride, padding, dilation, groups
    dz = in_order(dy) if y is None else _relu_grad(dy, y)
    found = []
    if w is not None:
        found.append(conv2d_grad_input(dz, w, x_shape, *geometry, precision))
    if x is not None:
        dw, db = grad_weight(dz, x, w_shape, geometry, precision, bias, like)
        found += [dw] if db is None else [dw, db]
    elif bias:
        found.append(conv2d_grad_bias(dz))
    return tuple(found)


def _relu_grad(dy: Any, y: Any) -> Any:
    """dy where y > 0, channels last in memory."""
    op = "relu_grad"
    dtype = float_dtype(op, dy=dy, y=y)
    check_alike(op, dy=dy, y=y)
    images, channels, rows, cols = image_shape(op, "dy", dy.shape)
    dz = gpu.xp().empty((images, rows, cols, channels), dtype)
    if dz.size:
        block_c = min(CHANNELS, next_power_of_2(channels))
        block_p = BLOCK // block_c
        pixels = images * rows * cols
        grid = (cdiv(pixels, block_p) * cdiv(channels, block_c),)
        strides = *steps(dy), *steps(y)
        _relu_grad_kernel(
            grid, dy, y, dz, pixels, rows, cols, channels, *strides,
            WIDE=are_wide(dy, y, dz), BLOCK_P=block_p, BLOCK_C=block_c,
        )  # fmt: skip
    return dz.transpose(0, 3, 1, 2)
