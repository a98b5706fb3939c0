"""No compiled primitive's result depends on what its memory held before: plainly called, and as part of a program."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from tests import dirty
from tests.compare import assert_same
from tilegrad import kernels
from tilegrad.kernels.capture.nested import arrays_in
from tilegrad.kernels.capture.program import Program
from tilegrad.kernels.cpu.effects import as_tuple
from tilegrad.kernels.losses.reference import KINDS

CPU, REFERENCE = kernels.load("cpu"), kernels.load("reference")
_rng = np.random.default_rng(0)


def floats(*shape):
    return _rng.standard_normal(shape, dtype=np.float32)


def images(n, c, h, w):
    """Channels-last in memory, as the layers hand them on."""
    return floats(n, h, w, c).transpose(0, 3, 1, 2)


def rows():
    """One number, fewer than a vector, several rows; and what is shared out among threads, from the pool."""
    return floats(1), floats(5, 7), floats(3, 4, 33), floats(60, 1024)


def elementwise():
    gelu = ("none", "tanh")
    for x in (*rows(), images(2, 5, 3, 3), floats(9, 4).astype(np.float16)):
        for name in ("relu", "leaky_relu", "silu", "sigmoid", "tanh", "erf"):
            yield name, (x,)
        for name in ("relu_grad", "leaky_relu_grad", "silu_grad", "sigmoid_grad", "tanh_grad", "erf_grad"):
            yield name, (x[::-1].copy(order="K"), x)
        for approximate in gelu:
            yield "gelu", (x, approximate)
            yield "gelu_grad", (x, x, approximate)
    dy, x = floats(2, 5, 3, 3), images(2, 5, 3, 3)  # of two memory orders: one is copied first
    for name in ("relu_grad", "leaky_relu_grad", "silu_grad", "sigmoid_grad", "tanh_grad", "gelu_grad", "erf_grad"):
        yield name, (dy, x)


def softmax():
    for x in (*rows(), floats(9, 4).astype(np.float16)):
        for name in ("softmax", "log_softmax"):
            yield name, (x, -1)
            yield f"{name}_grad", (x[::-1].copy(), x, -1)


def attention():
    """A block and several; heads that share keys, that are filled up, that are views; every kind of mask; dropout."""
    for heads, lengths, widths, mask, options in (
        ((1, 1, 1), (2, 3), (1, 1), None, ()),
        ((1, 1, 1), (130, 70), (16, 16), None, (True,)),
        ((1, 1, 1), (70, 150), (32, 16), (1, 1, 70, 150), ()),
        ((2, 4, 2), (9, 40), (24, 8), (2, 1, 1, 40), (True, -0.5, 0.3, 5, 2)),
        ((16, 4, 4), (64, 64), (32, 32), None, (False, 0.2, 0.3, 5, 2)),
    ):
        (b, h, g), (n, s), (e, width) = heads, lengths, widths
        dy, q = floats(b, n, h, width).transpose(0, 2, 1, 3), floats(b, n, h, e).transpose(0, 2, 1, 3)
        k, v = floats(b, g, s, e), floats(b, g, s, width)
        masks = (None,)
        if mask is not None:
            shown = _rng.random(mask) < 0.7
            shown[..., 0] = True
            masks = shown, np.where(shown, floats(*mask), np.float32(-np.inf))
        for each in masks:
            yield "attention", (q, k, v, each, *options)
            y, lse = REFERENCE.attention(q, k, v, each, *options)
            yield "attention_grad", (dy, q, k, v, y, lse, each, *options)
    q = floats(1, 1, 3, 4).astype(np.float16)
    yield "attention", (q, q, q)
    q, k, v = floats(2, 70, 3, 2, 32).transpose(2, 0, 3, 1, 4)  # views of one layer's output
    y, lse = REFERENCE.attention(q, k, v)
    yield "attention", (q, k, v)
    yield "attention_grad", (y, q, k, v, y, lse)


def recurrent():
    """A number, sequences of several lengths in both directions, and what is shared out among threads."""
    for sizes, width, reverse in (
        ((1,), 1, False),
        ((3, 2, 2, 1), 5, False),
        ((3, 2, 2, 1), 5, True),
        ((40, 40), 96, False),
    ):
        n, batch = sum(sizes), sizes[0]
        dy, h0, c0 = floats(n, width), floats(batch, width), floats(batch, width)
        how = sizes, reverse
        x, w = floats(n, 4 * width), floats(4 * width, width)
        yield "lstm", (x, w, h0, c0, *how)
        kept = REFERENCE.lstm(x, w, h0, c0, *how)[3:]
        for given in ((dy, h0, c0), (None, None, None)):
            yield "lstm_grad", (*given, w, c0, *kept, *how)
        x, w, bias = floats(n, 3 * width), floats(3 * width, width), floats(3 * width)
        yield "gru", (x, w, bias, h0, *how)
        yield "gru", (x, w, None, h0, *how)
        y, _, gates = REFERENCE.gru(x, w, bias, h0, *how)
        for given in ((dy, h0), (None, None)):
            yield "gru_grad", (*given, w, h0, y, gates, *how)
        x, w = floats(n, width), floats(width, width)
        for nonlinearity in ("tanh", "relu"):
            yield "rnn", (x, w, h0, *how, nonlinearity)
            y, _ = REFERENCE.rnn(x, w, h0, *how, nonlinearity)
            for given in ((dy, h0), (None, None)):
                yield "rnn_grad", (*given, w, y, *how, nonlinearity)
    x, w, h0 = (floats(*shape).astype(np.float16) for shape in ((3, 8), (8, 2), (3, 2)))
    yield "lstm", (x, w, h0, h0, (3,))


def layer_norm():
    """One number, rows of several axes, more rows than a block has, and what is shared out among threads."""
    for x, ndim in ((floats(1), 1), (floats(5, 7), 1), (floats(3, 4, 33), 2), (floats(70, 600).T, 1)):
        shape = x.shape[-ndim:]
        w, b = floats(*shape), floats(*shape)
        for weight, bias in ((w, b), (None, None), (w, None)):
            yield "layer_norm", (x, ndim, weight, bias)
            yield "rms_norm", (x, ndim, weight)
            _, mean, rstd = REFERENCE.layer_norm(x, ndim)
            yield "layer_norm_grad", (floats(*x.shape), x, mean, rstd, weight, weight is not None, True)
            yield "rms_norm_grad", (floats(*x.shape), x, rstd, weight, bias is not None)
        yield "layer_norm", (x, ndim, w, b, 1e-5, floats(*x.shape))
        yield "rms_norm", (x, ndim, w, 1e-5, floats(*x.shape))
        yield "layer_norm_grad", (floats(*x.shape), x, mean, rstd, w, True, True, floats(*x.shape))
        yield "rms_norm_grad", (floats(*x.shape), x, rstd, w, True, floats(*x.shape))
    half = floats(9, 4).astype(np.float16)
    yield "layer_norm", (half, 1, half[0], half[1])
    yield "layer_norm", (half, 1, half[0], half[1], 1e-5, half)


def batch_norm():
    """Both memory orders, matrices and groups; parts of pixels, the last one short, and what threads share."""
    for x, groups in (
        (floats(2, 1, 3), None),  # of one image dy would be x, whose gradient is rounding
        (floats(5, 7), None),
        (floats(3, 4, 5, 3), None),
        (images(3, 4, 5, 3), None),
        (images(2, 6, 40, 41), 3),
        (floats(2, 6, 40, 41), 6),
        (images(9, 16, 30, 30), None),
        (floats(9, 16, 30, 30), None),
    ):
        w, b = floats(x.shape[1]), floats(x.shape[1])
        mean, var = REFERENCE.batch_moments(x, groups)
        yield "batch_moments", (x, groups)
        for activation in (None, "relu"):
            yield "batch_norm", (x, mean, var, w, b, 1e-5, groups, activation)
            given = x[::-1].copy("K"), x, mean, var, w, b, 1e-5, groups, activation
            yield "batch_norm_grad", (*given, False, True, True)
            yield "batch_norm_grad", (*given, True)
            yield "batch_norm", (x, mean, var, w, b, 1e-5, groups, activation, x[::-1].copy("K"))
        yield "batch_norm", (x, mean, var, None, None, 1e-5, groups)
        y = REFERENCE.batch_norm(x, mean, var, w, b, 1e-5, groups, "relu", given[0])
        yield "batch_norm_grad", (*given, False, True, True, y)
        yield "batch_norm_grad", (*given, True, False, False, y)
    half = floats(9, 4).astype(np.float16)
    yield "batch_norm", (half, *REFERENCE.batch_moments(half), half[0], half[1])
    yield "batch_norm", (half, *REFERENCE.batch_moments(half), half[0], half[1], 1e-5, None, "relu", half)
    yield "batch_moments_step", ([floats(5), floats(5)], floats(5), floats(5), 9, 0.1)


def cross_entropy():
    for n, classes in ((1, 2), (5, 10), (70, 300)):
        z, t = floats(n, classes), _rng.integers(0, classes, n)
        t[n // 2] = -100
        if n == 1:
            t[0] = 1
        for reduction in ("mean", "sum", "none"):
            yield "softmax_xent", (z, t, None, 0.0, -100, reduction)
            _, m, s, total = REFERENCE.softmax_xent(z, t, None, 0.0, -100, reduction)
            dloss = np.ones_like(m) if reduction == "none" else np.float32(2).reshape(())
            yield "softmax_xent_grad", (np.asarray(dloss), z, t, m, s, total, None, 0.0, -100, reduction)


def matmul():
    """By BLAS; b in panels, as it lies, and transposed; sums of products; each with what an epilogue does."""
    for a, b in (
        (floats(3, 4), floats(4, 5)),
        (floats(33, 40), floats(40, 48)),
        (floats(40, 33).T, floats(40, 48)),
        (floats(32, 70), floats(33, 70).T),
        (floats(300, 64), floats(128, 64).T),
        (floats(64, 500), floats(500, 784)),
        (floats(48, 300), floats(30, 300).T[:, ::-1]),
        (floats(300, 100), floats(100, 200)),
    ):
        bias = floats(b.shape[1])
        for activation in (None, "relu", "gelu"):
            yield "matmul", (a, b, bias, activation)
        yield "matmul", (a, b)
        yield "matmul_kept", (a, b, bias, "silu")
        dy = floats(len(a), b.shape[1])
        yield "linear_grad", (dy, None, a, b.T, True)
        yield "linear_grad", (dy, REFERENCE.relu(a @ b), a, b.T, True)


def conv2d():
    """Channels in whole vectors, which the tiles serve; padding, stride and dilation other for each axis."""
    for c, o, side, kernel, stride, padding, dilation in (
        (16, 16, (6, 7), (3, 3), (1, 1), (3, 1), (1, 1)),
        (16, 32, (6, 7), (3, 3), (1, 1), (1, 3), (1, 1)),
        (32, 16, (6, 7), (3, 2), (1, 1), (0, 2), (1, 1)),
        (16, 16, (6, 7), (2, 3), (1, 1), (2, 0), (1, 1)),
        (16, 48, (9, 8), (3, 3), (2, 1), (1, 2), (1, 2)),
        (16, 16, (7, 9), (1, 1), (3, 2), (0, 1), (1, 1)),
        (16, 16, (24, 26), (3, 3), (1, 1), (2, 1), (1, 1)),
        (1, 16, (8, 9), (3, 3), (1, 1), (2, 1), (1, 1)),
        (3, 5, (5, 6), (3, 3), (1, 1), (2, 1), (1, 1)),
    ):
        x, w, bias = images(3, c, *side), floats(o, c, *kernel), floats(o)
        geometry = stride, padding, dilation, 1
        y = REFERENCE.conv2d(x, w, bias, *geometry)
        dy = images(*y.shape)
        for activation in (None, "relu", "gelu"):
            yield "conv2d", (x, w, bias, *geometry, activation)
        yield "conv2d", (x, w, None, *geometry)
        yield "conv2d_grad_input", (dy, w, x.shape, *geometry)
        yield "conv2d_grad_weight", (dy, x, w.shape, *geometry)
        yield "conv2d_grad_bias", (dy,)
        for result, like in ((None, None), (REFERENCE.relu(y), w.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2))):
            yield "conv2d_grad", (dy, result, x, w, x.shape, w.shape, *geometry, True, like)


def pool():
    """2 x 2 windows that tile the image or leave a rest; windows that overlap, are apart, reach over the border."""
    for side, kernel, stride, padding, dilation, ceil in (
        ((8, 6), (2, 2), (2, 2), (0, 0), (1, 1), False),
        ((7, 9), (2, 2), (2, 2), (0, 0), (1, 1), False),
        ((7, 9), (2, 2), (2, 2), (0, 0), (1, 1), True),
        ((7, 9), (3, 2), (3, 2), (0, 0), (1, 1), False),
        ((7, 9), (3, 3), (2, 1), (1, 0), (1, 1), False),
        ((7, 9), (1, 2), (3, 4), (0, 1), (1, 1), False),
        ((8, 9), (2, 2), (1, 2), (0, 0), (2, 3), False),
        ((40, 40), (2, 2), (2, 2), (0, 0), (1, 1), False),
    ):
        x = images(3, 5 if side[0] < 40 else 16, *side)
        geometry = kernel, stride, padding, dilation, ceil
        for activation in (None, "relu"):
            yield "max_pool2d", (x, *geometry, activation)
            y, tap = REFERENCE.max_pool2d(x, *geometry, activation)
            yield "max_pool2d_grad", (images(*y.shape), tap, x.shape, *geometry)
        if dilation == (1, 1):
            for options in ((True, None), (False, None), (True, 7)):
                average = kernel, stride, padding, ceil, *options
                y = REFERENCE.avg_pool2d(x, *average)
                yield "avg_pool2d", (x, *average)
                yield "avg_pool2d_grad", (images(*y.shape), x.shape, *average)


def random():
    for offset in (0, 7, np.array(7, np.uint64)):
        for x in (*rows(), images(2, 5, 3, 3), floats(9, 4)[::2], floats(9, 4).astype(np.float16)):
            yield "dropout", (x, 0.25, 5, offset)
    for n in (1, 33, 20_000):
        yield "random_bits", (5, 7, n)


def losses():
    """A block and several; both memory orders; what threads share; 16 bits; with weights and without."""
    for shape in ((), (5, 7), (2, 5, 3, 3), (60, 1024)):
        for kind in KINDS:
            x, t, w = (np.asarray(_rng.random(shape, dtype=np.float32)) for _ in range(3))
            p = w if kind.endswith("logits") else None
            if len(shape) == 4:
                x = images(*shape) ** 2
                x /= x.max()
            for weight, pos_weight, reduction in ((None, None, "mean"), (w, p, "none"), (w, None, "sum")):
                options = kind, weight, pos_weight, 0.5, reduction
                yield "elementwise_loss", (x, t, *options)
                dy = np.asarray(_rng.standard_normal(shape if reduction == "none" else (), dtype=np.float32))
                yield "elementwise_loss_grad", (dy, x, t, *options, True, weight is not None)
    half = np.asarray(_rng.random((9, 4))).astype(np.float16)
    yield "elementwise_loss", (half, half[::-1], "mse_loss")
    yield "elementwise_loss_grad", (np.asarray(half[0, 0]), half, half[::-1], "mse_loss")


def take_rows():
    """Numbers, rows of two dtypes, pixels; rows that no place names; and what is shared out among threads."""
    for x in (floats(9), floats(9, 5), floats(9, 4).astype(np.float16), floats(300, 513)):
        index = _rng.integers(-len(x), len(x), 7 if len(x) < 300 else 400)
        yield "take_rows", (x, index)
        yield "take_rows_grad", (floats(len(index), *x.shape[1:]).astype(x.dtype), index, len(x))
        yield "take_rows_grad", (floats(len(index), *x.shape[1:]), index, len(x), 2)
    pixels = _rng.integers(0, 256, (50, 28, 28)).astype(np.uint8)
    for index in (np.array([3, -1], np.int32), _rng.integers(0, 50, 64)):
        yield "take_rows", (pixels, index, 0.01, -0.5)


def bags():
    """Bags of each size, with the padding and without, shared out among threads or not."""
    for table, offsets in ((floats(9, 5), np.array([0, 0, 3, 7])), (floats(300, 513), np.arange(0, 400, 4))):
        index = _rng.integers(0, len(table), 4 * len(offsets))
        for padding in (None, 2):
            for name in ("sum_bags", "max_bags"):
                yield name, (table, index, offsets, len(offsets), padding)
            yield "sum_bags", (table, index, offsets, len(offsets), padding, True)
            yield "sum_bags_grad", (floats(len(offsets), table.shape[1]), index, offsets, len(table), padding)


def others():
    for shape in ((1, 1), (5, 7), (300, 129)):
        yield "sum", (floats(*shape), (0,), False)
        yield "sum", (floats(*shape), (0,), True)
    for shape, axes in (((40_001,), (0,)), ((9000, 5), (0,)), ((7, 3, 2000), (0, 2)), ((9000, 5), (1,))):
        yield "sum", (floats(*shape), axes, False)
    for size in (1, 33, 40_000):
        p, g, m = floats(size), floats(size), floats(size)
        for decoupled in (False, True):
            yield "adam_step", ([p], [g], [m], [m * m], 3, 1e-2, 0.9, 0.999, 1e-8, 0.1, decoupled, False, decoupled)
        for max_norm in (0.5, 1e6):
            yield "clip_norm_step", ([floats(3, 4), floats(size)], max_norm)


CASES = [
    *elementwise(),
    *softmax(),
    *attention(),
    *recurrent(),
    *layer_norm(),
    *batch_norm(),
    *cross_entropy(),
    *matmul(),
    *conv2d(),
    *pool(),
    *random(),
    *losses(),
    *take_rows(),
    *bags(),
    *others(),
]
COMPILED = sorted(name for name in kernels.PRIMITIVES if getattr(CPU, name).__module__.endswith(".cpu"))


def test_every_compiled_primitive_is_here():
    assert COMPILED == sorted({name for name, _ in CASES})


@pytest.mark.parametrize("name", COMPILED)
def test_a_call_writes_all_of_its_result(name):
    for arguments in cases(name):
        call(CPU, name, arguments)  # compiled, where it was not
        with dirty.memory():
            first = call(CPU, name, arguments)
        with dirty.memory(dirty.LARGE):
            second = call(CPU, name, arguments)
        for got, again in zip(first, second, strict=True):
            assert_same(again, got)
        right(name, arguments, first)


@pytest.mark.parametrize("name", COMPILED)
def test_a_launch_of_a_program_writes_all_of_its_results(name):
    """The program's memory holds NaN at its first launch, and at the second what the first has left of other inputs."""
    for arguments in cases(name):
        want = call(CPU, name, arguments)
        ours = own(name, arguments)
        captured = Program()
        arrays = list(arrays_in(ours))
        with dirty.memory(), captured.capturing():
            for array in arrays:
                captured.know(array)
            results = getattr(captured.primitives(CPU), name)(*ours)
        written = arrays if name.endswith("_step") else []
        results = [a.view(np.ndarray) for a in (*written, *as_tuple(results))]
        captured.launch()
        for got, plain in zip(results, want, strict=True):
            assert_same(got, plain)


def cases(name):
    return [arguments for of, arguments in CASES if of == name]


def own(name, arguments):
    """Copies of what is written in place; the others as they lie in memory."""
    return copy.deepcopy(arguments) if name.endswith("_step") else arguments


def call(backend, name, arguments):
    """The arrays that a primitive has written in place, and those that it returns."""
    arguments = own(name, arguments)
    results = getattr(backend, name)(*arguments)
    written = tuple(arrays_in(arguments)) if name.endswith("_step") else ()
    return (*written, *as_tuple(results))


def right(name, arguments, results):
    wide = [(a.astype(np.float64) if a.dtype.kind == "f" else a) if isinstance(a, np.ndarray) else a for a in arguments]
    if name.endswith("_step"):
        wide = [[a.astype(np.float64) for a in x] if isinstance(x, list) else x for x in arguments]
    for got, want, base in zip(results, call(REFERENCE, name, wide), call(REFERENCE, name, arguments), strict=True):
        if got.dtype.kind == "f":  # tests/kernels judges the rounding
            np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-5 * np.abs(want).max())
        else:
            assert_same(got, base)
