"""A table of vectors."""

from __future__ import annotations

from typing import Any

from tilegrad.autograd.grad_mode import no_grad
from tilegrad.create import empty
from tilegrad.nn import functional as F
from tilegrad.nn import init
from tilegrad.nn.functional.arguments import size
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
        if not isinstance(embeddings, Tensor):
            raise TypeError(f"from_pretrained: embeddings is {type(embeddings).__name__}; expected a tensor")
        if embeddings.ndim != 2:
            raise ValueError(f"from_pretrained: embeddings is {embeddings.shape}; expected 2 dimensions")
        made = cls(0, 0)
        made.num_embeddings, made.embedding_dim = embeddings.shape
        made.padding_idx = padding_row("from_pretrained", padding_idx, made.num_embeddings)
        made.weight = Parameter(embeddings, requires_grad=not freeze)
        return made

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """The rows that the input names."""
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else text + f", padding_idx={self.padding_idx}"
