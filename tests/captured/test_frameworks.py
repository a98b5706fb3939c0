"""Objects of a framework: a captured step finds what they have changed, and does not read the framework's code."""

from __future__ import annotations

import types

import pytest

import tilegrad as tg
from tilegrad.captured.frameworks import KNOWN, Framework

SOURCE = """
draws = iter(range(100))

class Part:
    def __init__(self):
        self.weight, self.rate, self.calls, self.label = None, 2.0, 0, "a"

    def __call__(self, x):
        next(draws)  # of which capture would say that it goes on at no launch
        self.calls += 1
        return self.call(x)

    def call(self, x):
        return x * self.rate

class Whole(Part):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x
"""


@pytest.fixture
def pretend(monkeypatch):
    """A framework of two classes."""
    module = types.ModuleType("pretend")
    exec(compile(SOURCE, "pretend.py", "exec"), vars(module))
    known = Framework({module.Whole: (), module.Part: ("rate",)}, frozenset(("calls",)), ("call",))
    monkeypatch.setitem(KNOWN, "pretend", known)
    return module


def run(step, x, times=4):
    return [step(x).tolist() for _ in range(times)][-1]


def test_what_objects_have_is_found(pretend):
    class Own(pretend.Part):
        def call(self, x):
            return x * self.rate + shift["by"]

    shift = {"by": 0.0}
    whole = pretend.Whole([pretend.Part(), Own()])
    step, x = tg.capture(lambda x: whole(x)), tg.tensor([1.0, 2.0])

    def graphs():
        return step.summary().count(" nodes, ")

    assert run(step, x) == [4, 8] and graphs() == 1
    whole.calls, whole.parts[0].label = 5, "b"  # which do not count
    assert run(step, x) == [4, 8] and graphs() == 1
    whole.parts[0].rate = 3.0
    assert run(step, x) == [6, 12] and graphs() == 2
    whole.parts.append(pretend.Part())
    assert run(step, x) == [12, 24] and graphs() == 3
    shift["by"] = 1.0  # in the code of a class of the program's own
    assert run(step, x) == [14, 26] and graphs() == 4
    assert "plainly" not in step.summary()


def test_a_framework_that_is_not_known_is_read(pretend, monkeypatch):
    monkeypatch.delitem(KNOWN, "pretend")
    whole = pretend.Whole([pretend.Part()])
    step = tg.capture(lambda x: whole(x))
    with pytest.warns(RuntimeWarning, match="draws goes on at each call"):
        assert run(step, tg.tensor([1.0])) == [2]
