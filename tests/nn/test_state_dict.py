"""State dicts: to and from torch, and every way in which one may not fit."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.nn.versus import load_from_torch, randomize
from tilegrad import nn
from tilegrad.tensor import Tensor


def everything(nn):
    """Every layer that has a state, in either library."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.GroupNorm(2, 4),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.BatchNorm1d(6, affine=False),
        nn.LayerNorm(6, bias=False),
        nn.Dropout(0.5),
        nn.Linear(6, 3, bias=False),
        nn.BatchNorm1d(3, track_running_stats=False),
    )


class OurText(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4, padding_idx=0)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.LayerNorm(4)})
        self.loss = nn.CrossEntropyLoss(weight=tg.ones(2))


class TorchText(torch.nn.Module):
    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.embed = nn.Embedding(7, 4, padding_idx=0)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.LayerNorm(4)})
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(2))


def test_from_torch_and_back(rng):
    first = everything(torch.nn)
    randomize(first, rng)
    first(torch.randn(5, 2, 8, 8))  # num_batches_tracked = 1
    ours = everything(nn)
    assert ours.load_state_dict({k: v.numpy() for k, v in first.state_dict().items()}) == ([], [])
    second = everything(torch.nn)
    second.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in ours.state_dict().items()})
    assert list(ours.state_dict()) == list(first.state_dict()) == list(second.state_dict())
    for key, value in first.state_dict().items():
        assert_same(ours.state_dict()[key].numpy(), value.numpy())
        assert_same(second.state_dict()[key].numpy(), value.numpy())

    x = rng.standard_normal((5, 2, 8, 8))
    want = first.double().eval()(torch.from_numpy(x)).detach().numpy()
    assert_same(second.double().eval()(torch.from_numpy(x)).detach().numpy(), want)
    # in float64, and ulp of 100: four norms magnify rounding by whatever the spread of a row happens to be
    assert_close(ours.double().eval()(Tensor(x)).detach().numpy(), want, scale=100.0)


def test_nested_containers_and_loss_weights(rng):
    theirs, ours = TorchText(), OurText()
    load_from_torch(ours, theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert_same(ours.state_dict()[key].numpy(), value.numpy())


def test_entries_are_detached_and_on_the_modules_own_memory():
    layer = nn.Linear(2, 3)
    state = layer.state_dict()
    assert type(state) is OrderedDict and type(state["weight"]) is Tensor
    assert not state["weight"].requires_grad and np.shares_memory(state["weight"].numpy(), layer.weight.data)
    with tg.no_grad():
        layer.weight.fill_(4.0)
    assert (state["weight"] == 4.0).all()


def test_values_are_copied_in_place_and_cast():
    layer = nn.Linear(2, 1)
    weight, memory = layer.weight, layer.weight.data
    source = np.array([[1.5, 2.5]])
    layer.load_state_dict({"weight": source, "bias": tg.tensor([3])})
    assert layer.weight is weight and layer.weight.data is memory and weight.dtype == np.float32
    source[...] = 0
    assert_same(memory, np.array([[1.5, 2.5]], np.float32))
    assert_same(layer.bias.detach().numpy(), np.array([3], np.float32))
    assert layer.weight.requires_grad and layer.weight.is_leaf


def test_a_graph_from_before_is_refused():
    layer = nn.Linear(2, 1)
    loss = layer(tg.ones(1, 2, requires_grad=True)).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="saved by 'linear' was written to in place"):
        loss.backward()


def test_tensors_of_another_library_and_transposed_arrays():
    layer = nn.Linear(2, 3)
    weight = torch.arange(6.0).reshape(2, 3).T
    layer.load_state_dict({"weight": weight, "bias": np.arange(6.0)[::2]})
    assert_same(layer.weight.detach().numpy(), weight.numpy())
    assert_same(layer.bias.detach().numpy(), np.array([0, 2, 4], np.float32))


def test_not_strict():
    layer = nn.Linear(2, 3)
    bias = layer.bias.detach().numpy().copy()
    result = layer.load_state_dict({"weight": np.ones((3, 2)), "extra": np.ones(1)}, strict=False)
    assert result.missing_keys == ["bias"] and result.unexpected_keys == ["extra"]
    assert_same(layer.bias.detach().numpy(), bias)
    assert (layer.weight == 1).all()


def test_everything_wrong_is_said_at_once_and_nothing_copied():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    wrong = {k: np.zeros_like(v) for k, v in before.items()}
    del wrong["0.bias"], wrong["1.running_var"]
    wrong["0.weight"] = np.zeros((2, 3))
    wrong["1.weight"] = "text"
    wrong["1.bias"] = np.zeros(3, complex)
    wrong["2.weight"] = wrong["extra"] = np.zeros(1)
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(wrong)
    assert str(error.value) == (
        "load_state_dict: the state dict does not fit Sequential:\n"
        "    Unexpected key(s): '2.weight', 'extra'\n"
        "    Missing key(s): '0.bias', '1.running_var'\n"
        "    size mismatch for 0.weight: got (2, 3); expected (3, 2)\n"
        "    1.weight is str; expected a tensor or an array of numbers\n"
        "    1.bias is ndarray; expected a tensor or an array of numbers"
    )
    with pytest.raises(RuntimeError, match="size mismatch for 0.weight"):
        model.load_state_dict(wrong, strict=False)
    for key, value in model.state_dict().items():
        assert_same(value.numpy(), before[key])


def test_shapes_that_would_broadcast_do_not_fit():
    with pytest.raises(RuntimeError, match=r"size mismatch for bias: got \(1,\); expected \(3,\)"):
        nn.Linear(2, 3).load_state_dict({"weight": np.ones((3, 2)), "bias": np.ones(1)})


def test_not_a_mapping():
    with pytest.raises(TypeError, match="load_state_dict: the state dict is list; expected a mapping"):
        nn.Linear(2, 3).load_state_dict([("weight", np.ones((3, 2)))])


def test_buffers_that_are_not_persistent():
    module = nn.Module()
    module.register_buffer("kept", tg.zeros(2))
    module.register_buffer("scratch", tg.zeros(2), persistent=False)
    module.register_buffer("empty", None)
    assert list(module.state_dict()) == ["kept"]
    assert module.load_state_dict({"kept": np.ones(2)}) == ([], [])
    with pytest.raises(RuntimeError, match="Unexpected key\\(s\\): 'scratch'"):
        module.load_state_dict({"kept": np.ones(2), "scratch": np.ones(2)})
    module.register_buffer("scratch", tg.zeros(2))
    assert list(module.state_dict()) == ["kept", "scratch"]
    module.register_buffer("scratch", tg.zeros(2), persistent=False)
    module.scratch = nn.Parameter(tg.zeros(2))
    assert list(module.state_dict()) == ["scratch", "kept"]


def test_tied_weights_stand_under_both_names():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert list(model.state_dict()) == ["0.weight", "1.weight"]
    assert [name for name, _ in model.named_parameters()] == ["0.weight"]
    model.load_state_dict(model.state_dict())
    assert model[1].weight is model[0].weight
