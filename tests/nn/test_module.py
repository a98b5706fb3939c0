"""The Module protocol, next to torch's: members, iteration, modes, conversion, hooks, looks, errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn
from tilegrad.tensor import Tensor


class Block(nn.Module):
    def __init__(self, n=3):
        super().__init__()
        self.fc = nn.Linear(n, n)
        self.scale = nn.Parameter(tg.ones(n))
        self.register_buffer("offset", tg.full((n,), 2.0))
        self.register_buffer("scratch", tg.zeros(n), persistent=False)
        self.note = "plain"

    def forward(self, x):
        return self.fc(x) * self.scale + self.offset


class Net(nn.Module):
    """A shared block, a tied weight, a missing one."""

    def __init__(self):
        super().__init__()
        self.first = Block()
        self.second = Block()
        self.again = self.first
        self.second.fc.weight = self.first.fc.weight
        self.act = nn.ReLU()
        self.register_parameter("gain", None)
        self.tail = nn.Parameter(tg.zeros(1))

    def forward(self, x):
        return self.act(self.second(self.first(x))) + self.tail


class TorchBlock(torch.nn.Module):
    def __init__(self, n=3):
        super().__init__()
        self.fc = torch.nn.Linear(n, n)
        self.scale = torch.nn.Parameter(torch.ones(n))
        self.register_buffer("offset", torch.full((n,), 2.0))
        self.register_buffer("scratch", torch.zeros(n), persistent=False)


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = TorchBlock()
        self.second = TorchBlock()
        self.again = self.first
        self.second.fc.weight = self.first.fc.weight
        self.act = torch.nn.ReLU()
        self.register_parameter("gain", None)
        self.tail = torch.nn.Parameter(torch.zeros(1))


# --- what there is


@pytest.mark.parametrize("method", ["named_parameters", "named_buffers", "named_modules", "named_children"])
@pytest.mark.parametrize("options", [{}, {"recurse": False}, {"remove_duplicate": False}, {"prefix": "net"}], ids=str)
def test_names_and_order_are_torchs(method, options):
    if (method == "named_children" and options) or (method == "named_modules" and "recurse" in options):
        options = {}
    ours, theirs = getattr(Net(), method)(**options), getattr(TorchNet(), method)(**options)
    assert [name for name, _ in ours] == [name for name, _ in theirs]


def test_iterators_give_the_same_without_names():
    net = Net()
    for plain, named in [
        (net.parameters(), net.named_parameters()),
        (net.parameters(recurse=False), net.named_parameters(recurse=False)),
        (net.buffers(), net.named_buffers()),
        (net.buffers(recurse=False), net.named_buffers(recurse=False)),
        (net.modules(), net.named_modules()),
        (net.children(), net.named_children()),
    ]:
        assert [id(x) for x in plain] == [id(x) for _, x in named]


def test_state_dict_keys_are_torchs():
    assert list(Net().state_dict()) == list(TorchNet().state_dict())
    assert list(Net().state_dict(prefix="net.")) == list(TorchNet().state_dict(prefix="net."))


def test_lookup_by_path():
    net = Net()
    assert net.get_submodule("second.fc") is net.second.fc
    assert net.get_submodule("") is net
    assert net.get_parameter("first.scale") is net.first.scale
    assert net.get_parameter("tail") is net.tail
    assert net.get_buffer("second.offset") is net.second.offset
    for call, text in [
        (lambda: net.get_submodule("second.nothing.fc"), "get_submodule: Net has no submodule 'second.nothing.fc'"),
        (lambda: net.get_submodule("tail"), "get_submodule: Net has no submodule 'tail'"),
        (lambda: net.get_parameter("first.offset"), "get_parameter: Net has no parameter 'first.offset'"),
        (lambda: net.get_parameter("gain"), "get_parameter: Net has no parameter 'gain'"),
        (lambda: net.get_buffer("first.scale"), "get_buffer: Net has no buffer 'first.scale'"),
    ]:
        with pytest.raises(AttributeError) as error:
            call()
        assert str(error.value) == text


# --- attributes


def test_assignment_registers_and_replaces():
    net = Net()
    names = [name for name, _ in net.named_parameters()]
    net.tail = nn.Parameter(tg.ones(4))  # same kind: same place
    assert [name for name, _ in net.named_parameters()] == names
    net.act = nn.Tanh()
    assert isinstance(net.get_submodule("act"), nn.Tanh)
    net.act = nn.Parameter(tg.ones(1))  # another kind
    assert "act" in dict(net.named_parameters()) and "act" not in dict(net.named_children())
    net.first.offset = tg.zeros(3)  # a buffer stays one
    assert net.get_buffer("first.offset") is net.first.offset
    net.tail = None
    assert "tail" not in dict(net.named_parameters()) and net.tail is None
    net.tail = nn.Parameter(tg.ones(2))
    assert "tail" in dict(net.named_parameters())
    net.note = 1
    net.note = nn.Linear(1, 1)  # what was a plain attribute becomes a module
    assert "note" in dict(net.named_children())


def test_wrong_kinds_are_refused():
    net = Net()
    for name, value, text in [
        ("tail", tg.ones(1), "Net: cannot assign Tensor as parameter 'tail'; expected a Parameter or None"),
        ("act", tg.relu, "Net: cannot assign function as module 'act'; expected a Module or None"),
    ]:
        with pytest.raises(TypeError) as error:
            setattr(net, name, value)
        assert str(error.value) == text
    with pytest.raises(TypeError, match="Block: cannot assign list as buffer 'offset'; expected a Tensor or None"):
        net.first.offset = [1.0]
    assert_same(net.first.offset.numpy(), np.full(3, 2, np.float32))


def test_deletion():
    net = Net()
    del net.tail, net.first.offset, net.act
    assert "tail" not in dict(net.named_parameters())
    assert "offset" not in dict(net.first.named_buffers())
    assert [name for name, _ in net.named_children()] == ["first", "second"]
    for owner, name in ((net, "tail"), (net.first, "offset"), (net, "nothing")):
        with pytest.raises(AttributeError):
            getattr(owner, name)
        with pytest.raises(AttributeError):
            delattr(owner, name)


def test_dir_lists_members():
    net = Net()
    assert {"first", "tail", "gain", "forward", "training"} <= set(dir(net))


def test_registration_errors():
    net = Net()
    leafless = tg.ones(2, requires_grad=True) * 2
    result = nn.Parameter(tg.ones(2))
    result._node = leafless._node
    for call, kind, text in [
        (lambda: net.register_parameter("a.b", None), KeyError, "register_parameter: name is 'a.b'; expected one that"),
        (
            lambda: net.register_buffer("", None),
            KeyError,
            "register_buffer: name is ''; expected one that is not empty",
        ),
        (lambda: net.register_module(3, None), TypeError, "register_module: name is 3; expected a str"),
        (lambda: net.register_module("forward", nn.ReLU()), KeyError, "register_module: Net already has an attribute"),
        (
            lambda: net.register_buffer("tail", tg.ones(1)),
            KeyError,
            "register_buffer: Net already has an attribute",
        ),
        (lambda: net.register_parameter("p", tg.ones(1)), TypeError, "register_parameter: 'p' is Tensor; expected"),
        (lambda: net.register_buffer("b", np.ones(1)), TypeError, "register_buffer: 'b' is ndarray; expected a Tensor"),
        (lambda: net.add_module("m", tg.relu), TypeError, "register_module: 'm' is function; expected a Module"),
        (lambda: net.register_parameter("p", result), ValueError, "register_parameter: 'p' is the result of an op"),
    ]:
        with pytest.raises(kind) as error:
            call()
        assert error.value.args[0].startswith(text)


class Forgetful(nn.Module):
    def __init__(self, assign):
        if assign:
            self.fc = assign

    def forward(self, x):
        return x


@pytest.mark.parametrize("member", [nn.ReLU(), nn.Parameter(tg.ones(1))], ids=["module", "parameter"])
def test_super_init_was_forgotten(member):
    with pytest.raises(AttributeError) as error:
        Forgetful(member)
    assert "before Module.__init__() call; expected super().__init__() first" in str(error.value)


def test_super_init_was_forgotten_and_nothing_assigned():
    module = Forgetful(None)
    for use in (lambda: module(1), lambda: list(module.parameters()), lambda: module.eval()):
        with pytest.raises(AttributeError, match="Module.__init__\\(\\) was not called; expected super"):
            use()
    with pytest.raises(AttributeError, match="before Module.__init__\\(\\) call"):
        module.register_buffer("b", tg.ones(1))


def test_forward_is_missing():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty: expected a method forward"):
        Empty()(1)


def test_subclass_attributes_and_properties_work():
    class Odd(nn.Module):
        kind = "class attribute"

        @property
        def width(self):
            return self.fc.out_features

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 5)

    assert Odd().kind == "class attribute" and Odd().width == 5
    assert not hasattr(Odd(), "nothing") and getattr(Odd(), "nothing", 3) == 3


# --- modes and conversion


def test_train_and_eval_reach_everything():
    net = Net()
    assert all(m.training for m in net.modules())
    assert net.eval() is net and not any(m.training for m in net.modules())
    net.second.train()
    assert net.second.fc.training and not net.first.fc.training
    with pytest.raises(TypeError, match="train: mode is 'yes'; expected a bool"):
        net.train("yes")


def test_apply_visits_inner_before_outer():
    order = []
    net = Net()
    assert net.apply(lambda m: order.append(type(m).__name__)) is net
    torch_order = []
    TorchNet().apply(lambda m: torch_order.append(type(m).__name__.replace("Torch", "")))
    assert order == torch_order


def test_requires_grad_and_zero_grad():
    net = Net()
    net(tg.randn(2, 3)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    held = net.tail.grad
    net.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in net.parameters())
    assert_same(held.numpy(), np.zeros(1, np.float32))
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    assert net.requires_grad_(False) is net
    assert not net(tg.randn(2, 3)).requires_grad


def test_dtypes_move_but_objects_stay():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    net(tg.randn(4, 3)).sum().backward()
    before = list(net.parameters()) + list(net.buffers())
    values = [x.detach().numpy().copy() for x in before]
    assert net.double() is net
    after = list(net.parameters()) + list(net.buffers())
    assert all(a is b for a, b in zip(before, after, strict=True))
    for x, value in zip(after, values, strict=True):
        floating = value.dtype.kind == "f"
        assert_same(x.detach().numpy(), value.astype(np.float64) if floating else value)
        assert x.grad is None or x.grad.dtype == np.float64
    assert net[1].num_batches_tracked.dtype == np.int64
    assert net(tg.randn(4, 3, dtype="float64")).dtype == np.float64
    for convert, dtype in [
        (lambda: net.float(), np.float32),
        (lambda: net.half(), np.float16),
        (lambda: net.to("float64"), np.float64),
        (lambda: net.to(tg.ones(1)), np.float32),
        (lambda: net.to("cpu", tg.float64), np.float64),
        (lambda: net.to(dtype=np.float32, device="cpu"), np.float32),
    ]:
        assert convert() is net and all(p.dtype == dtype for p in net.parameters())
    assert net.cpu() is net


def test_a_graph_from_before_the_conversion_is_refused():
    net = nn.Linear(3, 2)
    y = net(tg.randn(4, 3, requires_grad=True)).sum()
    net.double()
    with pytest.raises(RuntimeError, match="written to in place"):
        y.backward()


def test_memory_from_before_the_conversion_is_no_longer_the_modules():
    net = nn.Linear(3, 2)
    before = net.weight.detach()
    net.double()
    y = net(tg.randn(4, 3, dtype="float64", requires_grad=True)).sum()
    before.fill_(0.0)
    y.backward()
    assert (net.weight != 0).all()


def test_shared_parameters_stay_shared():
    net = Net().double()
    assert net.second.fc.weight is net.first.fc.weight and net.again is net.first
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.second.fc.weight is twin.first.fc.weight and twin.again is twin.first
        assert [n for n, _ in twin.named_parameters()] == [n for n, _ in net.named_parameters()]
        assert "first.scratch" not in twin.state_dict()
        x = tg.randn(2, 3, dtype="float64")
        assert_same(twin(x).detach().numpy(), net(x).detach().numpy())
        with tg.no_grad():
            twin.tail.fill_(9.0)
        assert net.tail.item() == 0


def test_conversion_errors():
    with pytest.raises(TypeError, match="to: dtype is int64; expected a floating-point dtype for a module"):
        Net().to("int64")
    with pytest.raises(ValueError, match='device: got "cuda:7"; expected "cuda" or "cuda:0"'):
        Net().cuda(7)
    with pytest.raises(TypeError, match="dtype: expected one of"):
        Net().to("float33")


# --- hooks


def test_hooks_see_and_change():
    layer = nn.Linear(2, 2)
    x = tg.ones(1, 2)
    plain = layer(x).detach().numpy()
    seen = []
    pre = layer.register_forward_pre_hook(lambda m, args: seen.append(("before", m, args)))
    post = layer.register_forward_hook(lambda m, args, y: seen.append(("after", m, args, y)))
    y = layer(x)
    assert seen == [("before", layer, (x,)), ("after", layer, (x,), y)]
    change_in = layer.register_forward_pre_hook(lambda m, args: args[0] * 0)
    change_out = layer.register_forward_hook(lambda m, args, y: y + 1)
    assert_same(layer(x).detach().numpy(), (layer.bias.detach().numpy() + 1)[None])
    for handle in (pre, post, change_in, change_out, pre):
        handle.remove()
    seen.clear()
    assert_same(layer(x).detach().numpy(), plain)
    assert seen == []


def test_keyword_arguments_reach_forward():
    class Scaled(nn.Module):
        def forward(self, x, *, by=1):
            return x * by

    module = Scaled()
    assert module(tg.ones(1), by=3).item() == 3
    module.register_forward_hook(lambda m, args, y: y + 1)
    assert module(tg.ones(1), by=3).item() == 4


# --- looks


def test_looks():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU()))
            self.empty = nn.Sequential()
            self.register_module("none", None)

        def extra_repr(self):
            return "width=3"

    assert repr(Wrapper()) == (
        "Wrapper(\n"
        "  width=3\n"
        "  (body): Sequential(\n"
        "    (0): Linear(in_features=2, out_features=3, bias=True)\n"
        "    (1): Sequential(\n"
        "      (0): ReLU()\n"
        "    )\n"
        "  )\n"
        "  (empty): Sequential()\n"
        "  (none): None\n"
        ")"
    )


def test_a_call_is_little_more_than_forward():
    """Without hooks, one Python frame: what a training loop pays for every layer."""
    frames = []

    class Probe(nn.Module):
        def forward(self, x):
            import sys

            frames.append(sys._getframe(1).f_code.co_name)
            frames.append(sys._getframe(2).f_code.co_name)
            return x

    Probe()(Tensor(np.ones(1)))
    assert frames == ["__call__", "test_a_call_is_little_more_than_forward"]
