"""The Numba-CUDA launches that are compiled ahead of time, a function a family: see compile/launches_triton.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.backends import numba as backend
from tilegrad.kernels.device import gpu

Empty = Callable[..., Any]  # empty(*shape): an array of the dtype in turn


def activations(empty: Empty) -> None:
    x = empty(64, 1024)
    for name in ("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"):
        getattr(backend, name)(x)
        getattr(backend, f"{name}_grad")(x, x)
    backend.gelu(x, "tanh")
    backend.gelu_grad(x, x, "tanh")


def dropout(empty: Empty) -> None:
    offset = gpu.xp().zeros((), np.int64)
    for x in (empty(64, 1024), empty(8, 14, 14, 32).transpose(0, 3, 1, 2)):
        backend.dropout(x, 0.1, 0, 0)
        backend.dropout(x, 0.1, 0, offset)
    backend.random_bits(0, 0, 1 << 10)
    backend.random_bits(0, offset, 1 << 10)


def softmax(empty: Empty) -> None:
    for x in (empty(64, 1024), empty(1024, 64).T):  # along memory, and across it
        for name in ("softmax", "log_softmax"):
            getattr(backend, name)(x)
            getattr(backend, f"{name}_grad")(x, x)


def softmax_xent(empty: Empty) -> None:
    weight, one = empty(10), empty(dtype=np.float32)
    t, saved = empty(64, dtype=np.int64), empty(64, dtype=np.float32)
    for z in (empty(64, 10), empty(10, 64).T):  # along memory, and across it
        for options in ((), (weight,), (None, 0.1), (weight, 0.1)):
            backend.softmax_xent(z, t, *options)
            backend.softmax_xent_grad(one, z, t, saved, saved, one, *options)
    for reduction in ("mean", "sum", "none"):  # of more rows than one block adds
        backend.softmax_xent(empty(20000, 10), empty(20000, dtype=np.int32), reduction=reduction)


def matmul(empty: Empty) -> None:
    x, bias = empty(4096, 4096), empty(4096)
    backend.matmul(x, x)
    backend.matmul(x, x.T, bias, "gelu")  # a linear layer, and the gradient of its weight
    backend.matmul(x.T, x)
    backend.matmul(empty(128, 784), empty(128, 784).T, empty(128), "relu")  # the seed MLP
    backend.matmul(empty(128, 64), empty(10, 64).T, empty(10))
    backend.matmul(empty(128, 784).T, empty(128, 128))
    backend.matmul(empty(1, 64), empty(10, 64).T, empty(10))


def conv2d(empty: Empty) -> None:
    """A layer as the seed CNN's, a strided and padded one, a dilated grouped one of even size."""
    for kernel, stride, padding, dilation, groups in ((3, 1, 0, 1, 1), (3, 2, 1, 1, 1), (2, 1, 2, 2, 4)):
        geometry = (stride, stride), (padding, padding), (dilation, dilation), groups
        x, weight, bias = empty(4, 8, 14, 14), empty(16, 8 // groups, kernel, kernel), empty(16)
        backend.conv2d(x, weight, None, *geometry)
        y = backend.conv2d(x, weight, bias, *geometry, "relu")
        backend.conv2d_grad_input(y, weight, x.shape, *geometry)
        backend.conv2d_grad_weight(y, x, weight.shape, *geometry)
    for activation in ("leaky_relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"):
        backend.conv2d(x, weight, bias, *geometry, activation)


def pooling(empty: Empty) -> None:
    """The seed CNN's 2 x 2 windows, ResNet's overlapping ones over a padded image, and a mean over whole images."""
    for size, kernel, stride, padding in ((26, 2, 2, 0), (28, 3, 2, 1), (7, 7, 7, 0)):
        x = empty(4, size, size, 32).transpose(0, 3, 1, 2)
        geometry = (kernel, kernel), (stride, stride), (padding, padding)
        y, tap = backend.max_pool2d(x, *geometry)
        backend.max_pool2d(x, *geometry, activation="relu")  # whose gradient is the same launch
        backend.max_pool2d_grad(y, tap, x.shape, *geometry)
        backend.avg_pool2d(x, *geometry)
        backend.avg_pool2d_grad(y, x.shape, *geometry)


def reductions(empty: Empty) -> None:
    """Columns and rows, in one part and in several, and the bias gradients of images in both memory orders."""
    for shape in ((128, 128), (8192, 64)):
        backend.sum(empty(*shape), (0,))
        backend.sum(empty(*shape).T, (0,))
    backend.sum(empty(1_000_003), (0,))
    backend.sum(empty(16, 100, 64), (1,))
    backend.conv2d_grad_bias(empty(128, 26, 26, 32).transpose(0, 3, 1, 2))
    backend.conv2d_grad_bias(empty(128, 32, 26, 26))


def rows(empty: Empty) -> None:
    """A batch of MNIST images as floats, its labels, and the vectors of words."""
    xp = gpu.xp()
    index = xp.empty(64, np.int64)
    backend.take_rows(xp.empty((1000, 1, 28, 28), np.uint8), index, 0.01, -0.5)
    backend.take_rows(xp.empty(1000, np.int64), index)
    backend.take_rows(empty(1000, 512), index, wrap=False)


def optimizers(empty: Empty) -> None:
    """Two parameters, with numbers and with what changes from step to step in device memory."""
    params = [empty(64, 10), empty(10)]
    state = [empty(*p.shape, dtype=np.float32) for p in params]
    one = empty(dtype=np.float32)
    for lr, step, momentum in ((1e-3, 10, 0.9), (one, empty(3, dtype=np.float32), one)):
        backend.adam_step(params, params, state, state, step, lr)
        backend.adam_step(params, params, state, state, step, lr, weight_decay=0.01)
        backend.adam_step(params, params, state, state, step, lr, weight_decay=0.01, decoupled=True)
        backend.sgd_step(params, params, None, lr)
        for first in (True, False):
            backend.sgd_step(params, params, state, lr, momentum, first=first)
            backend.sgd_step(params, params, state, lr, momentum, weight_decay=1e-4, nesterov=True, first=first)
    backend.clip_norm_step(params, 1.0)


FAMILIES = (activations, dropout, softmax, softmax_xent, matmul, conv2d, pooling, reductions, rows, optimizers)
