"""--compare: what moved beyond the spread of either run, and when that is a failure."""

from __future__ import annotations

import pytest

from tests.bench.conftest import SOFTMAX
from tilegrad import bench
from tilegrad.bench.compare import against
from tilegrad.bench.results import Results, Row, write


def results(cpu="a", **medians):
    rows = [
        Row("softmax", name, "forward", [4, 8], "float32", "ieee", "reference", ms=ms, p20=ms - half, p80=ms + half)
        for name, (ms, half) in medians.items()
    ]
    return Results("cpu", False, {"cpu": cpu, "cores": 2}, rows=rows)


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ((10, 0.5), (10.9, 0.1), False),  # within the old run's p20 to p80
        ((10, 0.1), (10.9, 0.5), False),  # within the new one's
        ((10, 0.5), (11.1, 0.1), True),
        ((10, 0.1), (8.9, 0.5), True),
    ],
)
def test_only_what_leaves_the_larger_spread_has_moved(before, after, moved):
    report = against(results(a=before), results(a=after))
    assert (len(report.moved), report.steady) == ((1, 0) if moved else (0, 1))


def test_a_regression_is_slower_by_more_than_is_allowed_and_beyond_the_spread():
    report = against(
        results(slow=(10, 0.1), noisy=(10, 5), little=(10, 0.01), fast=(10, 0.1)),
        results(slow=(12, 0.1), noisy=(12, 5), little=(10.5, 0.01), fast=(5, 0.1)),
    )
    assert [round(move.percent) for move in report.slower_than(10)] == [20]
    assert [round(move.percent) for move in report.slower_than(4)] == [20, 5]
    assert report.steady == 1
    text = report.text()
    assert "3 rows moved beyond the spread, 1 did not" in text
    assert text.index("+20.0 %  slower  10 ms -> 12 ms (spread 0.2)  slow, forward  4 x 8") < text.index(
        "-50.0 %  faster"
    )


def test_what_is_in_one_run_only_and_another_machine_are_named():
    text = against(results(a=(1, 0), b=(1, 0)), results(cpu="other", a=(1, 0), c=(1, 0), d=(1, 0))).text()
    assert "only before: 1 rows, such as b, forward" in text and "only now: 2 rows, such as c, forward" in text
    assert "not the same machine: cpu was a, is other" in text


def test_the_command_compares_and_fails_above(command, tmp_path, capsys):
    old = tmp_path / "old.json"
    bench.main([*SOFTMAX, "reference", "--json", str(old)])
    found = bench.results.read(old)
    for row in found.rows:
        row.ms, row.p20, row.p80 = 1e-9, 1e-9, 1e-9
    write(old, found.to_json())
    status, _, told = command(*SOFTMAX, "reference", "--compare", str(old))
    assert status == 0 and "slower" in told and "REGRESSION" not in told
    status, _, told = command(*SOFTMAX, "reference", "--compare", str(old), "--fail-above", "10")
    assert status == 1 and "REGRESSION: softmax, forward  4 x 8  float32  reference: +" in told
    for row in found.rows:
        row.ms, row.p20, row.p80 = 1e9, 1e9, 1e9
    write(old, found.to_json())
    status, _, told = command(*SOFTMAX, "reference", "--compare", str(old), "--fail-above", "10")
    assert status == 0 and "faster" in told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not JSON"),
        ("[]", "schema is None; expected 1"),
        ('{"schema": 0}', "schema is 0; expected 1"),
        ('{"schema": 1, "rows": [{"op": 1}]}', "not what python -m tilegrad.bench --json writes"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, capsys, text, expected):
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(SystemExit) as refused:
        bench.main([*SOFTMAX, "reference", "--compare", str(tmp_path / "old.json")])
    assert refused.value.code == 2 and expected in capsys.readouterr().err
