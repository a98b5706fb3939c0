"""Views whose elements lie further apart than 32 bits can count: of every primitive, every array in turn.

Such a view is a few elements of memory that was never touched, which a process may have more of than there is. It lies
in the middle: an offset that wrapped around reads zeros there, and does not end the process.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

from tests.compare import assert_close, assert_same
from tilegrad import kernels
from tilegrad.kernels.device import addresses, gpu
from tilegrad.kernels.launch import faults
from tilegrad.kernels.simulate import arrays as simulated

ON_DEVICE = [] if gpu.is_available() else ["triton", "numba"]
BACKENDS = ["reference", "cpu", *ON_DEVICE]
NOT_RESERVED = getattr(mmap, "MAP_NORESERVE", 0x4000)
HALF = 2**31  # elements
REFERENCE = kernels.load("reference")


def spread(x: np.ndarray, axis: int) -> np.ndarray:
    """x in memory where the first and the last element along that axis are 2^31 elements apart, or a little more."""
    step = HALF // (x.shape[axis] - 1) + 3
    size = 2 * (HALF + 4096) * x.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NOT_RESERVED)
    strides = list(np.empty([1 if a == axis else n for a, n in enumerate(x.shape)], x.dtype).strides)
    strides[axis] = step * x.itemsize
    view = np.ndarray(x.shape, x.dtype, memory, HALF * x.itemsize, strides)
    view[...] = x
    return view


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.abs(normal(*shape)) + 1


GEOMETRY = (1, 1), (1, 1), (1, 1), 1
POOL = (2, 2), (1, 1), (1, 1)
LABELS = np.array([2, 0, 1])
LOGITS = "binary_cross_entropy_with_logits"
FEW, MANY = ((3, 3, 4, 3), (3, 3, 3, 3)), ((1, 6, 3, 3), (6, 6, 3, 3))  # the direct kernel's, the product's


def xent_grad(m: Any, dloss: Any, z: Any, t: Any, most: Any, log_sum: Any, weight: Any) -> Any:
    total = log_sum[:1].reshape(()) * 0 + 1
    return m.softmax_xent_grad(dloss, z, t, most, log_sum, total, weight, 0.1, -100, "none")


def in_place(name: str, *options: Any) -> Any:
    def call(m: Any, *arrays: Any) -> tuple[Any, ...]:
        getattr(m, name)(*[[a] for a in arrays], *options)
        return arrays

    return call


def attention(m: Any, q: Any, k: Any, v: Any, mask: Any) -> tuple[Any, ...]:
    return m.attention(q, k, v, mask)


def attention_grad(m: Any, dy: Any, q: Any, k: Any, v: Any) -> tuple[Any, ...]:
    return m.attention_grad(dy, q, k, v, *m.attention(q, k, v))


SIZES = 3, 3, 2  # of packed sequences


def lstm_grad(m: Any, dy: Any, dh: Any, dc: Any, w: Any, c0: Any, gates: Any, cells: Any) -> tuple[Any, ...]:
    return m.lstm_grad(dy, dh, dc, w, c0, gates, cells, SIZES)


def clip(m: Any, *arrays: Any) -> tuple[Any, ...]:
    m.clip_norm_step(list(arrays), 1.0)
    return arrays


def moved(m: Any, *arrays: Any) -> tuple[Any, ...]:
    m.batch_moments_step(list(arrays[:2]), *arrays[2:], 10, 0.1)
    return arrays


CASES = {
    "sum over rows": (lambda m, x: m.sum(x, (0,)), normal(5, 3)),
    "sum over columns": (lambda m, x: m.sum(x, (1,)), normal(3, 5)),
    "sum over all": (lambda m, x: m.sum(x, (0, 1, 2)), normal(3, 4, 3)),
    "conv2d": (lambda m, *a: m.conv2d(*a, *GEOMETRY), normal(*FEW[0]), normal(*FEW[1]), normal(3)),
    "conv2d, product": (lambda m, *a: m.conv2d(*a, *GEOMETRY), normal(*MANY[0]), normal(*MANY[1]), normal(6)),
    "conv2d_grad_input": (
        lambda m, dy, w: m.conv2d_grad_input(dy, w, FEW[0], *GEOMETRY),
        normal(*FEW[0]),
        normal(*FEW[1]),
    ),
    "conv2d_grad_weight": (
        lambda m, dy, x: m.conv2d_grad_weight(dy, x, FEW[1], *GEOMETRY),
        normal(*FEW[0]),
        normal(*FEW[0]),
    ),
    "conv2d_grad_bias": (lambda m, dy: m.conv2d_grad_bias(dy), normal(*FEW[0])),
    "matmul": (lambda m, a, b, bias: m.matmul(a, b, bias), normal(3, 5, 4), normal(3, 4, 3), normal(3)),
    "softmax": (lambda m, x: m.softmax(x, 1), normal(3, 4, 3)),
    "softmax_grad": (lambda m, dy, y: m.softmax_grad(dy, y, 1), normal(4, 3), normal(4, 3)),
    "log_softmax": (lambda m, x: m.log_softmax(x, 0), normal(4, 3)),
    "log_softmax_grad": (lambda m, dy, y: m.log_softmax_grad(dy, y, 0), normal(4, 3), normal(4, 3)),
    "batch_moments": (lambda m, x: m.batch_moments(x), normal(3, 4, 3)),
    "batch_moments of groups": (lambda m, x: m.batch_moments(x, 2), normal(3, 4, 3)),
    "batch_norm": (
        lambda m, *a: m.batch_norm(*a, activation="relu"),
        normal(3, 4, 3),
        normal(4),
        positive(4),
        positive(4),
        normal(4),
    ),
    "batch_norm_grad": (
        lambda m, *a: m.batch_norm_grad(*a, activation="relu", to_weight=True, to_bias=True),
        normal(3, 4, 3),
        normal(4, 3, 3).transpose(1, 0, 2),
        normal(4),
        positive(4),
        positive(4),
        normal(4),
    ),
    "batch_norm with a residual": (
        lambda m, *a: m.batch_norm(*a[:5], activation="relu", residual=a[5]),
        normal(3, 4, 3),
        normal(4),
        positive(4),
        positive(4),
        normal(4),
        normal(4, 3, 3).transpose(1, 0, 2),
    ),
    "batch_norm_grad with a residual": (
        lambda m, *a: m.batch_norm_grad(*a[:6], activation="relu", to_weight=True, to_bias=True, y=a[6]),
        normal(3, 4, 3),
        normal(4, 3, 3).transpose(1, 0, 2),
        normal(4),
        positive(4),
        positive(4),
        normal(4),
        normal(3, 4, 3),
    ),
    "batch_moments_step": (moved, normal(4), positive(4), normal(4), positive(4)),
    "lstm": (lambda m, *a: m.lstm(*a, SIZES), normal(8, 12), normal(12, 3), normal(3, 3), positive(3, 3)),
    "lstm_grad": (
        lstm_grad,
        *(normal(8, 3), normal(3, 3), positive(3, 3), normal(12, 3), normal(3, 3)),
        *(1 / positive(8, 12), normal(8, 3)),
    ),
    "gru": (lambda m, *a: m.gru(*a, SIZES), normal(8, 9), normal(9, 3), normal(9), normal(3, 3)),
    "gru_grad": (
        lambda m, *a: m.gru_grad(*a, SIZES),
        *(normal(8, 3), normal(3, 3), normal(9, 3), positive(3, 3), normal(8, 3), 1 / positive(8, 12)),
    ),
    "rnn": (lambda m, *a: m.rnn(*a, SIZES), normal(8, 3), normal(3, 3), positive(3, 3)),
    "rnn_grad": (lambda m, *a: m.rnn_grad(*a, SIZES), normal(8, 3), positive(3, 3), normal(3, 3), 1 / positive(8, 3)),
    "layer_norm": (
        lambda m, *a: m.layer_norm(a[0], 1, *a[1:3], residual=a[3]),
        normal(3, 4),
        normal(4),
        positive(4),
        normal(4, 3).T,
    ),
    "layer_norm_grad": (
        lambda m, *a: m.layer_norm_grad(*a[:5], True, True, a[5]),
        normal(3, 4),
        normal(4, 3).T,
        normal(3),
        positive(3),
        normal(4),
        normal(4, 3).T,
    ),
    "rms_norm": (lambda m, *a: m.rms_norm(a[0], 1, a[1], residual=a[2]), normal(3, 4), normal(4), normal(4, 3).T),
    "rms_norm_grad": (
        lambda m, *a: m.rms_norm_grad(*a[:4], True, a[4]),
        normal(3, 4),
        normal(3, 4),
        positive(3),
        normal(4),
        normal(4, 3).T,
    ),
    "softmax_xent": (
        lambda m, z, t, weight: m.softmax_xent(z, t, weight, 0.1, -100, "none")[0],
        normal(3, 4),
        LABELS,
        positive(4),
    ),
    "softmax_xent_grad": (xent_grad, normal(3), normal(3, 4), LABELS, positive(3), positive(3), positive(4)),
    "attention": (attention, normal(3, 1, 3, 3), normal(3, 1, 3, 3), normal(3, 1, 3, 3), normal(3, 1, 3, 3)),
    "attention_grad": (
        attention_grad,
        normal(3, 1, 3, 3) / 2,
        normal(3, 1, 3, 3) / 2,
        normal(3, 1, 3, 3)[::-1].copy(),
        normal(3, 1, 3, 3)[:, :, ::-1].copy(),
    ),
    "max_pool2d": (lambda m, x: m.max_pool2d(x, *POOL), normal(*FEW[0])),
    "max_pool2d_grad": (
        lambda m, dy, tap: m.max_pool2d_grad(dy, tap, FEW[0], *POOL),
        normal(3, 3, 5, 4),
        np.ones((3, 3, 5, 4), np.uint8),
    ),
    "avg_pool2d": (lambda m, x: m.avg_pool2d(x, *POOL), normal(*FEW[0])),
    "avg_pool2d_grad": (lambda m, dy: m.avg_pool2d_grad(dy, FEW[0], *POOL), normal(3, 3, 5, 4)),
    "gelu": (lambda m, x: m.gelu(x), normal(4, 3)),
    "gelu_grad": (lambda m, dy, x: m.gelu_grad(dy, x), normal(4, 3), normal(4, 3)),
    "dropout": (lambda m, x: m.dropout(x, 0.5, 1, 3), normal(4, 3, 3)),
    "take_rows": (lambda m, x, index: m.take_rows(x, index), normal(5, 3), np.array([4, 0, -1, 2])),
    "elementwise_loss": (lambda m, x, t, *w: m.elementwise_loss(x, t, LOGITS, *w, 1.0, "none"), *[normal(4, 3)] * 4),
    "elementwise_loss, summed": (lambda m, x, t: m.elementwise_loss(x, t, LOGITS), normal(4, 3), normal(4, 3)),
    "elementwise_loss_grad": (
        lambda m, dy, x, t, *w: m.elementwise_loss_grad(dy, x, t, LOGITS, *w, 1.0, "none", True, True),
        *[normal(4, 3)] * 5,
    ),
    "take_rows_grad": (lambda m, dy, index: m.take_rows_grad(dy, index, 5), normal(4, 3), np.array([4, 0, -1, 2])),
    "sum_bags": (lambda m, x, *at: m.sum_bags(x, *at, 3), normal(5, 3), np.array([4, 0, 2, 2]), np.array([0, 1, 1, 4])),
    "max_bags": (lambda m, x, *at: m.max_bags(x, *at, 3), normal(5, 3), np.array([4, 0, 2, 2]), np.array([0, 1, 1, 4])),
    "sum_bags_grad": (
        lambda m, dy, *at: m.sum_bags_grad(dy, *at, 5),
        normal(3, 3),
        np.array([4, 0, 2, 2]),
        np.array([0, 1, 1, 4]),
    ),
    "adam_step": (in_place("adam_step", 3, 0.1), *[positive(4, 3) for _ in range(4)]),
    "sgd_step": (in_place("sgd_step", 0.1, 0.9), *[normal(4, 3) for _ in range(3)]),
    "clip_norm_step": (clip, normal(4, 3), normal(3)),
}


@pytest.fixture(params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("case", CASES)
def test_every_array_of_every_primitive(name, case):
    call, *arrays = CASES[case]
    want = called(REFERENCE, call, [a.astype(np.float64) if a.dtype == np.float32 else a.copy() for a in arrays])
    baseline = called(REFERENCE, call, [a.copy() for a in arrays])
    for i, array in enumerate(arrays):
        long = [axis for axis, n in enumerate(array.shape) if n > 2]
        for axis in long if name == "triton" else long[:1]:  # the others count in 64 bits whatever they are given
            given = [spread(a, axis) if k == i else a.copy() for k, a in enumerate(arrays)]
            found = on_device(name, call, given) if name in ON_DEVICE else called(kernels.load(name), call, given)
            for got, w, b in zip(found, want, baseline, strict=True):
                if w.dtype == np.float64:
                    assert_close(np.array(got), w, b, scale=1.0)
                else:
                    assert_same(np.array(got), w)


def called(module: Any, call: Any, arrays: list[Any]) -> tuple[Any, ...]:
    result = call(module, *arrays)
    return result if isinstance(result, tuple) else (result,)


def on_device(name: str, call: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    results = called(kernels.load(name), call, [simulated.adopt(a) for a in arrays])
    faults.raise_pending()
    return [x.get() for x in results]


def test_what_needs_64_bits_is_the_span_and_not_the_size():
    x = np.zeros((4, 6), np.float32)
    assert addresses.span(x.shape, x.strides, 4) == 24
    assert addresses.span((2, 3), (24, 4), 4) == 9
    assert addresses.span((2, 3), (-24, 4), 4) == 9  # its first element is not the first in memory
    assert addresses.span((5, 3), (0, 2), 2) == 3
    assert addresses.span((0, 3), (2**40, 4), 4) == 0
    assert not addresses.are_wide(x, None)
    assert addresses.are_wide(x, spread(normal(3, 2), 0))


def test_a_tile_beyond_the_last_element_is_counted_too():
    """2^31 - 1 elements fit 32 bits, but not the index of an element that a last, partial tile does not have."""
    most = 2**31 - addresses.TILE - 1
    assert addresses.fits(most) and not addresses.fits(most + 1)
    assert addresses.fits(-most) and not addresses.fits(-most - 1)
