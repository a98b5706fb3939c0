"""TILEGRAD_DEBUG."""

from __future__ import annotations

import pytest

from tests.test_imports import python

PROGRAM = """
    import tilegrad as tg
    x = tg.ones(4, 4)
    for _ in range(3):
        (x @ x).relu()
    step = tg.capture(lambda x: (x @ x).relu())
    for _ in range(3):
        step(x)
    print("done")
"""


def _lines(text: str, op: str) -> list[str]:
    return [line for line in text.splitlines() if line.split()[:1] == [op]]


@pytest.mark.parametrize("value", ["", "0"])
def test_without_it_nothing_is_loaded_or_printed(value):
    names = "('tilegrad.profiling', 'tilegrad.kernels.timing')"
    code = f"{PROGRAM}    import sys; print([m for m in sys.modules if m.startswith({names})])"
    done = python(code, TILEGRAD_DEBUG=value)
    assert (done.stdout.split(), done.stderr) == (["done", "[]"], "")


def test_1_prints_a_table_at_the_end():
    done = python(PROGRAM, TILEGRAD_DEBUG="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
    eager, captured = sorted(_lines(done.stderr, "matmul"), key=lambda line: "captured" in line)
    assert "4x4 4x4" in eager and " 5 " in eager and " 1 " in captured
    assert done.stderr.splitlines()[-1].split()[:2] == ["all", "12"]


def test_2_also_prints_each_call():
    done = python(PROGRAM, TILEGRAD_DEBUG="2")
    assert done.returncode == 0, done.stderr
    before, _, table = done.stderr.partition("\nop ")
    assert len(_lines(before, "matmul")) == 6 and len(_lines(table, "matmul")) == 2
    assert len([line for line in before.splitlines() if line.startswith("captured step of")]) == 1


def test_another_value_is_an_error():
    done = python("import tilegrad", TILEGRAD_DEBUG="yes")
    assert done.returncode != 0
    assert "TILEGRAD_DEBUG is 'yes'; expected 1, 2, or nothing" in done.stderr
