"""Results of the compiled kernels do not depend on where arrays lie: neither each of them, nor one beside another.

A loop whose arrays lie close together may be run number by number where it is otherwise run in vectors; if it sums,
and sums may be reordered, the bits are others then. So every call of a kernel is made again on copies of its arrays
that lie elsewhere: at any offset from a cache line, and right behind one another.
"""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest

from tests.compare import assert_same
from tilegrad import kernels
from tilegrad.kernels.backends import cpu, reference
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.losses.reference import KINDS

LINE = 64


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def labels(n, classes):
    return np.random.default_rng(0).integers(0, classes, n)


def adam(n):
    p, g, m, v = normal(4, n)
    return [p], [g], [m], [v * v], 3, 0.01


def xent(n, classes):
    z, t = normal(n, classes), labels(n, classes)
    loss, m, s, total = cpu.softmax_xent(z, t)
    return np.ones((), np.float32), z, t, m, s, total


def pooled(*shape):
    x = normal(*shape)
    y, tap = cpu.max_pool2d(x, (2, 2), (2, 2))
    return normal(*y.shape), tap, x.shape, (2, 2), (2, 2)


def convolution(c, k, size, n=2):
    return normal(n, c, size, size), normal(k, c, 3, 3), normal(k)


def gradients(c, k, size, n=2):
    x, w, _ = convolution(c, k, size, n)
    dy, y = normal(2, n, k, size - 2, size - 2)
    return dy, np.abs(y), x, w, x.shape, w.shape, *GEOMETRY, True


def heads(lengths, width, grad=False):
    queries, keys = lengths
    q, k, v = normal(1, 2, queries, width), normal(1, 2, keys, width), normal(1, 2, keys, width)
    if not grad:
        return q, k, v, None, True
    return normal(1, 2, queries, width), q, k, v, *cpu.attention(q, k, v, None, True), None, True


def recurrent(name, batch, width, grad=False):
    """Two steps of a batch and one of half of it."""
    sizes, gates = (batch, batch, batch // 2 + 1), {"lstm": 4, "gru": 3, "rnn": 1}[name]
    w, h0, dy = normal(gates * width, width), normal(batch, width), normal(sum(sizes), width)
    states = {"lstm": (h0, h0[::-1].copy()), "gru": (normal(gates * width), h0), "rnn": (h0,)}[name]
    given = normal(sum(sizes), gates * width), w, *states, sizes
    if not grad:
        return given
    y, *kept = getattr(cpu, name)(*given)
    kept = {"lstm": (states[-1], *kept[-2:]), "gru": (h0, y, kept[-1]), "rnn": (y,)}[name]
    return dy, *states[len(states) - (2 if name == "lstm" else 1) :], w, *kept, sizes


def rows_norm(shape, name, grad=False, residual=False):
    x, given = normal(*shape), [normal(shape[1]) for _ in range(2 if name == "layer_norm" else 1)]
    more = (normal(*shape),) if residual else ()
    if not grad:
        return x, 1, *given, 1e-5, *more
    _, *moments = getattr(cpu, name)(x, 1, *given)
    return normal(*shape), x, *moments, given[0], *[True] * len(given), *more


def channels_norm(shape, last, grad=False, residual=False):
    x, dy, third = normal(*shape), normal(*shape), normal(*shape)
    if last:
        x, dy, third = (np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in (x, dy, third))
    given = x, *cpu.batch_moments(x), normal(shape[1]), normal(shape[1]), 1e-5, None, "relu"
    more = (third,) if residual else ()
    return (dy, *given, False, True, True, *more) if grad else (*given, *more)


GEOMETRY = (1, 1), (0, 0), (1, 1), 1
SIZES = (1, 3, 5, 8, 16, 17, 20, 28, 31, 33, 64, 100, 1030)
ELEMENTWISE = [
    name for name in kernels.PRIMITIVES if hasattr(cpu, name) and getattr(cpu, name) is not getattr(reference, name)
]
ENDS = np.array([0, 1])
ROWS = [(1, 4), (1, 28), (2, 10), (3, 5), (4, 7), (1, 33), (5, 64), (2, 1100)]
BATCHES = [(1, 5), (3, 10), (33, 10), (300, 77), (17, 1100)]  # the last two are taken row by row
IMAGES = [((2, 3, 5, 4), False), ((2, 3, 5, 4), True), ((3, 17, 7, 7), True), ((3, 16, 9, 9), False), ((5, 33), False)]
CALLS = {
    "matmul": [(normal(m, k), normal(k, n)) for m, k, n in [(16, 33, 16), (8, 64, 32), (33, 20, 48)]]
    + [(normal(m, k), normal(n, k).T, normal(n), "relu") for m, k, n in [(8, 64, 10), (5, 100, 13), (40, 33, 7)]],
    "matmul_kept": [(normal(m, k), normal(n, k).T, normal(n), "gelu") for m, k, n in [(8, 64, 10), (40, 33, 16)]],
    "softmax_xent": [(normal(n, c), labels(n, c)) for n, c in BATCHES],
    "softmax_xent_grad": [xent(n, c) for n, c in BATCHES],
    "attention": [heads(lengths, width) for lengths, width in [((3, 5), 16), ((70, 150), 32), ((9, 33), 24)]],
    "attention_grad": [
        heads(lengths, width, True) for lengths, width in [((3, 5), 16), ((70, 150), 32), ((9, 33), 24)]
    ],
    "conv2d": [convolution(1, 16, 6), convolution(16, 32, 5), convolution(3, 16, 7)],
    "conv2d_grad_input": [
        (normal(2, k, size - 2, size - 2), normal(k, c, 3, 3), (2, c, size, size), *GEOMETRY)
        for c, k, size in [(16, 32, 6), (16, 16, 5)]
    ],
    "conv2d_grad_weight": [
        (normal(2, k, size - 2, size - 2), normal(2, c, size, size), (k, c, 3, 3), *GEOMETRY)
        for c, k, size in [(1, 16, 6), (16, 32, 6)]
    ],
    "conv2d_grad": [gradients(16, 32, 6), gradients(16, 16, 5)],
    "linear_grad": [
        (normal(m, o), np.abs(normal(m, o)), normal(m, k), normal(o, k), True) for m, o, k in [(8, 64, 33), (40, 7, 16)]
    ],
    "conv2d_grad_bias": [(normal(2, k, 3, 3),) for k in (1, 5, 16, 33)],
    "max_pool2d": [(normal(2, 3, 6, 6), (2, 2), (2, 2)), (normal(1, 2, 7, 7), (3, 3), (2, 2))],
    "max_pool2d_grad": [pooled(2, 3, 6, 6), pooled(1, 2, 9, 9)],
    "avg_pool2d": [(normal(2, 3, 6, 6), (2, 2), (2, 2)), (normal(1, 33, 7, 7), (3, 3), (2, 2), (1, 1))],
    "avg_pool2d_grad": [
        (normal(2, 3, 3, 3), (2, 3, 6, 6), (2, 2), (2, 2)),
        (normal(1, 33, 4, 4), (1, 33, 7, 7), (3, 3), (2, 2), (1, 1)),
    ],
    "dropout": [(normal(n), 0.3, 5, 6) for n in SIZES],
    "random_bits": [(5, 6, n) for n in SIZES],
    "clip_norm_step": [([normal(n), normal(3, n)], 0.5) for n in SIZES],
    **{
        name + "_grad" * grad: [recurrent(name, *of, grad) for of in [(1, 16), (3, 5), (5, 33), (2, 64)]]
        for name in ("lstm", "gru", "rnn")
        for grad in (False, True)
    },
    **{
        name + "_grad" * grad: [rows_norm(shape, name, grad, residual) for shape in ROWS for residual in (False, True)]
        for name in ("layer_norm", "rms_norm")
        for grad in (False, True)
    },
    "batch_moments": [channels_norm(*of)[:1] for of in IMAGES],
    "batch_norm": [channels_norm(*of, residual=residual) for of in IMAGES for residual in (False, True)],
    "batch_norm_grad": [channels_norm(*of, True, residual) for of in IMAGES for residual in (False, True)],
    "batch_moments_step": [([normal(n), normal(n)], normal(n), np.abs(normal(n)), 9, 0.1) for n in SIZES],
    "adam_step": [adam(n) for n in SIZES],
    "elementwise_loss": [
        (*np.abs(np.tanh(normal(2, n))), kind, None, None, 0.5, reduction)
        for n in SIZES
        for kind, reduction in itertools.product(KINDS, ("mean", "none"))
    ],
    "elementwise_loss_grad": [
        (np.ones((), np.float32), *np.abs(np.tanh(normal(2, n))), kind, None, None, 0.5, "mean", True, True)
        for n in SIZES[::2]
        for kind in KINDS
    ],
    "take_rows": [(normal(*shape), labels(9, shape[0])) for shape in [*ROWS, (5,)]],
    "take_rows_grad": [(normal(*shape), labels(shape[0], 3), 3) for shape in [*ROWS, (5,)]],
    **{name: [(normal(*s), labels(9, s[0]), ENDS, 2) for s in [*ROWS, (5,)]] for name in ("sum_bags", "max_bags")},
    "sum_bags_grad": [(normal(2, *shape[1:]), labels(9, 3), ENDS, 3) for shape in [*ROWS, (5,)]],
    "sum": [(normal(*shape), axes) for shape in (*ROWS, (300, 129)) for axes in ((0,), (1,))],
    "tanh": [(normal(17_000),)],  # by address: tests/kernels/cpu/test_ufuncs.py moves its arrays
    **{name: [(normal(*shape),) for shape in ROWS] for name in ("softmax", "log_softmax")},
    **{
        name: [(normal(*shape), np.abs(normal(*shape))) for shape in ROWS]
        for name in ("softmax_grad", "log_softmax_grad")
    },
}
for name in ELEMENTWISE:
    if name not in CALLS:
        arrays = 2 if name.endswith("_grad") else 1
        CALLS[name] = [tuple(normal(arrays, n)) for n in SIZES]


class Elsewhere:
    """threads.share, with the kernel called on copies of its arrays first.

    offset  of the first of them from a cache line, in floats
    apart   bytes from the end of each to the next one; None: on cache lines of their own, at further offsets
    order   1, or -1: the last of them is the first in memory
    """

    def __init__(self, offset, apart, order=1):
        self.offset, self.apart, self.order, self.calls = offset, apart, order, 0
        self.share = threads.share

    def __call__(self, kernel, most, items, *arguments):
        self.calls += 1
        arrays = [a for a in arguments if isinstance(a, np.ndarray) and a.dtype == np.float32 and a.size][:: self.order]
        size = sum(a.nbytes + (8 * LINE if self.apart is None else self.apart) for a in arrays)
        memory = np.empty(size + 2 * LINE + 4 * self.offset, np.uint8)
        at = -memory.ctypes.data % LINE + 4 * self.offset
        moved = {}
        for i, a in enumerate(arrays):
            if self.apart is None and i:
                at += -(memory.ctypes.data + at) % LINE + 4 * ((self.offset + 3 * i) % 16)
            order = "F" if a.flags.f_contiguous and not a.flags.c_contiguous else "C"
            moved[id(a)] = memory[at : at + a.nbytes].view(np.float32).reshape(a.shape, order=order)
            moved[id(a)][...] = a
            at += a.nbytes + (self.apart or 0)
        self.share(kernel, most, items, *[moved.get(id(a), a) for a in arguments])
        for a in arrays:
            a[...] = moved[id(a)]


def results(name, call, monkeypatch, *where):
    """What a primitive gives, and all that it may have written to; and how many calls of kernels that took."""
    elsewhere = Elsewhere(*where) if where else None
    arguments = [[x.copy() for x in a] if type(a) is list else a for a in call]
    with monkeypatch.context() as patch:
        if where:
            patch.setattr(threads, "share", elsewhere)
        found = getattr(cpu, name)(*arguments)
    found = found if isinstance(found, tuple) else () if found is None else (found,)
    lists = [x for a in arguments if type(a) is list for x in a]
    return [*found, *lists], elsewhere and elsewhere.calls


def test_every_compiled_primitive_is_here():
    assert set(CALLS) == set(ELEMENTWISE)
    assert all(inspect.getmodule(getattr(cpu, name)).__name__.endswith(".cpu") for name in CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_results_do_not_depend_on_addresses(name, monkeypatch):
    compiled = 0
    for call in CALLS[name]:
        want, _ = results(name, call, monkeypatch)
        offsets, distances = [(i, None) for i in range(16)], [(0, 4 * i) for i in range(16)]
        for where in [*offsets, *distances, (3, 4), (8, 32), (0, 0, -1), (5, 8, -1)]:
            got, calls = results(name, call, monkeypatch, *where)
            compiled += calls
            for a, b in zip(got, want, strict=True):
                assert_same(a, b)
    assert compiled


@pytest.mark.parametrize("name", CALLS)
def test_nor_do_those_of_numpy(name):
    """What the compiled kernels hand on, and captured steps do with their arguments where they lie."""
    for call in CALLS[name]:
        want = _of_numpy(name, call, 0)
        for offset in range(1, 16):
            for a, b in zip(_of_numpy(name, call, offset), want, strict=True):
                assert_same(a, b)


def _of_numpy(name, call, offset):
    def moved(x):
        if type(x) is list:
            return list(map(moved, x))
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            return x
        memory = np.empty(x.nbytes + 2 * LINE, np.uint8)
        at = -memory.ctypes.data % LINE + 4 * offset
        order = "F" if x.flags.f_contiguous and not x.flags.c_contiguous else "C"
        copy = memory[at : at + x.nbytes].view(np.float32).reshape(x.shape, order=order)
        copy[...] = x
        return copy

    arguments = [moved(x) for x in call]
    found = getattr(reference, name)(*arguments)
    lists = [x for a in arguments if type(a) is list for x in a]
    return [*(found if isinstance(found, tuple) else () if found is None else (found,)), *lists]
