"""Keras' `fit` beside its rivals: the processes at their least, the table, and what is told as missed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tilegrad.bench import keras_fit, readme

FOUND = {
    "provenance": {
        "cpu": "CPU",
        "cores": 2,
        "date": "today",
        "commit": "abc",
        "packages": {"keras": "3", "numba": "1"},
    },
    "epochs": [
        {"net": "MLP", "batch": 32, "tilegrad": [0.3, 0.2, 9.0], "jax": [0.6, 0.7, 0.9], "torch": [4.0, 5.0, 6.0]},
        {"net": "CNN", "batch": 32, "tilegrad": [2.0, 2.0, 2.0], "jax": [1.0, 1.9, 9.0], "torch": [4.0, 5.0, 6.0]},
    ],
    "steps": [
        {"net": "MLP", "batch": 32, "keras": 1.0, "engine": 0.8},
        {"net": "CNN", "batch": 32, "keras": 1.1, "engine": 1.0},
    ],
}


def test_the_table_is_not_stale():
    text = (readme.ROOT / "README.md").read_text()
    made = keras_fit.section(readme.ROOT / "bench" / "results")
    assert text == readme.rewritten(text, made, keras_fit.MARKERS), (
        "stale: run python -m tilegrad.bench.keras_fit --readme"
    )


def test_a_line_has_medians_the_fastest_rival_and_the_engines_own_step():
    _, _, *lines = keras_fit.table(FOUND)
    assert lines == ["| MLP | 32 | 0.3 | 0.7 | 5 | 2.33 | 1.25 |", "| CNN | 32 | 2 | 1.9 | 5 | 0.95 | 1.10 |"]


def test_a_faster_rival_and_a_slow_step_are_told():
    assert list(keras_fit.misses(FOUND)) == [
        "MISSED: JAX is faster: CNN, batch 32",
        "MISSED: MLP, batch 32: 1.25 times the engine's own step; goal 1.2",
    ]


def test_the_section_names_versions_machine_commit_and_date(tmp_path):
    folder = tmp_path / "bench" / "results"
    folder.mkdir(parents=True)
    (folder / "keras-fit-a.json").write_text(json.dumps(FOUND))
    (tmp_path / "README.md").write_text("\n".join(keras_fit.MARKERS))
    keras_fit.write_table(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "CPU, 2 cores, today, commit abc, keras 3\n([all epochs](bench/results/keras-fit-a.json))." in text
    assert "| `fit`, ms a step | batch | tilegrad | JAX | torch | times" in text


def test_processes_of_two_backends_at_their_least(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    found = keras_fit.measured(Path(sys.executable), ["tilegrad", "torch"], least=True)
    assert found["provenance"]["packages"].keys() >= {"keras", "numpy", "torch"}
    assert [(row["net"], row["batch"]) for row in found["epochs"]] == [("MLP", 32), ("CNN", 32), ("CNN", 128)]
    assert all(len(row[name]) == 3 and min(row[name]) > 0 for row in found["epochs"] for name in ("tilegrad", "torch"))
    assert all(row["keras"] > 0 and row["engine"] > 0 for row in found["steps"]) and len(found["steps"]) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--backends", "tilegrad,numpy"], "--backends: got numpy; expected some of tilegrad, tensorflow, jax, torch"),
        (["--json", "/proc/no/file.json"], "--json: /proc/no/file.json"),
        (["--json", "{folder}/a.json", "--least", "--readme"], "--least: a few steps say nothing of speed"),
    ],
)
def test_bad_flags_end_it_before_anything_is_measured(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        keras_fit.main([flag.format(folder=tmp_path) for flag in flags])
    assert message in capsys.readouterr().err
