"""What other processes took of the cores, from two readings of the system's counters."""

from __future__ import annotations

import pytest

from tilegrad.bench import bystanders
from tilegrad.bench.bystanders import Bystanders

TICK = bystanders.os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("own", "share"), [(2.0, 0.4), (6.0, 0.0), (0.0, 0.6)])
def test_busy_less_what_was_ones_own(monkeypatch, tmp_path, own, share):
    """Of 10 seconds of all cores 4 were idle or waiting for a disk."""
    stat = tmp_path / "stat"
    monkeypatch.setattr(bystanders, "_STAT", stat)
    spent = iter([(1.0, 0.5, 0.0, 0.0, 9.0), (1.0 + own, 0.5, 0.0, 0.0, 99.0)])
    monkeypatch.setattr(bystanders.os, "times", lambda: next(spent))
    stat.write_text(f"cpu  {5 * TICK} 0 0 {TICK} 0 0 0 0 7 7\ncpu0 1 1\n")
    others = Bystanders()
    stat.write_text(f"cpu  {9 * TICK} {TICK} {TICK} {4 * TICK} {TICK} 0 0 0 9 9\ncpu0 1 1\n")
    assert others.share() == share


def test_where_there_are_no_counters_nothing_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(bystanders, "_STAT", tmp_path / "nowhere")
    assert Bystanders().share() is None
