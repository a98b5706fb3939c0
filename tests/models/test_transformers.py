"""The encoder beside Hugging Face's package `transformers`, where it is installed: from a folder that it has saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.models.test_bert import SMALL, N, T
from tilegrad.models import bert
from tilegrad.tensor import Tensor

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu", "silu"])
def test_vectors_are_theirs(act, tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL | {"hidden_act": act, "initializer_range": 0.4})
    theirs = transformers.BertModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = bert.from_pretrained(tmp_path, add_pooling_layer=True)

    rng = np.random.default_rng(0)
    mask = np.arange(T) < np.array([[T], [3], [1], [5]])
    tokens, kinds = np.where(mask, rng.integers(1, SMALL["vocab_size"], (N, T)), 0), rng.integers(0, 2, (N, T))
    with torch.no_grad():
        want = theirs(*(torch.from_numpy(x) for x in (tokens, mask.astype(np.int64), kinds)))
    with tg.no_grad():
        y = ours(Tensor(tokens), Tensor(mask), Tensor(kinds))
        pooled, mean = ours.pooler(y).numpy(), bert.mean_pooled(y, Tensor(mask)).numpy()
    hidden = want.last_hidden_state.numpy()
    assert np.abs(y.numpy() - hidden)[mask].max() < 1e-5
    assert np.abs(pooled - want.pooler_output.numpy()).max() < 1e-5
    weights = mask[..., None].astype(np.float64)
    assert np.abs(mean - (hidden * weights).sum(1) / weights.sum(1)).max() < 1e-5
