"""The launches that are compiled ahead of time: for every launcher, what it is called with where it matters.

There is a function for each family of the contract, and of its name. It makes arrays (kernels/simulate/arrays.py) and
calls the launchers as a user would; `tilegrad.kernels.compile` collects what would have been launched. Shapes are of
the kind that the kernel is for: the seed CNN and MLP, a ResNet layer, a large square. Every function is called once for
each dtype that the backend serves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.backends import triton as backend
from tilegrad.kernels.compile import launches
from tilegrad.kernels.compile.launches import Empty
from tilegrad.kernels.device import gpu


def activations(empty: Empty) -> None:
    launches.activations(backend, empty(1024, 1024))


def dropout(empty: Empty) -> None:
    offset = gpu.xp().zeros((), np.int64)
    for x in (empty(1024, 1024), empty(64, 28, 28, 128).transpose(0, 3, 1, 2)):
        backend.dropout(x, 0.1, 0, 0)
        backend.dropout(x, 0.1, 0, offset)
    backend.random_bits(0, 0, 1 << 20)


def attention(empty: Empty) -> None:
    launches.attention(backend, empty, (2, 4, 1024), (64, 128, 256))


def softmax(empty: Empty) -> None:
    """A classifier's 10 classes, attention's rows, the longest one-pass rows, looped ones, the channels of images."""
    for shape in ((1024, 10), (4096, 1024), (512, 16384), (512, 32768), (128, 131072), (16, 1000, 32, 32)):
        x = empty(*shape)
        backend.softmax(x, 1)
        backend.softmax_grad(x, x, 1)
    for shape in ((4096, 1024), (512, 32768)):
        x = empty(*shape)
        backend.log_softmax(x, 1)
        backend.log_softmax_grad(x, x, 1)


def recurrent(empty: Empty) -> None:
    """A layer of a small model and one of a large one; and of a width that no vector fits, one step of one sequence."""
    for steps, batch, width in ((2, 64, 128), (2, 256, 1024), (1, 1, 33)):
        launches.recurrent(backend, empty, steps, batch, width)


def layer_norm(empty: Empty) -> None:
    """A transformer's rows, few of them, longer ones than a gradient keeps in registers, and images; with and without
    weight, bias and residual.
    """
    for rows, n in ((1024, 128), (16384, 1024), (4096, 8192), (64, 65536)):
        x, w, saved = empty(rows, n), empty(n), empty(rows, dtype=np.float32)
        backend.layer_norm(x, 1, w, w)
        backend.rms_norm(x, 1, w)
        backend.layer_norm_grad(x, x, saved, saved, w, True, True)
        backend.rms_norm_grad(x, x, saved, w, True)
        backend.layer_norm(x, 1, w, w, residual=x)
        backend.rms_norm(x, 1, w, residual=x)
        backend.layer_norm_grad(x, x, saved, saved, w, True, True, ds=x)
        backend.rms_norm_grad(x, x, saved, w, True, ds=x)
    backend.layer_norm(x, 1)
    backend.layer_norm_grad(x, x, saved, saved)


def batch_norm(empty: Empty) -> None:
    """A layer of a small CNN in both memory orders, a matrix, groups of channels."""
    launches.batch_norm(backend, empty(64, 28, 28, 32).transpose(0, 3, 1, 2), empty(32), None)
    launches.batch_norm(backend, empty(64, 32, 28, 28), empty(32), None)
    launches.batch_norm(backend, empty(4096, 512), empty(512), None)
    launches.batch_norm(backend, empty(16, 256, 32, 32), empty(256), 32)


def softmax_xent(empty: Empty) -> None:
    """The seed nets' 10 classes, vocabularies of 32k, 128k with few rows, and (odd) 50257; with every option once."""
    one, index = empty(dtype=np.float32), np.int64
    for rows, classes in ((128, 10), (128, 131072), (4096, 32768), (4096, 50257)):
        z, t, m = empty(rows, classes), empty(rows, dtype=index), empty(rows, dtype=np.float32)
        backend.softmax_xent(z, t)
        backend.softmax_xent_grad(one, z, t, m, m, one)
    z, t, m, weight = empty(32768, 512), empty(32768, dtype=index), empty(32768, dtype=np.float32), empty(512)
    for reduction, dloss in (("mean", one), ("none", m)):
        backend.softmax_xent(z, t, weight, 0.1, reduction=reduction)
        backend.softmax_xent_grad(dloss, z, t, m, m, one, weight, 0.1, reduction=reduction)


def matmul(empty: Empty) -> None:
    x, w, bias = empty(4096, 4096), empty(4096, 4096), empty(4096)
    few, narrow = empty(16, 4096), empty(10, 64)
    for precision in ("ieee", "tf32", "tf32x3") if x.dtype == np.float32 else ("ieee",):
        backend.matmul(x, w.T, bias, "gelu", precision)  # a linear layer, and the gradients of its input and weight
        backend.matmul(x, w, precision=precision)
        backend.matmul(x.T, w, precision=precision)
        backend.matmul(few, w.T, bias, "gelu", precision)
        backend.matmul_kept(x, w.T, bias, "gelu", precision)
        backend.matmul_kept(few, w.T, bias, "gelu", precision)
    backend.matmul(empty(128, 784), empty(128, 784).T, empty(128), "relu")  # the seed MLP
    backend.matmul(empty(128, 64), narrow.T, empty(10))
    backend.matmul(empty(65536, 784).T, empty(65536, 128))
    for rows, into, out in ((128, 784, 128), (128, 64, 10), (64, 576, 64), (1024, 64, 64)):  # and the seed CNN
        dy = empty(rows, out)
        for y in (None, dy):
            backend.linear_grad(dy, y, empty(rows, into), empty(out, into), True)
    backend.matmul(empty(32, 8, 256, 64), empty(32, 8, 256, 64).swapaxes(-1, -2))


def conv2d(empty: Empty) -> None:
    """The seed CNN at batch 128, two ResNet layers and its strided one, a grouped and a depthwise layer; weights as
    nn.Conv2d keeps them on a GPU. Then a weight in C order, and the layer of the seed CNN whose images are flattened.
    """
    for x, w, stride, padding, groups in (
        ((128, 1, 28, 28), (32, 1, 3, 3), 1, 0, 1),
        ((128, 32, 13, 13), (64, 32, 3, 3), 1, 0, 1),
        ((128, 64, 5, 5), (64, 64, 3, 3), 1, 0, 1),
        ((32, 64, 56, 56), (64, 64, 3, 3), 1, 1, 1),
        ((32, 256, 14, 14), (256, 256, 3, 3), 1, 1, 1),
        ((32, 128, 56, 56), (256, 128, 3, 3), 2, 1, 1),
        ((32, 256, 14, 14), (256, 32, 3, 3), 1, 1, 8),
        ((32, 96, 56, 56), (96, 1, 3, 3), 1, 1, 96),
    ):
        geometry = (stride, stride), (padding, padding), (1, 1), groups
        images, weight, bias = empty(*x), _channels_last(empty, w), empty(w[0])
        for precision in ("ieee", "tf32", "tf32x3") if images.itemsize == 4 else ("ieee",):
            y = backend.conv2d(images, weight, bias, *geometry, "relu", precision)
            backend.conv2d_grad_input(y, weight, x, *geometry, precision)
            backend.conv2d_grad_weight(y, images, w, *geometry, precision)
            backend.conv2d_grad(y, y, images, weight, x, w, *geometry, True, weight, precision)
    x, w, bias = empty(64, 64, 5, 5), empty(64, 64, 3, 3), empty(64)
    y = backend.conv2d(x, w, bias)
    backend.conv2d_grad(y, None, x, w, x.shape, w.shape, (1, 1), (0, 0), (1, 1), 1, True)
    backend.conv2d(x, _channels_last(empty, w.shape), bias, activation="relu", channels_last=False)


def _channels_last(empty: Empty, shape: tuple[int, int, int, int]) -> Any:
    n, channels, height, width = shape
    return empty(n, height, width, channels).transpose(0, 3, 1, 2)


def pool(empty: Empty) -> None:
    """The seed CNN's 2 x 2 windows, ResNet's overlapping ones over a padded image, and a mean over whole images."""
    for size, channels, kernel, stride, padding in ((26, 32, 2, 2, 0), (112, 64, 3, 2, 1), (7, 2048, 7, 7, 0)):
        x = empty(32, size, size, channels).transpose(0, 3, 1, 2)
        geometry = (kernel, kernel), (stride, stride), (padding, padding)
        launches.pool(backend, x, *geometry)
    backend.avg_pool2d(x, *geometry, count_include_pad=False, divisor_override=2)


def sum(empty: Empty) -> None:
    """Bias gradients of the seed nets and of a large layer, of images in both memory orders; rows, long and of 10; a
    whole array, also of a size that fits no tile; an axis in the middle."""
    for shape in ((128, 128), (8192, 4096)):
        backend.sum(empty(*shape), (0,))
    backend.conv2d_grad_bias(empty(128, 26, 26, 32).transpose(0, 3, 1, 2))
    backend.conv2d_grad_bias(empty(128, 32, 26, 26))
    for shape in ((8192, 4096), (8192, 10)):
        backend.sum(empty(*shape), (1,))
    backend.sum(empty(8192, 4096), (0, 1))
    backend.sum(empty(1_000_003), (0,))
    backend.sum(empty(64, 100, 512), (1,))


def losses(empty: Empty) -> None:
    launches.losses(backend, empty(2048, 1024), empty(32, 10))


def bags(empty: Empty) -> None:
    launches.bags(backend, empty)


def take_rows(empty: Empty) -> None:
    launches.take_rows(backend, empty)


def optimizer(empty: Empty) -> None:
    """The seed MLP's parameters, and one at an odd address."""
    params = [empty(*shape) for shape in ((128, 784), (128,), (64, 128), (64,), (10, 64), (10,))]
    launches.optimizer(backend, params, odd=[empty(1025)[1:]])


def clip_norm(empty: Empty) -> None:
    backend.clip_norm_step([empty(*shape) for shape in ((128, 784), (128,), (64, 128), (64,), (10, 64), (10,))], 1.0)
