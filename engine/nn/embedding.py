"""Tables of vectors, looked up one by one or in bags."""

from __future__ import annotations

from typing import Any

from tilegrad.autograd.grad_mode import no_grad
from tilegrad.create import empty
from tilegrad.nn import functional as F
from tilegrad.nn import init
from tilegrad.nn.functional.arguments import one_of, require_tensor, size
from tilegrad.nn.functional.embedding import padding_row
from tilegrad.nn.module import Module
from tilegrad.nn.parameter import Parameter
from tilegrad.tensor import Tensor


class Embedding(Module):
    """The rows of weight (num_embeddings, embedding_dim) that the input names: (...) -> (..., embedding_dim).

    The weight starts standard normal. Row padding_idx starts as zeros and gets no gradient.
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = size("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = size("Embedding", "embedding_dim", embedding_dim)
        self.padding_idx = padding_row("Embedding", padding_idx, num_embeddings)
        self.weight = Parameter(empty(self.num_embeddings, self.embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """An embedding on a table that exists, (num_embeddings, embedding_dim); freeze: without gradient."""
        made = cls(0, 0)
        _adopt(made, embeddings, freeze, padding_idx)
        return made

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        _draw(self)

    def forward(self, input: Tensor) -> Tensor:
        """The rows that the input names."""
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else text + f", padding_idx={self.padding_idx}"


class EmbeddingBag(Module):
    """The sum, mean or maximum of the rows of weight that each bag names; see `F.embedding_bag`.

    The weight (num_embeddings, embedding_dim) starts standard normal. Row padding_idx counts in no bag, starts as zeros
    and gets no gradient.
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        one_of("EmbeddingBag", "mode", mode, ("sum", "mean", "max"))
        self.num_embeddings = size("EmbeddingBag", "num_embeddings", num_embeddings)
        self.embedding_dim = size("EmbeddingBag", "embedding_dim", embedding_dim)
        self.mode = mode
        self.include_last_offset = include_last_offset
        self.padding_idx = padding_row("EmbeddingBag", padding_idx, num_embeddings)
        self.weight = Parameter(empty(self.num_embeddings, self.embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        *,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """Bags of a table that exists, (num_embeddings, embedding_dim); freeze: without gradient."""
        made = cls(0, 0, mode=mode, include_last_offset=include_last_offset)
        _adopt(made, embeddings, freeze, padding_idx)
        return made

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        _draw(self)

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """One vector a bag."""
        return F.embedding_bag(
            input,
            self.weight,
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}"
        return text if self.padding_idx is None else text + f", padding_idx={self.padding_idx}"


def _adopt(made: Embedding | EmbeddingBag, embeddings: Any, freeze: bool, padding_idx: Any) -> None:
    """Give a layer that was made without a table this one."""
    require_tensor("from_pretrained", embeddings=embeddings)
    if embeddings.ndim != 2:
        raise ValueError(f"from_pretrained: embeddings is {embeddings.shape}; expected 2 dimensions")
    made.num_embeddings, made.embedding_dim = embeddings.shape
    made.padding_idx = padding_row("from_pretrained", padding_idx, made.num_embeddings)
    made.weight = Parameter(embeddings, requires_grad=not freeze)


def _draw(layer: Embedding | EmbeddingBag) -> None:
    init.normal_(layer.weight)
    if layer.padding_idx is not None:
        with no_grad():
            layer.weight[layer.padding_idx] = 0.0
