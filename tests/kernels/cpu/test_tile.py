"""The register tile against the formula in its module, written out in NumPy."""

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from tests.compare import assert_close
from tilegrad.kernels.cpu.tile import (
    BIAS,
    HELD,
    LANES,
    NO_BIAS,
    NO_SHIFT,
    ONE_RUN,
    ROWS,
    WIDEST,
    ZERO,
    Walk,
    call_tiles,
    row_table,
    tile_shape,
    tiles,
    tiles_address,
    walk_array,
)
from tilegrad.kernels.matmul.cpu_panels import lay_out


def run_tile(vectors, y, y_at, x, x_at, run_at, run, x_step, w, w_step, bias, start, relu):
    walk = Walk(vectors, panels=1, rows=len(y_at), run=run, w_step=w_step, x_step=x_step, start=start, relu=relu)
    tiles(walk_array(walk), y, y_at, NO_SHIFT, x, x_at, run_at, w, bias, 0, 1, 0, 0)


def formula(y, y_at, x, x_at, run_at, run, x_step, w, w_step, bias, start, relu, width):
    begin = {HELD: np.stack([y[at : at + width] for at in y_at]), BIAS: np.tile(bias, (len(y_at), 1)), ZERO: 0.0}[start]
    terms = [
        x[np.array(x_at) + at + k * x_step][:, None] * w[(s * run + k) * w_step :][:width]
        for s, at in enumerate(run_at)
        for k in range(run)
    ]
    sums = begin + np.sum(terms, 0)
    return np.maximum(sums, 0) if relu else sums


@pytest.mark.parametrize("vectors", list(ROWS))
@pytest.mark.parametrize("start", [HELD, BIAS, ZERO])
@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("halves", [1, 2, 3])
def test_every_shape_and_start(vectors, start, relu, halves):
    """Rows that tiles of the whole and of half the height fill exactly: nothing else may be written."""
    rng = np.random.default_rng(vectors)
    rows, width = halves * (ROWS[vectors] // 2), vectors * LANES
    x = rng.standard_normal(500).astype(np.float32)
    run_at, run, x_step, w_step = np.array([0, 40, 7]), 5, 3, width + 2  # runs in any order, a stride in both
    x_at = rng.permutation(400)[:rows]
    y = rng.standard_normal(rows * (width + 3)).astype(np.float32)
    y_at = np.arange(rows) * (width + 3)
    w = rng.standard_normal(3 * run * w_step).astype(np.float32)
    bias = rng.standard_normal(width).astype(np.float32)
    arguments = (y_at, x, x_at, run_at, run, x_step, w, w_step, bias, start, relu)
    wide = [a.astype(np.float64) if getattr(a, "dtype", None) == np.float32 else a for a in arguments]
    want = formula(y.astype(np.float64), *wide, width)
    baseline = formula(y, *arguments, width)
    gaps = np.delete(y, (y_at[:, None] + np.arange(width)).ravel())
    run_tile(vectors, y, *arguments)
    got = np.stack([y[at : at + width] for at in y_at])
    assert_close(got, want, baseline, scale=np.abs(want).max())
    assert np.array_equal(np.delete(y, (y_at[:, None] + np.arange(width)).ravel()), gaps)  # nothing else was written


def test_a_row_that_repeats_is_added_to_once():
    rows, vectors = tile_shape(LANES)
    y = np.ones(LANES, np.float32)
    x, w = np.full(1, 2, np.float32), np.full(LANES, 3, np.float32)
    at = np.zeros(rows, np.intp)
    run_tile(vectors, y, at, x, at, ONE_RUN, 1, 1, w, LANES, NO_BIAS, HELD, 0)
    assert np.array_equal(y, np.full(LANES, 7, np.float32))


def test_nan_passes_the_relu():
    rows, vectors = tile_shape(LANES)
    y = np.zeros(rows * LANES, np.float32)
    x, w = np.array([np.nan, -1], np.float32), np.ones(LANES, np.float32)
    x_at = np.ones(rows, np.intp)
    x_at[0] = 0
    run_tile(vectors, y, np.arange(rows) * LANES, x, x_at, ONE_RUN, 1, 1, w, LANES, NO_BIAS, ZERO, 1)
    assert np.isnan(y[:LANES]).all()
    assert (y[LANES:] == 0).all()


def test_a_walk_goes_where_its_steps_say():
    """Items of three rows of seven, two shifts, two panels: every element of y once, a later walk on top of it."""
    width, terms, rows, total = LANES, 5, 3, 7
    rng = np.random.default_rng(0)
    x = rng.standard_normal((total, terms)).astype(np.float32)
    w = rng.standard_normal((2, 2, terms, width)).astype(np.float32)  # shift, panel
    bias = rng.standard_normal((2, width)).astype(np.float32)
    y = np.full((2, total, 2, width), np.nan, np.float32)
    first = Walk(
        vectors=1, panels=2, rows=rows, run=terms, w_step=width, item_rows=rows, total_rows=total, y_panel=width,
        w_shift=2 * terms * width, w_panel=terms * width, bias_panel=width, start=BIAS,
    )  # fmt: skip
    again = first._replace(start=HELD, relu=1)
    at = row_table(np.arange(total) * 2 * width), row_table(np.arange(total) * terms)
    shift_at = np.array([0, total * 2 * width], np.intp)
    flat = [a.reshape(-1) for a in (x, w, bias)]
    arrays = y.reshape(-1), at[0], shift_at, flat[0], at[1], ONE_RUN, flat[1], flat[2]
    tiles(walk_array(first, again), *arrays, 0, 3, 0, 0)
    products = np.einsum("rk,spkc->srpc", x.astype(np.float64), w)
    want = np.maximum(bias + 2 * products, 0)
    baseline = np.maximum(bias + 2 * np.einsum("rk,spkc->srpc", x, w), 0)
    assert_close(y, want, baseline, scale=np.abs(want).max())


@pytest.mark.parametrize("terms", [1, LANES - 1, LANES, 3 * LANES + 5])
def test_panels_hold_every_element_where_the_tables_say(terms):
    blocks = 3
    rows = np.arange(blocks * LANES * terms, dtype=np.float32)
    panels = np.full(rows.size, np.nan, np.float32)
    at, step = np.array([0, LANES, 2 * LANES * terms]), np.array([2 * LANES, 2 * LANES, LANES])
    lay_out(rows, terms, panels, at, step, 0, blocks, 0, 0)
    columns = rows.reshape(blocks, LANES, terms)
    wide = np.concatenate(columns[:2]).T
    assert np.array_equal(panels, np.concatenate([wide.ravel(), columns[2].T.ravel()]))


def test_tile_shape_divides_the_columns():
    for columns in range(LANES, 20 * LANES, LANES):
        rows, vectors = tile_shape(columns)
        assert columns % (vectors * LANES) == 0
        assert 1 <= vectors <= WIDEST
        assert rows == ROWS[vectors]


@njit
def call_by_address(address, walks, y, y_at, x, x_at, zero, w, begin, stop):
    call_tiles(address, walks, y, y_at, zero, x, x_at, zero, w, w, begin, stop, 0)


def test_tiles_are_called_by_their_address():
    """With the same bits, and only for the items that are asked for."""
    draw = np.random.default_rng(0).standard_normal
    x, w, most = draw((40, 7), dtype=np.float32), draw((7, LANES), dtype=np.float32), 20
    walks = walk_array(Walk(1, panels=1, rows=most, run=7, w_step=LANES, item_rows=most, total_rows=40))
    tables = row_table(np.arange(40) * LANES), row_table(np.arange(40) * 7)
    want, y = (np.full(40 * LANES, np.nan, np.float32) for _ in range(2))
    tiles(walks, want, tables[0], NO_SHIFT, x.reshape(-1), tables[1], ONE_RUN, w.reshape(-1), NO_BIAS, 1, 2, 0, 0)
    call_by_address(tiles_address(), walks, y, tables[0], x.reshape(-1), tables[1], ONE_RUN, w.reshape(-1), 1, 2)
    assert y.tobytes() == want.tobytes()
    assert np.isnan(y[: most * LANES]).all() and not np.isnan(y[most * LANES :]).any()
    with pytest.raises(TypingError):  # its machine code would take them for float32
        call_by_address(tiles_address(), walks, y, tables[0], draw(280), tables[1], ONE_RUN, w.reshape(-1), 1, 2)
