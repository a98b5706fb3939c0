"""Kernels at the sizes they are made for, on a GPU; the same tests at toy sizes where "cuda" is simulated.

The contract tests go through every option at small shapes. Here is what only size shows: many tiles and waves, sums of
thousands of terms, offsets beyond 32 bits.
"""

from __future__ import annotations

import numpy as np
import pytest
from ml_dtypes import bfloat16

from tests.compare import assert_close, assert_same
from tests.device import OnDevice
from tilegrad import kernels
from tilegrad.kernels.device import gpu

REAL = gpu.is_available()
pytestmark = [pytest.mark.gpu] if REAL else []
DTYPES = [np.float32, np.float16, bfloat16]


def size(real: int, toy: int) -> int:
    return real if REAL else toy


@pytest.fixture(scope="module")
def backend():
    return OnDevice(kernels.load("triton"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw(rng, *shape: int, dtype=np.float32) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)


def both(reference, *arrays):
    """(want, baseline): the reference in float64, and in float32 rounded to the arrays' dtype."""
    wide = [a.astype(np.float64) if a.dtype.kind in "fV" else a for a in arrays]
    single = [a.astype(np.float32) if a.dtype.kind in "fV" else a for a in arrays]
    return reference(*wide), reference(*single).astype(arrays[0].dtype)


REFERENCE = kernels.load("reference")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [
        (size(1024, 32), size(1024, 32), size(1024, 64)),  # exact
        (size(1000, 33), size(777, 35), size(513, 70)),  # ragged
        (size(16, 3), size(4096, 40), size(4096, 64)),  # few rows
        (size(128, 20), size(784, 30), size(60000, 400)),  # a weight gradient: long K
    ],
)
def test_matmul(backend, rng, m, n, k, dtype):
    a, b = draw(rng, m, k, dtype=dtype), draw(rng, k, n, dtype=dtype)
    assert_close(backend.matmul(a, b), *both(REFERENCE.matmul, a, b), scale=k**0.5)
    assert_close(backend.matmul(a, np.ascontiguousarray(b.T).T), *both(REFERENCE.matmul, a, b), scale=k**0.5)


@pytest.mark.parametrize("columns", [size(1000, 50), size(32000, 200), size(100_000, 300)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(backend, rng, name, columns):
    x, dy = 5 * draw(rng, size(512, 4), columns), draw(rng, size(512, 4), columns)
    y = getattr(backend, name)(x)
    assert_close(y, *both(getattr(REFERENCE, name), x))
    gradient = getattr(REFERENCE, f"{name}_grad")
    assert_close(getattr(backend, f"{name}_grad")(dy, y), *both(gradient, dy, y))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_recurrent_layers(backend, rng, reverse, dtype):
    """Packed sequences of many lengths: other rows at each step."""
    sizes, width = tuple(range(size(250, 5), 0, -size(7, 2))), size(512, 6)
    n, batch, how = sum(sizes), sizes[0], (sizes, reverse)
    h, dy = draw(rng, batch, width, dtype=dtype), draw(rng, n, width, dtype=dtype)
    w = (rng.uniform(-1, 1, (4 * width, width)) / width**0.5).astype(dtype)
    x, bias = draw(rng, n, 4 * width, dtype=dtype), draw(rng, 3 * width, dtype=dtype)
    for name, given in (("lstm", (x, w, h, h)), ("gru", (x[:, : 3 * width], w[: 3 * width], bias, h))):
        wide = [a.astype(np.float64) for a in given]
        want, baseline = (getattr(REFERENCE, name)(*each, *how) for each in (wide, given))
        for results in zip(getattr(backend, name)(*given, *how), want, baseline, strict=True):
            assert_close(*results, scale=1.0)
        of_states, kept = ((h, h), (h, *baseline[3:])) if name == "lstm" else ((h,), (h, baseline[0], baseline[2]))
        gradient = dy, *of_states, given[1], *kept
        wide = [a.astype(np.float64) for a in gradient]
        want, baseline = (getattr(REFERENCE, f"{name}_grad")(*each, *how) for each in (wide, gradient))
        for results in zip(getattr(backend, f"{name}_grad")(*gradient, *how), want, baseline, strict=True):
            assert_close(*results, scale=1.0)


@pytest.mark.parametrize("classes", [10, size(50257, 300), size(256_000, 500)])
def test_softmax_xent(backend, rng, classes):
    rows = size(1024, 5)
    z, t = 3 * draw(rng, rows, classes), rng.integers(0, classes, rows)
    loss, m, s, total = backend.softmax_xent(z, t)
    want, baseline = (REFERENCE.softmax_xent(z.astype(kind), t)[0] for kind in (np.float64, np.float32))
    assert_close(loss, want, baseline)
    dloss = np.array(1, np.float32)
    dz = backend.softmax_xent_grad(dloss, z, t, m, s, total)
    want, baseline = (
        REFERENCE.softmax_xent_grad(*(a.astype(kind) for a in (dloss, z)), t, *(a.astype(kind) for a in (m, s, total)))
        for kind in (np.float64, np.float32)
    )
    assert_close(dz, want, baseline)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16], ids=str)
@pytest.mark.parametrize(
    ("n", "c", "side", "o", "padding"),
    [
        (size(512, 2), 1, size(28, 8), size(32, 4), 0),  # the seed CNN's three layers
        (size(512, 2), size(32, 4), size(13, 7), size(64, 6), 0),
        (size(512, 2), size(64, 6), 5, size(64, 6), 0),
        (size(16, 1), size(64, 6), size(56, 6), size(64, 6), 1),  # ResNet
    ],
)
def test_conv2d(backend, rng, n, c, side, o, padding, dtype):
    x, w, bias = draw(rng, n, c, side, side, dtype=dtype), draw(rng, o, c, 3, 3, dtype=dtype), draw(rng, o, dtype=dtype)
    geometry = (1, 1), (padding, padding), (1, 1), 1

    y = backend.conv2d(x, w, bias, *geometry, activation="relu")
    assert_close(y, *both(lambda *a: REFERENCE.conv2d(*a, *geometry, activation="relu"), x, w, bias))
    dy = draw(rng, *y.shape, dtype=dtype)
    dx = backend.conv2d_grad_input(dy, w, x.shape, *geometry)
    assert_close(dx, *both(lambda *a: REFERENCE.conv2d_grad_input(*a, x.shape, *geometry), dy, w))
    dw = backend.conv2d_grad_weight(dy, x, w.shape, *geometry)
    assert_close(dw, *both(lambda *a: REFERENCE.conv2d_grad_weight(*a, w.shape, *geometry), dy, x))
    assert_close(backend.conv2d_grad_bias(dy), *both(REFERENCE.conv2d_grad_bias, dy))


def test_max_pool2d(backend, rng):
    x = draw(rng, size(128, 2), size(64, 5), size(56, 6), size(56, 6))
    y, tap = backend.max_pool2d(x, (2, 2), (2, 2))
    want, want_tap = REFERENCE.max_pool2d(x, (2, 2), (2, 2))
    assert_same(y, want)
    assert_same(tap, want_tap)
    dy = draw(rng, *y.shape)
    dx = backend.max_pool2d_grad(dy, tap, x.shape, (2, 2), (2, 2))
    assert_same(dx, REFERENCE.max_pool2d_grad(dy, tap, x.shape, (2, 2), (2, 2)))


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)], ids=str)
def test_sum(backend, rng, axes):
    x = draw(rng, size(20_000, 50), size(1000, 40))
    assert_close(backend.sum(x, axes), *both(lambda a: REFERENCE.sum(a, axes), x), scale=x.size**0.5)


def test_adam(backend, rng):
    p, g = draw(rng, size(4_000_000, 3000)), draw(rng, size(4_000_000, 3000))
    states = []
    for kernel, kind in ((REFERENCE, np.float64), (REFERENCE, np.float32), (backend, np.float32)):
        state = [p.astype(kind), np.zeros(p.shape, kind), np.zeros(p.shape, kind)]
        for step in (1, 2, 3):
            kernel.adam_step([state[0]], [g.astype(kind)], [state[1]], [state[2]], step, 1e-3, weight_decay=0.01)
        states.append(state)
    for want, baseline, got in zip(*states, strict=True):
        assert_close(got, want, baseline)


@pytest.mark.skipif(not REAL, reason="4 GB of memory on a GPU: there is no toy of it")
def test_more_elements_than_32_bits_count(rng):
    """Two halves of one array, 2^31 elements apart, must not be mistaken for one another."""
    xp, backend = gpu.xp(), kernels.load("triton")
    x = xp.zeros(2**31 + 2048, np.float16)
    x[-2048:] = xp.asarray(draw(rng, 2048, dtype=np.float16))
    y = backend.leaky_relu(x, 0.5)
    assert_same(y[-2048:].get(), REFERENCE.leaky_relu(x[-2048:].get(), 0.5))
    assert not y[:2048].any() and not y[2**31 - 2048 : 2**31].any()
