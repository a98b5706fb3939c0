"""Rows added by index: NumPy's bits, whatever the number of threads, and nothing written beyond the table."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.cpu.add_rows import add_at
from tilegrad.nn import functional as F

_rng = np.random.default_rng(0)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize(
    "rows, places, width", [(7, (30,), (5,)), (64, (16, 64), (128,)), (1, (3,), (1,)), (9, (4, 2), (3, 17))]
)
def test_numpys_bits(rows, places, width, dtype, count, monkeypatch):
    monkeypatch.setattr(threads, "_count", count)
    index = _rng.integers(-rows, rows, places).astype(dtype)
    values = _rng.standard_normal((*places, *width), dtype=np.float32)
    want = _rng.standard_normal((rows, *width), dtype=np.float32)
    memory = np.full(want.size + 32, np.nan, np.float32)  # guards around the table
    got = memory[16:-16].reshape(want.shape)
    got[...] = want
    np.add.at(want, index, values)
    assert add_at(got, (index,), values)
    assert_same(got, want)
    assert np.isnan(memory[:16]).all() and np.isnan(memory[-16:]).all()


@pytest.mark.parametrize("wrong", [5, -6, 1 << 40])
def test_an_index_out_of_range_is_an_error_and_writes_nowhere(wrong):
    memory = np.zeros((15, 3), np.float32)
    with pytest.raises(IndexError, match=rf"index\[1\] is {wrong}; expected -5 <= index < 5"):
        add_at(memory[5:10], np.array([2, wrong, 1]), np.ones((3, 3), np.float32))
    assert memory[:5].sum() == 0 == memory[10:].sum()


def test_what_is_left_to_numpy():
    y, index, values = np.zeros((4, 6), np.float32), np.array([1, 1]), np.ones((2, 6), np.float32)
    assert not add_at(y.astype(np.float64), index, values.astype(np.float64))
    assert not add_at(y.T, index, np.ones((2, 4), np.float32))
    assert not add_at(y[:, 0], index, values[:, 0])
    assert not add_at(y, (index, index), values[:, 0])
    assert not add_at(y, index, np.float32(1))
    assert not add_at(y, np.array([True, False, True, False]), values)
    assert not add_at(y, index, y[:2])
    assert not y.any()


def test_an_embeddings_gradient_is_a_kernel_of_a_captured_step():
    w = tg.zeros(5, 3, requires_grad=True)

    @tg.capture
    def step(index):
        w.grad = None
        F.embedding(index, w).sum().backward()

    for index in ([0, 2, 2], [4, 4, 4], [1, 0, 1]):
        step(tg.tensor(index))
        assert w.grad[:, 0].tolist() == np.bincount(index, minlength=5).tolist()
    assert "add_rows_kernel" in step.summary() and "add_at" not in step.summary(), step.summary()
    with pytest.raises(IndexError):
        step(tg.tensor([0, 1, 5]))
