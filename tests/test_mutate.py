"""The list of mutants does not rot, and the tool tells killed from survived. The mutants themselves are not tried."""

from __future__ import annotations

import ast
import shlex
from collections import Counter

import pytest

from tests import mutate
from tests.mutate import ROOT, Mutant, mutants, outcome


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name[:80])
def test_a_mutant_still_is_one(mutant, tmp_path):
    """What it replaces stands in the file once, and what comes of it is another program; its tests are there."""
    path = ROOT / mutant.file
    (tmp_path / mutant.file).parent.mkdir(parents=True)
    (tmp_path / mutant.file).write_text(path.read_text())
    mutant.made_in(tmp_path)
    was, became = (ast.dump(ast.parse(folder.joinpath(mutant.file).read_text())) for folder in (ROOT, tmp_path))
    assert was != became
    assert mutant.tests
    for test in mutant.tests:
        assert (ROOT / shlex.split(test)[0]).exists(), test
    assert mutant.at_first in ("killed", "survived")
    file, _, function = mutant.by.partition("::")
    assert f"def {function.partition('[')[0]}(" in (ROOT / file).read_text(), mutant.by


def test_no_mutant_is_listed_twice():
    assert max(Counter((m.file, m.old, m.new) for m in mutants()).values()) == 1


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A program of one line, with tests of it."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they would take most of the time
    root = tmp_path / "program"
    root.mkdir()
    (root / "program.py").write_text("def larger(a, b):\n    return a if a > b else b\n")
    (root / "test_far.py").write_text("from program import larger\ndef test_far():\n    assert larger(1, 9) == 9\n")
    (root / "test_near.py").write_text("from program import larger\ndef test_near():\n    assert larger(1, 2) == 2\n")
    (root / "test_slow.py").write_text("def test_slow():\n    while True: pass\n")
    return root


def made(new, *tests):
    return Mutant("program.py", "a > b", new, list(tests), "survived", "")


def test_a_mutant_is_killed_or_survives_and_the_tree_stays_as_it_was(tree):
    before = (tree / "program.py").read_text()
    assert outcome(["test_far.py"], made("a > b - 2"), root=tree) == "survived"
    both = ["test_far.py", "test_near.py -k near"]
    assert outcome(both, made("a > b - 2"), root=tree) == "killed by test_near.py::test_near"
    assert outcome(["test_far.py"], made("a >"), root=tree).startswith("killed by test_far.py")  # at its import
    assert outcome(["test_none.py"], made("a < b"), root=tree).startswith("broken: ")
    assert (tree / "program.py").read_text() == before
    assert not (tree / "__pycache__").exists()


def test_a_mutant_that_hangs_is_killed_by_the_time_limit(tree):
    assert outcome(["test_slow.py"], made("a < b"), seconds=1.0, root=tree) == "killed by the time limit"


def test_what_no_longer_applies_is_told(tree):
    for old in ("a < b", "a"):  # not there; there several times
        with pytest.raises(ValueError, match="expected once"):
            outcome(["test_far.py"], made("c")._replace(old=old), root=tree)


def test_the_command_counts_and_fails_unless_all_are_killed(tree, monkeypatch, capsys):
    told = {"a > b - 2": "survived", "a < b": "killed by test_far.py::test_far"}
    monkeypatch.setattr(mutate, "mutants", lambda: [made(new, "test_far.py") for new in told])
    monkeypatch.setattr(
        mutate, "outcome", lambda tests, mutant=None, seconds=0: told[mutant.new] if mutant else "survived"
    )
    assert mutate.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 mutants: 1 killed, 1 survived, 0 broken"
    assert mutate.main(["--only", "a < b"]) == 0
    assert mutate.main(["--only", "nothing like it"]) == 2
    monkeypatch.setattr(mutate, "outcome", lambda tests, mutant=None, seconds=0: "killed by test_far.py::test_far")
    assert mutate.main([]) == 2
    assert "the tests do not pass on the tree as it is" in capsys.readouterr().out
