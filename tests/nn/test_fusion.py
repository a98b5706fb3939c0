"""Sequential's fusion: it happens, it changes no bit, and it stays away where somebody could notice."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import kernels, nn
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

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
    with tg.no_grad():
        assert_same(fused(Tensor(x)).numpy(), apart(Tensor(x)).numpy())


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "relu in place"])
@pytest.mark.parametrize(("layer", "primitive"), [("linear", "matmul"), ("conv", "conv2d")])
def test_it_is_one_primitive(layer, primitive, activation, calls, rng):
    make, shape = LAYERS[layer]
    model = nn.Sequential(make(), ACTIVATIONS[activation]())
    x = Tensor(rng.standard_normal(shape).astype(np.float32))
    with tg.no_grad():
        model(x)
    assert calls == [(primitive, activation)]
    calls.clear()
    y = model(x)
    if activation in ("relu", "leaky_relu", "tanh", "sigmoid"):  # their gradients need only the result
        assert calls == [(primitive, activation)]
        calls.clear()
        y.backward(y)
        of_layer = "linear_grad" if primitive == "matmul" else "conv2d_grad"
        assert calls.names() == [of_layer] if activation == "relu" else [f"{activation}_grad", of_layer]
    elif primitive == "matmul":  # keeps what the gradient needs beside the result
        assert calls == [("matmul_kept", activation)]
        calls.clear()
        y.backward(y)
        assert calls.names() == [f"{activation.removesuffix('_tanh')}_grad", "linear_grad"]
    else:
        assert calls.names() == [primitive, activation.removesuffix("_tanh")]


def test_a_whole_net(calls):
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )
    model(tg.randn(2, 1, 14, 14))
    assert calls == [("conv2d", None), ("max_pool2d", "relu"), ("conv2d", "relu"), ("matmul", None)]


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


class MyMaxPool2d(nn.MaxPool2d):
    pass


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
    model(tg.randn(3, 5))
    assert (seen[0] < 0).any()
    handle.remove()
    model(tg.randn(3, 5))
    assert len(seen) == 1


# --- convolution, ReLU and maximum

POOLS = {
    "2 x 2": lambda: nn.MaxPool2d(2),
    "overlapping, padded": lambda: nn.MaxPool2d(3, 2, 1),
    "beyond the image": lambda: nn.MaxPool2d((2, 3), ceil_mode=True),
    "stride 1": lambda: nn.MaxPool2d([2, 3], 1, dilation=(1, 1)),
}


def conv_relu_pool(pool, dtype, inplace=False):
    """The three modules fused, and with something between each two."""
    fused = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace), POOLS[pool]()).to(dtype)
    conv, relu, pool = fused
    with tg.no_grad():
        conv.bias.copy_(Tensor(np.array([-9, 0, 0, 0.1], dtype)))  # of the first channel, no window has a gradient
    return fused, nn.Sequential(conv, nn.Identity(), relu, nn.Identity(), pool)


half_too = pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])


def assert_alike(fused, apart, x):
    for got, want in zip(run(fused, x), run(apart, x), strict=True):
        assert_same(got, want)
    with tg.no_grad():
        assert_same(fused(Tensor(x)).numpy(), apart(Tensor(x)).numpy())


@half_too
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_relu_of_the_maximum_changes_no_bit(pool, inplace, dtype, rng):
    fused, apart = conv_relu_pool(pool, dtype, inplace)
    assert_alike(fused, apart, rng.standard_normal((3, 2, 9, 8)).astype(dtype))
    y = fused(Tensor(np.zeros((1, 2, 9, 8), dtype)))
    assert (y[:, :3] == 0).all() and (y[:, 3] > 0).all()


@half_too
@pytest.mark.parametrize("pool", POOLS)
def test_relu_of_the_maximum_of_equals(pool, dtype, rng):
    """Small integers: many maxima are equal, many are 0."""
    fused, apart = conv_relu_pool(pool, dtype)
    with tg.no_grad():
        fused[0].weight.copy_(Tensor(rng.integers(-1, 2, fused[0].weight.shape).astype(dtype)))
    assert_alike(fused, apart, rng.integers(-1, 2, (3, 2, 9, 8)).astype(dtype))


@half_too
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pool", POOLS)
def test_relu_of_the_maximum_of_nan_and_infinity(pool, value, dtype, rng):
    fused, apart = conv_relu_pool(pool, dtype)
    x = rng.standard_normal((3, 2, 9, 8)).astype(dtype)
    x[1, 0, 4, 3] = value
    assert_alike(fused, apart, x)
    assert not np.isfinite(fused(Tensor(x)).detach().numpy()).all()


def test_relu_of_the_maximum_of_one_image(rng):
    fused, apart = conv_relu_pool("2 x 2", np.float32)
    assert_alike(fused, apart, rng.standard_normal((2, 9, 8)).astype(np.float32))


def test_relu_is_masked_at_the_pooled_size(calls, rng):
    fused, _ = conv_relu_pool("2 x 2", np.float32)
    y = fused(Tensor(rng.standard_normal((3, 2, 8, 8)).astype(np.float32), requires_grad=True))
    assert calls == [("conv2d", None), ("max_pool2d", "relu")]
    calls.clear()
    y.backward(Tensor(np.ones(y.shape, np.float32)))
    assert calls.names() == ["max_pool2d_grad", "conv2d_grad"]


def test_gradients_of_gradients_through_relu_of_the_maximum(rng):
    """A gradient penalty: its own gradient goes through the gradient of the maximum, to what that was given too."""
    penalties, image, gradient = [], rng.standard_normal((2, 2, 9, 8)), rng.standard_normal((2, 4, 4, 3))
    for model in conv_relu_pool("overlapping, padded", np.float64):
        x, dy = Tensor(image, requires_grad=True), Tensor(gradient, requires_grad=True)
        y = model(x)
        (dx,) = tg.grad(y, x, dy * y, create_graph=True)
        model.zero_grad()
        dx.square().sum().backward()
        penalties.append([x.grad.numpy(), dy.grad.numpy(), model[0].weight.grad.numpy()])
    for got, want in zip(*penalties, strict=True):
        assert np.abs(want).max() > 0
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"activation": "relu"}, {"padding": 1, "stride": 1, "activation": "relu"}, {"padding": 1, "dilation": (1, 5)}],
    ids=str,
)
def test_the_gradient_of_the_maximum_is_linear(options, rng):
    """Its own gradient is its transpose: nothing comes from windows that relu cuts or that are padding alone."""
    x = Tensor(rng.standard_normal((2, 3, 5, 4)) - 0.5, requires_grad=True)
    y = F.max_pool2d(x, 2, **options)
    dy = Tensor(rng.standard_normal(y.shape), requires_grad=True)
    (dx,) = tg.grad(y, x, dy, create_graph=True)
    weight = rng.standard_normal(x.shape)
    (dx * Tensor(weight)).sum().backward()
    y, dx, dy, transpose = y.detach().numpy(), dx.detach().numpy(), dy.detach().numpy(), dy.grad.numpy()
    np.testing.assert_allclose((dx * weight).sum(), (dy * transpose).sum(), rtol=1e-12)
    nothing = (y == 0) | np.isinf(y)
    assert nothing.any() == bool(options)
    assert_same(transpose == 0, nothing)


def test_the_maxima_may_be_written_over(rng):
    """As they may without fusion: the gradient needs to know which they were, not their values."""
    x, gradients = Tensor(rng.standard_normal((3, 2, 8, 8)).astype(np.float32)), []
    for model in conv_relu_pool("2 x 2", np.float32):
        y = model(x)
        y.mul_(-3.0)
        model.zero_grad()
        y.square().sum().backward()
        gradients.append(model[0].weight.grad.numpy())
    assert_same(*gradients)


@pytest.mark.parametrize(
    "pool",
    [
        MyMaxPool2d(2),
        hooked(nn.MaxPool2d(2)),
        hooked(nn.MaxPool2d(2), "register_forward_pre_hook"),
        with_own_forward(nn.MaxPool2d(2)),
        nn.MaxPool2d(2, return_indices=True),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, dilation=(1, 2)),
        nn.AvgPool2d(2),
    ],
    ids=repr,
)
def test_relu_stays_with_the_convolution(pool, calls, rng):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), pool)
    model(Tensor(rng.standard_normal((3, 2, 9, 8)).astype(np.float32)))
    assert calls[0] == ("conv2d", "relu") and calls[1][1] is None and len(calls) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (hooked(nn.Conv2d(2, 4, 3)), nn.ReLU()),
        (nn.Conv2d(2, 4, 3), hooked(nn.ReLU())),
        (nn.Conv2d(2, 4, 3), with_own_forward(nn.ReLU())),
        (nn.Conv2d(2, 4, 3), MyReLU()),
        (nn.Conv2d(2, 4, 3), nn.LeakyReLU()),
        (nn.Linear(8, 4), nn.ReLU()),
    ],
    ids=repr,
)
def test_the_maximum_stays_alone(first, second, calls, rng):
    model = nn.Sequential(first, second, nn.MaxPool2d(2))
    model(Tensor(rng.standard_normal((3, 2, 9, 8)).astype(np.float32)))
    assert calls[-1] == ("max_pool2d", None)


def test_a_window_of_padding_alone_keeps_its_infinity(rng):
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 1, 1, 2))
    assert model(tg.randn(1, 1, 1, 1)).item() == -np.inf


def test_an_account_hears_of_all_modules(monkeypatch):
    heard = []

    class Account:
        def module(self, module):
            heard.append(module)

        def original(self, tensor):
            return tensor

        def __getattr__(self, name):
            return lambda *args: None

    fused, _ = conv_relu_pool("2 x 2", np.float32)
    x = tg.randn(1, 2, 8, 8)
    monkeypatch.setattr("tilegrad.capture_hooks.current", Account)
    monkeypatch.setattr("tilegrad.capture_hooks.capturing", [Account])
    fused(x)
    assert heard == [fused, *fused]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "tanh"}, "max_pool2d: activation is 'tanh'; expected one of None, 'relu'"),
        (
            {"activation": "relu", "return_indices": True},
            "max_pool2d: return_indices with activation 'relu'; expected at most one of the two",
        ),
    ],
    ids=str,
)
def test_errors_of_the_activated_maximum(options, message):
    with pytest.raises(ValueError) as error:
        F.max_pool2d(tg.ones(1, 1, 4, 4), 2, **options)
    assert str(error.value) == message
