"""The Numba-CUDA launches that are compiled ahead of time, a function a family: see compile/launches_triton.py."""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.backends import numba as backend
from tilegrad.kernels.compile import launches
from tilegrad.kernels.compile.launches import Empty
from tilegrad.kernels.device import gpu


def activations(empty: Empty) -> None:
    launches.activations(backend, empty(64, 1024))


def dropout(empty: Empty) -> None:
    offset = gpu.xp().zeros((), np.int64)
    for x in (empty(64, 1024), empty(8, 14, 14, 32).transpose(0, 3, 1, 2)):
        backend.dropout(x, 0.1, 0, 0)
        backend.dropout(x, 0.1, 0, offset)
    backend.random_bits(0, 0, 1 << 10)
    backend.random_bits(0, offset, 1 << 10)


def attention(empty: Empty) -> None:
    launches.attention(backend, empty, (2, 2, 128), (64, 256))


def softmax(empty: Empty) -> None:
    for x in (empty(64, 1024), empty(1024, 64).T):  # along memory, and across it
        for name in ("softmax", "log_softmax"):
            getattr(backend, name)(x)
            getattr(backend, f"{name}_grad")(x, x)


def recurrent(empty: Empty) -> None:
    launches.recurrent(backend, empty, 2, 64, 128)


def layer_norm(empty: Empty) -> None:
    x, w, saved = empty(64, 1024), empty(1024), empty(64, dtype=np.float32)
    backend.layer_norm(x, 1, w, w)
    backend.rms_norm(x.T, 1)
    backend.layer_norm_grad(x, x, saved, saved, w, True, True)
    backend.rms_norm_grad(x.T, x.T, empty(1024, dtype=np.float32), None, True)
    backend.layer_norm(x, 1, w, w, residual=x)
    backend.rms_norm(x, 1, residual=x)
    backend.layer_norm_grad(x, x, saved, saved, w, True, True, ds=x)
    backend.rms_norm_grad(x, x, saved, None, True, ds=x)


def batch_norm(empty: Empty) -> None:
    for x in (empty(4, 32, 14, 14), empty(4, 14, 14, 32).transpose(0, 3, 1, 2)):
        for groups in (None, 8):
            launches.batch_norm(backend, x, empty(32), groups)


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
    backend.matmul_kept(x, x.T, bias, "gelu")
    backend.matmul(x.T, x)
    backend.matmul(empty(128, 784), empty(128, 784).T, empty(128), "relu")  # the seed MLP
    backend.matmul(empty(128, 64), empty(10, 64).T, empty(10))
    backend.matmul(empty(128, 784).T, empty(128, 128))
    backend.matmul(empty(1, 64), empty(10, 64).T, empty(10))
    dy = empty(128, 64)
    backend.linear_grad(dy, dy, empty(128, 576), empty(64, 576), True)


def conv2d(empty: Empty) -> None:
    """A layer as the seed CNN's, a strided and padded one, a dilated grouped one of even size."""
    for kernel, stride, padding, dilation, groups in ((3, 1, 0, 1, 1), (3, 2, 1, 1, 1), (2, 1, 2, 2, 4)):
        geometry = (stride, stride), (padding, padding), (dilation, dilation), groups
        x, weight, bias = empty(4, 8, 14, 14), empty(16, 8 // groups, kernel, kernel), empty(16)
        backend.conv2d(x, weight, None, *geometry)
        y = backend.conv2d(x, weight, bias, *geometry, "relu")
        backend.conv2d_grad_input(y, weight, x.shape, *geometry)
        backend.conv2d_grad_weight(y, x, weight.shape, *geometry)
        backend.conv2d_grad(y, y, x, weight, x.shape, weight.shape, *geometry, True, weight)
    for activation in ("leaky_relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"):
        backend.conv2d(x, weight, bias, *geometry, activation)


def pool(empty: Empty) -> None:
    """The seed CNN's 2 x 2 windows, ResNet's overlapping ones over a padded image, and a mean over whole images."""
    for size, kernel, stride, padding in ((26, 2, 2, 0), (28, 3, 2, 1), (7, 7, 7, 0)):
        x = empty(4, size, size, 32).transpose(0, 3, 1, 2)
        launches.pool(backend, x, (kernel, kernel), (stride, stride), (padding, padding))


def sum(empty: Empty) -> None:
    """Columns and rows, in one part and in several, and the bias gradients of images in both memory orders."""
    for shape in ((128, 128), (8192, 64)):
        backend.sum(empty(*shape), (0,))
        backend.sum(empty(*shape).T, (0,))
    backend.sum(empty(1_000_003), (0,))
    backend.sum(empty(16, 100, 64), (1,))
    backend.conv2d_grad_bias(empty(128, 26, 26, 32).transpose(0, 3, 1, 2))
    backend.conv2d_grad_bias(empty(128, 32, 26, 26))


def losses(empty: Empty) -> None:
    launches.losses(backend, empty(2048, 1024), empty(32, 10))


def bags(empty: Empty) -> None:
    launches.bags(backend, empty)


def take_rows(empty: Empty) -> None:
    launches.take_rows(backend, empty)


def optimizer(empty: Empty) -> None:
    launches.optimizer(backend, [empty(64, 10), empty(10)], odd=[])


def clip_norm(empty: Empty) -> None:
    backend.clip_norm_step([empty(64, 10), empty(10)], 1.0)
