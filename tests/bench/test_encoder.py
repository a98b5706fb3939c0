"""The encoder's benchmark: one net in both libraries, what is checked before it is timed, the table, what is missed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tilegrad.bench import encoder, encoder_nets, encoder_step, measure, readme
from tilegrad.bench.encoder_step import PROVIDERS
from tilegrad.models import bert

MS = {"torch": [3.0, 4.0, 9.0], "torch compiled": [3.0, 3.0, 3.0], "tilegrad": [2.0, 2.0, 2.0]}
MIB = {"torch": 100.0, "tilegrad": 90.0, "tilegrad captured": 110.0}
FOUND = {
    "provenance": {
        "cpu": "CPU",
        "cores": 2,
        "threads": 1,
        "date": "today",
        "commit": "abc",
        "packages": {"torch": "3", "numba-cuda": "1"},
    },
    "rows": [
        {"case": "all", "ms": MS | {"tilegrad captured": [1.0, 1.5, 9.0]}, "MiB": MIB},
        {"case": "head", "ms": MS | {"tilegrad captured": [1.0, 1.6, 9.0]}, "MiB": MIB | {"tilegrad captured": 99.0}},
        {"case": "head, vectors kept", "ms": {"torch": [1, 1, 1], "tilegrad captured": [2, 2, 2]}, "MiB": {}},
    ],
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A net of no size, and turns of no time."""

    def config(dropout):
        sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
        rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        return bert.BertConfig(**sizes, **rates, intermediate_size=32, max_position_embeddings=8)

    monkeypatch.setattr(encoder_nets, "config", config)
    monkeypatch.setattr(encoder_step, "KEPT", 50)
    monkeypatch.setattr(measure, "SETTLE", 0)


@pytest.mark.parametrize("case", encoder_step.CASES)
def test_both_libraries_take_the_same_steps(case):
    found = encoder_step.times(case, least=True)
    assert list(found["ms"]) == ["torch", "tilegrad", "tilegrad captured"] and found["absent"] == {}
    assert all(0 < low <= middle <= high for low, middle, high in found["ms"].values())


@pytest.mark.parametrize("wrong", ["logits", "losses"])
def test_a_wrong_step_is_not_timed(wrong, monkeypatch):
    make = encoder_step.step_of

    def spoiled(provider, case, *rest):
        step, logits = make(provider, case, *rest)
        if provider != "tilegrad captured":
            return step, logits
        return (step, lambda: logits() + 0.01) if wrong == "logits" else (lambda: step() * 1.01, logits)

    monkeypatch.setattr(encoder_step, "step_of", spoiled)
    with pytest.raises(ValueError, match="all, no dropout, tilegrad captured: losses"):
        encoder_step.times("all, no dropout", least=True)


@pytest.mark.parametrize(("trained", "layers"), [("head", []), ("2", [1, 2]), ("all", [0, 1, 2])])
def test_what_is_frozen_is_frozen_in_both(trained, layers):
    sizes = encoder_nets.config(0.1)
    for model in (encoder_nets.drawn(sizes), encoder_nets.torchs(sizes)):
        encoder_nets.frozen(model, trained)
        learning = {name for name, p in model.named_parameters() if p.requires_grad}
        assert {"head.weight", "head.bias"} <= learning
        assert [i for i in range(3) if any(f"layer.{i}." in name for name in learning)] == layers
        assert any("embeddings" in name for name in learning) == (trained == "all")
        assert [layer.training for layer in model.body.encoder.layer] == [i in layers for i in range(3)]


@pytest.mark.parametrize("provider", PROVIDERS[::2])
def test_memory_is_counted_beyond_what_was_there(provider, monkeypatch):
    blocks = []

    def step():
        blocks.append(np.ones(1 << 24, np.float32))  # 64 MiB
        return 0.0

    monkeypatch.setattr(encoder_step, "step_of", lambda *given: (step, None))
    monkeypatch.setattr(encoder_step, "STEPS", 2)
    held = np.ones(1 << 25, np.float32)  # 128 MiB that are there before
    assert 110 < encoder_step.memory("head", provider, least=True) < 170
    assert held[0] == 1


def test_a_line_is_against_the_faster_torch():
    _, _, *lines = encoder.table(FOUND)
    assert lines == [
        "| all | 4 | 3 | 2 | 1.5 | 2.00 | 100 | 90 | 110 |",
        "| head | 4 | 3 | 2 | 1.6 | 1.88 | 100 | 90 | 99 |",
        "| head, vectors kept | 1 |  |  | 2 | 0.50 |  |  |  |",
    ]


def test_goals_that_are_missed_are_told():
    assert list(encoder.misses(FOUND)) == [
        "MISSED: all: tilegrad captured takes 110 MiB, torch 100",
        "MISSED: head: 1.88 times torch's speed; goal 2.0",
    ]


def test_the_table_is_not_stale():
    text = (readme.ROOT / "README.md").read_text()
    made = encoder.section(readme.ROOT / "bench" / "results")
    assert text == readme.rewritten(text, made, encoder.MARKERS), "stale: run python -m tilegrad.bench.encoder --readme"


def test_the_section_names_versions_machine_commit_and_date(tmp_path):
    folder = tmp_path / "bench" / "results"
    folder.mkdir(parents=True)
    (folder / "encoder-a.json").write_text(json.dumps(FOUND))
    (tmp_path / "README.md").write_text("\n".join(encoder.MARKERS))
    encoder.write_table(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "CPU, 2 cores, 1 thread, today, commit abc, torch 3\n([all figures](bench/results/encoder-a.json))." in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--json", "/proc/no/file.json"], "--json: /proc/no/file.json"),
        (["--json", "{folder}/a.json", "--least", "--readme"], "--least: a few steps say nothing of speed"),
    ],
)
def test_bad_flags_end_it_before_anything_is_measured(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        encoder.main([flag.format(folder=tmp_path) for flag in flags])
    assert message in capsys.readouterr().err
