"""Twenty steps of a small net with a layer, captured here and plain in torch, from the same weights.

tests/nn/test_trajectories.py and tests/cuda/test_layers.py run these, each on its device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

import tilegrad as tg
from tests.captured.steps import assert_graphs
from tests.compare import assert_close
from tests.nn.versus import load_from_torch
from tilegrad import nn, optim

STEPS = 20


class Case(NamedTuple):
    """Of either library: layers(nn) by name, forward(nn, layers, *batch) the loss; batch(rng) are arrays."""

    layers: Callable[[Any], dict[str, Any]]
    forward: Callable[..., Any]
    batch: Callable[[np.random.Generator], tuple[np.ndarray, ...]]


LENGTHS = [2, 5, 1]


def _packed(nn, net, x):
    rnn = nn.utils.rnn
    packed = rnn.pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    hidden = net["first"](packed.data).tanh()
    made = rnn.PackedSequence(hidden, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    padded, _ = rnn.pad_packed_sequence(made, padding_value=0.5, total_length=6)
    again = rnn.pad_sequence(rnn.unpack_sequence(made), padding_side="left")
    return (net["second"](padded) ** 2).mean() + (net["second"](again) - 1).square().mean()


def _recurrent(nn, net, x):
    y, (h, c) = net["lstm"](x)
    z, last = net["rnn"](y)
    return (net["head"](z) ** 2).mean() + (h * c).mean() + last.square().mean()


def _recurrent_packed(nn, net, x):
    packed = nn.utils.rnn.pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    y, last = net["gru"](packed)
    return (net["head"](y.data) ** 2).mean() + (last - 1).square().mean()


def _cells(nn, net, x):
    state, out = net["cell"](x[0]), 0.0
    for t in range(1, 4):
        state = net["cell"](x[t], state)
        out = out + (net["head"](state[0]) - 1).square().mean()
    return out


def _sequences(rng):
    return (rng.standard_normal((4, 3, 5)).astype(np.float32),)


def _bags(nn, net, tokens, index, offsets):
    y = net["mean"](tokens) * net["max"](index, offsets) + net["sum"](index, offsets, net["factors"].weight[0])
    return (net["head"](y) ** 2 - y).mean()


def _upsampled(nn, net, x):
    y = net["wide"](net["conv"](x)) + net["near"](net["shuffle"](net["four"](x)))
    return (net["last"](y) ** 2 - net["cubic"](x)).mean()


CASES = {
    "LSTM and RNN": Case(
        lambda nn: {
            "lstm": nn.LSTM(5, 4, num_layers=2),
            "rnn": nn.RNN(4, 3, nonlinearity="relu"),
            "head": nn.Linear(3, 2),
        },
        _recurrent,
        _sequences,
    ),
    "GRU, packed, in both directions": Case(
        lambda nn: {"gru": nn.GRU(3, 4, batch_first=True, bidirectional=True), "head": nn.Linear(8, 2)},
        _recurrent_packed,
        lambda rng: (rng.standard_normal((3, 5, 3)).astype(np.float32),),
    ),
    "LSTMCell": Case(
        lambda nn: {"cell": nn.LSTMCell(5, 4), "head": nn.Linear(4, 2)},
        _cells,
        _sequences,
    ),
    "upsampled": Case(
        lambda nn: {
            "conv": nn.Conv2d(1, 2, 3, padding=1),
            "four": nn.Conv2d(1, 8, 1),
            "wide": nn.Upsample(scale_factor=2, mode="bilinear"),
            "shuffle": nn.PixelShuffle(2),
            "near": nn.Upsample(size=(8, 10)),
            "last": nn.Conv2d(2, 1, 1),
            "cubic": nn.Upsample(size=(8, 10), mode="bicubic", align_corners=True),
        },
        _upsampled,
        lambda rng: (rng.standard_normal((2, 1, 4, 5)).astype(np.float32),),
    ),
    "bags": Case(
        lambda nn: {
            "mean": nn.EmbeddingBag(7, 4, padding_idx=2),
            "max": nn.EmbeddingBag(7, 4, mode="max"),
            "sum": nn.EmbeddingBag(7, 4, mode="sum"),
            "factors": nn.Linear(9, 1),
            "head": nn.Linear(4, 4),
        },
        _bags,
        lambda rng: (rng.integers(0, 7, (3, 5)), rng.integers(0, 7, 9), np.array([0, *sorted(rng.integers(0, 9, 2))])),
    ),
    "packed": Case(
        lambda nn: {"first": nn.Linear(3, 4), "second": nn.Linear(4, 2)},
        _packed,
        lambda rng: (rng.standard_normal((3, 5, 3)).astype(np.float32),),
    ),
}


def assert_follows_torch(name: str, device: str, steps: int = STEPS) -> None:
    """The captured losses, and the parameters behind them, are as near to torch's float64 as torch's float32 is."""
    case = CASES[name]
    torch.manual_seed(0)
    theirs = torch.nn.ModuleDict(case.layers(torch.nn))
    ours = nn.ModuleDict(case.layers(nn))
    load_from_torch(ours, theirs)
    data = [case.batch(np.random.default_rng(step)) for step in range(steps)]
    pairs = [_torch(case, theirs.state_dict(), data, dtype) for dtype in (torch.float64, torch.float32)]

    ours.to(device)
    optimizer = optim.Adam(ours.parameters(), lr=0.01)

    @tg.capture
    def step(*batch):
        loss = case.forward(nn, ours, *batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    losses = [step(*[tg.tensor(x, device=device) for x in batch]).item() for batch in data]
    assert_graphs(step, 1)
    (want, want_state), (baseline, state) = pairs
    assert want[-1] != want[0]
    assert_close(np.array(losses, np.float32), want, baseline)
    for key, value in ours.state_dict().items():
        assert_close(value.cpu().numpy(), want_state[key], state[key], scale=0.1)


def _torch(case, state, data, dtype):
    net = torch.nn.ModuleDict(case.layers(torch.nn))
    net.load_state_dict(state)
    net.to(dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for batch in data:
        tensors = [torch.from_numpy(x) for x in batch]
        loss = case.forward(torch.nn, net, *[x.to(dtype) if x.is_floating_point() else x for x in tensors])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    numpy = np.float64 if dtype == torch.float64 else np.float32
    return np.array(losses, numpy), {key: value.numpy() for key, value in net.state_dict().items()}
