"""Texts as numbers: a tokenizer's rows, padded to one length, in batches of texts that are about as long.

The tokenizer is Hugging Face's package `tokenizers` (pip install "tilegrad[text]").
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Tokenizer:
    """The tokenizer in a folder with tokenizer.json, or in that file, without the padding and truncation set in it.

    Raises ImportError without the package, FileNotFoundError, ValueError for a file that is none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError('Tokenizer: expected the package tokenizers; pip install "tilegrad[text]"') from error
        file = Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        text = file.read_text(encoding="utf-8")
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the package raises this very class
            raise ValueError(f"Tokenizer: {file} cannot be read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str], longest: int | None = None) -> list[np.ndarray]:
        """Each text's tokens (int64), those that stand for its begin and end included; `longest` at most."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("Tokenizer.encode: expected a sequence of str")
        if longest is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(longest)
        return [np.array(found.ids, np.int64) for found in self._tokenizer.encode_batch(list(texts))]


def padded(rows: Sequence[np.ndarray], length: int | None = None, pad: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(tokens (N, length) int64, mask (N, length) bool) of rows of tokens; length: that of the longest by default.

    Raises ValueError for a row that is longer, and for one without tokens: nothing could attend to anything in it.
    """
    empty = next((i for i, row in enumerate(rows) if len(row) == 0), None)
    if empty is not None:
        raise ValueError(f"padded: row {empty} has no tokens; expected at least one")
    longest = max((len(row) for row in rows), default=0)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"padded: a row has {longest} tokens; expected at most {length}")
    tokens, mask = np.full((len(rows), length), pad, np.int64), np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    return tokens, mask


def batches_by_length(
    lengths: Sequence[int], batch_size: int, multiple: int = 8, rng: np.random.Generator | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """(places in `lengths`, a length for all of them, a multiple) of every batch: little padding, and few shapes.

    Texts are sorted by length, in random order among equals, and batches come in random order, if there is an rng.
    Only one batch may be smaller than the others.
    """
    if batch_size < 1 or multiple < 1:
        raise ValueError(f"batches_by_length: batch_size is {batch_size}, multiple {multiple}; expected at least 1")
    sizes = np.asarray(lengths)
    order = np.arange(len(sizes)) if rng is None else rng.permutation(len(sizes))
    order = order[np.argsort(sizes[order], kind="stable")]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for i in range(len(batches)) if rng is None else rng.permutation(len(batches)):
        yield batches[i], -(-int(sizes[batches[i]].max()) // multiple) * multiple
