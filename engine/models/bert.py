"""BERT's encoder (Devlin et al. 2019) under Hugging Face's names, so that a folder of theirs loads unchanged.

model = bert.from_pretrained(folder)   # config.json and model.safetensors
y = model(tokens, mask)                # (N, T, hidden_size)
vectors = bert.mean_pooled(y, mask)    # (N, hidden_size): sentence embeddings (Reimers & Gurevych 2019)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tilegrad import capture_hooks, ops
from tilegrad.device import as_device, move
from tilegrad.nn import functional as F
from tilegrad.nn import init
from tilegrad.nn.containers import ModuleList
from tilegrad.nn.dropout import Dropout
from tilegrad.nn.embedding import Embedding
from tilegrad.nn.functional.arguments import one_of, size
from tilegrad.nn.fused import activated, normalised_sum
from tilegrad.nn.linear import Linear
from tilegrad.nn.module import Module
from tilegrad.nn.norm import LayerNorm
from tilegrad.nn.parameter import Parameter
from tilegrad.tensor import Tensor, wrap

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, "tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, "tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}


@dataclass(frozen=True)
class BertConfig:
    """What config.json says of a model; the defaults are BERT-base's. Raises ValueError for what this encoder is not.

    vocab_size, type_vocab_size     kinds of tokens, and of segments
    hidden_size, intermediate_size  widths of a token's vector, and inside the feed-forward net
    num_hidden_layers, num_attention_heads
    max_position_embeddings         tokens in a text at most
    hidden_act                      "gelu" (exact), "gelu_new", "relu" or "silu"
    hidden_dropout_prob, attention_probs_dropout_prob, layer_norm_eps
    pad_token_id                    the token of padding, whose vector gets no gradient
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.type == "int":
                size("BertConfig", each.name, getattr(self, each.name))
        one_of("BertConfig", "hidden_act", self.hidden_act, tuple(_ACTIVATIONS))
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"BertConfig: hidden_size is {self.hidden_size} and num_attention_heads {self.num_attention_heads}; "
                "expected a multiple"
            )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> BertConfig:
        """The config in a config.json. Raises ValueError, which names it, for another architecture."""
        with open(path, encoding="utf-8") as file:
            try:
                given = json.load(file)
            except ValueError as error:
                raise ValueError(f"BertConfig: {os.fspath(path)} is not JSON: {error}") from error
        if not isinstance(given, dict):
            raise ValueError(f"BertConfig: {os.fspath(path)} is a {type(given).__name__}; expected an object")
        for key, wanted in (("model_type", "bert"), ("position_embedding_type", "absolute")):
            if given.get(key, wanted) != wanted:
                raise ValueError(f"BertConfig: {os.fspath(path)} has {key} {given[key]!r}; expected {wanted!r}")
        if given.get("is_decoder"):
            raise ValueError(f"BertConfig: {os.fspath(path)} is a decoder's; expected an encoder's")
        return cls(**{each.name: given[each.name] for each in fields(cls) if each.name in given})


class BertEmbeddings(Module):
    """LayerNorm(word + position + segment), with dropout: tokens (N, T) -> (N, T, hidden_size)."""

    def __init__(self, config: BertConfig, made: dict[str, Any]) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, width, padding_idx=config.pad_token_id, **made)
        self.position_embeddings = Embedding(config.max_position_embeddings, width, **made)
        self.token_type_embeddings = Embedding(config.type_vocab_size, width, **made)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps, **made)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Vectors of the tokens."""
        places = self.position_embeddings.weight[: tokens.shape[1]]
        kinds: Any = self.token_type_embeddings
        x = self.word_embeddings(tokens) + (places + kinds.weight[0] if segments is None else places + kinds(segments))
        return self.dropout(self.LayerNorm(x))


class BertSelfAttention(Module):
    """Attention of the tokens of a text to one another, in heads."""

    def __init__(self, config: BertConfig, made: dict[str, Any]) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = (Linear(width, width, **made) for _ in range(3))
        self.dropout = Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N, T, width); mask (N, 1, 1, T), True where to attend."""
        n, length, width = x.shape
        q, k, v = (
            ops.transpose(ops.reshape(part(x), (n, length, self.heads, width // self.heads)), 1, 2)
            for part in (self.query, self.key, self.value)
        )
        p = self.dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, p)
        return ops.reshape(ops.transpose(y, 1, 2), (n, length, width))


class _Output(Module):
    """LayerNorm(dropout(dense(x)) + residual)."""

    def __init__(self, config: BertConfig, into: int, made: dict[str, Any]) -> None:
        super().__init__()
        self.dense = Linear(into, config.hidden_size, **made)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, **made)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return normalised_sum(self.LayerNorm, self.dropout(self.dense(x)), residual)[0]


class BertAttention(Module):
    """Self-attention and what follows it: (N, T, width)."""

    def __init__(self, config: BertConfig, made: dict[str, Any]) -> None:
        super().__init__()
        self.self = BertSelfAttention(config, made)
        self.output = _Output(config, config.hidden_size, made)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N, T, width)."""
        return self.output(self.self(x, mask), x)


class BertIntermediate(Module):
    """act(dense(x)): (N, T, intermediate_size)."""

    def __init__(self, config: BertConfig, made: dict[str, Any]) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.intermediate_size, **made)
        self.activation = _ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """The wide activations."""
        return activated(self.dense, self.activation, x)


class BertLayer(Module):
    """Attention and the feed-forward net, each summed with its input and normalised afterwards."""

    def __init__(self, config: BertConfig, made: dict[str, Any]) -> None:
        super().__init__()
        self.attention = BertAttention(config, made)
        self.intermediate = BertIntermediate(config, made)
        self.output = _Output(config, config.intermediate_size, made)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N, T, width)."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class BertEncoder(Module):
    """The layers, one after the other."""

    def __init__(self, config: BertConfig, made: dict[str, Any]) -> None:
        super().__init__()
        self.layer = ModuleList(BertLayer(config, made) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N, T, width)."""
        for layer in self.layer:
            x = layer(x, mask)
        return x


class BertPooler(Module):
    """tanh(dense(the first token's vector)): (N, width)."""

    def __init__(self, config: BertConfig, made: dict[str, Any]) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, **made)

    def forward(self, x: Tensor) -> Tensor:
        """Of (N, T, width)."""
        return activated(self.dense, F.tanh, x[:, 0])


class BertModel(Module):
    """The encoder: tokens (N, T) -> (N, T, hidden_size). `pooler` is a module of its own, for whoever wants it.

    Weights start as BERT's: normal with deviation initializer_range, biases 0.
    """

    def __init__(
        self, config: BertConfig, add_pooling_layer: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        self.embeddings = BertEmbeddings(config, made)
        self.encoder = BertEncoder(config, made)
        self.register_module("pooler", BertPooler(config, made) if add_pooling_layer else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in self.modules():
            if isinstance(module, Linear | Embedding):
                init.normal_(module.weight, std=self.config.initializer_range)
                if isinstance(module, Linear):
                    init.zeros_(module.bias)
                elif module.padding_idx is not None:
                    init.zeros_(module.weight.detach()[module.padding_idx])

    def forward(self, tokens: Tensor, mask: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """Vectors (N, T, hidden_size) of tokens (N, T), integers.

        mask      (N, T), bool or integers: which tokens are text; the others, padding, are attended to by none
        segments  (N, T), integers: the kind of each token, 0 by default

        Raises ValueError for shapes, for texts longer than max_position_embeddings and for a text that is padding
        alone, TypeError for dtypes, IndexError for a token that the vocabulary lacks. Values are looked at on the CPU;
        on a GPU, which would have to be waited for, a text of padding alone gives vectors that mean nothing.
        """
        op, longest = "BertModel", self.config.max_position_embeddings
        if tokens.ndim != 2 or tokens.shape[1] > longest:
            raise ValueError(f"{op}: tokens is {tokens.shape}; expected (N, T) with T <= {longest}")
        for name, given in (("mask", mask), ("segments", segments)):
            if given is None:
                continue
            if given.shape != tokens.shape:
                raise ValueError(f"{op}: {name} is {given.shape}; expected {tokens.shape}, the shape of tokens")
            if given.dtype.kind not in "biu":
                raise TypeError(f"{op}: {name} is {given.dtype}; expected bool or integers")
        attended = None
        if mask is not None:
            if not mask.is_cuda:
                capture_hooks.check(_require_text, mask)
            attended = ops.reshape(mask if mask.dtype.kind == "b" else mask != 0, (mask.shape[0], 1, 1, mask.shape[1]))
        return self.encoder(self.embeddings(tokens, segments), attended)


def _require_text(mask: Any) -> None:
    empty = (~mask.any(1)).nonzero()[0] if mask.shape[1] else range(len(mask))
    if len(empty):
        raise ValueError(f"BertModel: text {empty[0]} is padding alone; expected a mask with a token in each row")


def mean_pooled(vectors: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean of each text's own vectors: (N, T, width) and a mask (N, T) -> (N, width); 0 for a text without any."""
    if mask is None:
        return ops.mean(vectors, 1)
    if mask.shape != vectors.shape[:2]:
        raise ValueError(f"mean_pooled: mask is {mask.shape}; expected {vectors.shape[:2]}")
    weights = ops.unsqueeze((mask if mask.dtype.kind == "b" else mask != 0).to(vectors.dtype), 2)
    return ops.sum(vectors * weights, 1) / ops.clamp(ops.sum(weights, 1), min=1.0)


def from_pretrained(
    folder: str | os.PathLike[str], add_pooling_layer: bool = False, device: Any = None, **changes: Any
) -> BertModel:
    """The model in a folder with config.json and model.safetensors, in evaluation mode.

    changes  of the config, such as hidden_dropout_prob=0.0

    Each weight is read into an array that the model then owns: memory holds them once. Raises FileNotFoundError;
    ValueError for another architecture, for a damaged file, and where tensors are missing, left over, or of another
    shape or dtype, naming them. A pooler's weights may be left over.
    """
    op = "from_pretrained"
    folder, device = Path(folder), as_device(device)
    config = BertConfig.from_file(folder / "config.json")
    if changes:
        config = BertConfig(**{each.name: getattr(config, each.name) for each in fields(config)} | changes)
    model: BertModel = init.skip_init(BertModel, config, add_pooling_layer)
    path = folder / "model.safetensors"
    own = dict(model.named_parameters())
    try:
        with safe_open(path, framework="np") as file:
            names = {_plain(name): name for name in file.keys()}  # noqa: SIM118 - no mapping
            missing = [name for name in own if name not in names]
            left = [name for name in names if name not in own and not name.startswith(("pooler.", "cls."))]
            left = [name for name in left if name != "embeddings.position_ids"]  # 0, 1, 2, ...: no weights
            wrong = []
            for name in own.keys() & names.keys():
                piece = file.get_slice(names[name])
                shape, kind = tuple(piece.get_shape()), piece.get_dtype()
                if shape != own[name].shape or kind not in ("F32", "F16", "BF16", "F64"):
                    wrong.append(f"{name} is {kind} {shape}, expected floats {own[name].shape}")
            if missing or left or wrong:
                problems = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unexpected {', '.join(left)}"] * bool(
                    left
                )
                raise ValueError(f"{op}: {path} does not fit its config: {'; '.join(problems + sorted(wrong))}")
            for name in own:
                where, _, last = name.rpartition(".")
                array = file.get_tensor(names[name])
                setattr(model.get_submodule(where), last, Parameter(wrap(move(array, device))))
    except SafetensorError as error:
        raise ValueError(f"{op}: {path} is not a safetensors file: {error}") from error
    return model.eval()


def _plain(name: str) -> str:
    """A tensor's name without the prefix of a model with a head, and with today's names of a norm's parameters."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
