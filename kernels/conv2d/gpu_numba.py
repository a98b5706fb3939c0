"""Two-dimensional convolution on a GPU, in Numba-CUDA: the sum itself, a thread for each element of the result.

    y[n, o, i, j] = activation(bias[o] + sum over (kh, kw, c) of
                               w[o, c, kh, kw] * x[n, c, i * sh + kh * dh - ph, j * sw + kw * dw - pw])

    one warp:     o = 0     1     2    ...   31         neighbouring output channels of one pixel
    x[.., c]      the same four bytes for all lanes     a broadcast
    w[.., c, o]   | 0  | 1  | 2  | ... | 31 |           128 bytes in a row, of (KH, KW, C / groups, O) memory
    y[.., o]      | 0  | 1  | 2  | ... | 31 |           128 bytes in a row, of channels-last memory

launch/numba_images.py says how the grid lies over an image. A weight has its outputs first in memory, where
neighbouring lanes would read far apart. So it is copied at every call, with the outputs last; x is copied if it is not
channels-last.

Products and sums are float32, in a fixed order; bias and activation are applied before the only rounding. `precision`
changes nothing: it permits tensor cores to round, and Numba cannot use them.

Traffic: x, w and y once from memory, if what is read again is found in the caches: 2 C KH KW / groups reads for each
element of y. Those reads, not memory, are the ceiling: each multiplication and addition of a warp needs two loads; a
multiprocessor's L1 cache serves one such load a cycle, while its pipes could do four such operations. So an eighth of
the float32 rate is the most. A register tile (matmul/gpu_numba.py) or tensor cores (conv2d/gpu_triton.py) read less for
each product; this file has the plain formula instead.
"""

from __future__ import annotations

import functools
from typing import Any

from numpy import float32

from tilegrad.kernels.activations.gpu_numba_math import ACTIVATIONS
from tilegrad.kernels.conv2d.reference import check_conv2d
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.images import channels_first, empty_images
from tilegrad.kernels.device.images import channels_last as in_order
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_images import threads_over
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import cuda
from tilegrad.kernels.windows import Pair

_ZERO = float32(0)


@functools.cache
def _conv2d_kernel(size: Pair, stride: Pair, dilation: Pair, has_bias: bool, activation: str | None) -> Kernel:
    (down, right), (stride_down, stride_right), (apart_down, apart_right) = size, stride, dilation
    activate = ACTIVATIONS[activation]

    @kernel
    def _conv2d_kernel(x, weight, bias, y, outputs_of_group, pad_down, pad_right):
        """x: (images, height, width, channels). weight: (KH, KW, channels of a group, outputs). bias: (outputs,),
        not read unless has_bias. y: (images, rows, columns, outputs).
        """
        images, rows, columns, outputs = y.shape
        height, width, depth = x.shape[1], x.shape[2], weight.shape[2]
        along, first_row, first_image = cuda.grid(3)
        _, row_step, image_step = cuda.gridsize(3)
        if along >= columns * outputs:
            return
        j, o = along // outputs, along % outputs
        column = j * stride_right - pad_right
        first_channel = o // outputs_of_group * depth
        for n in range(first_image, images, image_step):
            for i in range(first_row, rows, row_step):
                row = i * stride_down - pad_down
                total = _ZERO
                for kh in range(down):
                    h = row + kh * apart_down
                    for kw in range(right):
                        w = column + kw * apart_right
                        inside = 0 <= h < height and 0 <= w < width
                        for c in range(depth):
                            v = float32(x[n, h, w, first_channel + c]) if inside else _ZERO
                            total += v * float32(weight[kh, kw, c, o])
                if has_bias:
                    total += float32(bias[o])
                y[n, i, j, o] = activate(total)

    return _conv2d_kernel


def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    activation: str | None = None,
    precision: str = "ieee",
    channels_last: bool = True,
) -> Any:
    """conv2d.reference.conv2d, for float16 and float32; the precision is always "ieee"."""
    dtype, s = check_conv2d(x, w, bias, stride, padding, dilation, groups, activation, precision)
    only_served("conv2d", dtype)
    weight = gpu.xp().ascontiguousarray(w.transpose(2, 3, 1, 0))
    if channels_last:
        y = empty_images(s.images, s.windows.count, s.w_shape[0], dtype)
    else:
        y = gpu.xp().empty(s.y_shape, dtype).transpose(0, 2, 3, 1)
    launch = _conv2d_kernel(s.windows.kernel, s.windows.stride, s.windows.dilation, bias is not None, activation)
    any_row = weight.reshape(-1) if bias is None else bias
    launch(*threads_over(y), in_order(x), weight, any_row, y, s.out_channels, *s.windows.padding)
    return channels_first(y)
