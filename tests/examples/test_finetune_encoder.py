"""The fine-tuning example as a user runs it: a tiny random encoder, and intents that one word tells."""

from __future__ import annotations

import json

import numpy as np
import pytest
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
    report, saved = tmp_path / "report.json", tmp_path / "model.safetensors"
    flags = ["--train", train, "--epochs", 30, "--lr", 0.1 if train == "head" else 0.02, "--batch-size", 16]
    flags += ["--json", report, "--save", saved]
    done = run("finetune_encoder.py", *folders, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(report.read_text())
    assert figures["accuracy"] > 0.6 and figures["macro_f1"] > 0.6
    start = load_file(folders[1] / "model.safetensors")
    found = load_file(saved)
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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train", "some"], "--train: 'some'; expected head, all, or a number of layers above 0"),
        (["--epochs", 0], "--epochs: 0; expected a number above 0"),
        (["--warmup", 1], "--warmup: 1.0; expected a share between 0 and 1"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--save", "/nowhere/model"], "there is no folder /nowhere"),
    ],
)
def test_bad_flags(flags, message, folders):
    done = run("finetune_encoder.py", *folders, *flags)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
