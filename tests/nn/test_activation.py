"""Activations against torch: values and gradients over their whole range, in place, layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.nn.versus import assert_function
from tilegrad import nn
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

# Where their pieces meet, where differences cancel, where exponentials are tiny or huge.
CORNERS = [0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0, 20.0, -20.0, 40.0, -40.0, 1e-8, -1e-8]

FUNCTIONS = {
    "relu": {},
    "relu6": {},
    "leaky_relu": {"negative_slope": 0.2},
    "elu": {"alpha": 1.7},
    "selu": {},
    "silu": {},
    "mish": {},
    "hardtanh": {"min_val": -0.5, "max_val": 2.0},
    "hardsigmoid": {},
    "hardswish": {},
    "gelu": {"approximate": "tanh"},
    "sigmoid": {},
    "tanh": {},
    "logsigmoid": {},
    "softplus": {"beta": 2.0, "threshold": 5.0},
    "softsign": {},
    "glu": {"dim": 1},
    "softmax": {"dim": 1},
    "log_softmax": {"dim": 0},
}
ELEMENTWISE = [name for name in FUNCTIONS if name not in ("glu", "softmax", "log_softmax")]
CANCEL = ("sigmoid", "tanh", "gelu", "mish", "silu")  # 1 - y^2 and the like: their error is an ulp of 1
SLOPES = {name: (1.0, 0.0) for name in ELEMENTWISE}  # right and left of everything
SLOPES |= {name: (0.0, 0.0) for name in ("relu6", "hardtanh", "hardsigmoid", "sigmoid", "tanh", "softsign")}
SLOPES |= {
    "leaky_relu": (1.0, np.float32(0.01).item()),
    "logsigmoid": (0.0, 1.0),
    "selu": (np.float32(1.0507009873554805).item(), 0.0),
}
THEIRS = {name: getattr(TF, name) for name in FUNCTIONS}
THEIRS["hardsigmoid"] = lambda x: TF.relu6(x + 3) / 6  # torch's own has a gradient rounded to float32
INPLACE = ["relu", "relu6", "leaky_relu", "elu", "selu", "silu", "mish", "hardtanh", "hardsigmoid", "hardswish"]


@pytest.mark.parametrize("options", [{}, None], ids=["defaults", "options"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name, options, dtype, rng):
    options = FUNCTIONS[name] if options is None else {k: v for k, v in FUNCTIONS[name].items() if k == "dim"}
    x = (3 * rng.standard_normal((5, 6, 2))).astype(dtype)
    ours, theirs = getattr(F, name), THEIRS[name]
    assert_function(lambda x: ours(x, **options), lambda x: theirs(x, **options), x)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_corners(name, dtype):
    """One by one, so that no small error hides beside a large number."""
    scale = 1.0 if name in CANCEL else 0.0
    for value in CORNERS:
        x = tg.tensor(np.array([value], dtype), requires_grad=True)
        y = getattr(F, name)(x, **FUNCTIONS[name])
        (dx,) = tg.grad(y, x)
        wide = torch.tensor([float(x.data[0])], dtype=torch.float64, requires_grad=True)
        want = THEIRS[name](wide, **FUNCTIONS[name])
        (want_dx,) = torch.autograd.grad(want, wide)
        for got, exact in ((y, want), (dx, want_dx)):
            exact = exact.detach().numpy()
            assert_close(got.detach().numpy(), exact, exact.astype(dtype), scale=scale)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_far_out_the_gradient_is_the_slope_of_the_asymptote(name):
    for value in (1e30, -1e30):
        x = tg.tensor([value], requires_grad=True)
        (dx,) = tg.grad(getattr(F, name)(x), x)
        assert dx.item() == SLOPES[name][value < 0], value


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_infinity_and_nan(name):
    x = np.array([np.inf, -np.inf, np.nan], np.float32)
    options = FUNCTIONS[name]
    want = getattr(TF, name)(torch.from_numpy(x), **options).numpy()
    np.testing.assert_array_equal(getattr(F, name)(Tensor(x), **options).numpy(), want)


@pytest.mark.parametrize("x", [-20.0, -50.0, -88.0])
def test_small_results_keep_their_digits(x):
    """log sigmoid(-x) and softplus of very negative numbers are e^x: not rounded to 0."""
    want = np.log1p(np.exp(np.array([x])))
    got = F.softplus(tg.tensor([x])).numpy()
    assert_close(got, want, want.astype(np.float32), elementwise=True)
    got = -F.logsigmoid(tg.tensor([-x])).numpy()
    assert_close(got, want, want.astype(np.float32), elementwise=True)


@pytest.mark.parametrize("name", INPLACE)
def test_in_place(name, dtype, rng):
    """The result lies in the input's memory, and gradients are those of the new tensor."""
    x = (3 * rng.standard_normal((4, 5))).astype(dtype)
    dy = rng.standard_normal((4, 5)).astype(dtype)
    outside = tg.tensor(x, requires_grad=True)
    getattr(F, name)(outside * 1.0).backward(Tensor(dy))

    leaf = tg.tensor(x, requires_grad=True)
    z = leaf * 1.0
    y = getattr(F, name)(z, inplace=True)
    assert y is z
    assert_same(y.detach().numpy(), getattr(F, name)(Tensor(x)).numpy())
    y.backward(Tensor(dy))
    assert_same(leaf.grad.numpy(), outside.grad.numpy())


def test_in_place_where_it_would_spoil_a_gradient():
    leaf = tg.randn(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="relu_: x is a leaf that requires grad"):
        F.relu(leaf, inplace=True)
    saved = leaf.sigmoid()  # its rule needs the result
    F.relu(saved, inplace=True)
    with pytest.raises(RuntimeError, match="saved by 'sigmoid' was written to in place"):
        saved.sum().backward()


LAYERS = {
    "ReLU": {},
    "ReLU6": {},
    "LeakyReLU": {"negative_slope": 0.3},
    "ELU": {"alpha": 0.5},
    "SELU": {},
    "SiLU": {},
    "Mish": {},
    "Hardtanh": {"min_val": -2.0, "max_val": 0.5},
    "Hardsigmoid": {},
    "Hardswish": {},
    "GELU": {"approximate": "tanh"},
    "Sigmoid": {},
    "Tanh": {},
    "LogSigmoid": {},
    "Softplus": {"beta": 3.0, "threshold": 2.0},
    "Softsign": {},
    "GLU": {"dim": 0},
    "Softmax": {"dim": 1},
    "LogSoftmax": {"dim": 1},
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, rng):
    x = (2 * rng.standard_normal((4, 6))).astype(np.float32)
    for options in (LAYERS[name], {k: v for k, v in LAYERS[name].items() if k == "dim"}):
        ours, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options)
        assert_function(ours, theirs, x)
        assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", ["ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "SiLU", "Mish", "Hardtanh"])
def test_layer_in_place(name):
    ours, theirs = getattr(nn, name)(inplace=True), getattr(torch.nn, name)(inplace=True)
    assert repr(ours) == repr(theirs)
    x = tg.tensor([-2.0, 0.5, 7.0])
    want = getattr(nn, name)()(x).numpy()
    assert ours(x) is x
    assert_same(x.numpy(), want)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: F.hardtanh(tg.ones(2), 1.0, 0.5),
            ValueError,
            "hardtanh: min_val is 1.0 and max_val 0.5; expected",
        ),
        (lambda: nn.Hardtanh(2, 1), ValueError, "Hardtanh: min_val is 2 and max_val 1; expected min_val < max_val"),
        (lambda: nn.GELU("erf"), ValueError, "GELU: approximate is 'erf'; expected one of 'none', 'tanh'"),
        (lambda: F.softplus(tg.ones(2), beta=0), ValueError, "softplus: beta is 0; expected"),
        (lambda: F.glu(tg.ones(2, 3)), ValueError, "glu: input is (2, 3); expected an even size of dim -1"),
        (lambda: F.softmax(tg.ones(2), 1), IndexError, "softmax: dim is 1; expected -1 <= dim < 1"),
        (lambda: F.relu("x"), TypeError, "relu: expected a tensor or a number; got str"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)


INTEGER_CASES = {
    "relu": [{}],
    "relu6": [{}],
    "hardtanh": [{"min_val": 1, "max_val": 3}, {"min_val": 0.9, "max_val": 2.7}, {"min_val": 2, "max_val": 2}],
}


@pytest.mark.parametrize("name", INTEGER_CASES)
def test_integers_keep_their_dtype(name):
    for kind in ("int64", "int32", "int8", "uint8"):
        x = np.array([-9, -1, 0, 1, 2, 3, 7, 100]).astype(kind)
        for options in [
            *INTEGER_CASES[name],
            *([{}, {"min_val": -0.5}] if kind != "uint8" and name == "hardtanh" else []),
        ]:
            want = getattr(torch.nn.functional, name)(torch.tensor(x), **options).numpy()
            assert_same(getattr(F, name)(tg.tensor(x), **options).numpy(), want)
            assert_same(getattr(F, name)(tg.tensor(x), **options, inplace=True).numpy(), want)
    with pytest.raises(TypeError, match="the tensor is bool; expected numbers"):
        getattr(F, name)(tg.tensor([True]), **INTEGER_CASES[name][0])


def test_unsigned_integers_have_no_negative_bound():
    with pytest.raises(ValueError, match="hardtanh: min_val is -1.0 for uint8; expected at least 0"):
        F.hardtanh(tg.ones(2, dtype="uint8"))


@pytest.mark.parametrize("name", ["hardsigmoid", "hardswish"])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_hard_functions_round_once(name, kind):
    x = tg.arange(-4, 4, 1 / 128).to(dtype=kind).requires_grad_()
    wide = x.detach().float().requires_grad_()
    found = [getattr(F, name)(x), getattr(F, name)(wide)]
    grads = [tg.grad(y.sum(), leaf)[0] for y, leaf in zip(found, (x, wide))]
    for got, want in (found, grads):
        assert_same(got.detach().numpy(), want.detach().numpy().astype(got.dtype))
