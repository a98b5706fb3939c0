"""The language model beside torch: both are one program, the table, and what is told as missed."""

from __future__ import annotations

import argparse
import copy
import json

import numpy as np
import pytest

import tilegrad as tg
from tilegrad.bench import readme, tiny_lm

FOUND = {
    "provenance": {
        "cpu": "CPU",
        "cores": 2,
        "date": "today",
        "commit": "abc",
        "packages": {"numpy": "2", "torch": "3"},
        "threads": 1,
        "python": "3.11.7",
        "others": 0.4,
    },
    "text": {"characters": 100, "sha256": "0"},
    "net": {"layers": 4, "width": 128, "context": 64, "batch_size": 32},
    "first": {"steps": 50, "apart": 2.4e-6},
    "step": {"tilegrad": 80.0, "torch": 200.0, "torch.compile": 1604.0},
    "no_compile": None,
    "steps": 2000,
    "training": {
        "tilegrad": {"seconds": 160.0, "validation_loss": 1.5},
        "torch": {"seconds": 400.0, "validation_loss": 1.49},
    },
    "written": {"tilegrad": 2000.0, "torch": 1000.0},
}


def test_the_table_is_not_stale():
    text = (readme.ROOT / "README.md").read_text()
    made = tiny_lm.section(readme.ROOT / "bench" / "results")
    assert text == readme.rewritten(text, made, tiny_lm.MARKERS), "stale: run python -m tilegrad.bench.tiny_lm --readme"


def test_a_line_for_each_figure():
    head, _, *lines = tiny_lm.table(FOUND)
    assert head == "|  | tilegrad | torch | torch.compile | times the fastest rival's speed |"
    assert lines == [
        "| a training step, ms | 80 | 200 | 1,600 | 2.50 |",
        "| 2,000 steps, s | 160 | 400 |  | 2.50 |",
        "| loss on the held-out text, nats (bits) a character | 1.500 (2.164) | 1.490 (2.150) |  |  |",
        "| characters a second, with the cache | 2,000 | 1,000 |  | 2.00 |",
    ]


def test_what_is_not_as_it_should_be_is_told():
    assert list(tiny_lm.misses(FOUND)) == []
    worse = copy.deepcopy(FOUND)
    worse["first"]["apart"] = 2e-4
    worse["training"]["tilegrad"]["validation_loss"] = 1.6
    worse["step"]["torch.compile"] = 70.0
    worse["written"]["torch"] = 3000.0
    assert list(tiny_lm.misses(worse)) == [
        "MISSED: the first losses are 2.0e-04 apart; expected 1e-04 at most",
        "MISSED: validation loss 1.6000, torch's 1.4900",
        "MISSED: a step of torch.compile is faster",
        "MISSED: torch writes faster",
    ]


def test_the_section_names_versions_machine_commit_and_date(tmp_path):
    folder = tmp_path / "bench" / "results"
    folder.mkdir(parents=True)
    (folder / "tiny-lm-a.json").write_text(json.dumps(FOUND))
    (tmp_path / "README.md").write_text("\n".join(tiny_lm.MARKERS))
    tiny_lm.write_table(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "CPU, 2 cores, threads: 1, today, commit abc, numpy 2, torch 3\n([all figures](bench" in text
    assert "the losses of the first 50 steps are within 2e-06.\nOther programs took 40 % of the cores' time" in text


def test_both_are_one_program_and_train_alike():
    """30 steps with weight decay, clipping and a rate that rises and falls; then the text that each writes."""
    options = argparse.Namespace(
        layers=2, width=32, heads=2, context=24, dropout=0.0, lr=3e-3, weight_decay=0.1,
        clip=0.5, warmup=5, seed=0, batch_size=8,
    )  # fmt: skip
    ours, theirs = tiny_lm.program("tilegrad"), tiny_lm.program("torch")
    assert theirs.nn.__name__ == "torch.nn" and ours.nn is tg.nn
    text = ours.Text("the cat sees a dog. a dog sees the cat! " * 60)
    net = ours.Decoder(len(text.alphabet), 2, 32, 2, 24)
    weights = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    pair = [tiny_lm.Contestant(lm, text, options, weights) for lm in (ours, theirs)]
    losses = np.array([[one.step(i, i / 30).item() for i in range(30)] for one in pair])
    assert np.abs(losses[0] - losses[1]).max() < 1e-4
    assert losses[0, -1] < 0.8 * losses[0, 0]
    a, b = (one.lm.loss_meter(one.net, one.held_out)() for one in pair)
    assert a == pytest.approx(b, abs=1e-4)
    a, b = (one.lm.write(one.net, one.held_out[:6], 40, one.lm.picker(0, None)).tolist() for one in pair)
    assert a == b and len(a) == 46


def test_a_changed_import_is_told(monkeypatch, tmp_path):
    path = tmp_path / "tiny_lm.py"
    path.write_text("import tilegrad\n")
    monkeypatch.setattr(tiny_lm, "EXAMPLE", path)
    with pytest.raises(ValueError, match=r"tiny_lm.py: 'import tilegrad as tg' does not stand there once"):
        tiny_lm.program("torch")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "--steps: 0; expected a number above 0"),
        (["--json", "/proc/no/file.json"], "--json: /proc/no/file.json"),
        (["--json", "{folder}/a.json", "--least", "--readme"], "--least: a few steps say nothing of speed"),
    ],
)
def test_bad_flags_end_it_before_anything_is_measured(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tiny_lm.main([flag.format(folder=tmp_path) for flag in flags])
    assert message in capsys.readouterr().err


def test_everything_runs_at_its_least(tmp_path):
    path = tmp_path / "least.json"
    assert tiny_lm.main(["--least", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["first"]["apart"] < 1e-4
    assert found["step"].keys() == {"tilegrad", "torch"} and min(found["step"].values()) > 0
    assert abs(found["training"]["tilegrad"]["validation_loss"] - found["training"]["torch"]["validation_loss"]) < 1e-3
    assert min(found["written"].values()) > 0
