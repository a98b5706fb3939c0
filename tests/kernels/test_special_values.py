"""NaN and infinity in each operand in turn, at ragged sizes: they reach what they are part of, and nothing else.

What a mask leaves out is not there. Multiplied by zero instead, a NaN or an infinity would be a NaN wherever the mask
reaches: beyond the last row of a tile, outside an image, between strides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compare import assert_close
from tilegrad import kernels

REFERENCE = kernels.load("reference")
SPECIAL = (np.nan, np.inf)

# x, w, stride, padding, dilation, groups
CONVOLUTIONS = {
    "one channel": ((2, 1, 5, 5), (3, 1, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "few channels, strided": ((2, 2, 7, 6), (3, 2, 3, 3), (2, 3), (1, 2), (1, 1), 1),
    "few channels, groups": ((2, 4, 6, 5), (4, 2, 3, 2), (2, 1), (1, 1), (1, 2), 2),
    "product": ((1, 6, 5, 5), (7, 6, 3, 3), (1, 1), (0, 0), (1, 1), 1),
    "product, everything": ((2, 12, 7, 6), (10, 6, 3, 2), (2, 1), (1, 2), (2, 3), 2),
    "vectors": ((1, 16, 6, 5), (16, 16, 3, 2), (2, 1), (1, 1), (1, 2), 1),
}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def check(backend: Any, call: Any, *operands: np.ndarray, specials: tuple[float, ...] = SPECIAL) -> None:
    """call(backend, *operands) against the reference in float64, with each special value in each operand in turn."""
    for i, operand in enumerate(operands):
        for k, special in enumerate(specials):
            given = [a.copy() for a in operands]
            given[i].reshape(-1)[(7 * k + 3) % operand.size] = special
            want = call(REFERENCE, *(a.astype(np.float64) for a in given))
            found, rounded = call(backend, *given), call(REFERENCE, *given)
            for got, w, b in zip(*map(_tuple, (found, want, rounded)), strict=True):
                if w.dtype == np.float64:
                    assert_close(np.asarray(got), w, b, scale=1.0)
                else:
                    assert (got == w).all()


def _tuple(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(backend, name):
    x, w, *geometry = CONVOLUTIONS[name]
    y = REFERENCE.conv2d(normal(*x), normal(*w), None, *geometry).shape
    check(backend, lambda m, x, w, bias: m.conv2d(x, w, bias, *geometry), normal(*x), normal(*w), normal(w[0]))
    check(backend, lambda m, dy, w: m.conv2d_grad_input(dy, w, x, *geometry), normal(*y), normal(*w))
    check(backend, lambda m, dy, x: m.conv2d_grad_weight(dy, x, w, *geometry), normal(*y), normal(*x))
    check(backend, lambda m, dy: m.conv2d_grad_bias(dy), normal(*y))


@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["float16", "float32"])
@pytest.mark.parametrize("special", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_weight_reaches_the_pixels_that_are_read_with_it(backend, name, special, dtype):
    """As many as it has windows within the image: a pixel at the border is not read by every tap."""
    x, w, *geometry = CONVOLUTIONS[name]
    dy = np.ones(REFERENCE.conv2d(normal(*x), normal(*w), None, *geometry).shape, dtype)
    weight = np.ones(w, dtype)
    weight[1, 0, 0, 1] = special
    got = backend.conv2d_grad_input(dy, weight, x, *geometry)
    want = REFERENCE.conv2d_grad_input(dy.astype(np.float64), weight.astype(np.float64), x, *geometry)
    assert 0 < (~np.isfinite(want)).sum() < want.size
    assert_close(got, want, want.astype(dtype))


@pytest.mark.parametrize("shapes", [((5, 3), (3, 7)), ((2, 17, 19), (2, 19, 5)), ((1, 70), (70, 1))], ids=str)
def test_products(backend, shapes):
    a, b = shapes
    check(backend, lambda m, a, b, bias: m.matmul(a, b, bias), normal(*a), normal(*b), normal(b[-1]))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_recurrent_layers(backend, reverse):
    """Of packed sequences: what is in one of them reaches its own steps, what is in a weight all of them."""
    how, n, width = ((3, 2), reverse), 5, 3
    h, rows = normal(3, width), normal(n, width)
    check(backend, lambda m, *a: m.lstm(*a, *how), normal(n, 4 * width), normal(4 * width, width) / 3, h, h)
    check(backend, lambda m, *a: m.gru(*a, *how), normal(n, 3 * width), normal(9, 3) / 3, normal(9), h)
    for nonlinearity in ("tanh", "relu"):
        check(backend, lambda m, *a, f=nonlinearity: m.rnn(*a, *how, f), rows, normal(width, width) / 3, h)
    gates, w = np.abs(np.tanh(normal(n, 4 * width))), normal(4 * width, width) / 3
    check(backend, lambda m, *a: m.lstm_grad(*a, *how), rows, h, h, w, h, gates, rows)
    check(backend, lambda m, *a: m.gru_grad(*a, *how), rows, h, w[:9].copy(), h, rows, gates)
    for nonlinearity in ("tanh", "relu"):
        check(backend, lambda m, *a, f=nonlinearity: m.rnn_grad(*a, *how, f), rows, h, w[:3].copy(), np.tanh(rows))


@pytest.mark.parametrize("axis", [0, 1])
def test_rows(backend, axis):
    x, y = normal(5, 9), normal(9, 5).T.copy()
    check(backend, lambda m, x: m.sum(x, (axis,)), x)
    for op in ("softmax", "log_softmax"):
        check(backend, lambda m, x, op=op: getattr(m, op)(x, axis), x, specials=(*SPECIAL, -np.inf))
        check(backend, lambda m, dy, y, op=op: getattr(m, f"{op}_grad")(dy, y, axis), x, y)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_cross_entropy(backend, reduction, smoothing):
    """A row that is ignored stays out of the loss, whatever is in it; its gradient is what the formula makes of it."""
    t, weight = np.array([0, 6, 2, -100, 3]), np.abs(normal(7)) + 1
    options = smoothing, -100, reduction
    check(backend, lambda m, z: m.softmax_xent(z, t, weight.astype(z.dtype), *options), normal(5, 7))
    z = normal(5, 7)

    def grad(m: Any, dloss: np.ndarray) -> np.ndarray:
        _, *saved = REFERENCE.softmax_xent(z.astype(dloss.dtype), t, weight.astype(dloss.dtype), *options)
        z_, w_ = z.astype(dloss.dtype), weight.astype(dloss.dtype)
        return m.softmax_xent_grad(dloss, z_, t, *map(np.asarray, saved), w_, *options)

    check(backend, grad, np.ones(() if reduction == "mean" else 5, np.float32))


@pytest.mark.parametrize("geometry", [((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 2), (1, 1)), ((3, 3), (2, 2), (1, 1))])
def test_pools(backend, geometry):
    shape = 2, 5, 5, 7
    y, tap = REFERENCE.max_pool2d(normal(*shape), *geometry)
    check(backend, lambda m, x: m.max_pool2d(x, *geometry), normal(*shape), specials=(*SPECIAL, -np.inf))
    check(backend, lambda m, dy: m.max_pool2d_grad(dy, tap, shape, *geometry), normal(*y.shape))
    for counted in (True, False):
        check(backend, lambda m, x, c=counted: m.avg_pool2d(x, *geometry, False, c), normal(*shape))
        check(backend, lambda m, dy, c=counted: m.avg_pool2d_grad(dy, shape, *geometry, False, c), normal(*y.shape))


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True}], ids=str)
def test_adam(backend, options):
    """A decay of 0 is none: the moments know nothing of an infinite parameter."""

    def step(m: Any, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        copies = [a.copy() for a in arrays]
        m.adam_step(*[[a] for a in copies], 3, 0.1, **options)
        return (*copies,)

    for special in SPECIAL:
        p, g, m, v = (np.abs(normal(k + 9)) for k in range(4))
        p, g, m, v = (a[:9].copy() for a in (p, g, m, v))
        p[4] = special
        want = step(REFERENCE, *(a.astype(np.float64) for a in (p, g, m, v)))
        for got, w, b in zip(step(backend, p, g, m, v), want, step(REFERENCE, p, g, m, v), strict=True):
            assert_close(got, w, b, scale=1.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["float16", "float32"])
def test_zero_keeps_its_sign(backend, dtype):
    x = np.array([-0.0, 0.0, -1e-7, 1e-7, -0.7, 0.7], dtype)
    for name, options in (("tanh", ()), ("gelu", ()), ("gelu", ("tanh",)), ("silu", ()), ("leaky_relu", ())):
        y = getattr(backend, name)(x, *options)
        assert (np.signbit(y) == np.signbit(x)).all(), name
    y, ones = backend.tanh(x), np.copysign(np.ones_like(x), x)
    for got in (backend.tanh_grad(ones, y), backend.leaky_relu_grad(ones, x), backend.silu_grad(ones, x)):
        assert (np.signbit(got) == np.signbit(ones)).all()


def test_images_without_channels(backend):
    """Or without images: no window, but no error either."""
    for shape in ((2, 0, 4, 4), (0, 3, 4, 4), (0, 0, 4, 4)):
        x, geometry = np.ones(shape, np.float32), ((2, 2), (2, 2))
        y, tap = backend.max_pool2d(x, *geometry)
        assert y.shape == tap.shape == backend.avg_pool2d(x, *geometry).shape == (*shape[:2], 2, 2)
        assert backend.max_pool2d_grad(y, tap, shape, *geometry).shape == shape
        assert backend.avg_pool2d_grad(y, shape, *geometry).shape == shape
