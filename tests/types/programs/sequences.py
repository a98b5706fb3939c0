"""Sequences of different lengths, bags of embeddings, images of another size."""

from __future__ import annotations

import tilegrad as tg
from tilegrad import nn
from tilegrad.nn import functional as F
from tilegrad.nn.utils import rnn


def packed(sequences: list[tg.Tensor], lengths: list[int]) -> tuple[tg.Tensor, tg.Tensor]:
    batch = rnn.pad_sequence(sequences, batch_first=True, padding_value=-1.0)
    first = rnn.pack_padded_sequence(batch, lengths, batch_first=True, enforce_sorted=False)
    data, sizes, order, _ = first
    longest: int = sizes[0]
    made = rnn.PackedSequence(data * 2, sizes, order).double().to("cpu")
    parts: list[tg.Tensor] = rnn.unpack_sequence(made)
    again = rnn.pack_sequence(parts, enforce_sorted=False)
    return rnn.pad_packed_sequence(again, total_length=longest + 9)


class Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(100, 8, mode="sum", padding_idx=0)
        self.other = nn.EmbeddingBag.from_pretrained(tg.randn(100, 8), freeze=False, mode="max")

    def forward(self, tokens: tg.Tensor, offsets: tg.Tensor) -> tg.Tensor:
        return self.words(tokens, offsets) + self.other(tokens, offsets) * F.embedding_bag(tokens, self.words.weight)


def larger(images: tg.Tensor) -> tg.Tensor:
    net = nn.Sequential(nn.ReflectionPad2d(1), nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.PixelShuffle(2))
    y = F.interpolate(net(images), size=(32, 32), mode="bicubic", align_corners=False)
    return nn.UpsamplingNearest2d(scale_factor=2)(F.pixel_unshuffle(y, 2))
