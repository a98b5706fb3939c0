"""A row above its ceiling fails the run: a wrong count of bytes or FLOP does not pass for speed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.conftest import CEILINGS
from tilegrad.bench import ceilings, rows
from tilegrad.bench.inputs import Traffic
from tilegrad.bench.measure import Effort
from tilegrad.bench.ops import OPS
from tilegrad.bench.providers import PROVIDERS
from tilegrad.bench.results import Row
from tilegrad.bench.session import Session

OF_MEMORY = ceilings.of_memory  # the other tests of this folder replace it
N = 1 << 20
RELU = ("activations", "--device", "cpu", "--mode", "forward", "--providers", "cpu", "--shapes", str(N))


@pytest.fixture
def miscounted(monkeypatch):
    """relu is said to move a thousand times as much as it does."""
    relu = OPS["activations"].variants[0]
    wrong = replace(relu, bytes={"forward": lambda shape, size: 1000 * 2 * shape[0] * size})
    monkeypatch.setitem(OPS, "activations", replace(OPS["activations"], variants=(wrong,)))


def test_a_wrong_count_of_bytes_fails_the_run(command, monkeypatch, miscounted):
    """Beside what is measured, not what a test gives: no relu is a thousand times slower."""
    monkeypatch.setattr(ceilings, "of_memory", OF_MEMORY)
    status, found, told = command(*RELU)
    (row,) = found["rows"]
    assert status == 1 and row["status"] == "wrong" and row["of_ceiling"] > rows.ABOVE
    assert "% of its ceiling: its bytes are miscounted" in row["reason"]
    assert f"WRONG: relu, forward  {N}  float32" in told


def test_the_right_count_does_not(command, monkeypatch):
    monkeypatch.setattr(ceilings, "of_memory", OF_MEMORY)
    status, found, _ = command(*RELU)
    row = found["rows"][0]
    assert status == 0 and row["status"] == "ok" and 0 < row["of_ceiling"] <= rows.ABOVE


@pytest.mark.parametrize("of_memory", [True, False])
@pytest.mark.parametrize(("again", "status"), [([], "wrong"), ([9.4, 9.4, 9.4], "wrong"), ([9.0, 9.6], "ok")])
def test_the_ceiling_of_such_a_row_is_measured_again_first(monkeypatch, of_memory, again, status):
    """At 10 GB/s or GFLOP/s a row is allowed a ceiling of 9.53 and more."""
    measured = iter([8.0, *again] if of_memory else again)

    def anew(*_):
        value = next(measured, 9.0)
        return {"value": value} if of_memory else {"float32": {"value": value}}

    monkeypatch.setattr(ceilings, "of_memory" if of_memory else "of_cpu", anew)
    given = {"copy": {"value": 1.0}} if of_memory else {"float32": {"value": 8.0}}
    session = Session("cpu", False, Effort(1, 0, 2), {}, given)
    row = Row("op", "v", "forward", [1], "float32", "ieee", "x", ms=1.0, bytes=10**7, flops=10**7)
    rows._rated(row, session, Traffic(1, 1))
    rows._require_possible(row, session, Traffic(1, 1))
    assert row.status == status
    if status == "wrong":
        assert f"its {'bytes' if of_memory else 'FLOP'} are miscounted" in row.reason


@pytest.mark.parametrize(
    ("op", "shape", "mode", "written", "in_place"),
    [
        ("activations", (1000,), "forward", 4000, False),
        ("activations", (1000,), "backward", 4000, False),
        ("softmax_xent", (64, 100), "forward", None, False),
        ("adam", (1000,), "forward", 12000, True),
    ],
)
@pytest.mark.parametrize("provider", ["cpu", "reference", "torch"])
def test_what_a_row_does_with_memory_is_read_off_its_outputs(monkeypatch, op, shape, mode, written, in_place, provider):
    asked = []
    monkeypatch.setattr(ceilings, "of_memory", lambda traffic: asked.append(traffic) or CEILINGS["copy"])
    session = Session("cpu", False, Effort(1, 0, 2), {provider: PROVIDERS[provider]}, dict(CEILINGS))
    case = next(rows.cases(OPS[op], [shape], ["float32"], [mode], "cpu"))
    rows.measured(case, session)
    (traffic,) = set(asked)
    assert traffic.in_place == in_place
    assert traffic.copies == 64, "small inputs are rotated as often as inputs.copies allows"
    if written is None:  # torch keeps less of it than ours
        assert traffic.written < 0.1 * case.bytes()
        assert 0.95 * case.bytes() <= traffic.read + traffic.written <= case.bytes()
    else:
        assert traffic.written == written and traffic.read + traffic.written == case.bytes()


def test_no_more_is_read_than_there_is(monkeypatch, miscounted):
    """A wrong count of bytes does not change what the ceiling is measured on: x, dy and y."""
    asked = []
    monkeypatch.setattr(ceilings, "of_memory", lambda traffic: asked.append(traffic) or CEILINGS["copy"])
    session = Session("cpu", False, Effort(1, 0, 2), {"cpu": PROVIDERS["cpu"]}, dict(CEILINGS))
    rows.measured(next(rows.cases(OPS["activations"], [(1000,)], ["float32"], ["forward"], "cpu")), session)
    assert {(t.read, t.written) for t in asked} == {(3 * 4000, 4000)}
