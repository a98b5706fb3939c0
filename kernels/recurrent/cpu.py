"""Recurrent layers on the CPU, compiled: see cpu_frame.py.

float32 is served here. float64 is left to the reference, and so are the 16-bit types, whose state is rounded at each
step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.effects import contiguous, do, whole
from tilegrad.kernels.cpu.tile import BIAS, LANES, NO_BIAS, ONE_RUN, WIDEST, ZERO, Walk, tiles_address, walk_array
from tilegrad.kernels.matmul.cpu_panels import lay_out
from tilegrad.kernels.recurrent import cpu_gru, cpu_lstm, cpu_rnn, reference
from tilegrad.kernels.recurrent.cpu_frame import CALL, TABLE, Call
from tilegrad.kernels.recurrent.reference import (
    check_gru,
    check_gru_grad,
    check_lstm,
    check_lstm_grad,
    check_rnn,
    check_rnn_grad,
)
from tilegrad.kernels.recurrent.steps import Sizes, steps_of
from tilegrad.kernels.sizes import cdiv

Array = np.ndarray

_float32 = np.dtype(np.float32)
_NOTHING = np.zeros(1, np.float32)
_SHARED_FROM = 1 << 19  # multiply-adds: some 10 microseconds of one core


def lstm(
    x: Array, w: Array, h0: Array, c0: Array, sizes: Sizes, reverse: bool = False
) -> tuple[Array, Array, Array, Array, Array]:
    """recurrent.reference.lstm."""
    dtype, width = check_lstm("lstm", x, w, h0, c0, sizes)
    if not _is_served(dtype, sizes):
        return whole(reference.lstm, x, w, h0, c0, sizes, reverse)
    plan = _plan(sizes, bool(reverse), width, 4)
    y, cells, gates = (buffers.empty((len(x), n * width), _float32) for n in (1, 1, 4))
    h, c = np.empty(h0.shape, _float32), np.empty(c0.shape, _float32)
    results = [each.reshape(-1) for each in (y, h, c, gates, cells)]
    plan.run(
        cpu_lstm.forward, cpu_lstm.floats, plan.forward[ZERO], _flat(x), plan.in_panels(w), _flat(h0), _flat(c0),
        *results
    )  # fmt: skip
    return y, h, c, gates, cells


def lstm_grad(
    dy: Array | None,
    dh: Array | None,
    dc: Array | None,
    w: Array,
    c0: Array,
    gates: Array,
    cells: Array,
    sizes: Sizes,
    reverse: bool = False,
) -> tuple[Array, Array, Array]:
    """recurrent.reference.lstm_grad."""
    dtype, width = check_lstm_grad(dy, dh, dc, w, c0, gates, cells, sizes)
    if not _is_served(dtype, sizes):
        return whole(reference.lstm_grad, dy, dh, dc, w, c0, gates, cells, sizes, reverse)
    plan = _plan(sizes, bool(reverse), width, 4)
    dx, dh, dc = buffers.empty(gates.shape, _float32), _copy(dh, c0.shape), _copy(dc, c0.shape)
    plan.run(
        cpu_lstm.backward, cpu_lstm.floats_grad, plan.backward, _given(dy), plan.in_rows(w), _flat(c0),
        _flat(gates), _flat(cells), dx.reshape(-1), dh.reshape(-1), dc.reshape(-1), has_dy=dy is not None,
    )  # fmt: skip
    return dx, dh, dc


def gru(
    x: Array, w: Array, bias: Array | None, h0: Array, sizes: Sizes, reverse: bool = False
) -> tuple[Array, Array, Array]:
    """recurrent.reference.gru."""
    dtype, width = check_gru("gru", x, w, bias, h0, sizes)
    if not _is_served(dtype, sizes):
        return whole(reference.gru, x, w, bias, h0, sizes, reverse)
    plan = _plan(sizes, bool(reverse), width, 3)
    y, gates = (buffers.empty((len(x), n * width), _float32) for n in (1, 4))
    h = np.empty(h0.shape, _float32)
    above = NO_BIAS if bias is None else plan.filled(bias.reshape(-1, 1), 1)
    plan.run(
        cpu_gru.forward, cpu_gru.floats, plan.forward[ZERO if bias is None else BIAS], _flat(x), plan.in_panels(w),
        above, _flat(h0), y.reshape(-1), h.reshape(-1), gates.reshape(-1),
    )  # fmt: skip
    return y, h, gates


def gru_grad(
    dy: Array | None,
    dh: Array | None,
    w: Array,
    h0: Array,
    y: Array,
    gates: Array,
    sizes: Sizes,
    reverse: bool = False,
) -> tuple[Array, Array, Array]:
    """recurrent.reference.gru_grad."""
    dtype, width = check_gru_grad(dy, dh, w, h0, y, gates, sizes)
    if not _is_served(dtype, sizes):
        return whole(reference.gru_grad, dy, dh, w, h0, y, gates, sizes, reverse)
    plan = _plan(sizes, bool(reverse), width, 3)
    dx, dq = (buffers.empty((len(y), 3 * width), _float32) for _ in range(2))
    dh = _copy(dh, h0.shape)
    plan.run(
        cpu_gru.backward, cpu_gru.floats_grad, plan.backward, _given(dy), plan.in_rows(w), _flat(h0), _flat(y),
        _flat(gates), dx.reshape(-1), dq.reshape(-1), dh.reshape(-1), has_dy=dy is not None,
    )  # fmt: skip
    return dx, dq, dh


def rnn(
    x: Array, w: Array, h0: Array, sizes: Sizes, reverse: bool = False, nonlinearity: str = "tanh"
) -> tuple[Array, Array]:
    """recurrent.reference.rnn."""
    dtype, width = check_rnn("rnn", x, w, h0, sizes, nonlinearity)
    if not _is_served(dtype, sizes):
        return whole(reference.rnn, x, w, h0, sizes, reverse, nonlinearity)
    plan = _plan(sizes, bool(reverse), width, 1)
    y, h = buffers.empty(x.shape, _float32), np.empty(h0.shape, _float32)
    plan.run(
        cpu_rnn.forward, cpu_rnn.floats, plan.forward[ZERO], _flat(x), plan.in_panels(w), _flat(h0), y.reshape(-1),
        h.reshape(-1), relu=nonlinearity == "relu",
    )  # fmt: skip
    return y, h


def rnn_grad(
    dy: Array | None,
    dh: Array | None,
    w: Array,
    y: Array,
    sizes: Sizes,
    reverse: bool = False,
    nonlinearity: str = "tanh",
) -> tuple[Array, Array]:
    """recurrent.reference.rnn_grad."""
    dtype, width = check_rnn_grad(dy, dh, w, y, sizes, nonlinearity)
    if not _is_served(dtype, sizes):
        return whole(reference.rnn_grad, dy, dh, w, y, sizes, reverse, nonlinearity)
    plan = _plan(sizes, bool(reverse), width, 1)
    dx, dh = buffers.empty(y.shape, _float32), _copy(dh, (sizes[0], width))
    plan.run(
        cpu_rnn.backward, cpu_rnn.floats, plan.backward, _given(dy), plan.in_rows(w), _flat(y), dx.reshape(-1),
        dh.reshape(-1), has_dy=dy is not None, relu=nonlinearity == "relu",
    )  # fmt: skip
    return dx, dh


class _Plan(NamedTuple):
    """How the steps of one layer go."""

    steps: Array
    rows: int  # of the batch
    width: int
    wide: int
    gates: int
    work: int  # multiply-adds of all steps
    forward: dict[int, Array]  # the walks of a step's product, by what its sums start from
    backward: Array
    panel_at: Array  # for every LANES columns of w^T, where they begin in its panels
    panel_step: Array

    def run(
        self, kernel: Callable[..., None], floats: Callable[[int, int], int], walks: Array, *arrays: Array, **call: int
    ) -> None:
        """kernel(*arrays, ...) for all rows of the batch."""
        numbers = Call(self.width, self.wide, **{name: int(value) for name, value in call.items()})
        most = self.rows if self.work >= _SHARED_FROM else 1
        pieces = min(threads.num_threads(), most, self.rows)
        scratch = buffers.empty((pieces, cdiv(floats(self.wide, self.width), LANES) * LANES), _float32)
        tables = np.empty((pieces, 2 * TABLE), np.intp)
        threads.share(
            kernel, most, self.rows, *arrays, self.steps, np.array([numbers], CALL), scratch,
            np.tile(walks, (pieces, 1)), tables, tiles_address(), ONE_RUN,
        )  # fmt: skip

    def in_panels(self, w: Array) -> Array:
        """w^T (H, gates * wide), laid out in panels."""
        rows = self.gates * self.wide
        panels = buffers.empty((rows * self.width,), _float32)
        blocks = rows // LANES
        threads.share(
            lay_out, 1, blocks, self.filled(w, self.width), self.width, panels, self.panel_at, self.panel_step
        )  # fmt: skip
        return panels

    def in_rows(self, w: Array) -> Array:
        """w (gates * wide, wide)."""
        return self.filled(w, self.wide)

    def filled(self, w: Array, columns: int) -> Array:
        """w (gates * H, n <= columns) as (gates * wide, columns), filled up with zeros."""
        if self.wide == self.width:
            return _flat(w)
        filled = buffers.empty((self.gates, self.wide, columns), _float32)
        do(_fill, filled, w)
        return filled.reshape(-1)


@lru_cache(maxsize=64)
def _plan(sizes: Sizes, reverse: bool, width: int, gates: int) -> _Plan:
    wide = cdiv(width, LANES) * LANES
    across = gates * wide
    forward = {start: _walks(across, width, start, True) for start in (BIAS, ZERO)}
    backward = _walks(wide, across, ZERO, False)
    at, step = [], []
    for column, panels, vectors in _panels(across):
        panel = vectors * LANES
        at += [(column + i * panel) * width + v * LANES for i in range(panels) for v in range(vectors)]
        step += [panel] * (panels * vectors)
    steps = np.array(steps_of(sizes, reverse), np.int64).reshape(-1, 4)
    work = sum(sizes) * gates * width * width
    tables = np.array(at, np.intp), np.array(step, np.intp)
    return _Plan(steps, sizes[0], width, wide, gates, work, forward, backward, *tables)


def _panels(columns: int) -> list[tuple[int, int, int]]:
    """(where they begin, how many, vectors) of the panels of so many columns: as few and as wide as there can be."""
    found, column = [], 0
    for vectors in (4, 2, 1):
        panels = (columns - column) // (vectors * LANES) if vectors <= WIDEST else 0
        if panels:
            found.append((column, panels, vectors))
        column += panels * vectors * LANES
    return found


def _walks(columns: int, terms: int, start: int, in_panels: bool) -> Array:
    """The walks of a product (rows, terms) @ (terms, columns); the rows are the kernel's to say."""
    found = []
    for column, panels, vectors in _panels(columns):
        panel = vectors * LANES
        found.append(Walk(
            vectors=vectors, panels=panels, rows=0, run=terms, w_step=panel if in_panels else columns, start=start,
            y_panel=panel, y_base=column, w_panel=panel * terms if in_panels else panel,
            w_base=column * terms if in_panels else column, bias_panel=panel if start == BIAS else 0,
            bias_base=column if start == BIAS else 0,
        ))  # fmt: skip
    return walk_array(*found)


def _is_served(dtype: np.dtype, sizes: Sizes) -> bool:
    return dtype == _float32 and sizes[0] > 0


def _flat(a: Array) -> Array:
    return contiguous(a).reshape(-1)


def _given(dy: Array | None) -> Array:
    return _NOTHING if dy is None else _flat(dy)


def _copy(a: Array | None, shape: tuple[int, ...]) -> Array:
    """A copy of a; zeros for None."""
    made = np.empty(shape, _float32)
    do(_fill_zero, made) if a is None else do(np.copyto, made, a)
    return made


def _fill(filled: Array, w: Array) -> None:
    """w, each gate's rows filled up with zeros, and its columns."""
    gates = len(filled)
    width, columns = len(w) // gates, w.shape[1]
    filled.fill(0)
    filled[:, :width, :columns] = w.reshape(gates, width, columns)


def _fill_zero(a: Array) -> None:
    a.fill(0)
