"""The launches that are compiled ahead of time in both languages, a function a family: see launches_triton.py.

What is launched is the same in both; its sizes are the language's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tilegrad.kernels.contract import FAMILIES
from tilegrad.kernels.device import gpu
from tilegrad.kernels.losses.reference import KINDS

Empty = Callable[..., Any]  # empty(*shape): an array of the dtype in turn
Functions = Sequence[Callable[[Empty], None]]


def activations(backend: ModuleType, x: Any) -> None:
    """Every activation of x and every gradient, with both formulas of gelu."""
    for name in FAMILIES["activations"]:
        getattr(backend, name)(*([x, x] if name.endswith("_grad") else [x]))
    backend.gelu(x, "tanh")
    backend.gelu_grad(x, x, "tanh")


def attention(backend: ModuleType, empty: Empty, sizes: tuple[int, int, int], widths: tuple[int, ...]) -> None:
    """Heads of (B, H, T) that are views of a layer's results, twice as many of q as of k and v.

    Causal for each width; for the first also what takes the most registers, an added mask with dropout.
    """
    b, h, t = sizes
    offset = gpu.xp().zeros((), np.int64)
    for width in widths:
        q, k = (empty(b, t, heads, width).transpose(0, 2, 1, 3) for heads in (2 * h, h))
        options: list[tuple[Any, ...]] = [(None, True)]
        if width == widths[0]:
            options.append((empty(1, 2 * h, t, t), False, 1.0, 0.1, 0, offset))
        for each in options:
            y, lse = backend.attention(q, k, k, *each)
            backend.attention_grad(y, q, k, k, y, lse, *each)


def recurrent(backend: ModuleType, empty: Empty, steps: int, batch: int, width: int) -> None:
    """Every layer over a batch, and every gradient with and without dy."""
    sizes, n = (batch,) * steps, batch * steps
    of_lstm, of_gru, of_rnn = (empty(count * width, width) for count in (4, 3, 1))
    y, h = empty(n, width), empty(batch, width)
    gates, cells = empty(n, 4 * width, dtype=np.float32), empty(n, width, dtype=np.float32)
    backend.lstm(empty(n, 4 * width), of_lstm, h, h, sizes)
    backend.gru(empty(n, 3 * width), of_gru, empty(3 * width), h, sizes)
    for dy in (y, None):
        backend.lstm_grad(dy, None, None, of_lstm, h, gates, cells, sizes)
        backend.gru_grad(dy, None, of_gru, h, y, gates, sizes)
    for nonlinearity in ("tanh", "relu"):
        backend.rnn(y, of_rnn, h, sizes, False, nonlinearity)
        for dy in (y, None):
            backend.rnn_grad(dy, None, of_rnn, y, sizes, False, nonlinearity)


def pool(backend: ModuleType, x: Any, *geometry: tuple[int, int]) -> None:
    """Both poolings of x and their gradients."""
    y, tap = backend.max_pool2d(x, *geometry)
    backend.max_pool2d(x, *geometry, activation="relu")  # whose gradient is the same launch
    backend.max_pool2d_grad(y, tap, x.shape, *geometry)
    backend.avg_pool2d(x, *geometry)
    backend.avg_pool2d_grad(y, x.shape, *geometry)


def batch_norm(backend: ModuleType, x: Any, affine: Any, groups: int | None) -> None:
    """A training step's calls with relu, also of a sum with a residual. Without groups also those without relu, weight
    and bias, and evaluation's.
    """
    mean, var = backend.batch_moments(x, groups)
    given = x, mean, var, affine, affine, 1e-5, groups, "relu"
    backend.batch_norm(*given)
    backend.batch_norm_grad(x, *given, to_weight=True, to_bias=True)
    backend.batch_norm(*given, residual=x)
    backend.batch_norm_grad(x, *given, to_weight=True, to_bias=True, y=x)
    if groups is None:
        backend.batch_norm(*given[:7], residual=x)
        backend.batch_norm(x, mean, var)
        backend.batch_norm_grad(x, *given[:5], to_weight=True, to_bias=True)
        backend.batch_norm_grad(x, *given, frozen=True)
        backend.batch_moments_step([affine, affine], mean, var, 100, 0.1)


def take_rows(backend: ModuleType, empty: Empty) -> None:
    """A batch of MNIST images as floats, its labels, and vectors of words; gradients of vectors and of numbers."""
    xp = gpu.xp()
    index = xp.empty(64, np.int64)
    backend.take_rows(xp.empty((1000, 1, 28, 28), np.uint8), index, 0.01, -0.5)
    backend.take_rows(xp.empty(1000, np.int64), index)
    backend.take_rows(empty(1000, 512), index, wrap=False)
    for words in (64, 1024):
        backend.take_rows_grad(empty(words, 512), xp.empty(words, np.int64), 1000, 0, wrap=False)
    backend.take_rows_grad(empty(64), xp.empty(64, np.int32), 1000)


def bags(backend: ModuleType, empty: Empty) -> None:
    """32 bags of vectors of words, with both lengths of offsets, and of numbers."""
    xp = gpu.xp()
    index, table = xp.empty(512, np.int64), empty(1000, 64)
    for offsets in (xp.empty(32, np.int64), xp.empty(33, np.int32)):
        for name in ("sum_bags", "max_bags"):
            getattr(backend, name)(table, index, offsets, 32, 0)
        backend.sum_bags(table, index, offsets, 32, mean=True)
        backend.sum_bags_grad(empty(32, 64), index, offsets, 1000, 0)
    backend.sum_bags(empty(1000), xp.empty(512, np.int32), offsets, 32)


def losses(backend: ModuleType, x: Any, small: Any) -> None:
    """Every kind with all weights that it takes and without, of many numbers and of few; both gradients together."""
    one, last = small.reshape(-1)[0], KINDS[-1]
    for kind in KINDS:
        for of in (x, small):
            backend.elementwise_loss(of, of, kind)
            backend.elementwise_loss_grad(one, of, of, kind)
        p = x if kind == last else None
        backend.elementwise_loss(x, x, kind, x, p, 0.5, "none")
        backend.elementwise_loss_grad(x, x, x, kind, x, p, 0.5, "none", True, True)


def optimizer(backend: ModuleType, params: list[Any], odd: list[Any]) -> None:
    """Steps of params, with numbers and with what changes from step to step in device memory; and of odd ones.

    odd   parameters for whose sake there is another launch: none, or some at an odd address
    """
    xp = gpu.xp()
    state, odd_state = ([xp.empty(p.shape, np.float32) for p in each] for each in (params, odd))
    one = xp.ones((), np.float32)
    for lr, step, momentum in ((1e-3, 10, 0.9), (one, xp.ones(3, np.float32), one)):
        backend.adam_step(params, params, state, state, step, lr)
        backend.adam_step(params, params, state, state, step, lr, weight_decay=0.01)
        backend.adam_step(params, params, state, state, step, lr, weight_decay=0.01, decoupled=True)
        backend.adam_step(params, params, state, state, step, lr, eps_hat=True)
        backend.adam_step(odd, odd, odd_state, odd_state, step, lr)
        backend.sgd_step(params, params, None, lr)
        for first in (True, False):
            backend.sgd_step(params, params, state, lr, momentum, first=first)
            backend.sgd_step(params, params, state, lr, momentum, weight_decay=1e-4, nesterov=True, first=first)
        backend.sgd_step(params, params, state, lr, momentum, nesterov=True, velocity=True)
        backend.sgd_step(odd, odd, None, lr)
