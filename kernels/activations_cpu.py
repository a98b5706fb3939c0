"""ReLU's gradient on the CPU, compiled: NumPy needs a mask and a masked copy, two passes and a page of memory more.

Served here are large float32 arrays of one memory order; all else is the reference's.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels import activations_reference as reference
from kernels import buffers, threads

_SMALLEST = 1 << 14  # elements, below which NumPy's two passes cost less than handing out the work


def relu_grad(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """activations_reference.relu_grad. Traffic: reads 8, writes 4 bytes an element."""
    same = dy.shape == y.shape and dy.strides == y.strides and dy.dtype == y.dtype == np.float32
    if not same or dy.size < _SMALLEST:
        return reference.relu_grad(dy, y)
    order = sorted(range(dy.ndim), key=lambda d: -dy.strides[d])
    flat_dy, flat_y = dy.transpose(order), y.transpose(order)
    if not flat_dy.flags.c_contiguous:
        return reference.relu_grad(dy, y)
    dx = buffers.empty(flat_dy.shape, np.float32)
    most = threads.num_threads() if dy.nbytes > threads.WORTH_SHARING >> 1 else 1
    threads.parallel(_relu_grad, most, dy.size, flat_dy.reshape(-1), flat_y.reshape(-1), dx.reshape(-1))
    return dx.transpose(np.argsort(order))


@njit(nogil=True, cache=True)
def _relu_grad(dy, y, dx, begin, stop, part):
    # Slices count from 0: an index that could be negative would keep the loop from becoming vectors.
    dy, y, dx = dy[begin:stop], y[begin:stop], dx[begin:stop]
    for i in range(dx.size):
        dx[i] = np.float32(0) if y[i] <= 0 else dy[i]
