"""The sentence encoder of examples/keras_minilm.py: KerasHub's BERT has the values of the formulas, and serves a head.

On weights drawn here, or those in the folder that TILEGRAD_MINILM names. Skipped where KerasHub is not installed.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras_hub")
tokenizers = pytest.importorskip("tokenizers")
numbers = pytest.importorskip("safetensors.numpy")

EXAMPLE = Path(__file__).parents[2] / "examples" / "keras_minilm.py"
WORDS = "[PAD] [UNK] [CLS] [SEP] card lost stolen money transfer arrived exchange rate my the of what is has".split()
TEXTS = {
    "card": "my card is lost",
    "transfer": "has the transfer of money arrived",
    "rate": "what is the exchange rate",
}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("keras_minilm", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as Hugging Face has it, of a small BERT."""
    if "TILEGRAD_MINILM" in os.environ:
        return Path(os.environ["TILEGRAD_MINILM"])
    path, rng = tmp_path_factory.mktemp("minilm"), np.random.default_rng(0)
    width, inner, blocks = 16, 32, 2
    config = {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": blocks, "num_attention_heads": 4, "layer_norm_eps": 1e-12,
        "vocab_size": len(WORDS), "max_position_embeddings": 64, "type_vocab_size": 2, "pad_token_id": 0,
        "hidden_dropout_prob": 0.1,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    shapes = {f"embeddings.{name}_embeddings.weight": (n, width) for name, n in
              {"word": len(WORDS), "position": 64, "token_type": 2}.items()}  # fmt: skip
    normed = ["embeddings.LayerNorm"]
    linear = {"pooler.dense": (width, width)}
    for i in range(blocks):
        block = f"encoder.layer.{i}"
        linear |= {f"{block}.attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        linear[f"{block}.attention.output.dense"] = (width, width)
        linear |= {f"{block}.intermediate.dense": (inner, width), f"{block}.output.dense": (width, inner)}
        normed += [f"{block}.attention.output.LayerNorm", f"{block}.output.LayerNorm"]
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes |= {f"{name}.{what}": (width,) for name in normed for what in ("weight", "bias")}
    centre = {name: float("Norm.weight" in name) for name in shapes}
    weights = {name: rng.normal(centre[name], 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    numbers.save_file(weights, path / "model.safetensors")
    words = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=60)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def bert(folder, ids, mask):
    """The sentence vectors in float64 (Devlin et al. 2019; GELU by its tanh form, as KerasHub has it)."""
    w = {name: x.astype(np.float64) for name, x in numbers.load_file(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    heads, (n, length) = config["num_attention_heads"], ids.shape

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def split(x):
        return x.reshape(n, length, heads, -1).transpose(0, 2, 1, 3)

    word, place, kind = [w[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    x = norm(word[ids] + place[:length] + kind[0], "embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        block = f"encoder.layer.{i}"
        q, k, v = [split(dense(x, f"{block}.attention.self.{name}")) for name in ("query", "key", "value")]
        scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1]) + np.where(mask[:, None, None], 0, -1e30)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        joined = (p / p.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(n, length, -1)
        x = norm(x + dense(joined, f"{block}.attention.output.dense"), f"{block}.attention.output.LayerNorm")
        h = dense(x, f"{block}.intermediate.dense")
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = norm(x + dense(h, f"{block}.output.dense"), f"{block}.output.LayerNorm")
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def test_sentence_vectors_are_those_of_the_formulas(example, folder):
    rng = np.random.default_rng(1)
    model = example.encoder(str(folder))
    ids = rng.integers(4, len(WORDS), (6, 16)).astype(np.int32)
    mask = (np.arange(16) < rng.integers(3, 17, (6, 1))).astype(np.int32)
    want = bert(folder, ids, mask)
    for _ in range(3):  # plain, then captured
        got = model.predict_on_batch(dict(zip(example.KEYS, (ids, np.zeros_like(ids), mask))))
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert " nodes, " in model.predict_function.step.summary()


def test_the_example_learns(example, folder, tmp_path, capsys):
    for split, copies in {"train": 200, "test": 2}.items():
        with open(tmp_path / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *[(text, name) for name, text in TEXTS.items()] * copies])
    assert example.main(str(folder), str(tmp_path), epochs=40) == 1.0
    assert "606 texts embedded" in capsys.readouterr().out
