"""A sentence encoder with a head, in tilegrad and in torch: the same net under the same names, from the same weights.

The sizes are MiniLM-L6's: 6 layers, 384 wide, 12 heads, 22.7 million parameters, of which 11.7 million are vectors of
words. The weights are drawn. torch's net is what one writes there: its modules, and scaled_dot_product_attention.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import Tensor, nn
from tilegrad.models import bert
from tilegrad.nn import functional as F

CLASSES = 77


def config(dropout: float) -> bert.BertConfig:
    """MiniLM-L6's sizes."""
    return bert.BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        intermediate_size=1536,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


class Classifier(nn.Module):
    """As examples/finetune_encoder.py has it: a linear head on the mean of a text's vectors, of one length."""

    def __init__(self, body: bert.BertModel) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(body.config.hidden_size, CLASSES)

    def vectors(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(N, hidden_size)."""
        pooled = bert.mean_pooled(self.body(tokens, mask), mask)
        return F.normalize(pooled, dim=1) * math.sqrt(pooled.shape[1])

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (N, CLASSES)."""
        return self.head(self.vectors(tokens, mask))


def drawn(sizes: bert.BertConfig) -> Classifier:
    """The net with weights that are the same each time."""
    tg.manual_seed(0)
    return Classifier(bert.BertModel(sizes, add_pooling_layer=False))


def batch(sizes: bert.BertConfig, texts: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (N, T), a mask (N, T) of texts that fill at least two thirds, labels (N,)."""
    rng = np.random.default_rng(0)
    mask = np.arange(length) < rng.integers(2 * length // 3, length + 1, texts)[:, None]
    tokens = np.where(mask, rng.integers(1, sizes.vocab_size, (texts, length)), 0)
    return tokens, mask, rng.integers(0, CLASSES, texts)


def frozen(model: Any, trained: str) -> None:
    """Train the head, and "all" of the body, its last "2" layers, or nothing of it ("head"): of either library."""
    model.body.requires_grad_(False).eval()
    if trained == "all":
        model.body.requires_grad_(True).train()
    elif trained != "head":
        for layer in list(model.body.encoder.layer)[-int(trained) :]:
            layer.requires_grad_(True).train()


def groups(parameters: Iterable[Any]) -> list[dict[str, Any]]:
    """AdamW's decay leaves biases and norms alone."""
    trained = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def torchs(sizes: bert.BertConfig, weights: dict[str, np.ndarray] | None = None) -> Any:
    """torch's net, with these weights, or with those that torch draws."""
    torch = importlib.import_module("torch")
    width, heads, p = sizes.hidden_size, sizes.num_attention_heads, sizes.hidden_dropout_prob
    T = torch.nn

    def holder(**modules: Any) -> Any:
        """A module that only has others, for the names' sake."""
        made = T.Module()
        for name, module in modules.items():
            made.add_module(name, module)
        return made

    def norm() -> Any:
        return T.LayerNorm(width, sizes.layer_norm_eps)

    class Layer(T.Module):
        def __init__(self) -> None:
            super().__init__()
            parts = {name: T.Linear(width, width) for name in ("query", "key", "value")}
            self.attention = holder(output=holder(dense=T.Linear(width, width), LayerNorm=norm()))
            self.attention.add_module("self", holder(**parts))
            self.intermediate = holder(dense=T.Linear(width, sizes.intermediate_size))
            self.output = holder(dense=T.Linear(sizes.intermediate_size, width), LayerNorm=norm())
            self.dropout = T.Dropout(p)

        def forward(self, x: Any, mask: Any) -> Any:
            n, length, _ = x.shape
            own, out = getattr(self.attention, "self"), self.attention.output  # noqa: B009 - a name of theirs
            q, k, v = (
                part(x).view(n, length, heads, width // heads).transpose(1, 2)
                for part in (own.query, own.key, own.value)
            )
            y = T.functional.scaled_dot_product_attention(q, k, v, mask, p if self.training else 0.0)
            y = out.dense(y.transpose(1, 2).reshape(n, length, width))
            x = out.LayerNorm(self.dropout(y) + x)
            y = self.output.dense(T.functional.gelu(self.intermediate.dense(x)))
            return self.output.LayerNorm(self.dropout(y) + x)

    class Body(T.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = holder(
                word_embeddings=T.Embedding(sizes.vocab_size, width, padding_idx=sizes.pad_token_id),
                position_embeddings=T.Embedding(sizes.max_position_embeddings, width),
                token_type_embeddings=T.Embedding(sizes.type_vocab_size, width),
                LayerNorm=norm(),
            )
            self.encoder = holder(layer=T.ModuleList(Layer() for _ in range(sizes.num_hidden_layers)))
            self.dropout = T.Dropout(p)

        def forward(self, tokens: Any, mask: Any) -> Any:
            of = self.embeddings
            places = of.position_embeddings.weight[: tokens.shape[1]] + of.token_type_embeddings.weight[0]
            x = self.dropout(of.LayerNorm(of.word_embeddings(tokens) + places))
            for layer in self.encoder.layer:
                x = layer(x, mask[:, None, None, :])
            return x

    class TheirClassifier(T.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = Body(), T.Linear(width, CLASSES)

        def vectors(self, tokens: Any, mask: Any) -> Any:
            weights = mask[..., None].float()
            pooled = (self.body(tokens, mask) * weights).sum(1) / weights.sum(1)
            return T.functional.normalize(pooled, dim=1) * math.sqrt(width)

        def forward(self, tokens: Any, mask: Any) -> Any:
            return self.head(self.vectors(tokens, mask))

    theirs = TheirClassifier()
    if weights is not None:
        theirs.load_state_dict({name: torch.tensor(x) for name, x in weights.items()})
    return theirs
