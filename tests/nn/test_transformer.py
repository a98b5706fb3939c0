"""Transformer layers and stacks against torch's: outputs and all gradients, masks, dropout, 20 training steps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.nn.versus import assert_module, load_from_torch
from tilegrad import nn, optim
from tilegrad.gradcheck import gradgradcheck
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

N, S, T, E = 2, 5, 3, 8

LAW = {"scale": 8.0, "spread": 0.4}  # widths of 8 and 16: sums of terms about 1

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # torch says when it does without


def layer(library, kind, **options):
    return getattr(library.nn, kind)(E, 2, 16, 0.0, **options)


FORMS = [
    {},
    {"norm_first": True},
    {"batch_first": True, "activation": "gelu"},
    {"bias": False, "norm_first": True, "activation": "gelu"},
]


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_encoder_layer(options, training, dtype, rng):
    x = rng.standard_normal((S, N, E)).astype(dtype)
    ours, theirs = (layer(library, "TransformerEncoderLayer", **options).train(training) for library in (tg, torch))
    assert_module(ours, theirs, x, **LAW)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_decoder_layer(options, dtype, rng):
    x, memory = (rng.standard_normal((s, N, E)).astype(dtype) for s in (T, S))
    if options.get("batch_first"):
        x, memory = x.swapaxes(0, 1).copy(), memory.swapaxes(0, 1).copy()
    ours, theirs = (layer(library, "TransformerDecoderLayer", **options) for library in (tg, torch))
    assert_module(ours, theirs, x, memory, **LAW)


def test_a_function_as_activation(dtype, rng):
    x = rng.standard_normal((S, N, E)).astype(dtype)
    ours = layer(tg, "TransformerEncoderLayer", activation=tg.tanh)
    theirs = layer(torch, "TransformerEncoderLayer", activation=torch.tanh)
    assert_module(ours, theirs, x, **LAW)


@pytest.mark.parametrize("norm_first", [False, True])
def test_stacks(norm_first, dtype, rng):
    src, tgt = (rng.standard_normal((s, N, E)).astype(dtype) for s in (S, T))
    models = [
        library.nn.Transformer(E, 2, 2, 2, 16, 0.0, norm_first=norm_first, activation="gelu") for library in (tg, torch)
    ]
    assert list(models[0].state_dict()) == list(models[1].state_dict())
    assert_module(*models, src, tgt, **LAW)


class Masked(torch.nn.Module):
    """torch's Transformer under masks, as a function of its inputs."""

    def __init__(self, model, options):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, *inputs):
        return self.model(*inputs, **self.options)


class OurMasked(nn.Module):
    def __init__(self, model, options):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, *inputs):
        return self.model(*inputs, **self.options)


@pytest.mark.parametrize("causal", [False, True])
def test_masks_reach_every_attention(causal, dtype, rng):
    src, tgt = (rng.standard_normal((s, N, E)).astype(dtype) for s in (S, T))
    memory_mask = rng.random((T, S)) < 0.3
    memory_mask[:, 0] = False
    source = np.triu(np.ones((S, S), bool), 2)
    padding = np.array([[False] * 4 + [True], [False] * 5])
    target = np.array([[False] * 3, [False, False, True]])
    arrays = {
        "src_mask": source,
        "tgt_mask": np.triu(np.ones((T, T), bool), 1),
        "memory_mask": memory_mask,
        "src_key_padding_mask": padding,
        "memory_key_padding_mask": padding,
        "tgt_key_padding_mask": target,
    }
    if causal:
        del arrays["tgt_key_padding_mask"]
    ours, theirs = (library.nn.Transformer(E, 2, 1, 1, 16, 0.0) for library in (tg, torch))
    extra = {"tgt_is_causal": True} if causal else {}
    assert_module(
        OurMasked(ours, extra | {k: Tensor(v) for k, v in arrays.items()}),
        Masked(theirs, extra | {k: torch.from_numpy(v) for k, v in arrays.items()}),
        src,
        tgt,
        **LAW,
    )


def test_the_causal_mask_and_a_promise_of_it_are_the_same(rng):
    model = nn.Transformer(E, 2, 1, 1, 16, 0.0)
    src, tgt = tg.randn(S, N, E), tg.randn(T, N, E)
    mask = nn.Transformer.generate_square_subsequent_mask(T)
    want = torch.nn.Transformer.generate_square_subsequent_mask(T).numpy()
    assert (mask.numpy() == want).all() and mask.dtype == tg.float32
    plain, promised = (model(src, tgt, tgt_mask=mask, tgt_is_causal=given).detach().numpy() for given in (None, True))
    assert np.abs(plain - promised).max() < 1e-5


def test_what_is_seen_between_parts_stays_seen(rng):
    """Hooks are called, and a layer that is none of ours is used as it is: nothing is fused over them."""
    plain = layer(tg, "TransformerEncoderLayer")
    watched = copy.deepcopy(plain)
    seen = []
    for name in ("norm1", "linear1", "norm2"):
        watched.get_submodule(name).register_forward_hook(lambda module, args, y, name=name: seen.append(name))
    x = tg.randn(S, N, E)
    assert np.abs(plain(x).detach().numpy() - watched(x).detach().numpy()).max() < 1e-6
    assert seen == ["norm1", "linear1", "norm2"]
    watched.norm1 = nn.Identity()
    assert (plain(x).detach().numpy() != watched(x).detach().numpy()).any()


def test_dropout_in_every_place():
    model = nn.TransformerEncoderLayer(E, 2, 16, dropout=0.5)
    x = tg.randn(S, N, E)
    assert (model(x).detach().numpy() != model(x).detach().numpy()).any()
    model.eval()
    assert (model(x).detach().numpy() == model(x).detach().numpy()).all()
    assert [each.p for each in (model.dropout, model.dropout1, model.dropout2)] == [0.5] * 3
    assert model.self_attn.dropout == 0.5


def test_layers_of_a_stack_start_alike_and_are_trained_apart():
    stack = nn.TransformerEncoder(layer(tg, "TransformerEncoderLayer"), 3, nn.LayerNorm(E))
    first, second = (stack.layers[i].linear1.weight for i in (0, 1))
    assert first is not second and (first.detach().numpy() == second.detach().numpy()).all()


@pytest.mark.parametrize("captured", [False, True])
def test_20_steps_beside_torch(captured, rng):
    theirs = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(E, 2, 16, 0.0, norm_first=True, batch_first=True), 2, torch.nn.LayerNorm(E)
    )
    ours = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(E, 2, 16, 0.0, norm_first=True, batch_first=True), 2, nn.LayerNorm(E)
    )
    load_from_torch(ours, theirs)
    x, t = (rng.standard_normal((N, S, E)).astype(np.float32) for _ in range(2))
    optimizer = optim.Adam(ours.parameters(), lr=1e-2)

    def step(x, t):
        loss = F.mse_loss(ours(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    run = tg.capture(step) if captured else step
    found = [run(Tensor(x), Tensor(t)).item() for _ in range(20)]
    assert not captured or "nodes" in run.summary()
    their_optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    want = []
    for _ in range(20):
        loss = torch.nn.functional.mse_loss(theirs(torch.from_numpy(x)), torch.from_numpy(t))
        their_optimizer.zero_grad()
        loss.backward()
        their_optimizer.step()
        want.append(loss.item())
    assert want[-1] < 0.7 * want[0]
    np.testing.assert_allclose(found, want, rtol=1e-4)


@pytest.mark.parametrize("norm_first", [False, True])
def test_second_order(norm_first, rng):
    model = nn.TransformerEncoderLayer(4, 2, 6, 0.0, "gelu", norm_first=norm_first, dtype="float64")
    x = Tensor(rng.standard_normal((3, 1, 4)), requires_grad=True)
    assert gradgradcheck(model, (x,))


def test_errors():
    with pytest.raises(ValueError, match="activation is 'selu'; expected 'relu', 'gelu' or a function"):
        nn.TransformerEncoderLayer(E, 2, activation="selu")
    with pytest.raises(ValueError, match="num_layers is -1"):
        nn.TransformerEncoder(layer(tg, "TransformerEncoderLayer"), -1)
    with pytest.raises(ValueError, match="expected one batch size"):
        layer(tg, "TransformerEncoderLayer")(tg.zeros(S, N, E + 1))
