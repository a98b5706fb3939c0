"""The command at toy sizes: one call a turn, and ceilings that are given, not measured."""

from __future__ import annotations

import json

import pytest

from tilegrad import bench
from tilegrad.bench import ceilings, measure, providers, run
from tilegrad.bench.measure import Effort

CEILINGS = {
    "copy": {"value": 10.0, "unit": "GB/s", "how": "given"},
    "float32": {"value": 100.0, "unit": "GFLOP/s", "how": "given"},
}


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(run, "FULL", Effort(1, 0, 2))
    monkeypatch.setattr(run, "QUICK", Effort(1, 0, 2))
    monkeypatch.setattr(ceilings, "of_cpu", lambda dtypes, quick: dict(CEILINGS))
    monkeypatch.setattr(ceilings, "of_memory", lambda traffic: CEILINGS["copy"])
    monkeypatch.setattr(measure, "SETTLE", 0)
    before = dict(providers.PROVIDERS)
    yield
    providers.PROVIDERS.clear()
    providers.PROVIDERS.update(before)


@pytest.fixture
def command(tmp_path, capsys):
    """Run the command with --json; (exit status, the JSON, what was printed)."""

    def call(*arguments: str):
        path = tmp_path / "new.json"
        try:
            status = bench.main([*arguments, "--json", str(path)])
        except SystemExit as e:
            status = e.code
        told = capsys.readouterr()
        return status, json.loads(path.read_text()) if path.exists() else None, told.out + told.err

    return call


SOFTMAX = ("softmax", "--device", "cpu", "--shapes", "4,8", "--mode", "forward", "--providers")
