"""The fine-tuning example as a user runs it: a tiny random encoder, and intents that one word tells."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from pathlib import Path

import finetune_encoder
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.examples.test_mnist_examples import run
from tests.models.test_bert import SMALL, weights
from tests.models.test_text import tokenizer_json

WORDS = ["red", "green", "blue", "the", "card", "is", "my", "lost", "where", "why"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    model, data = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    config = SMALL | {"vocab_size": 4 + len(WORDS), "max_position_embeddings": 64}
    (model / "config.json").write_text(json.dumps(config))
    # A body that passes words through: what a layer adds is small beside them.
    tensors = weights(rng, config)
    for name, value in tensors.items():
        value[...] = name.endswith("weight") if "LayerNorm" in name else value * (0.2 if "layer" in name else 1)
    save_file(tensors, model / "model.safetensors")
    tokenizer_json(model / "tokenizer.json", WORDS)
    names = "card_arrival", "card_delivery_estimate", "lost"
    for split, n in (("train", 96), ("test", 45)):
        rows = []
        for i in range(n):
            words = [WORDS[i % 3], *rng.choice(WORDS[3:], rng.integers(1, 9))]
            rows.append(f"{' '.join(rng.permutation(words))},{names[i % 3]}")
        (data / f"{split}.csv").write_text("text,category\n" + "\n".join(rows) + "\n")
    return ["--model", model, "--data", data]


@pytest.mark.parametrize("train", ["head", "1", "all"])
def test_learns_and_reports(train, folders, tmp_path):
    report, saved = tmp_path / "report.json", tmp_path / "run"
    flags = ["--train", train, "--epochs", 30, "--lr", 0.1 if train == "head" else 0.02, "--batch-size", 16]
    flags += ["--json", report, "--save", saved]
    done = run("finetune_encoder.py", *folders, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(report.read_text())
    assert figures["accuracy"] > 0.6 and figures["macro_f1"] > 0.6
    start = load_file(folders[1] / "model.safetensors")
    found = load_file(saved / "model.safetensors")
    changed = {
        name for name, value in start.items() if f"body.{name}" in found and (found[f"body.{name}"] != value).any()
    }
    if train == "head":
        assert changed == set()
    elif train == "1":
        assert changed and all(name.startswith("encoder.layer.1.") for name in changed)
    else:
        assert len(changed) > 20 and "embeddings.word_embeddings.weight" in changed


def test_a_pair_of_intents(folders):
    done = run("finetune_encoder.py", *folders, "--task", "binary", "--epochs", 60, "--lr", 0.1)
    assert (done.returncode, done.stderr) == (0, "")
    accuracy = float(done.stdout.split("test accuracy ")[1].split(" ")[0])
    assert accuracy > 60


LONG = ["--epochs", 3, "--batch-size", 32]  # 3 steps an epoch


def finetuned(monkeypatch, *flags, stop=None):
    """The program in this process, with Ctrl-C while step `stop` is computed; the losses, and the exit status."""
    look = finetune_encoder.RunFolder.look

    def noted(folder, interrupt, epoch_ended):
        if stop is not None and folder.progress.steps == stop:
            signal.raise_signal(signal.SIGINT)
        look(folder, interrupt, epoch_ended)

    with tempfile.TemporaryDirectory() as there, monkeypatch.context() as patch:
        path = Path(there) / "figures.json"
        patch.setattr(finetune_encoder.RunFolder, "look", noted)
        patch.setattr(sys, "argv", ["finetune_encoder.py", *map(str, flags), "--json", str(path)])
        try:
            finetune_encoder.main()
        except SystemExit as ended:
            assert ended.code == 130, ended.code
            return None
        return json.loads(path.read_text())["losses"]


@pytest.mark.parametrize("train", ["head", "1"])
@pytest.mark.parametrize("stops", [(2,), (3, 7)])  # in an epoch, at its end and later
def test_a_broken_off_training_ends_as_an_unbroken_one(train, stops, folders, tmp_path, monkeypatch, capsys):
    flags = [*folders, "--train", train, *LONG]
    whole = finetuned(monkeypatch, *flags, "--save", tmp_path / "whole")
    there = ["--save", tmp_path / "parts", "--checkpoint-every", 2]
    for i, stop in enumerate(stops):
        assert finetuned(monkeypatch, *flags, *there, *["--resume"] * bool(i), stop=stop) is None
        assert f"has all up to step {stop}. To go on:\n" in capsys.readouterr().err
    assert finetuned(monkeypatch, *flags, *there, "--resume") == whole
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_a_checkpoint_has_what_is_trained_alone(folders, tmp_path, monkeypatch):
    finetuned(monkeypatch, *folders, "--train", "1", *LONG, "--save", tmp_path)
    with safe_open(max(tmp_path.glob("step-*")), framework="np") as file:
        names = list(file.keys())
    assert any("body.encoder.layer.1." in name for name in names)
    assert not any("embeddings" in name or "layer.0." in name for name in names)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["--train", "head"], "the run has --train 1, here it is head; expected the same flags"),
        (["--lr", 1], "the run has --lr 0.0002, here it is 1.0"),
        (["--data", "other"], "the run has other intents"),
    ],
)
def test_another_run_does_not_go_on_here(other, message, folders, tmp_path, monkeypatch):
    flags = [*folders, "--train", "1", *LONG, "--save", tmp_path / "run"]
    finetuned(monkeypatch, *flags)
    (tmp_path / "other").mkdir()
    for path in folders[3].iterdir():
        (tmp_path / "other" / path.name).write_text(path.read_text().replace(",lost", ",stolen"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", *map(str, [*flags, "--resume", *other])])
    with pytest.raises(SystemExit, match=f"^--resume: .*run.json: {message}"):
        finetune_encoder.main()


def test_a_report(folders, tmp_path, monkeypatch, capsys):
    finetuned(monkeypatch, *folders, *LONG, "--report", tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["curves.png", "report.json"]
    found = json.loads((tmp_path / "report" / "report.json").read_text())["test"]
    matrix = np.array(found["confusion_matrix"])
    assert matrix.sum() == 45 and list(found["classes"]) == ["card_arrival", "card_delivery_estimate", "lost"]
    assert [of["texts"] for of in found["classes"].values()] == matrix.sum(1).tolist()
    pairs = {(x["is"], x["predicted"]): x["count"] for x in found["confused"]}
    names = list(found["classes"])
    assert pairs == {(names[i], names[j]): matrix[i, j] for i in range(3) for j in range(3) if i != j and matrix[i, j]}
    assert list(pairs.values()) == sorted(pairs.values(), reverse=True) and len(pairs) > 1
    told = capsys.readouterr().out
    assert f"{found['confused'][0]['count']} times {found['confused'][0]['is']} was taken for " in told
    assert all(isinstance(x["says"], str) and x["is"] != x["predicted"] for x in found["mistakes"])


@pytest.mark.parametrize("task", ["intents", "binary"])
def test_a_prediction_from_a_saved_run(task, folders, tmp_path):
    flags = ["--task", task, "--epochs", 60, "--lr", 0.1, "--save", tmp_path / "run"]
    assert run("finetune_encoder.py", *folders, *flags).returncode == 0
    for text, intent in (("red the card", "card_arrival"), ("why green my", "card_delivery_estimate")):
        done = run("finetune_encoder.py", *folders[:2], "--save", tmp_path / "run", "--predict", text)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert len(lines) == (3 if task == "intents" else 2) and lines[0].endswith(f" %  {intent}")
        assert abs(sum(float(line.split(" %")[0]) for line in lines) - 100) < 0.3


def test_predictions_that_cannot_be(folders, tmp_path, monkeypatch):
    def said(*flags):
        monkeypatch.setattr(sys, "argv", ["x", *map(str, [*folders, *flags, "--predict", "red"])])
        with pytest.raises(SystemExit) as ended:
            finetune_encoder.main()
        return str(ended.value.code)

    assert "has no run.json; expected the folder of a run" in said("--save", tmp_path)
    finetuned(monkeypatch, *folders, "--epochs", 1, "--save", tmp_path / "run")
    saved = load_file(tmp_path / "run" / "model.safetensors")
    saved["body.encoder.layer.0.output.dense.bias"] = np.zeros(5, np.float32)
    save_file(saved, tmp_path / "run" / "model.safetensors")
    assert "is not a run of this program and model: " in said("--save", tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    assert "the run has not ended; --resume goes on with it" in said("--save", tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "config.json has model_type 'roberta'; expected 'bert'"),
        ({"vocab_size": 5}, r"tokenizer.json has 14 tokens, the model 5; expected as many at most"),
        ({"max_position_embeddings": 9}, "the model takes 9 tokens; expected at least 64"),
    ],
)
def test_models_that_do_not_fit(changes, message, folders, tmp_path, monkeypatch):
    config = json.loads((folders[1] / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_bytes((folders[1] / "tokenizer.json").read_bytes())
    save_file(weights(np.random.default_rng(0), config), tmp_path / "model.safetensors")
    monkeypatch.setattr(sys, "argv", ["x", *map(str, [*folders[2:], "--model", tmp_path])])
    with pytest.raises(SystemExit, match=message):
        finetune_encoder.main()


def test_texts_without_the_pair(folders, tmp_path, monkeypatch):
    for path in folders[3].iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace("card_arrival", "another"))
    monkeypatch.setattr(sys, "argv", ["x", *map(str, [*folders[:2], "--data", tmp_path, "--task", "binary"])])
    with pytest.raises(SystemExit, match="--task binary: the texts have no intent card_arrival"):
        finetune_encoder.main()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train", "some"], "--train: 'some'; expected head, all, or a number of layers above 0"),
        (["--epochs", 0], "--epochs: 0; expected a number above 0"),
        (["--warmup", 1], "--warmup: 1.0; expected a share between 0 and 1"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--train", 9], "--train: 9 layers; the model has 2"),
        (["--resume"], "--resume: needs --save DIR"),
        (["--checkpoint-every", 3], "--checkpoint-every: needs --save DIR"),
        (["--predict", "red"], "--predict: needs --save DIR"),
        (["--json", "/nowhere/figures"], "--json: cannot write to the folder /nowhere"),
    ],
)
def test_bad_flags(flags, message, folders):
    done = run("finetune_encoder.py", *folders, *flags)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
