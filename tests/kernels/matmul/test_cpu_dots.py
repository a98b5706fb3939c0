"""Matrix products of two operands with their terms side by side, against NumPy in float64."""

import numpy as np
import pytest

from tests.compare import assert_close, assert_same
from tilegrad.kernels.cpu.tile import BIAS, LANES, NO_BIAS, ZERO
from tilegrad.kernels.matmul.cpu_dots import COLUMNS, ROWS, dots, items

LINE = 16  # floats of a cache line
SHAPES = [
    *[(m, n, k) for m in (1, ROWS, ROWS + 1, 37) for n in (1, COLUMNS - 1, COLUMNS, 29) for k in (1, LANES + 3)],
    *[(7, 10, k) for k in (LANES - 1, LANES, 2 * LANES, 5 * LANES + 1, 784)],
    *[(m, 2 * COLUMNS + 1, 80) for m in (16 * ROWS, 16 * ROWS + 1, 33 * ROWS - 1)],
    *[(5 * ROWS, COLUMNS + 1, k) for k in (1023, 1024, 1025, 2100, 4096)],  # several blocks of terms
]


def framed(values, offset):
    """The values' elements, so many floats behind the beginning of a cache line, with NaN on both sides."""
    memory = np.full(values.size + 4 * LINE, np.nan, np.float32)
    begin = -memory.ctypes.data // 4 % LINE + LINE + offset
    inside = memory[begin : begin + values.size]
    inside[:] = values.ravel()
    return memory, inside


def run(a, b, bias=None, relu=0, offsets=(0, 0), pieces=1):
    """act(a @ b.T + bias) by `dots`, the last piece first, with nothing but NaN around its arrays."""
    (m, k), n = a.shape, len(b)
    a, b = framed(a, offsets[0])[1], framed(b, offsets[1])[1]
    above, start = (NO_BIAS, ZERO) if bias is None else (framed(bias, 1)[1], BIAS)
    memory, y = framed(np.full(m * n, np.nan), 3)
    bounds = [items(m, n) * i // pieces for i in range(pieces + 1)]
    for begin, stop in reversed(list(zip(bounds, bounds[1:]))):
        dots(a, b, above, y, m, n, k, start, relu, begin, stop, 0, 0)
    first = (y.ctypes.data - memory.ctypes.data) // 4
    assert np.isnan(memory[:first]).all() and np.isnan(memory[first + y.size :]).all()
    return y.reshape(m, n)


def random(m, n, k):
    rng = np.random.default_rng((m, n, k))
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (n, k), n)]


@pytest.mark.parametrize("m, n, k", SHAPES)
@pytest.mark.parametrize("offsets", [(0, 0), (4, 5)])
def test_every_shape(m, n, k, offsets):
    a, b, bias = random(m, n, k)
    want, baseline = a.astype(np.float64) @ b.T.astype(np.float64), a @ b.T
    scale = np.sqrt(k)
    assert_close(run(a, b, offsets=offsets), want, baseline, scale=scale)
    want, baseline = want + bias, baseline + bias
    assert_close(run(a, b, bias, offsets=offsets), want, baseline, scale=scale)
    assert_close(run(a, b, bias, 1, offsets), np.maximum(want, 0), np.maximum(baseline, 0), scale=scale)


@pytest.mark.parametrize("m, n, k", [(37, 29, 50), (33 * ROWS - 1, 3 * COLUMNS, 48), (5 * ROWS, 5 * COLUMNS, 2100)])
def test_bits_depend_on_neither_the_pieces_nor_the_memory_nor_the_place_in_a_tile(m, n, k):
    a, b, bias = random(m, n, k)
    whole = run(a, b, bias)
    for pieces in (2, 3, items(m, n)):
        assert_same(run(a, b, bias, pieces=pieces), whole)
    for offsets in ((4, 4), (0, 7), (9, 0)):
        assert_same(run(a, b, bias, offsets=offsets), whole)
    assert_same(run(a[1:], b[2:], bias[2:]), whole[1:, 2:])


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("m, n, k", [(11, 10, LANES + 3), (5 * ROWS, 8, 2100)])
@pytest.mark.parametrize("term", [0, -1])
def test_nan_and_infinity_stay_in_their_row_and_column(m, n, k, bad, relu, term):
    a, b, bias = random(m, n, k)
    clean = run(a, b, bias, relu)
    a[m - 2, term] = bad
    b[n - 1, term] = bad
    with np.errstate(invalid="ignore"):
        want = a.astype(np.float64) @ b.T.astype(np.float64) + bias
        want = np.where(want < 0, 0, want) if relu else want
    got = run(a, b, bias, relu, offsets=(4, 4))
    away = np.ix_(np.arange(m) != m - 2, np.arange(n) != n - 1)
    assert_same(got[away], clean[away])
    assert_same(got[m - 2], want[m - 2].astype(np.float32))
    assert_same(got[:, n - 1], want[:, n - 1].astype(np.float32))


def test_a_bias_of_nan_is_in_its_column_and_passes_the_relu():
    a, b, bias = random(2, 3, 4)
    bias[1] = np.nan
    assert np.array_equal(np.isnan(run(a, b, bias, 1)), [[False, True, False]] * 2)
