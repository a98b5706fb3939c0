"""embedding_bag against torch: modes, empty bags, offsets, padding, factors; gradients of both orders."""

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

V = 6
BAGS = {  # input, offsets
    "rows": (np.array([[1, 3, 1], [0, 0, 4], [5, 2, 2]]), None),
    "offsets": (np.array([0, 4, 4, 2, 4, 1, 5]), np.array([0, 2, 5])),
    "empty bags": (np.array([0, 4, 4, 2]), np.array([0, 0, 3, 3, 4])),
    "one empty bag": (np.zeros(0, np.int64), np.array([0])),
    "int32": (np.array([1, 1, 2], np.int32), np.array([0, 1], np.int32)),
}
every_mode = pytest.mark.parametrize("mode", ["sum", "mean", "max"])


@every_mode
@pytest.mark.parametrize("padding_idx", [None, 4, -5], ids=str)
@pytest.mark.parametrize("name", BAGS)
def test_function(name, padding_idx, mode, dtype, rng):
    index, offsets = BAGS[name]
    weight = rng.standard_normal((V, 3)).astype(dtype)
    options = {"mode": mode, "padding_idx": padding_idx}
    arrays = (index, weight) if offsets is None else (index, weight, offsets)
    assert_function(
        lambda *a: F.embedding_bag(*a, **options), lambda *a: TF.embedding_bag(*a, **options), *arrays, repeated=-1
    )


@every_mode
def test_empty_input_gives_a_zero_a_bag(mode):
    """Which torch does not take."""
    weight = tg.ones(V, 3)
    for shape in ((2, 0), (0, 3)):
        got = F.embedding_bag(tg.zeros(*shape, dtype="int64"), weight, mode=mode)
        assert_same(got.numpy(), np.zeros((shape[0], 3), np.float32))


@every_mode
def test_include_last_offset(mode, dtype, rng):
    weight, index, ends = rng.standard_normal((V, 3)).astype(dtype), np.array([0, 4, 4, 2, 1]), np.array([0, 3, 3, 5])
    options = {"mode": mode, "include_last_offset": True}
    assert_function(
        lambda *a: F.embedding_bag(*a, **options), lambda *a: TF.embedding_bag(*a, **options), index, weight, ends
    )


@pytest.mark.parametrize("padding_idx", [None, 4], ids=str)
@pytest.mark.parametrize("name", ["rows", "offsets", "empty bags"])
def test_factors(name, padding_idx, dtype, rng):
    index, offsets = BAGS[name]
    arrays = [index, rng.standard_normal((V, 3)).astype(dtype), rng.standard_normal(index.shape).astype(dtype)]
    options = {"mode": "sum", "padding_idx": padding_idx}

    def call(lib, tensor):
        return lambda i, w, f: lib.embedding_bag(
            i, w, None if offsets is None else tensor(offsets), per_sample_weights=f, **options
        )

    assert_function(call(F, Tensor), call(TF, torch.from_numpy), *arrays)


@every_mode
def test_gradients_of_gradients(mode, rng):
    index, offsets = (Tensor(a) for a in BAGS["empty bags"])
    weight = Tensor(rng.standard_normal((V, 3)), requires_grad=True)
    factors = Tensor(rng.standard_normal(4), requires_grad=True)

    def call(w):
        return F.embedding_bag(index, w, offsets, mode=mode, padding_idx=2).square()

    assert tg.gradcheck(call, [weight]) and tg.gradgradcheck(call, [weight])
    if mode == "sum":

        def weighted(w, f):
            return F.embedding_bag(index, w, offsets, mode="sum", per_sample_weights=f, padding_idx=2).square()

        assert tg.gradcheck(weighted, [weight, factors]) and tg.gradgradcheck(weighted, [weight, factors])


@every_mode
@pytest.mark.parametrize("padding_idx", [None, -1], ids=str)
def test_layer(mode, padding_idx):
    for arrays in (BAGS["rows"][:1], BAGS["empty bags"]):
        ours = nn.EmbeddingBag(V, 3, mode=mode, padding_idx=padding_idx)
        theirs = torch.nn.EmbeddingBag(V, 3, mode=mode, padding_idx=padding_idx)
        assert repr(ours) == repr(theirs)
        assert_module(ours, theirs, *arrays)


def test_start():
    tg.manual_seed(0)
    layer = nn.EmbeddingBag(1000, 50, padding_idx=7)
    weight = layer.weight.detach().numpy()
    assert layer.mode == "mean" and not layer.include_last_offset
    assert_same(weight[7], np.zeros(50, np.float32))
    rest = np.delete(weight, 7, axis=0)
    assert abs(rest.mean()) < 5 / np.sqrt(rest.size)  # five standard errors
    assert abs(rest.var() - 1) < 5 * np.sqrt(2 / rest.size)


def test_from_pretrained(rng):
    table = Tensor(rng.standard_normal((V, 3)).astype(np.float32))
    frozen = nn.EmbeddingBag.from_pretrained(table, mode="sum", include_last_offset=True)
    assert not frozen.weight.requires_grad and repr(frozen) == "EmbeddingBag(6, 3, mode='sum')"
    got = frozen(tg.tensor([4, 0, 1]), tg.tensor([0, 2]))
    assert_same(got.numpy(), table.numpy()[[4, 0]].sum(0, keepdims=True))
    free = nn.EmbeddingBag.from_pretrained(table, freeze=False, padding_idx=-1)
    free(tg.tensor([[4, 5, 0]])).sum().backward()
    assert_same(free.weight.grad.numpy(), np.array([[0.5] * 3] + [[0] * 3] * 3 + [[0.5] * 3] + [[0] * 3], np.float32))


@every_mode
def test_halves_are_summed_in_float32(mode):
    weight = tg.full((V, 2), 60000.0, dtype="float16")
    got = F.embedding_bag(tg.tensor([[1, 2, 3, 4]]), weight, mode=mode).numpy()
    assert_same(got, np.full((1, 2), np.inf if mode == "sum" else 60000, np.float16))


def test_a_padding_row_of_nan_reaches_no_bag():
    weight = tg.tensor([[1.0], [np.nan], [2.0]])
    for mode in ("sum", "mean", "max"):
        assert F.embedding_bag(tg.tensor([[0, 1]]), weight, mode=mode, padding_idx=1).item() == 1
    options = {"mode": "sum", "padding_idx": 1, "per_sample_weights": tg.tensor([[3.0, 5.0]])}
    assert F.embedding_bag(tg.tensor([[0, 1]]), weight, **options).item() == 3


W, I, O = tg.ones(V, 3), tg.tensor([1, 2, 3]), tg.tensor([0, 2])


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: F.embedding_bag(I, W), ValueError, "embedding_bag: input is (3,); expected offsets with it"),
        (lambda: F.embedding_bag(I[None], W, O), ValueError, "embedding_bag: input is (1, 3), a bag a row; expected"),
        (lambda: F.embedding_bag(I[None, None], W), ValueError, "embedding_bag: input is (1, 1, 3); expected (B, L)"),
        (lambda: F.embedding_bag(I.float(), W, O), TypeError, "embedding_bag: input is float32; expected integers"),
        (lambda: F.embedding_bag(I, W, O.float()), TypeError, "embedding_bag: offsets is float32; expected integers"),
        (lambda: F.embedding_bag(I, W, O[None]), ValueError, "embedding_bag: offsets is (1, 2); expected a vector"),
        (lambda: F.embedding_bag(I, W, [0]), TypeError, "embedding_bag: offsets is list; expected a tensor"),
        (lambda: F.embedding_bag(I, W, O + 1), ValueError, "embedding_bag: offsets[0] is 1; expected 0"),
        (lambda: F.embedding_bag(I, W, O * 2), ValueError, "sum_bags: offsets[1] is 4; expected 0 <= offsets <= 3"),
        (lambda: F.embedding_bag(I + 3, W, O), IndexError, "sum_bags: index[2] is 6; expected 0 <= index < 6"),
        (lambda: F.embedding_bag(I, W[0], O), ValueError, "embedding_bag: weight is (3,); expected (V, D)"),
        (lambda: F.embedding_bag(I, W, O, mode="min"), ValueError, "embedding_bag: mode is 'min'; expected one of"),
        (lambda: F.embedding_bag(I, W, O, padding_idx=6), ValueError, "embedding_bag: padding_idx is 6; expected"),
        (lambda: F.embedding_bag(I, W, O, per_sample_weights=W[:3, 0]), NotImplementedError,
         "embedding_bag: mode is 'mean'; expected 'sum' with per_sample_weights"),
        (lambda: F.embedding_bag(I, W, O, mode="sum", per_sample_weights=W), ValueError,
         "embedding_bag: per_sample_weights is (6, 3) but input (3,)"),
        (lambda: F.embedding_bag(I, W, O, mode="sum", per_sample_weights=I), TypeError,
         "embedding_bag: per_sample_weights is int64 but weight float32"),
        (lambda: F.embedding_bag(I, W, O[:0], include_last_offset=True), ValueError,
         "embedding_bag: offsets is (0,); expected a vector of at least 1"),
        (lambda: nn.EmbeddingBag(3, 2, mode="min"), ValueError, "EmbeddingBag: mode is 'min'"),
    ],
)  # fmt: skip
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)
