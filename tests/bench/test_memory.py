"""bench memory: each net in a process of its own, whose peak is its own."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.bench.test_programs import session
from tilegrad.bench import memory, table
from tilegrad.bench.nets import TRAINED

MIB = 1 << 20


@pytest.mark.parametrize("provider", memory.PROVIDERS)
def test_a_process_says_what_it_took(provider):
    least, most = memory.measured("MLP", 64, provider)
    assert 50 < least <= most < 2000


def test_a_peak_is_that_of_the_process_and_not_of_the_one_that_started_it():
    ballast = np.ones(400 * MIB, np.uint8)  # a process started now would inherit it as its ru_maxrss
    program = """
import json, numpy as np
from tilegrad.bench.memory import peak
before = peak()
x = np.ones(100 << 20, np.uint8)
del x
print(json.dumps([before, peak()]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    assert before < 300 and 95 < after - before < 120
    assert memory.peak() > 400 and ballast.size


def test_rows_are_the_peak_and_what_the_batch_adds(monkeypatch):
    took = {"cpu": (100.0, 150.0), "cpu captured": (110.0, 130.0), "torch": (200.0, 300.0)}
    asked = []

    def measured(name, batch, provider):
        asked.append((name, batch, provider))
        return took[provider]

    monkeypatch.setattr(memory, "measured", measured)
    rows = memory.net_rows(session("cpu", "torch"), "transformer", 8)
    assert [(row.mode, row.provider, row.rate, row.times_rival) for row in rows] == [
        ("process", "cpu", 150.0, 2.0), ("process", "cpu captured", 130.0, pytest.approx(300 / 130)),
        ("process", "torch", 300.0, 1.0),
        ("beyond batch 1", "cpu", 50.0, 2.0), ("beyond batch 1", "cpu captured", 20.0, 5.0),
        ("beyond batch 1", "torch", 100.0, 1.0),
    ]  # fmt: skip
    assert {row.unit for row in rows} == {"MiB"} and {tuple(row.shape) for row in rows} == {(8, 128)}
    assert asked[0] == ("transformer", 8, "cpu captured"), "a process that compiles is not counted"
    assert len(asked) == 4
    assert table.heading(rows[0]) == "transformer, process  batch 8 x 128  float32"
    assert table.line(rows[0]).split() == "cpu 150 MiB 2.00 x torch".split()


def test_a_process_that_fails_fails_its_rows_alone(monkeypatch):
    with pytest.raises(RuntimeError, match="memory of no net, torch: KeyError: 'no net'"):
        memory.measured("no net", 1, "torch")
    real = memory.measured

    def measured(name, batch, provider):
        return real("no net", 1, provider) if provider == "torch" else (1.0, 2.0)

    monkeypatch.setattr(memory, "measured", measured)
    rows = memory.net_rows(session("cpu", "torch"), "MLP", 8)
    assert {row.status for row in rows if row.provider == "torch"} == {"failed"}
    assert {row.status for row in rows if row.provider != "torch"} == {"ok"}
    rows = memory.net_rows(session("cpu"), "MLP", 8)
    assert {row.status for row in rows if row.provider == "torch"} == {"skipped"}


def test_every_net_has_a_case_at_its_largest_batch():
    cases = [case.args[1:] for case in memory.rows(session("cpu"), [], False)]
    assert cases == [(name, max(net.batches)) for name, net in TRAINED.items()]
    assert [case.args[1:] for case in memory.rows(session("cpu"), [(3,)], True)] == [(name, 3) for name in TRAINED]
    assert list(memory.rows(session("triton", device="cuda"), [], False)) == []
