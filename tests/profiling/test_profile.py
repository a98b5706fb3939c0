"""What a block's table says, and that its times add up."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.kernels.device import gpu
from tilegrad.kernels.system.clock import now
from tilegrad.nn import functional as F
from tilegrad.profiling import chrome


def _step(batch: int = 64):
    """A small CNN's training step, and its arguments."""
    layers = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2704, 64), nn.ReLU()
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    optimizer = optim.Adam(model.parameters())

    def step(x, t):
        loss = F.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step, tg.randn(batch, 1, 28, 28), tg.randint(0, 10, (batch,))


def test_calls_and_other_are_the_step_within_10_percent():
    """The step as it is without a profile, of some milliseconds: to be looked at costs a call some microseconds."""
    step, x, t = _step(512)
    for _ in range(2):
        step(x, t)
    plain, seen = [], []
    for _ in range(20):  # the machine may do something else in between: the fastest count
        begin = time.perf_counter()
        for _ in range(2):
            step(x, t)
        plain.append(time.perf_counter() - begin)
        with tg.profile() as p:
            for _ in range(2):
                step(x, t)
        assert sum(group.seconds for group in p.groups) + p.other == pytest.approx(p.seconds)
        seen.append(p.seconds)
    assert min(seen) / min(plain) == pytest.approx(1, abs=0.1)
    assert sum(group.calls for group in p.groups) == 2 * 11 == len(p.calls)
    assert {group.op for group in p.groups} >= {"conv2d", "conv2d_grad", "matmul", "linear_grad", "adam_step"}


def test_the_nodes_of_a_captured_step_are_its_launch_within_10_percent():
    step, x, t = _step(32)
    captured = tg.capture(step)
    for _ in range(4):
        captured(x, t)
    ((account,),) = (shape.accounts for shape in captured._shapes.values())
    plain, nodes, share = [], [], []
    for _ in range(150):  # the machine may do something else in between: the fastest count
        begin = now()
        account.graph.launch()  # which nobody looks at
        plain.append((now() - begin) / 1e9)
        with tg.profile() as p:
            captured(x, t)
        (launch,) = (each for each in p.calls if each.of is None)
        nodes.append(sum(group.seconds for group in p.groups))
        share.append(nodes[-1] / ((launch.end - launch.begin) / 1e9))
    assert 0.9 < max(share) <= 1
    assert min(nodes) / min(plain) == pytest.approx(1, abs=0.1)
    assert all(group.captured for group in p.groups)
    assert sum(sum(group.kernels.values()) for group in p.groups) == launch.nodes


def test_a_profiled_step_computes_the_same_and_stays_captured():
    step, x, t = _step(8)
    captured = tg.capture(step)
    with tg.profile():
        for _ in range(4):
            captured(x, t)
    before = captured.summary()
    assert "1 graphs" in captured._repr_html_()
    captured(x, t)
    with tg.profile() as p:
        captured(x, t)
    assert captured.summary() == before  # nothing was captured anew
    assert all(group.captured for group in p.groups)


def test_the_table_is_sorted_and_has_the_rest_and_the_sum():
    x, w = tg.randn(64, 784), tg.randn(784, 128)
    with tg.profile() as p:
        for _ in range(3):
            x @ w
        x.relu()
    lines = str(p).splitlines()
    assert lines[0].split() == "op arrays dtype backend kernels calls time share GB/s GFLOP/s ceiling".split()
    assert [line.split()[0] for line in lines[2:]] == [*(group.op for group in p.groups), "other", "all"]
    assert [g.seconds for g in p.groups] == sorted([g.seconds for g in p.groups], reverse=True)
    product = next(group for group in p.groups if group.op == "matmul")
    assert (product.calls, product.shapes, product.dtype) == (3, [(64, 784), (784, 128)], np.float32)
    assert product.work == (4 * (64 * 784 + 784 * 128 + 64 * 128), 2 * 64 * 784 * 128)
    (row,) = [line for line in lines if line.startswith("matmul")]
    assert "64x784 784x128" in row
    rate = 3 * 2 * 64 * 784 * 128 / product.seconds / 1e9
    assert f"{rate:.3g}" in row.split()
    assert len(p.table(limit=1).splitlines()) == 2 + 1 + 3  # head, the slowest; the rest of them, other, all
    assert "1 more" in p.table(limit=1)


def test_calls_on_other_shapes_are_other_lines_and_numbers_that_change_are_not():
    with tg.profile() as p:
        for i in range(3):
            F.dropout(tg.ones(4, 4), 0.1 * (i + 1))
        F.dropout(tg.ones(4, 5), 0.1)
    assert sorted((g.shapes[0], g.calls) for g in p.groups if g.op == "dropout") == [((4, 4), 3), ((4, 5), 1)]


def test_a_block_that_raises_keeps_what_was_told(monkeypatch):
    p = tg.profile()
    with pytest.raises(ZeroDivisionError), p:
        tg.ones(4).relu()
        raise ZeroDivisionError
    assert [group.op for group in p.groups] == ["relu"]
    assert p.seconds >= p.groups[0].seconds > 0
    with p:  # anew
        pass
    assert p.groups == [] and p.calls == []


def test_on_the_simulated_device_the_table_says_what_its_times_are():
    if not gpu.is_simulated():
        pytest.skip("there is a GPU")
    x = tg.ones(4, 4, device="cuda")
    with tg.profile() as p:
        x.relu()
    (group,) = p.groups
    assert (group.op, group.device) == ("relu", "cuda")
    assert list(group.kernels) == ["activation_kernel"] and "grid=" in group.config
    text = str(p)
    assert text.endswith("The device is simulated: these are times of the simulation, not of a GPU.")
    assert text.splitlines()[2].split()[-1] != "%"  # no share of a ceiling


# --- the trace


def test_the_trace_has_each_call_its_kernels_and_launches(tmp_path):
    step, x, t = _step(8)
    captured = tg.capture(step)
    with tg.profile() as p:
        for _ in range(4):
            captured(x, t)
    path = tmp_path / "trace.json"
    p.export_chrome_trace(path)
    trace = json.loads(path.read_text())
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert {e["ph"] for e in trace["traceEvents"]} == {"X", "M"}
    for event in events:  # what Perfetto asks of a complete event
        assert type(event["ts"]) is type(event["dur"]) is float and event["ts"] >= 0 and event["dur"] >= 0
        assert {"name", "cat", "pid", "tid"} <= event.keys()
    kinds = {kind: [e for e in events if e["cat"] == kind] for kind in ("call", "captured call", "kernel", "launch")}
    assert len(kinds["launch"]) == 2 and len(kinds["call"]) == 2 * 11
    assert len(kinds["call"]) + len(kinds["captured call"]) == sum(group.calls for group in p.groups)
    for launch in kinds["launch"]:  # its calls and kernels lie within it
        inside = [e for e in kinds["captured call"] if launch["ts"] <= e["ts"] <= launch["ts"] + launch["dur"]]
        assert launch["args"]["nodes"] > len(inside) >= 11
        assert all(e["ts"] + e["dur"] <= launch["ts"] + launch["dur"] for e in inside)
    last = max(e["ts"] + e["dur"] for e in events)
    assert last <= 1e6 * p.seconds + p.spent / 1e3
    product = next(e for e in kinds["call"] if e["name"] == "matmul")
    assert product["args"]["dtype"] == "float32" and product["args"]["FLOP"] > 0


def test_a_trace_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "trace.json"
    path.write_text("before")
    with tg.profile() as p:
        tg.ones(4).relu()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        p.export_chrome_trace(path)
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["trace.json"]
    assert chrome.write_whole is not None
