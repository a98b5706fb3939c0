"""The BERT encoder against one written in NumPy in float64, from a folder as Hugging Face writes them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.models import bert
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

SMALL = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 9,
    "model_type": "bert",
    "layer_norm_eps": 1e-12,
}
N, T = 4, 7


def weights(rng, config=SMALL, dtype=np.float32):
    """A random tensor for every name that Hugging Face's BertModel has."""
    width, wide = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    for i in range(config["num_hidden_layers"]):
        for name, out, into in (
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", wide, width),
            ("output.dense", width, wide),
        ):
            shapes[f"encoder.layer.{i}.{name}.weight"] = out, into
            shapes[f"encoder.layer.{i}.{name}.bias"] = (out,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{i}.{name}.weight"] = shapes[f"encoder.layer.{i}.{name}.bias"] = (width,)
    return {name: (0.4 * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


def folder_of(path, tensors, **changes):
    (path / "config.json").write_text(json.dumps(SMALL | changes))
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path, rng):
    extra = {"embeddings.position_ids": np.arange(SMALL["max_position_embeddings"])[None]}
    return folder_of(tmp_path, weights(rng) | extra)


erf = np.vectorize(math.erf, otypes=[np.float64])


def oracle(tensors, config, tokens, mask, segments=None):
    """Devlin et al. 2019 in float64, one text after the other, without its padding."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    width, heads = config["hidden_size"], config["num_attention_heads"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    found = []
    for i, (text, is_text) in enumerate(zip(tokens, mask)):
        text = text[is_text]
        kinds = np.zeros_like(text) if segments is None else segments[i][is_text]
        x = w["embeddings.word_embeddings.weight"][text] + w["embeddings.token_type_embeddings.weight"][kinds]
        x = norm(x + w["embeddings.position_embeddings.weight"][np.flatnonzero(is_text)], "embeddings.LayerNorm")
        for layer in range(config["num_hidden_layers"]):
            at = f"encoder.layer.{layer}"
            parts = [linear(x, f"{at}.attention.self.{name}") for name in ("query", "key", "value")]
            q, k, v = (part.reshape(len(text), heads, width // heads).transpose(1, 0, 2) for part in parts)
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(width // heads)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            y = (p / p.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(text), width)
            x = norm(linear(y, f"{at}.attention.output.dense") + x, f"{at}.attention.output.LayerNorm")
            h = linear(x, f"{at}.intermediate.dense")
            h = 0.5 * h * (1 + erf(h / math.sqrt(2)))
            x = norm(linear(h, f"{at}.output.dense") + x, f"{at}.output.LayerNorm")
        found.append(x)
    return found


def texts(rng):
    tokens = rng.integers(1, SMALL["vocab_size"], (N, T))
    mask = np.arange(T) < np.array([[T], [3], [1], [5]])
    return np.where(mask, tokens, 0), mask


@pytest.mark.parametrize("kind", [bool, np.int64], ids=["bool", "int64"])
def test_vectors_are_those_of_the_text_alone(folder, kind, rng):
    tokens, mask = texts(rng)
    model = bert.from_pretrained(folder)
    assert not model.training
    with tg.no_grad():
        y = model(Tensor(tokens), Tensor(mask.astype(kind)))
        pooled = bert.mean_pooled(y, Tensor(mask.astype(kind)))
    want = oracle(load_file(folder / "model.safetensors"), SMALL, tokens, mask)
    for i, each in enumerate(want):
        assert np.abs(y.numpy()[i][mask[i]] - each).max() < 1e-5
        assert np.abs(pooled.numpy()[i] - each.mean(0)).max() < 1e-5


def test_segments_and_no_mask(folder, rng):
    tokens, segments = rng.integers(0, 50, (N, T)), rng.integers(0, 2, (N, T))
    with tg.no_grad():
        y = bert.from_pretrained(folder)(Tensor(tokens), segments=Tensor(segments))
    want = oracle(load_file(folder / "model.safetensors"), SMALL, tokens, np.ones((N, T), bool), segments)
    assert np.abs(y.numpy() - np.stack(want)).max() < 1e-5


def test_the_pooler_and_names_of_models_with_heads(tmp_path, rng):
    """Files of models with a head prefix "bert."; old ones call a norm's parameters gamma and beta."""
    plain = weights(rng)
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in plain.items()
    }
    old["cls.predictions.bias"] = np.zeros(50, np.float32)
    tokens = Tensor(rng.integers(0, 50, (N, T)))
    found = []
    for path in (folder_of(tmp_path / "new", plain), folder_of(tmp_path / "old", old)):
        model = bert.from_pretrained(path, add_pooling_layer=True)
        with tg.no_grad():
            found.append(model.pooler(model(tokens)).numpy())
    assert (found[0] == found[1]).all()
    first = oracle(plain, SMALL, tokens.numpy(), np.ones((N, T), bool))
    want = np.tanh(
        np.stack(first)[:, 0] @ plain["pooler.dense.weight"].T.astype(np.float64) + plain["pooler.dense.bias"]
    )
    assert np.abs(found[0] - want).max() < 1e-5


def test_weights_are_held_once_and_nothing_is_drawn(folder):
    tg.manual_seed(3)
    want = tg.randn(3).numpy()
    tg.manual_seed(3)
    model = bert.from_pretrained(folder)
    assert (tg.randn(3).numpy() == want).all()
    for name, value in load_file(folder / "model.safetensors").items():
        if name.startswith(("embeddings.position_ids", "pooler")):
            continue
        p = model.get_parameter(name)
        assert (p.detach().numpy() == value).all() and p.requires_grad and p.is_leaf
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]


def test_training_beside_torch(folder, rng):
    """The frozen body gets no gradient; the same net of torch's modules has the same losses."""
    tokens, mask = texts(rng)
    model = bert.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    tensors = load_file(folder / "model.safetensors")
    theirs = TheirBert(tensors)
    head, their_head = nn.Linear(12, 3), torch.nn.Linear(12, 3)
    their_head.load_state_dict({name: torch.from_numpy(value.numpy()) for name, value in head.state_dict().items()})
    labels = np.array([0, 1, 2, 1])
    optimizer = optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-2)
    their_optimizer = torch.optim.AdamW([*theirs.parameters(), *their_head.parameters()], lr=1e-2)

    @tg.capture
    def step(tokens, mask, labels):
        loss = F.cross_entropy(head(bert.mean_pooled(model(tokens, mask), mask)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(20):
        loss = step(Tensor(tokens), Tensor(mask), Tensor(labels))
        y = theirs(torch.from_numpy(tokens), torch.from_numpy(mask))
        m = torch.from_numpy(mask)[..., None].float()
        want = torch.nn.functional.cross_entropy(their_head((y * m).sum(1) / m.sum(1)), torch.from_numpy(labels))
        their_optimizer.zero_grad()
        want.backward()
        their_optimizer.step()
        assert abs(loss.item() - want.item()) < 1e-4 * max(1, want.item())
    assert want.item() < 0.7


class TheirBert(torch.nn.Module):
    """The encoder of torch's own transformer layers."""

    def __init__(self, tensors):
        super().__init__()
        get = lambda name: torch.from_numpy(tensors[name].copy())  # noqa: E731
        self.words = torch.nn.Embedding.from_pretrained(get("embeddings.word_embeddings.weight"), False, padding_idx=0)
        self.places = torch.nn.Parameter(get("embeddings.position_embeddings.weight"))
        self.kinds = torch.nn.Parameter(get("embeddings.token_type_embeddings.weight"))
        self.norm = torch.nn.LayerNorm(12, 1e-12)
        self.norm.load_state_dict({k: get(f"embeddings.LayerNorm.{k}") for k in ("weight", "bias")})
        self.layers = torch.nn.ModuleList()
        for i in range(2):
            layer = torch.nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", 1e-12, batch_first=True)
            at = f"encoder.layer.{i}."
            own = {}
            for k in ("weight", "bias"):
                parts = [get(f"{at}attention.self.{name}.{k}") for name in ("query", "key", "value")]
                own[f"self_attn.in_proj_{k}"] = torch.cat(parts)
                own[f"self_attn.out_proj.{k}"] = get(f"{at}attention.output.dense.{k}")
                own[f"norm1.{k}"] = get(f"{at}attention.output.LayerNorm.{k}")
                own[f"linear1.{k}"] = get(f"{at}intermediate.dense.{k}")
                own[f"linear2.{k}"] = get(f"{at}output.dense.{k}")
                own[f"norm2.{k}"] = get(f"{at}output.LayerNorm.{k}")
            layer.load_state_dict(own)
            self.layers.append(layer)

    def forward(self, tokens, mask):
        x = self.norm(self.words(tokens) + self.places[: tokens.shape[1]] + self.kinds[0])
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~mask)
        return x


def test_a_frozen_body_has_no_gradient_and_no_record(folder, rng):
    tokens, mask = texts(rng)
    model = bert.from_pretrained(folder).requires_grad_(False)
    head = nn.Linear(12, 3)
    y = bert.mean_pooled(model(Tensor(tokens), Tensor(mask)), Tensor(mask))
    assert not y.requires_grad
    head(y).sum().backward()
    assert head.weight.grad is not None and all(p.grad is None for p in model.parameters())


def test_the_row_of_padding_gets_no_gradient(folder):
    model = bert.from_pretrained(folder)
    model(Tensor(np.array([[1, 2, 0, 0]])), Tensor(np.array([[True, True, False, False]]))).sum().backward()
    grad = model.embeddings.word_embeddings.weight.grad.numpy()
    assert not grad[0].any() and grad[1].any()


def test_dropout_is_in_training_alone(folder, rng):
    tokens, mask = (Tensor(x) for x in texts(rng))
    model = bert.from_pretrained(folder)
    assert (model(tokens, mask).detach().numpy() == model(tokens, mask).detach().numpy()).all()
    model.train()
    assert (model(tokens, mask).detach().numpy() != model(tokens, mask).detach().numpy()).any()
    model = bert.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    assert (model(tokens, mask).detach().numpy() == model(tokens, mask).detach().numpy()).all()


def test_start():
    tg.manual_seed(0)
    model = bert.BertModel(bert.BertConfig(vocab_size=500, hidden_size=64, num_hidden_layers=1, num_attention_heads=2))
    weight = model.encoder.layer[0].intermediate.dense.weight.detach().numpy()
    assert 0.019 < weight.std() < 0.021 and not model.encoder.layer[0].intermediate.dense.bias.detach().numpy().any()
    assert not model.embeddings.word_embeddings.weight.detach().numpy()[0].any()


@pytest.mark.parametrize("kind", [bool, np.int64], ids=["bool", "int64"])
def test_a_text_that_is_padding_alone(folder, kind):
    model, tokens = bert.from_pretrained(folder), tg.ones(3, 2).long()
    step = tg.capture(lambda mask: model(tokens, mask).sum())
    good, bad = (Tensor(np.array([[1, 1], [1, 0], last], kind)) for last in ([0, 1], [0, 0]))
    message = "text 2 is padding alone; expected a mask with a token in each row"
    with tg.no_grad():
        with pytest.raises(ValueError, match=message):
            model(tokens, bad)
        for _ in range(3):
            step(good)
        assert "nodes" in step.summary()
        with pytest.raises(ValueError, match=message):
            step(bad)
    mean = bert.mean_pooled(tg.ones(3, 2, 4), bad).numpy()
    assert (mean[:2] == 1).all() and not mean[2].any()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m: m(tg.zeros(1, 10).long()), ValueError, r"tokens is \(1, 10\); expected \(N, T\) with T <= 9"),
        (lambda m: m(tg.zeros(3).long()), ValueError, r"tokens is \(3,\)"),
        (lambda m: m(tg.full((1, 2), 50)), IndexError, "50"),
        (lambda m: m(tg.full((1, 2), -1)), IndexError, "-1"),
        (lambda m: m(tg.ones(1, 2).long(), None, tg.full((1, 2), 2)), IndexError, "2"),
        (lambda m: m(tg.zeros(1, 2)), TypeError, "expected integers"),
        (lambda m: m(tg.zeros(1, 2).long(), tg.ones(1, 3).bool()), ValueError, r"mask is \(1, 3\); expected \(1, 2\)"),
        (lambda m: m(tg.zeros(1, 2).long(), tg.ones(1, 2)), TypeError, "mask is float32; expected bool or integers"),
        (lambda m: bert.mean_pooled(tg.ones(1, 2, 3), tg.ones(2, 2).bool()), ValueError, "mean_pooled: mask is"),
    ],
)
def test_errors(folder, call, kind, message):
    with pytest.raises(kind, match=message):
        call(bert.from_pretrained(folder))


def test_a_captured_step_looks_at_its_tokens_too(folder):
    model = bert.from_pretrained(folder)
    step = tg.capture(lambda tokens: model(tokens).sum())
    with tg.no_grad():
        for _ in range(3):
            step(tg.ones(2, 3).long())
        assert "nodes" in step.summary()
        with pytest.raises(IndexError, match="50"):
            step(tg.full((2, 3), 50))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, r"config.json has model_type 'gpt2'; expected 'bert'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is a decoder's"),
        ({"hidden_act": "quick"}, "hidden_act is 'quick'"),
        ({"num_attention_heads": 5}, "num_attention_heads 5; expected a multiple"),
        ({"vocab_size": 51}, r"word_embeddings.weight is F32 \(50, 12\), expected floats \(51, 12\)"),
        ({"num_hidden_layers": 3}, r"missing encoder.layer.2.attention.self.query.weight"),
        ({"num_hidden_layers": 1}, r"unexpected encoder.layer.1.attention"),
    ],
)
def test_configs_that_do_not_fit(tmp_path, changes, message, rng):
    with pytest.raises(ValueError, match=message):
        bert.from_pretrained(folder_of(tmp_path, weights(rng), **changes))


def test_files_that_are_none(tmp_path, rng):
    with pytest.raises(FileNotFoundError):
        bert.from_pretrained(tmp_path)
    folder_of(tmp_path, weights(rng))
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="model.safetensors is not a safetensors file"):
        bert.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        bert.from_pretrained(tmp_path)


def test_skip_init_is_over_afterwards():
    nn.utils.skip_init(nn.Linear, 3, 4)
    with pytest.raises(TypeError):
        nn.utils.skip_init(nn.Linear, "three", 4)
    weight = nn.Linear(30, 4).weight.detach().numpy()
    assert np.abs(weight).max() <= 1 / math.sqrt(30) and weight.std() > 0.05
