"""Threads do the pieces of a kernel at once: none may write what is another's, and any order gives the same bits."""

import numpy as np
import pytest

from tests.compare import assert_same
from tilegrad.kernels.backends import cpu
from tilegrad.kernels.cpu import threads

PIECES = 5


def in_order(order):
    """threads.share, by this thread alone."""

    def share(kernel, most, items, *arguments):
        pieces = min(PIECES, most, items)
        bounds = [items * i // pieces for i in range(pieces + 1)]
        for i in order(range(pieces)):
            kernel(*arguments, bounds[i], bounds[i + 1], i, 0)

    return share


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def images(*shape):
    n, c, h, w = shape
    return normal(n, h, w, c).transpose(0, 3, 1, 2)


def product(m, k, n, a="C", b="C"):
    x, y, bias = np.asarray(normal(m, k), order=a), np.asarray(normal(k, n), order=b), normal(n)
    return lambda: [cpu.matmul(x, y, bias, "relu")]


def convolution(padding, channels=16):
    x, w, b = images(7, channels, 9, 11), normal(32, channels, 3, 3), normal(32)
    options = (1, 1), (padding, padding), (1, 1), 1
    dy = images(7, 32, 7 + 2 * padding, 9 + 2 * padding)

    def run():
        y = cpu.conv2d(x, w, b, *options, activation="relu")
        dx = cpu.conv2d_grad_input(dy, w, x.shape, *options)
        return [y, dx, cpu.conv2d_grad_weight(dy, x, w.shape, *options), cpu.conv2d_grad_bias(dy)]

    return run


def pooling(*window):
    x = images(64, 32, 13, 13)

    def run():
        y, tap = cpu.max_pool2d(x, *window)
        mean = cpu.avg_pool2d(x, *window)
        gradients = cpu.max_pool2d_grad(y, tap, x.shape, *window), cpu.avg_pool2d_grad(mean, x.shape, *window)
        return [y, tap, mean, *gradients]

    return run


def adam():
    p, g, m, v = (normal(300, 301) for _ in range(4))
    cpu.adam_step([p], [g], [m], [abs(v)], 3, 0.1)
    return [p, m]


CALLS = {
    "rows of both": product(130, 784, 131, b="F"),
    "b transposed at each call": product(300, 128, 144, b="F"),
    "b as it lies": product(130, 300, 176),
    "a by columns": product(131, 300, 176, a="F"),
    "the transposed product": product(144, 300, 131, a="F", b="F"),
    "convolution": convolution(0),
    "padded convolution": convolution(1),
    "one channel": convolution(0, 1),
    "pooling side by side": pooling((2, 2), (2, 2)),
    "pooling that overlaps": pooling((3, 3), (2, 2), (1, 1)),
    "relu's gradient": lambda: [cpu.relu_grad(normal(300, 301), normal(300, 301))],
    "adam": adam,
}


@pytest.mark.parametrize("name", CALLS)
def test_the_last_piece_first(name, monkeypatch):
    monkeypatch.setattr(threads, "_count", PIECES)
    results = []
    for order in (list, reversed):
        monkeypatch.setattr(threads, "share", in_order(order))
        results.append(CALLS[name]())
    for first, last in zip(*results, strict=True):
        assert np.isfinite(first).all()
        assert_same(last, first)
