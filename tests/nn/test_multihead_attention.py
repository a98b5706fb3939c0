"""MultiheadAttention against torch's: outputs, weights, gradients; masks of both kinds; without a batch; bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close
from tests.nn.versus import load_from_torch, randomize
from tilegrad import nn
from tilegrad.gradcheck import gradgradcheck
from tilegrad.tensor import Tensor

E, HEADS, N, L, S = 8, 2, 3, 4, 5


def pair(dtype, rng, **options):
    theirs = torch.nn.MultiheadAttention(E, HEADS, **options)
    ours = nn.MultiheadAttention(E, HEADS, **options, dtype=dtype)
    theirs = theirs.to(getattr(torch, np.dtype(dtype).name))
    randomize(theirs, rng)
    load_from_torch(ours, theirs)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    return ours, theirs


def compare(ours, theirs, arrays, same, ours_options, theirs_options):
    """Outputs, weights, and gradients of inputs and parameters; `same` says which inputs are the same tensor."""
    runs = []
    for module, wide in ((theirs, True), (theirs, False)):
        module = copy.deepcopy(module).double() if wide else module
        module.zero_grad()
        leaves = [torch.from_numpy(a.astype(np.float64) if wide else a.copy()).requires_grad_() for a in arrays]
        options = {
            k: v.double() if wide and torch.is_tensor(v) and v.is_floating_point() else v
            for k, v in theirs_options.items()
        }
        y, w = module(*[leaves[i] for i in same], **options)
        total = (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()
        if w is not None:
            total = total + (w * torch.linspace(1, 3, w.numel(), dtype=y.dtype).reshape(w.shape)).sum()
        total.backward()
        grads = [x.grad for x in leaves] + [p.grad for p in module.parameters()]
        runs.append([y, w, *grads])
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    y, w = ours(*[leaves[i] for i in same], **ours_options)
    weigh = lambda x, a, b: (x * tg.linspace(a, b, x.numel(), dtype=x.dtype).reshape(x.shape)).sum()  # noqa: E731
    total = weigh(y, -1, 2) if w is None else weigh(y, -1, 2) + weigh(w, 1, 3)
    total.backward()
    found = [y, w, *[x.grad for x in leaves], *[p.grad for p in ours.parameters()]]
    for got, want, baseline in zip(found, *runs, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            assert got.shape == tuple(want.shape)
            assert_close(got.detach().numpy(), want.detach().numpy(), baseline.detach().numpy(), scale=4.0)


OPTIONS = [
    {},
    {"bias": False},
    {"batch_first": True},
    {"kdim": 6, "vdim": 7},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True, "kdim": 3},
]


@pytest.mark.parametrize("call", [{}, {"need_weights": False}, {"average_attn_weights": False}], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_three_inputs(options, call, dtype, rng):
    ours, theirs = pair(dtype, rng, **options)
    shapes = (L, N, E), (S, N, options.get("kdim", E)), (S, N, options.get("vdim", E))
    arrays = [rng.standard_normal(s).astype(dtype) for s in shapes]
    if options.get("batch_first"):
        arrays = [a.swapaxes(0, 1).copy() for a in arrays]
    compare(ours, theirs, arrays, (0, 1, 2), call, call)


@pytest.mark.parametrize("same", [(0, 0, 0), (0, 1, 1)], ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_inputs_that_are_the_same_tensor(same, batch_first, need_weights, dtype, rng):
    ours, theirs = pair(dtype, rng, batch_first=batch_first)
    arrays = [
        rng.standard_normal(s).astype(dtype) for s in [(L, N, E), (N if batch_first else S, N, E)][: max(same) + 1]
    ]
    if batch_first:
        arrays = [rng.standard_normal((N, t, E)).astype(dtype) for t in (L, S)[: max(same) + 1]]
    options = {"need_weights": need_weights}
    compare(ours, theirs, arrays, same, options, options)


def masks(rng, dtype, kind, batch=True):
    attention = rng.random((L, S)) < 0.4
    attention[:, 0] = False
    by_head = rng.random((N * HEADS, L, S)) < 0.4
    by_head[..., 0] = False
    padding = rng.random((N, S)) < 0.4
    padding[:, 0] = False
    added = rng.standard_normal((L, S)).astype(dtype)
    return {
        "attention": {"attn_mask": attention},
        "by head": {"attn_mask": by_head},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": attention, "key_padding_mask": padding},
        "added": {"attn_mask": added},
        "added and padding": {"attn_mask": added, "key_padding_mask": np.where(padding, -np.inf, 0).astype(dtype)},
    }[kind]


@pytest.mark.parametrize("kind", ["attention", "by head", "padding", "both", "added", "added and padding"])
@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True, "add_zero_attn": True}], ids=["plain", "longer"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_masks(kind, options, need_weights, dtype, rng):
    ours, theirs = pair(dtype, rng, **options)
    arrays = [rng.standard_normal(s).astype(dtype) for s in ((L, N, E), (S, N, E), (S, N, E))]
    given = masks(rng, dtype, kind)
    compare(
        ours,
        theirs,
        arrays,
        (0, 1, 2),
        {"need_weights": need_weights} | {k: Tensor(v) for k, v in given.items()},
        {"need_weights": need_weights} | {k: torch.from_numpy(v) for k, v in given.items()},
    )


def test_masks_of_both_kinds_are_added(rng):
    """torch warns of it, and does the same."""
    ours, _ = pair(np.float64, rng)
    q, k = (Tensor(rng.standard_normal(s)) for s in ((L, N, E), (S, N, E)))
    given = masks(rng, np.float64, "both")
    added = {name: Tensor(np.where(mask, -np.inf, 0.0)) for name, mask in given.items()}
    want = ours(q, k, k, attn_mask=added["attn_mask"], key_padding_mask=added["key_padding_mask"])
    mixed = ours(q, k, k, attn_mask=added["attn_mask"], key_padding_mask=Tensor(given["key_padding_mask"]))
    assert all((a == b).all().item() for a, b in zip(want, mixed))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_causal(need_weights, masked, dtype, rng):
    ours, theirs = pair(dtype, rng)
    x = rng.standard_normal((L, N, E)).astype(dtype)
    mask = np.triu(np.ones((L, L), bool), 1)
    padding = np.zeros((N, L), bool)
    padding[:, -1] = masked
    common = {"need_weights": need_weights, "is_causal": True}
    extra = {"key_padding_mask": padding} if masked else {}
    compare(
        ours,
        theirs,
        [x],
        (0, 0, 0),
        common | {"attn_mask": Tensor(mask)} | {k: Tensor(v) for k, v in extra.items()},
        common | {"attn_mask": torch.from_numpy(mask)} | {k: torch.from_numpy(v) for k, v in extra.items()},
    )


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("same", [(0, 0, 0), (0, 1, 1), (0, 1, 2)], ids=str)
def test_without_a_batch(batch_first, same, dtype, rng):
    ours, theirs = pair(dtype, rng, batch_first=batch_first)
    arrays = [rng.standard_normal(s).astype(dtype) for s in [(L, E), (S, E), (S, E)][: max(same) + 1]]
    keys = L if same == (0, 0, 0) else S
    mask = np.zeros(keys, bool)
    mask[-1] = True
    compare(
        ours, theirs, arrays, same, {"key_padding_mask": Tensor(mask)}, {"key_padding_mask": torch.from_numpy(mask)}
    )


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_query_that_sees_nothing(need_weights, rng):
    """Zeros before the projection; torch gives nan where weights are wanted."""
    ours, _ = pair(np.float64, rng)
    x = Tensor(rng.standard_normal((L, N, E)), requires_grad=True)
    mask = np.zeros((L, L), bool)
    mask[1] = True
    y, w = ours(x, x, x, attn_mask=Tensor(mask), need_weights=need_weights)
    y.sum().backward()
    assert (y[1].detach().numpy() == ours.out_proj.bias.detach().numpy()).all()
    assert np.isfinite(x.grad.numpy()).all() and (w is None or (w[:, 1].detach().numpy() == 0).all())


def test_dropout_is_drawn_in_training_alone(rng):
    layer = nn.MultiheadAttention(E, HEADS, dropout=0.5)
    x = tg.randn(L, N, E)
    assert (layer(x, x, x)[0].detach().numpy() != layer(x, x, x)[0].detach().numpy()).any()
    weights = layer(x, x, x, average_attn_weights=False)[1].detach().numpy()
    assert 0.2 < (weights == 0).mean() < 0.8
    layer.eval()
    assert (layer(x, x, x)[0].detach().numpy() == layer(x, x, x, need_weights=True)[0].detach().numpy()).all()


def test_start():
    """Xavier's bounds; biases are zeros."""
    layer = nn.MultiheadAttention(64, 4, add_bias_kv=True)
    bound = np.sqrt(6 / (64 + 3 * 64))
    weight = layer.in_proj_weight.detach().numpy()
    assert np.abs(weight).max() <= bound and weight.std() > bound / 2
    assert not layer.in_proj_bias.detach().numpy().any() and not layer.out_proj.bias.detach().numpy().any()
    assert layer.bias_k.detach().numpy().any()


X, Y = (L, N, E), (S, N, E)


@pytest.mark.parametrize(
    ("shapes", "options", "kind", "message"),
    [
        ((X, Y, (S, N, 7)), {}, ValueError, r"value \(5, 3, 7\); expected one batch size"),
        ((X, Y, (4, N, E)), {}, ValueError, "as many values as keys"),
        ((X, (S, 2, E), (S, 2, E)), {}, ValueError, "one batch size"),
        (((L, E), Y, Y), {}, ValueError, "expected 3 dimensions each"),
        ((X, Y, Y), {"key_padding_mask": (S, N)}, ValueError, r"key_padding_mask is \(5, 3\); expected \(3, 5\)"),
        (
            (X, Y, Y),
            {"attn_mask": (N, L, S)},
            ValueError,
            r"attn_mask is \(3, 4, 5\); expected \(4, 5\) or",
        ),
        ((X, Y, Y), {"is_causal": True}, ValueError, "is_causal is True without attn_mask"),
    ],
)
def test_errors(shapes, options, kind, message):
    options = {k: tg.zeros(*v).bool() if isinstance(v, tuple) else v for k, v in options.items()}
    with pytest.raises(kind, match=message):
        nn.MultiheadAttention(E, HEADS)(*(tg.zeros(*s) for s in shapes), **options)


def test_integers_and_sizes_are_refused():
    with pytest.raises(ValueError, match="embed_dim is 8 and num_heads 3; expected a multiple"):
        nn.MultiheadAttention(8, 3)
    with pytest.raises(TypeError, match="MultiheadAttention"):
        nn.MultiheadAttention(8, 2)(*(tg.zeros(2, 1, 8).long() for _ in range(3)))
    with pytest.raises(TypeError, match="attn_mask|MultiheadAttention"):
        x = tg.zeros(2, 1, 8)
        nn.MultiheadAttention(8, 2)(x, x, x, attn_mask=tg.zeros(2, 2).long())


@pytest.mark.parametrize("need_weights", [False, True])
def test_second_order(need_weights, rng):
    layer = nn.MultiheadAttention(4, 2, dtype="float64")
    x = Tensor(rng.standard_normal((3, 2, 4)), requires_grad=True)
    assert gradgradcheck(lambda x: layer(x, x, x, need_weights=need_weights)[0], (x,))
