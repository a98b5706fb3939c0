"""Linear and the layers that arrange dimensions, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import tilegrad as tg
from tests.compare import assert_same
from tests.nn.versus import assert_function, assert_module
from tilegrad import nn
from tilegrad.nn import functional as F

SHAPES = [
    (1, 1),  # degenerate
    (5, 7),  # ragged
    (33, 7),  # one past a tile
    (7,),  # one vector
    (2, 3, 7),  # leading dimensions
    (2, 1, 3, 7),  # more of them
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_function(shape, bias, dtype, rng):
    x = rng.standard_normal(shape).astype(dtype)
    arrays = [x, rng.standard_normal((4, shape[-1])).astype(dtype)]
    if bias:
        arrays.append(rng.standard_normal(4).astype(dtype))
    assert_function(F.linear, TF.linear, *arrays)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_layer(shape, bias, dtype, rng):
    x = rng.standard_normal(shape).astype(dtype)
    assert_module(nn.Linear(7, 4, bias=bias), torch.nn.Linear(7, 4, bias=bias), x)


@pytest.mark.parametrize("shape", [(0, 7), (2, 0, 7)], ids=str)
def test_no_rows(shape):
    layer = nn.Linear(7, 4)
    y = layer(tg.zeros(shape, requires_grad=True))
    assert y.shape == (*shape[:-1], 4)
    y.sum().backward()
    assert_same(layer.weight.grad.numpy(), np.zeros((4, 7), np.float32))
    assert_same(layer.bias.grad.numpy(), np.zeros(4, np.float32))


def test_no_inputs():
    """An empty sum: what is left is the bias."""
    layer = nn.Linear(0, 3)
    nn.init.constant_(layer.bias, 2.0)
    assert_same(layer(tg.zeros(2, 0)).detach().numpy(), np.full((2, 3), 2, np.float32))


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("Flatten", (), (2, 3, 4, 5)),
        ("Flatten", (0, 1), (2, 3, 4)),
        ("Flatten", (-2,), (2, 3, 4)),
        ("Unflatten", (1, (2, 3)), (4, 6)),
        ("Unflatten", (-1, (2, -1)), (4, 6)),
        ("Identity", (54, "anything"), (2, 3)),
    ],
    ids=str,
)
def test_arranging_layers(name, arguments, shape, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    ours, theirs = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
    assert_function(ours, theirs, x)
    assert repr(ours) == repr(theirs)


def test_looks():
    for arguments in [(3, 4), (3, 4, False)]:
        assert repr(nn.Linear(*arguments)) == repr(torch.nn.Linear(*arguments))


def test_dtype():
    assert nn.Linear(2, 3, dtype="float64").weight.dtype == np.float64
    assert nn.Linear(2, 3).bias.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.Linear(-1, 3), ValueError, "Linear: in_features is -1; expected >= 0"),
        (lambda: nn.Linear(3, 2.0), TypeError, "Linear: out_features is 2.0; expected an int"),
        (lambda: nn.Linear(3, True), TypeError, "Linear: out_features is True; expected an int"),
        (lambda: nn.Linear(3, 2, device="tpu"), ValueError, 'device: expected "cpu", "cuda" or "auto"; got \'tpu\''),
        (
            lambda: nn.Linear(3, 2)(tg.ones(4, 5)),
            ValueError,
            "linear: input is (4, 5) but weight is (2, 3); expected input.shape[-1] == weight.shape[1]",
        ),
        (
            lambda: nn.Linear(3, 2)(tg.ones(4, 3, dtype="float64")),
            TypeError,
            "linear: dtypes are float64 and float32; expected one for all",
        ),
        (
            lambda: nn.Linear(3, 2)(tg.ones(4, 3, dtype="int64")),
            TypeError,
            "linear: expected a floating-point tensor; got int64",
        ),
        (lambda: nn.Linear(3, 2)(np.ones((4, 3))), TypeError, "linear: expected tensors; got ndarray"),
        (
            lambda: F.linear(tg.ones(4, 3), tg.ones(2, 3), tg.ones(3)),
            ValueError,
            "linear: weight is (2, 3) but bias is (3,); expected (2,)",
        ),
        (
            lambda: nn.Unflatten(1, (2, 4))(tg.ones(3, 6)),
            ValueError,
            "unflatten: (6,) has 6 elements; expected a shape for them, got (2, 4)",
        ),
        (lambda: nn.Unflatten(1, 6), TypeError, "Unflatten: unflattened_size is 6; expected a tuple of ints"),
        (lambda: nn.Flatten(5)(tg.ones(3, 6)), IndexError, "flatten: dim is 5; expected -2 <= dim < 2"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)
