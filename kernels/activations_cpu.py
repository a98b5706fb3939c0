"""ReLU's gradient on the CPU, compiled: NumPy needs a mask and a masked copy, two passes and a page of memory more.

Served here are float32 arrays of one memory order; all else is the reference's.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels import activations_reference as reference
from kernels import buffers, threads
from kernels.program import whole
from kernels.share_cpu import share

_float32 = np.dtype(np.float32)


def relu_grad(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """activations_reference.relu_grad. Traffic: reads 8, writes 4 bytes an element."""
    same = type(dy) is type(y) is np.ndarray and dy.dtype == _float32 == y.dtype and dy.shape == y.shape
    if not same or dy.strides != y.strides or not (dy.flags.aligned and y.flags.aligned):
        return whole(reference.relu_grad, dy, y)
    if dy.flags.c_contiguous:
        return _flat_relu_grad(dy, y)
    order = sorted(range(dy.ndim), key=lambda d: -dy.strides[d])
    flat_dy, flat_y = dy.transpose(order), y.transpose(order)
    if not flat_dy.flags.c_contiguous:
        return whole(reference.relu_grad, dy, y)
    return _flat_relu_grad(flat_dy, flat_y).transpose(np.argsort(order))


def _flat_relu_grad(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    dx = buffers.empty(dy.shape, _float32)
    arrays = dy.reshape(-1), y.reshape(-1), dx.reshape(-1)
    threads.share(_relu_grad, dx.size if dx.nbytes > threads.WORTH_SHARING else 1, dx.size, *arrays)
    return dx


@njit(nogil=True, cache=True)
def _relu_grad(dy, y, dx, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    # Slices count from 0: an index that could be negative would keep the loop from becoming vectors.
    dy, y, dx = dy[begin:stop], y[begin:stop], dx[begin:stop]
    for i in range(dx.size):
        dx[i] = np.float32(0) if y[i] <= 0 else dy[i]
