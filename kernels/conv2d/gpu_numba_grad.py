"""The gradients of conv2d together, in Numba-CUDA: the kernels of each, one after the other.

Traffic: that of the gradients, each of which reads dy; with relu also 3 N O OH OW * itemsize for its own gradient.
"""

from __future__ import annotations

from typing import Any

from tilegrad.kernels.activations.gpu_numba import relu_grad
from tilegrad.kernels.conv2d.gpu_numba_grad_input import conv2d_grad_input
from tilegrad.kernels.conv2d.gpu_numba_grad_weight import conv2d_grad_weight
from tilegrad.kernels.conv2d.reference import Parts, one_by_one
from tilegrad.kernels.device import gpu
from tilegrad.kernels.sum.gpu_numba import conv2d_grad_bias
from tilegrad.kernels.windows import Pair


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
    """conv2d.reference.conv2d_grad, for float16 and float32; the precision is always "ieee"."""
    parts = Parts(relu_grad, conv2d_grad_input, conv2d_grad_weight, conv2d_grad_bias, _copied_like)
    geometry = stride, padding, dilation, groups
    return one_by_one(parts, dy, y, x, w, x_shape, w_shape, geometry, bias, like, precision)


def _copied_like(a: Any, like: Any) -> Any:
    copy = gpu.xp().empty_like(like, a.dtype)
    copy[...] = a
    return copy
