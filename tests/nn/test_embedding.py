"""Embedding and one_hot against torch: repeated indices, padding, pretrained tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import tilegrad as tg
from tests.compare import assert_same
from tests.nn.versus import assert_function, assert_module
from tilegrad import nn
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

INDICES = {
    "vector": np.array([0, 4, 4, 2, 4]),
    "matrix": np.array([[1, 3, 1], [0, 0, 4]]),
    "scalar": np.array(3),
    "none": np.zeros((0, 2), np.int64),
    "int32": np.array([1, 1, 2], np.int32),
}


@pytest.mark.parametrize("padding_idx", [None, 4, -2, 0], ids=str)
@pytest.mark.parametrize("name", INDICES)
def test_function(name, padding_idx, dtype, rng):
    weight = rng.standard_normal((5, 3)).astype(dtype)
    options = {"padding_idx": padding_idx}
    assert_function(
        lambda i, w: F.embedding(i, w, **options), lambda i, w: TF.embedding(i, w, **options), INDICES[name], weight
    )


@pytest.mark.parametrize("padding_idx", [None, 1, -1], ids=str)
def test_layer(padding_idx, dtype, rng):
    ours = nn.Embedding(5, 3, padding_idx, dtype=dtype)
    theirs = torch.nn.Embedding(5, 3, padding_idx)
    assert repr(ours) == repr(theirs)
    if dtype == np.float32:
        assert_module(ours, theirs, INDICES["matrix"])


def test_start():
    tg.manual_seed(0)
    weight = nn.Embedding(1000, 50, padding_idx=7).weight.detach().numpy()
    assert_same(weight[7], np.zeros(50, np.float32))
    rest = np.delete(weight, 7, axis=0)
    assert abs(rest.mean()) < 5 / np.sqrt(rest.size)  # five standard errors
    assert abs(rest.var() - 1) < 5 * np.sqrt(2 / rest.size)


def test_from_pretrained(rng):
    table = Tensor(rng.standard_normal((5, 3)).astype(np.float32))
    frozen = nn.Embedding.from_pretrained(table)
    assert not frozen.weight.requires_grad
    assert_same(frozen(tg.tensor([4, 0])).numpy(), table.numpy()[[4, 0]])
    free = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=-1)
    assert free.weight.requires_grad and repr(free) == "Embedding(5, 3, padding_idx=4)"
    free(tg.tensor([4, 0])).sum().backward()
    assert_same(free.weight.grad.numpy(), np.array([[1] * 3] + [[0] * 3] * 4, np.float32))


def test_indices_written_to_before_backward():
    layer, at = nn.Embedding(5, 3), tg.tensor([1, 2])
    y = layer(at)
    at.fill_(0)
    with pytest.raises(RuntimeError, match="saved by 'embedding' was written to in place"):
        y.sum().backward()


@pytest.mark.parametrize("classes", [-1, 5, 9])
def test_one_hot(classes):
    at = INDICES["matrix"]
    assert_same(F.one_hot(Tensor(at), classes).numpy(), TF.one_hot(torch.from_numpy(at), classes).numpy())


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: nn.Embedding(5, 3)(tg.tensor([1, 5])),
            IndexError,
            "embedding: indices run from 1 to 5; expected 0 <= index < 5",
        ),
        (lambda: nn.Embedding(5, 3)(tg.tensor([-1])), IndexError, "embedding: indices run from -1 to -1; expected"),
        (lambda: nn.Embedding(5, 3)(tg.tensor([1.0])), TypeError, "embedding: input is float32; expected integers"),
        (lambda: nn.Embedding(5, 3)(tg.tensor([True])), TypeError, "embedding: input is bool; expected integers"),
        (lambda: nn.Embedding(5, 3)([1]), TypeError, "embedding: input is list; expected a tensor"),
        (lambda: nn.Embedding(-5, 3), ValueError, "Embedding: num_embeddings is -5; expected >= 0"),
        (lambda: nn.Embedding(5, 3, 5), ValueError, "Embedding: padding_idx is 5; expected -5 <= padding_idx < 5"),
        (lambda: nn.Embedding(5, 3, 1.0), TypeError, "Embedding: padding_idx is 1.0; expected an int or None"),
        (
            lambda: F.embedding(tg.tensor([1]), tg.ones(3)),
            ValueError,
            "embedding: weight is (3,); expected (V, D)",
        ),
        (lambda: nn.Embedding.from_pretrained(tg.ones(3)), ValueError, "from_pretrained: embeddings is (3,)"),
        (lambda: nn.Embedding.from_pretrained([[1.0]]), TypeError, "from_pretrained: embeddings is list"),
        (
            lambda: F.one_hot(tg.tensor([3]), 3),
            ValueError,
            "one_hot: values run from 3 to 3; expected 0 <= value < 3",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)
