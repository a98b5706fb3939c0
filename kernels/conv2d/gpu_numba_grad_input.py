"""Gradient of conv2d with respect to its input, in Numba-CUDA: every pixel gathers what the windows over it give.

    dx[n, c, h, w] = sum over (kh, kw) and o of the group of w[o, c, kh, kw] * dy[n, o, i, j]

                     where i * sh = h + ph - kh * dh  and  j * sw = w + pw - kw * dw  name a window

    one warp:      c = 0     1     2    ...   31        neighbouring input channels of one pixel
    dy[.., o]      the same four bytes for all lanes    a broadcast
    w[.., o, c]    | 0  | 1  | 2  | ... | 31 |          128 bytes in a row, of (KH, KW, O, C / groups) memory
    dx[.., c]      | 0  | 1  | 2  | ... | 31 |          128 bytes in a row, of channels-last memory

The forward reversed. If windows scattered to their pixels, several would write to one pixel, with atomics and in an
order that differs from run to run. Here a pixel gathers: it is written once, by one thread, and its terms are added in
a fixed order. A tap whose distance the stride does not divide belongs to no window and is skipped; all lanes of a pixel
skip the same taps.

Traffic and ceiling: as conv2d/gpu_numba.py, two loads for each multiplication and addition.
"""

from __future__ import annotations

import functools
from typing import Any

from numpy import float32

from tilegrad.kernels.conv2d.reference import check_grad_input
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.images import channels_first, channels_last, empty_images
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_images import threads_over
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import cuda
from tilegrad.kernels.windows import Pair

_ZERO = float32(0)


@functools.cache
def _grad_input_kernel(size: Pair, stride: Pair, dilation: Pair) -> Kernel:
    (down, right), (stride_down, stride_right), (apart_down, apart_right) = size, stride, dilation

    @kernel
    def _conv2d_grad_input_kernel(dy, weight, dx, outputs_of_group, pad_down, pad_right):
        """dy: (images, rows, columns, outputs). weight: (KH, KW, outputs, channels of a group).
        dx: (images, height, width, channels).
        """
        rows, columns, depth = dy.shape[1], dy.shape[2], weight.shape[3]
        images, height, width, channels = dx.shape
        along, first_row, first_image = cuda.grid(3)
        _, row_step, image_step = cuda.gridsize(3)
        if along >= width * channels:
            return
        w, c = along // channels, along % channels
        first_output = c // depth * outputs_of_group
        c_of_group = c % depth
        for n in range(first_image, images, image_step):
            for h in range(first_row, height, row_step):
                total = _ZERO
                for kh in range(down):
                    from_top = h + pad_down - kh * apart_down
                    i = from_top // stride_down
                    for kw in range(right):
                        from_left = w + pad_right - kw * apart_right
                        j = from_left // stride_right
                        starts = from_top == i * stride_down and from_left == j * stride_right
                        if starts and 0 <= i < rows and 0 <= j < columns:
                            for o in range(first_output, first_output + outputs_of_group):
                                total += float32(dy[n, i, j, o]) * float32(weight[kh, kw, o, c_of_group])
                dx[n, h, w, c] = total

    return _conv2d_grad_input_kernel


def conv2d_grad_input(
    dy: Any,
    w: Any,
    x_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    precision: str = "ieee",
) -> Any:
    """conv2d.reference.conv2d_grad_input, for float16 and float32; the precision is always "ieee"."""
    dtype, s = check_grad_input(dy, w, x_shape, stride, padding, dilation, groups, precision)
    only_served("conv2d_grad_input", dtype)
    weight = gpu.xp().ascontiguousarray(w.transpose(2, 3, 0, 1))
    dx = empty_images(s.images, s.windows.image, s.groups * s.in_channels, dtype)
    launch = _grad_input_kernel(s.windows.kernel, s.windows.stride, s.windows.dilation)
    launch(*threads_over(dx), channels_last(dy), weight, dx, s.out_channels, *s.windows.padding)
    return channels_first(dx)
