"""The list of Keras' tests that fail: what differs from it is found in both directions."""

import pytest

from tests.keras.upstream import counts, expected
from tests.keras.upstream.expected import Expected, differences
from tests.keras.upstream.families import FAMILIES

LIST = [Expected("a reason", ("keras/src/a_test.py::A::one", "keras/src/b_test.py::*"))]


def test_the_committed_list_is_whole():
    for entry in expected.read():
        assert all(name.startswith("keras/src/") for name in entry.tests)


def test_what_is_as_listed_differs_in_nothing():
    outcomes = {"keras/src/a_test.py::A::one": "failed", "keras/src/b_test.py::B::x": "failed"}
    assert (
        differences(outcomes | {"keras/src/b_test.py::B::y": "passed", "keras/src/c_test.py::C::z": "passed"}, LIST)
        == []
    )


def test_a_failure_that_is_not_listed_differs():
    found = differences({"keras/src/a_test.py::A::one_more": "failed"}, LIST)
    assert found == ["fails, and is not listed: keras/src/a_test.py::A::one_more"]


@pytest.mark.parametrize("outcome", ["passed", "skipped"])
def test_a_listed_test_that_does_not_fail_differs(outcome):
    found = differences({"keras/src/a_test.py::A::one": outcome, "keras/src/b_test.py::B::x": outcome}, LIST)
    assert found == [f"is listed, and no longer fails: {name}" for name in LIST[0].tests]


def test_listed_tests_of_families_that_did_not_run_do_not_differ():
    assert differences({}, LIST) == []


@pytest.mark.parametrize(
    "text", ['[[failing]]\nreason = " "\ntests = ["a"]', '[[failing]]\nreason = "r"\ntests = ["a", "a"]']
)
def test_a_list_with_a_test_twice_or_without_a_reason_is_refused(text, tmp_path):
    path = tmp_path / "failures.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected reasons with tests"):
        expected.read(path)


def test_the_table_is_what_is_counted():
    text = (counts.ROOT / "README.md").read_text()
    assert text == counts.rewritten(text, counts.section(), counts.MARKERS), "stale: python -m tests.keras.upstream"


def test_counts_of_a_family_replace_its_own_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "PATH", tmp_path / "counts.json")
    found = counts.counted({"a": "passed", "b": "failed", "c": "xfailed", "d": "skipped", "e": "passed"})
    assert found == {"passed": 2, "failed": 1, "skipped": 2} and round(counts.share(found), 2) == 66.67
    for family in ("ops", "layers"):
        counts.keep("3.15.1", {family: found | {"commit": "old"}})
    counts.keep("3.15.1", {"ops": {"passed": 4, "failed": 0, "skipped": 0, "commit": "new"}})
    (tmp_path / "README.md").write_text("\n".join(counts.MARKERS))
    counts.write_table(tmp_path)
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert "new, old), with [every failure listed]" in lines[2]
    assert lines[-5:-1] == [
        "| --- | --- | --- | --- | --- |",
        "| ops | 4 | 0 | 0 | 100.00 % |",
        "| layers | 2 | 1 | 2 | 66.67 % |",
        "| all | 6 | 1 | 2 | 85.71 % |",
    ]


def test_families_share_no_folder():
    parts = [part for parts in FAMILIES.values() for part in parts]
    assert len(parts) == len(set(parts))
