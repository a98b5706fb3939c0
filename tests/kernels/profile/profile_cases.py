"""Counts of the project's own kernels, where they follow from the shape; and of captured and of Numba's launches.

Run by test_profile.py in a process of its own with TILEGRAD_SIMULATE=ptx.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilegrad import kernels
from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.profile.calls import CALLS, Arrays
from tilegrad.kernels.profile.cards import CARDS
from tilegrad.kernels.profile.launches import Launched, profiled
from tilegrad.kernels.profile.report import row, text
from tilegrad.kernels.simulate import tape

BACKENDS = {name: kernels.load(name) for name in ("triton", "numba")}
FLOAT = np.dtype(np.float32)


def launched(name: str, shape: tuple[int, ...], dtype: Any = FLOAT, backend: str = "triton") -> list[Launched]:
    act = CALLS[name].of(BACKENDS[backend], Arrays(dtype), shape)
    with profiled() as found:
        act()
    return found


@pytest.mark.parametrize(("dtype", "pipe"), [(FLOAT, "fp32"), (bfloat16, "tensor bf16")])
def test_a_product_does_what_its_shape_says(dtype, pipe):
    """2 m n k operations; what is read and written is each matrix once."""
    (found,) = launched("matmul", (64, 128, 128), dtype)
    c = found.counters
    assert c.flop[pipe] == 2 * 64 * 128 * 128
    assert (32 * c.read, 32 * c.written) == ((64 * 128 + 128 * 128) * dtype.itemsize, 64 * 128 * dtype.itemsize)
    assert c.loads.coalescing == c.stores.coalescing == 1


@pytest.mark.parametrize("dtype", [FLOAT, bfloat16])
def test_what_a_product_keeps_is_written_beside_its_result_and_not_read(dtype):
    (found,) = launched("matmul_kept", (64, 128, 128), dtype)
    c = found.counters
    assert (32 * c.read, 32 * c.written) == ((64 * 128 + 129 * 128) * dtype.itemsize, 2 * 64 * 128 * dtype.itemsize)
    assert c.stores.coalescing == 1


@pytest.mark.parametrize("with_relu", [False, True])
def test_gradients_of_ten_columns_meet_no_conflict_of_banks(with_relu):
    """The last layer of the seed nets: dy.T is read along its 10 rows, and dy along its 10 columns."""
    backend, empty = BACKENDS["triton"], Arrays(FLOAT)
    dy, x, w = empty(128, 10), empty(128, 64), empty(10, 64)
    with profiled() as found:
        backend.linear_grad(dy, dy if with_relu else None, x, w, True)
    assert len(found) == 2 and all(each.counters.loads.coalescing > 0.7 for each in found)
    assert [(c.shared_loads.conflicts, c.shared_stores.conflicts) for c in (f.counters for f in found)] == [(0, 0)] * 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_activation_moves_its_array_once(backend):
    (found,) = launched("relu", (64, 1024), FLOAT, backend)
    c = found.counters
    assert c.loads.bytes == c.stores.bytes == 4 * 64 * 1024
    assert c.read == c.written == c.loads.sectors == c.stores.sectors == 64 * 1024 // 8
    assert found.bounds(CARDS["H200"])["memory"] == 8 * 64 * 1024 / 4.8e12
    assert "_relu" in found.kernel or "activation" in found.kernel


def test_launches_of_one_kernel_are_counted_together_and_captured_ones_when_they_run():
    backend, x = BACKENDS["triton"], Arrays(FLOAT)(8, 32)
    backend.softmax(x)
    graph = tape.Tape()
    with profiled() as found:
        with tape.collected_on(graph):
            backend.softmax(x)
        assert found == []
        graph.launch()
        graph.launch()
        backend.softmax(x)
    (each,) = found
    assert each.launches == 3 and each.counters.loads.bytes == 3 * 8 * 32 * 4
    with profiled() as once:
        backend.softmax(x)
    assert once[0].bounds(CARDS["A100"]) == pytest.approx(each.bounds(CARDS["A100"]))


def test_only_some_blocks():
    with profiled(lambda launch: 2) as found:
        BACKENDS["triton"].relu(Arrays(FLOAT)(64, 1024))
    (each,) = found
    assert each.counters.blocks == 2 < each.blocks and "2 of them ran" in text(each, "H200")
    with profiled(lambda launch: 0) as found:
        BACKENDS["triton"].relu(Arrays(FLOAT)(64, 1024))
    assert found == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_shown_is_what_is_kept(backend):
    (each,) = launched("softmax", (4, 100), FLOAT, backend)
    kept, shown = row(each, "H200"), text(each, "H200")
    assert kept["kernel"] == "_softmax_kernel" and kept["counters"]["stores"]["bytes"] == 4 * 100 * 4
    assert f"{kept['registers']} registers" in shown and 0 < kept["registers"] < 256
    assert "a bound, not a time" in shown and "by issue" in shown
