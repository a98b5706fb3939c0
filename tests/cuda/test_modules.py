"""Modules and optimizers between devices: parameters, gradients, buffers and state go along."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn, optim


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GELU(), nn.Linear(4, 2))


def values(model):
    return {name: x.cpu().numpy().copy() for name, x in model.state_dict().items()}


def backward(model):
    (model(tg.ones(2, 3, device=next(model.parameters()).device)) ** 2).sum().backward()


def test_parameters_gradients_and_buffers_move_in_place():
    model = net()
    parameters, before = list(model.parameters()), values(model)
    parameters[0].grad = tg.ones(4, 3)
    assert model.cuda() is model
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert {x.device for x in model.state_dict().values()} == {"cuda"} == {parameters[0].grad.device}
    assert model[1].num_batches_tracked.dtype == np.int64
    assert all(isinstance(p, nn.Parameter) and p.is_leaf and p.requires_grad for p in parameters)
    for name, x in values(model.to("cpu")).items():
        assert_same(x, before[name])
    assert parameters[0].grad.device == "cpu"


def test_dtype_and_device_at_once():
    for to in (lambda m: m.to("cuda", tg.float16), lambda m: m.to(tg.zeros(1, dtype="float16", device="cuda"))):
        model = to(net())
        found = {(x.device, str(x.dtype)) for x in model.state_dict().values()}
        assert found == {("cuda", "float16"), ("cuda", "int64")}


def test_tied_parameters_stay_tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.cuda()
    assert model[1].weight is model[0].weight and len(list(model.parameters())) == 3


def test_moving_a_model_spoils_a_graph_that_saved_it():
    model = nn.Linear(3, 2)
    y = model(tg.ones(1, 3, requires_grad=True)).sum()
    model.cuda()
    with pytest.raises(RuntimeError, match="a tensor saved by 'linear' was written to in place"):
        y.backward()


def test_state_dicts_load_across_devices():
    here, there = net(), net().cuda()
    there.load_state_dict(here.state_dict())
    assert {x.device for x in there.state_dict().values()} == {"cuda"}
    other = net()
    other.load_state_dict(there.state_dict())
    for name, x in values(here).items():
        assert_same(values(there)[name], x)
        assert_same(values(other)[name], x)


def test_models_are_pickled_and_copied_with_their_device():
    model = net().cuda()
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert {x.device for x in other.state_dict().values()} == {"cuda"}
        for name, x in values(model).items():
            assert_same(values(other)[name], x)


# --- optimizers ------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
    "adam": lambda params: optim.Adam(params, lr=0.1),
    "adamw": lambda params: optim.AdamW(params, lr=0.1),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def step(model, optimizer):
    optimizer.zero_grad()
    backward(model)
    optimizer.step()


def devices(optimizer):
    return {x.device for state in optimizer.state.values() for name, x in state.items() if name != "step"}


@every_optimizer
def test_state_is_made_on_the_parameters_device(make):
    model = net().cuda()
    optimizer = make(model.parameters())
    step(model, optimizer)
    assert devices(optimizer) == {"cuda"}


@every_optimizer
def test_state_follows_a_model_that_is_moved(make):
    """Three steps, with moves between them, are the three steps of a model that stays."""
    tg.manual_seed(0)
    moving = net()
    staying = copy.deepcopy(moving)
    optimizer, reference = make(moving.parameters()), make(staying.parameters())
    for device in ("cpu", "cuda", "cpu"):
        moving.to(device)
        step(moving, optimizer)
        step(staying, reference)
        assert devices(optimizer) == {device}
    for name, x in values(staying).items():
        np.testing.assert_allclose(values(moving)[name], x, rtol=1e-4, atol=1e-4)


@every_optimizer
def test_state_is_loaded_onto_the_parameters_device(make):
    tg.manual_seed(0)
    model = net()
    optimizer = make(model.parameters())
    step(model, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    for device in ("cuda", "cpu"):  # the second loads back what is on the device
        other = copy.deepcopy(model).to(device)
        restored = make(other.parameters())
        restored.load_state_dict(saved)
        assert devices(restored) == {device}
        saved = restored.state_dict()
    for i, state in optimizer.state_dict()["state"].items():
        for name, x in state.items():
            assert_same(saved["state"][i][name].numpy(), x.numpy())


def test_zero_grad_with_zeros():
    model = nn.Linear(3, 2).cuda()
    backward(model)
    optim.SGD(model.parameters()).zero_grad(set_to_none=False)
    assert model.weight.grad.device == "cuda" and model.weight.grad.tolist() == [[0.0] * 3] * 2


def test_clipping_gradients():
    model = nn.Linear(3, 2).cuda()
    for p in model.parameters():
        p.grad = tg.full(p.shape, 3.0, device="cuda")
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert norm.device == "cuda"
    np.testing.assert_allclose(norm.item(), 3 * 8**0.5, rtol=1e-6)
    np.testing.assert_allclose(model.bias.grad.cpu().numpy(), 8**-0.5, rtol=1e-5)
    nn.utils.clip_grad_value_(model.parameters(), 0.25)
    assert model.bias.grad.tolist() == [0.25, 0.25]
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 0, model.parameters())
    assert vector.device == "cuda" and model.bias.tolist() == [0.0, 0.0]


def test_a_step_does_not_wait_for_the_device(monkeypatch):
    """No value of the device is asked for between the loss's forward and the end of the step."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)).cuda()
    x, t = tg.randn(2, 3, device="cuda"), tg.tensor([0, 1], device="cuda")
    optimizers = [make(model.parameters()) for make in OPTIMIZERS.values()]
    array = type(x.data)

    def refuse(*_):
        raise AssertionError("the program waits for the device")

    for name in ("get", "item", "tolist", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(array, name, refuse, raising=False)  # CuPy's have no __index__
    for optimizer in optimizers:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), t).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with pytest.raises(AssertionError, match="waits for the device"):
        x.cpu()
