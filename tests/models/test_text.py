"""Tokens of texts, their padding, and batches of texts that are about as long."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tilegrad.models import text


def tokenizer_json(path, words, longest=4):
    """A tokenizer of whole words whose file asks for truncation and padding, as pretrained ones do."""
    tokens = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    special = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}  # noqa: E731
    ids = {name: {"id": name, "ids": [tokens[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    content = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": longest, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": longest},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, special("[SEP]")],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": ids,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": tokens, "unk_token": "[UNK]"},
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def tokenizer(tmp_path):
    tokenizer_json(tmp_path / "tokenizer.json", ["one", "two", "three"])
    return text.Tokenizer(tmp_path)


def test_texts_are_neither_cut_nor_padded(tokenizer):
    """Whatever the file asks for."""
    rows = tokenizer.encode(["One two three one two", "", "four"])
    assert [row.tolist() for row in rows] == [[2, 4, 5, 6, 4, 5, 3], [2, 3], [2, 1, 3]]
    assert all(row.dtype == np.int64 for row in rows) and tokenizer.vocab_size == 7


def test_the_longest_that_is_asked_for_keeps_the_end(tokenizer):
    assert tokenizer.encode(["one two three one"], longest=4)[0].tolist() == [2, 4, 5, 3]
    assert len(tokenizer.encode(["one two three one"])[0]) == 6  # the next call asks for none


def test_a_file_by_its_name(tmp_path):
    path = tokenizer_json(tmp_path / "words.json", ["one"])
    assert text.Tokenizer(path).encode(["one"])[0].tolist() == [2, 4, 3]


def test_errors_of_tokenizers(tmp_path, tokenizer, monkeypatch):
    with pytest.raises(TypeError, match="expected a sequence of str"):
        tokenizer.encode("one")
    with pytest.raises(FileNotFoundError):
        text.Tokenizer(tmp_path / "none")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json cannot be read"):
        text.Tokenizer(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r'pip install "tilegrad\[text\]"'):
        text.Tokenizer(tmp_path)


def test_padded():
    tokens, mask = text.padded([np.array([5, 6, 7]), np.array([8])], 4, pad=9)
    assert tokens.tolist() == [[5, 6, 7, 9], [8, 9, 9, 9]]
    assert mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert text.padded([np.array([5, 6])])[0].shape == (1, 2) and text.padded([])[0].shape == (0, 0)
    with pytest.raises(ValueError, match="a row has 2 tokens; expected at most 1"):
        text.padded([np.array([5, 6])], 1)
    with pytest.raises(ValueError, match="row 1 has no tokens; expected at least one"):
        text.padded([np.array([5, 6]), np.array([], np.int64)], 4)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_batches_hold_every_text_once_and_little_padding(seed):
    lengths = np.random.default_rng(5).integers(1, 60, 203)
    rng = None if seed is None else np.random.default_rng(seed)
    batches = list(text.batches_by_length(lengths.tolist(), 16, 8, rng))
    assert sorted(np.concatenate([index for index, _ in batches]).tolist()) == list(range(203))
    assert sorted(len(index) for index, _ in batches) == [11] + [16] * 12
    for index, length in batches:
        assert length % 8 == 0 and length - 8 < lengths[index].max() <= length
    assert sum(len(index) * length for index, length in batches) < 1.25 * lengths.sum()


def test_an_order_of_batches_is_its_generators():
    draw = lambda seed: [  # noqa: E731
        index.tolist() for index, _ in text.batches_by_length([3] * 40, 8, rng=np.random.default_rng(seed))
    ]
    assert draw(0) == draw(0) != draw(1)
    assert [index.tolist() for index, _ in text.batches_by_length([3] * 4, 2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="batch_size is 0"):
        list(text.batches_by_length([1], 0))
