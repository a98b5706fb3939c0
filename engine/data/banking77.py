"""Banking77: 13,083 questions of a bank's customers, each with one of 77 intents. CC BY 4.0.

Source: I. Casanueva, T. Temcinas, D. Gerz, M. Henderson, I. Vulic, "Efficient Intent Detection with Dual Sentence
Encoders", 2nd Workshop on NLP for Conversational AI, ACL 2020.
"""

import csv
import io
import os
from pathlib import Path

import numpy as np

from tilegrad.kernels.system.paths import user_path

SHA256 = {
    "train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
    "test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
}
_URL = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data"


def banking77(
    root: str | os.PathLike[str] | None = None, split: str = "train"
) -> tuple[list[str], np.ndarray, list[str]]:
    """(texts, labels (N,) int64, names of the intents in alphabetical order, which labels are places in).

    root   a folder with train.csv and test.csv (text,category; any data set of that form), or None: the user's
           cache, filled on first use from the data set's repository, with sha256 checked
    split  "train" (10,003) or "test" (3,080); intents are those of the training texts

    Raises ValueError for another split, for a file of another form, and for an intent that training lacks;
    FileNotFoundError, RuntimeError where the files cannot be had.
    """
    if split not in ("train", "test"):
        raise ValueError(f'banking77: split is {split!r}; expected "train" or "test"')
    rows = {name: _rows(name, data) for name, data in _files(root).items()}
    names = sorted({intent for _, intent in rows["train.csv"]})
    numbers = {name: i for i, name in enumerate(names)}
    texts, intents = zip(*rows[f"{split}.csv"])
    unknown = sorted(set(intents) - numbers.keys())
    if unknown:
        raise ValueError(f"banking77: {split}.csv has the category {unknown[0]!r}; expected one of train.csv's")
    return list(texts), np.array([numbers[intent] for intent in intents], np.int64), names


def _files(root: str | os.PathLike[str] | None) -> dict[str, bytes | memoryview]:
    if root is not None:
        folder = user_path(root)
        return {name: Path(folder / name).read_bytes() for name in SHA256}
    from tilegrad.data import fetch  # here: only a download needs it

    try:
        return dict(fetch.cached("banking77", list(SHA256), SHA256, [fetch.mirror(_URL, gzipped=False)]))
    except RuntimeError as error:
        raise RuntimeError(f"banking77: {error}\nA folder with {', '.join(SHA256)} does as well.") from None


def _rows(name: str, data: bytes | memoryview) -> list[tuple[str, str]]:
    head, *rows = csv.reader(io.StringIO(bytes(data).decode("utf-8"), newline="")) if len(data) else [[]]
    if head != ["text", "category"] or not rows or any(len(row) != 2 for row in rows):
        raise ValueError(f"banking77: {name} begins with {head!r}; expected text,category and rows of two fields")
    return [(text, intent) for text, intent in rows]
