"""A captured step on a GPU: what any captured step does (tests/captured/steps.py), and what is a graph's alone."""

from __future__ import annotations

import gc
import weakref

import pytest

import tilegrad as tg
from tests.captured.steps import *  # noqa: F403
from tests.captured.steps import ON, Program, batches, graphs, values
from tilegrad import kernels
from tilegrad.kernels.device import gpu


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch):
    monkeypatch.setitem(ON, "device", "cuda")


def test_numba_kernels_are_captured_too(rng):
    if not gpu.runs("numba"):
        pytest.skip("Numba's simulator is not on")
    data = batches(rng, n=4)
    with kernels.use("numba"):
        want = values(Program(False).run(data))
        captured = Program(True, warmup=1)
        assert values(captured.run(data)) == want
    assert len(graphs(captured.step)) == 1


def test_results_are_the_callers(rng):
    """A result keeps its value when the graph is launched again, and nothing made afterwards lies in its memory."""
    captured = Program(True, warmup=1)
    data = batches(rng)
    captured.run(data[:2])
    losses = captured.run(data[2:5])
    before = values(losses)
    graph_memory = {p._grad.array.data.mem.ptr for p in captured.model.parameters()}
    made = [gpu.xp().empty(p.shape, p.dtype) for p in captured.model.parameters() for _ in range(3)]
    for x in made:
        x.fill(7)
    gc.collect()
    captured.run(data[5:7])
    assert values(losses) == before
    assert all((x == 7).all() for x in made)
    assert not {x.data.mem.ptr for x in made} & graph_memory


def test_labels_out_of_range_are_reported_after_a_launch(rng):
    data = batches(rng, n=4)
    captured = Program(True, warmup=1)
    captured.run(data[:3])
    captured.step(*data[0]).item()  # looks for faults: from here on only a launch can tell that there may be others
    x, t = data[3]
    t[2] = 9
    loss = captured.step(x, t)
    with pytest.raises(ValueError, match=r"softmax_xent: t\[2\] is 9; expected 0 <= t < 4"):
        loss.item()
    captured.step(*data[0]).item()  # it is told once


def test_the_number_of_graphs_is_bounded(monkeypatch):
    monkeypatch.setattr("tilegrad.captured.step.MOST", 2)

    @tg.capture(warmup=1)
    def double(x, k):
        return x * k

    x = tg.ones(2, device="cuda")
    for k in (1, 2):
        double(x, k), double(x, k)
    with pytest.warns(RuntimeWarning, match="double: more than 2 graphs, and the oldest is forgotten") as caught:
        assert double(x, 3).tolist() == [3.0, 3.0]
    assert caught[0].filename == __file__
    for k in (3, 2, 4, 5, 6, 2, 2):  # told once
        assert double(x, k).tolist() == [k, k]
    assert len(graphs(double)) == 1 and len(double._shapes) == 2


def test_the_least_recently_used_graph_makes_room(monkeypatch):
    monkeypatch.setattr("tilegrad.captured.step.MOST", 2)
    calls = []

    @tg.capture(warmup=1)
    def double(x):
        calls.append(len(x))
        return x * 2

    one, two, three = (tg.ones(n, device="cuda") for n in (1, 2, 3))
    for x in (one, one, two, two, one):
        double(x)
    with pytest.warns(RuntimeWarning):
        double(three), double(three)
    calls.clear()
    double(one), double(three)
    assert calls == []
    double(two)
    assert calls == [2]


def test_the_summary_counts_kernels(rng):
    program = Program(True, "plain", warmup=1)
    assert program.step.summary() == "plain: no graph was captured"
    program.run(batches(rng, n=2))
    first, *rows = program.step.summary().splitlines()
    nodes = graphs(program.step)[0].graph.nodes()
    assert first.startswith(f"plain(float32[5, 6], int64[5]): {nodes.total()} nodes, ")
    assert nodes["_softmax_xent_kernel"] == nodes["_softmax_xent_grad_kernel"] == nodes["_sgd_kernel"] == 1
    assert nodes["_matmul_kernel"] == 5  # two forward, two weight gradients, one input gradient
    assert nodes["_dropout_kernel"] == 2
    assert len(rows) == len(nodes)


def test_host_tensors_are_read_where_they_are(rng):
    """Data that the function reads from around it is kept, and seen when it is written to in place."""
    table = tg.arange(4, dtype=tg.float32, device="cuda")
    holder = [table]
    look = tg.capture(lambda i: holder[0] + i, warmup=1)
    one = tg.ones(4, device="cuda")
    look(one), look(one)
    table.mul_(10)
    assert look(one).tolist() == [1.0, 11.0, 21.0, 31.0]
    holder.clear()
    array = weakref.ref(table.data)
    del table
    gc.collect()
    assert array() is not None


def test_what_the_function_makes_is_not_kept(rng):
    """Its memory serves the next array of the graph."""
    inside = []

    @tg.capture(warmup=1)
    def chain(x):
        inside.clear()
        y = x + 1
        inside.append(y.data.data.ptr)
        return (y * 2).sum()

    x = tg.ones(3, device="cuda")
    chain(x), chain(x)
    assert inside[0] not in {array.data.ptr for array in graphs(chain)[0].graph._kept}
