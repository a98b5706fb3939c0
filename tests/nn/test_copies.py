"""Copies of modules: shallow ones have members and hooks of their own account, deep ones keep what is shared."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn, optim
from tilegrad.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(tg.ones(3))
        self.register_buffer("count", tg.zeros(1))
        self.register_buffer("scratch", tg.zeros(1), persistent=False)

    def forward(self, x):
        return self.second(self.first(x)) * self.scale


MODULES = {
    "module": Net,
    "Sequential": lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
    "ModuleList": lambda: nn.ModuleList([nn.Linear(3, 3), nn.ReLU()]),
    "ModuleDict": lambda: nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.ReLU()}),
}


def account(module: nn.Module) -> list:
    """All that a module has, by name and identity."""
    members = [*module.named_children(), *module.named_parameters(), *module.named_buffers()]
    return [(name, id(value)) for name, value in members] + list(module.state_dict())


@pytest.mark.parametrize("kind", MODULES)
def test_a_shallow_copy_has_the_same_members(kind):
    module = MODULES[kind]()
    twin = copy.copy(module)
    assert type(twin) is type(module) and twin is not module and account(twin) == account(module)
    assert twin.training is module.training and repr(twin) == repr(module)


def first(module: nn.Module) -> str:
    return next(name for name, _ in module.named_children())


CHANGES = {
    "register_buffer": lambda m: m.register_buffer("new", tg.ones(1)),
    "transient buffer": lambda m: m.register_buffer("new", tg.ones(1), persistent=False),
    "register_parameter": lambda m: m.register_parameter("new", nn.Parameter(tg.ones(1))),
    "attribute": lambda m: setattr(m, "new", nn.Parameter(tg.ones(1))),
    "add_module": lambda m: m.add_module("new", nn.ReLU()),
    "replace": lambda m: setattr(m, first(m), nn.Tanh()),
    "delete": lambda m: delattr(m, first(m)),
    "none": lambda m: setattr(m, first(m), None),
    "training": lambda m: setattr(m, "training", False),
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("of_the_copy", [True, False])
def test_a_change_of_one_is_none_of_the_other(kind, change, of_the_copy):
    module = MODULES[kind]()
    twin = copy.copy(module)
    changed, other = (twin, module) if of_the_copy else (module, twin)
    before = account(other), repr(other)
    CHANGES[change](changed)
    assert (account(other), repr(other)) == before and other.training
    assert change == "training" or account(changed) != before[0] or change == "transient buffer"
    other.load_state_dict({name: value.numpy() for name, value in other.state_dict().items()})


def test_containers_change_apart():
    layers = nn.ModuleList([nn.Linear(3, 3), nn.ReLU()])
    twin = copy.copy(layers)
    twin.append(nn.Tanh())
    del twin[0]
    assert len(layers) == 2 and type(layers[0]) is nn.Linear and len(twin) == 2 and type(twin[0]) is nn.ReLU
    table = nn.ModuleDict({"a": nn.Linear(3, 3)})
    other = copy.copy(table)
    other.clear()
    assert list(table) == ["a"] and list(other) == []
    chain = nn.Sequential(nn.Linear(3, 3))
    copy.copy(chain).append(nn.ReLU())
    assert len(chain) == 1


def test_members_of_a_shallow_copy_are_shared_and_hooks_are_not():
    net = Net()
    seen = []
    handle = net.register_forward_hook(lambda *_: seen.append("net"))
    twin = copy.copy(net)
    twin.register_forward_hook(lambda *_: seen.append("twin"))
    twin.register_forward_pre_hook(lambda *_: seen.append("before"))
    x = tg.ones(1, 3)
    net(x)
    assert seen == ["net"]
    twin(x)
    assert seen == ["net", "before", "net", "twin"]
    handle.remove()
    net(x)
    assert seen[4:] == []
    with tg.no_grad():
        twin.scale.fill_(2.0)
    assert net.scale.tolist() == [2.0] * 3


def test_a_copy_of_what_was_not_initialised():
    class Careless(nn.Module):
        def __init__(self):
            self.number = 3

    assert copy.copy(Careless()).number == 3


# --- deep


def views(flat):
    return [flat, flat[2:6], flat.reshape(5, 2)[:, 1], flat.reshape(5, 2).T, nn.Parameter(flat.data[::-1])]


@pytest.mark.parametrize("order", [1, -1])
def test_views_of_one_buffer_are_views_of_one_in_the_copy(order):
    flat = tg.arange(10).float()
    originals = views(flat)[::order]
    copies = copy.deepcopy(originals)
    again = copy.deepcopy(copies)
    for made in (copies, again):
        flat_of_copy = made[::order][0]
        for x, y in zip(originals, made):
            assert type(y) is type(x) and y.stride() == x.stride() and y.requires_grad == x.requires_grad
            assert_same(y.detach().numpy(), x.detach().numpy())
        with tg.no_grad():
            flat_of_copy.mul_(10.0)
        for x, y in zip(views(flat_of_copy), made[::order]):
            assert_same(x.detach().numpy(), y.detach().numpy())
        assert flat_of_copy._version == made[::order][1]._version == 1
    assert flat.tolist() == list(range(10))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "bfloat16", "float64"])
def test_layouts_survive(dtype):
    base = tg.tensor(np.arange(60).reshape(3, 4, 5) % 2, dtype=dtype)
    fortran = tg.Tensor(np.asfortranarray(base.data))
    permuted = tg.Tensor(base.data.transpose(1, 0, 2).copy(order="K"))
    spread = tg.Tensor(np.lib.stride_tricks.as_strided(base.data, (2, 2), (40 * base.itemsize, 2 * base.itemsize)))
    for x in (base, base[1:, ::2], base.T[::2], fortran, fortran[:, 1:], permuted, permuted[1:, 0], spread, base[:0]):
        y = copy.deepcopy(x)
        assert y.tolist() == x.tolist() and y.dtype == x.dtype and not np.shares_memory(x.data, y.data)
        y.fill_(1)


def test_an_expanded_view_stays_one():
    x = tg.ones(1, 3).expand(4, 3)
    y = copy.deepcopy(x)
    assert y.stride() == (0, 1) and y.shape == (4, 3)
    with pytest.raises(RuntimeError, match="read-only"):
        y.fill_(2.0)


def test_an_array_beside_its_tensor():
    array = np.zeros(3, np.float32)
    for pair in ([array, tg.from_numpy(array)], [tg.from_numpy(array), array]):
        found = sorted(copy.deepcopy(pair), key=lambda x: isinstance(x, tg.Tensor))
        found[0][0] = 7.0
        assert found[1].tolist() == [7.0, 0.0, 0.0] and array[0] == 0.0


class Tagged(nn.Parameter):
    """A parameter with an attribute of its own."""


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_attributes_of_a_subclass_are_copied(duplicate):
    x = Tagged(tg.ones(2))
    x.tag = ["a"]
    y = duplicate(x)
    assert type(y) is Tagged and y.tag == ["a"] and (y.tag is x.tag) == (duplicate is copy.copy)


def trained(net, optimizer, schedule):
    for _ in range(3):
        loss = F.mse_loss(net(tg.ones(2, 3)), tg.zeros(2, 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return [p.detach().numpy().copy() for p in net.parameters()]


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("cls", [optim.SGD, optim.Adam, optim.AdamW])
def test_a_training_goes_on_in_the_copy(cls, duplicate):
    net = Net()
    optimizer = cls(net.parameters(), lr=0.1, **({"momentum": 0.9} if cls is optim.SGD else {}))
    program = net, optimizer, optim.lr_scheduler.StepLR(optimizer, 2)
    trained(*program)
    twins = duplicate(program)
    assert twins[0].second.weight is twins[0].first.weight is not net.first.weight
    assert [id(p) for p in twins[1].param_groups[0]["params"]] == [id(p) for p in twins[0].parameters()]
    for ours, theirs in zip(trained(*program), trained(*twins), strict=True):
        assert_same(ours, theirs)
    assert program[2].get_last_lr() == twins[2].get_last_lr()


def test_a_deep_copy_keeps_the_gradients_and_their_sharing():
    net = Net()
    net(tg.ones(1, 3)).sum().backward(create_graph=True)
    twin, kept = copy.deepcopy((net, net.scale.grad.detach()))
    assert_same(twin.scale.grad.numpy(), net.scale.grad.detach().numpy())
    kept.fill_(5.0)
    assert twin.scale.grad.tolist() == [5.0] * 3 and net.scale.grad.tolist() != [5.0] * 3


def test_a_deep_copy_takes_its_hooks_along():
    net = nn.Sequential(nn.Linear(3, 3))
    seen = []
    net.register_forward_hook(lambda *_: seen.append(1))
    twin = copy.deepcopy(net)
    twin(tg.ones(1, 3))
    assert seen == [1]


def test_a_deep_copy_has_the_gradient_that_a_captured_step_left():
    model = nn.Linear(3, 2)

    @tg.capture(warmup=1)
    def step(x):
        model.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        step(tg.ones(4, 3))
    twin = copy.deepcopy(model)
    for own, copied in zip(model.parameters(), twin.parameters()):
        assert own.grad is not None and copied.grad is not None and copied.grad is not own.grad
        np.testing.assert_array_equal(copied.grad.numpy(), own.grad.numpy())
    step(tg.zeros(4, 3))
    assert not model.weight.grad.numpy().any() and twin.weight.grad.numpy().any(), "the copy's own"
