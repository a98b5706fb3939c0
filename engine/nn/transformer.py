"""Transformer layers, stacks of them, and the whole (Vaswani et al. 2017; normalised first: Xiong et al. 2020).

Sums with what went around a sublayer and the normalisation after them are one primitive, and so are the first linear
layer and its activation, where nobody can see what lies between. Results are those of the parts within rounding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from tilegrad.create import full
from tilegrad.nn import functional as F
from tilegrad.nn import init
from tilegrad.nn.attention import MultiheadAttention
from tilegrad.nn.containers import ModuleList
from tilegrad.nn.dropout import Dropout
from tilegrad.nn.functional.arguments import size
from tilegrad.nn.fused import activated, normalised_sum
from tilegrad.nn.linear import Linear
from tilegrad.nn.module import Module
from tilegrad.nn.norm import LayerNorm
from tilegrad.ops.shape import triu
from tilegrad.tensor import Tensor

_ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


class _Layer(Module):
    """What layers of encoder and decoder share: the feed-forward part, and sums that are normalised."""

    activation: Callable[[Tensor], Tensor]
    norm_first: bool

    def __init__(self, activation: Any, norm_first: bool) -> None:
        super().__init__()
        if isinstance(activation, str) and activation not in _ACTIVATIONS:
            raise ValueError(
                f"{type(self).__name__}: activation is {activation!r}; expected 'relu', 'gelu' or a function"
            )
        self.activation = _ACTIVATIONS[activation] if isinstance(activation, str) else activation
        self.norm_first = norm_first

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(activated(self.linear1, self.activation, x)))

    def _through(self, x: Tensor, parts: list[tuple[Callable[[Tensor], Tensor], Any]]) -> Tensor:
        """x through sublayers, each with its normalisation: x + f(norm(x)), or norm(x + f(x))."""
        if not self.norm_first:
            for f, norm in parts:
                x = normalised_sum(norm, f(x), x)[0]
            return x
        added = None
        for f, norm in parts:
            normalised, x = (norm(x), x) if added is None else normalised_sum(norm, added, x)
            added = f(normalised)
        return x if added is None else x + added


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward net, each with dropout, a sum with its input, and layer_norm.

    d_model          width of the input, (S, N, d_model), or (N, S, d_model) with batch_first
    nhead            heads of the attention
    dim_feedforward  width between linear1 and linear2
    activation       "relu", "gelu", or a function of a tensor
    norm_first       x + f(norm(x)) instead of norm(x + f(x))
    bias             whether linear layers and norms have one
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(activation, norm_first)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **made)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **made)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **made)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """The layer's output, of src's shape. Masks are those of MultiheadAttention."""

        def attention(x: Tensor) -> Tensor:
            return self.dropout1(self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)[0])

        def feed_forward(x: Tensor) -> Tensor:
            return self.dropout2(self._feed_forward(x))

        return self._through(src, [(attention, self.norm1), (feed_forward, self.norm2)])


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to `memory`, and a feed-forward net; arguments as TransformerEncoderLayer has them."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(activation, norm_first)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **made)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **made)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **made)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **made)
        self.norm3 = LayerNorm(d_model, layer_norm_eps, bias=bias, **made)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The layer's output, of tgt's shape; memory is the encoder's. Masks are those of MultiheadAttention."""

        def attention(x: Tensor) -> Tensor:
            found = self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal)
            return self.dropout1(found[0])

        def to_memory(x: Tensor) -> Tensor:
            options: Any = memory_key_padding_mask, False, memory_mask
            found = self.multihead_attn(x, memory, memory, *options, is_causal=memory_is_causal)
            return self.dropout2(found[0])

        def feed_forward(x: Tensor) -> Tensor:
            return self.dropout3(self._feed_forward(x))

        return self._through(tgt, [(attention, self.norm1), (to_memory, self.norm2), (feed_forward, self.norm3)])


class _Stack(Module):
    """Copies of a layer, which start alike, and a norm after the last one or None."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        super().__init__()
        self.num_layers = size(type(self).__name__, "num_layers", num_layers)
        self.layers = ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.register_module("norm", norm)

    def _finished(self, x: Tensor) -> Tensor:
        norm: Any = self.norm
        return x if norm is None else norm(x)


class TransformerEncoder(_Stack):
    """num_layers copies of a TransformerEncoderLayer, one after the other, and `norm`.

    enable_nested_tensor and mask_check are PyTorch's, and change nothing here: places that are left out as keys are
    computed like the others, where PyTorch's evaluation gives zeros.
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__(encoder_layer, num_layers, norm)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """The last layer's output, of src's shape. is_causal: a promise that mask is the causal one."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return self._finished(src)


class TransformerDecoder(_Stack):
    """num_layers copies of a TransformerDecoderLayer, one after the other, and `norm`."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The last layer's output, of tgt's shape."""
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, bool(tgt_is_causal), memory_is_causal)
        return self._finished(tgt)


class Transformer(Module):
    """Encoder and decoder; every matrix starts by Xavier's rule. custom_encoder and custom_decoder replace them."""

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu,
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        options: Any = dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, **made)

        if custom_encoder is None:
            layer: Module = TransformerEncoderLayer(d_model, nhead, *options, **made)
            custom_encoder = TransformerEncoder(layer, num_encoder_layers, norm())
        if custom_decoder is None:
            layer = TransformerDecoderLayer(d_model, nhead, *options, **made)
            custom_decoder = TransformerDecoder(layer, num_decoder_layers, norm())
        self.encoder, self.decoder = custom_encoder, custom_decoder
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The decoder's output, of tgt's shape."""
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        padding = tgt_key_padding_mask, memory_key_padding_mask
        return self.decoder(tgt, memory, tgt_mask, memory_mask, *padding, tgt_is_causal, memory_is_causal)

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """(sz, sz): 0 where the query may attend, minus infinity above the diagonal."""
        return triu(full((sz, sz), -math.inf, device=device, dtype=dtype), 1)
