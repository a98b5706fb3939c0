"""Sequential's fusion: it happens, it changes no bit, and it stays away where somebody could notice."""

from __future__ import annotations

import numpy as np
import pytest

import engine
import kernels
from engine import nn
from engine.tensor import Tensor
from tests.compare import assert_same

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
}
LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (3, 5)),
    "linear, 3 dimensions": (lambda: nn.Linear(5, 4, bias=False), (2, 3, 5)),
    "conv": (lambda: nn.Conv2d(2, 4, 3, padding=1), (2, 2, 5, 6)),
    "conv, one image": (lambda: nn.Conv2d(2, 4, 3, padding="same"), (2, 5, 6)),
    "conv, circular": (lambda: nn.Conv2d(2, 4, (2, 3), padding=1, padding_mode="circular"), (2, 2, 5, 6)),
}


class Calls(list):
    """The primitives that ran, by name, with the activation in their epilogue."""

    def names(self):
        return [name for name, _ in self]


@pytest.fixture
def calls(monkeypatch):
    found = Calls()
    backend = kernels.of()
    for name in kernels.PRIMITIVES.keys() - {"random_bits"}:  # those are the initialisation's
        primitive = getattr(backend, name)

        def counted(*args, _name=name, _primitive=primitive, **kwargs):
            found.append((_name, kwargs.get("activation")))
            return _primitive(*args, **kwargs)

        monkeypatch.setattr(backend, name, counted)
    return found


def run(model, x):
    """Output and all gradients of one forward and backward."""
    x = Tensor(x, requires_grad=True)
    model.zero_grad()
    y = model(x)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(x.dtype)
    y.backward(Tensor(dy))
    return [y.detach().numpy(), x.grad.numpy(), *(p.grad.numpy() for p in model.parameters())]


# Unfused, the result of one image is a view, which cannot be written over.
PAIRS = [(a, b) for a in LAYERS for b in ACTIVATIONS if (a, b) != ("conv, one image", "relu in place")]


@pytest.mark.parametrize(("layer", "activation"), PAIRS)
def test_not_one_bit_changes(layer, activation, dtype, rng):
    make, shape = LAYERS[layer]
    fused = nn.Sequential(make(), ACTIVATIONS[activation]()).to(dtype)
    apart = nn.Sequential(fused[0], nn.Identity(), fused[1])
    x = rng.standard_normal(shape).astype(dtype)
    for got, want in zip(run(fused, x), run(apart, x), strict=True):
        assert_same(got, want)
    with engine.no_grad():
        assert_same(fused(Tensor(x)).numpy(), apart(Tensor(x)).numpy())


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "relu in place"])
@pytest.mark.parametrize(("layer", "primitive"), [("linear", "matmul"), ("conv", "conv2d")])
def test_it_is_one_primitive(layer, primitive, activation, calls, rng):
    make, shape = LAYERS[layer]
    model = nn.Sequential(make(), ACTIVATIONS[activation]())
    x = Tensor(rng.standard_normal(shape).astype(np.float32))
    with engine.no_grad():
        model(x)
    assert calls == [(primitive, activation)]
    calls.clear()
    y = model(x)
    if activation in ("relu", "leaky_relu", "tanh", "sigmoid"):  # their gradients need only the result
        assert calls == [(primitive, activation)]
        y.sum().backward()
        assert calls.names().count(f"{activation}_grad") == 1
    else:
        assert calls.names() == [primitive, activation.removesuffix("_tanh")]


def test_a_whole_net(calls):
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )
    model(engine.randn(2, 1, 14, 14))
    assert calls == [("conv2d", "relu"), ("max_pool2d", None), ("conv2d", "relu"), ("matmul", None)]


class MyLinear(nn.Linear):
    pass


class MyReLU(nn.ReLU):
    pass


def hooked(module, register="register_forward_hook"):
    getattr(module, register)(lambda *args: None)
    return module


def with_own_forward(module):
    module.forward = type(module).forward.__get__(module)
    return module


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (MyLinear(5, 4), nn.ReLU()),
        (nn.Linear(5, 4), MyReLU()),
        (hooked(nn.Linear(5, 4)), nn.ReLU()),
        (hooked(nn.Linear(5, 4), "register_forward_pre_hook"), nn.ReLU()),
        (nn.Linear(5, 4), hooked(nn.ReLU())),
        (nn.Linear(5, 4), hooked(nn.ReLU(), "register_forward_pre_hook")),
        (with_own_forward(nn.Linear(5, 4)), nn.ReLU()),
        (nn.Linear(5, 4), with_own_forward(nn.ReLU())),
        (nn.Linear(5, 4), nn.LeakyReLU(0.2)),
        (nn.Linear(5, 4), nn.ELU()),
        (nn.Identity(), nn.ReLU()),
        (nn.Sequential(nn.Linear(5, 4)), nn.ReLU()),
    ],
    ids=repr,
)
def test_it_stays_away(first, second, calls, rng):
    x = Tensor(rng.standard_normal((3, 5)).astype(np.float32))
    y = nn.Sequential(first, second)(x)
    assert all(activation is None for _, activation in calls)
    assert_same(y.detach().numpy(), second(first(x)).detach().numpy())


def test_hooks_see_both_results(rng):
    """A hook on the linear layer sees what the activation has not touched yet."""
    seen = []
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
    handle = model[0].register_forward_hook(lambda m, args, y: seen.append(y.detach().numpy().copy()))
    model(engine.randn(3, 5))
    assert (seen[0] < 0).any()
    handle.remove()
    model(engine.randn(3, 5))
    assert len(seen) == 1
