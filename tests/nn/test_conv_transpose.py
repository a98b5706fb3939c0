"""Conv1d, the transposed convolutions and PReLU against torch: values, all gradients, second order, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.nn.versus import assert_function, assert_module
from tilegrad import nn
from tilegrad.gradcheck import gradgradcheck
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's word on its copy
@pytest.mark.parametrize("shape", [(2, 4, 11), (4, 9)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 2},
        {"padding": "same", "dilation": 3},
        {"padding": "valid", "bias": False},
        {"groups": 2, "stride": (3,), "padding": (1,)},
        {"padding": 2, "padding_mode": "circular"},
        {"padding": "same", "padding_mode": "reflect"},
    ],
    ids=str,
)
def test_conv1d(options, shape, dtype, rng):
    ours, theirs = (library.nn.Conv1d(4, 6, 4, **options) for library in (tg, torch))
    assert repr(ours) == repr(theirs)
    assert_module(ours, theirs, rng.standard_normal(shape).astype(dtype), scale=16.0)


TRANSPOSED = [
    {},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": 3, "bias": False, "groups": 2},
    {"dilation": 2, "padding": 2},
    {"dilation": 4, "stride": 2, "output_padding": 3, "padding": 1},
]


@pytest.mark.parametrize("options", TRANSPOSED, ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 5), (4, 7)], ids=str)
def test_conv_transpose1d(options, shape, dtype, rng):
    ours, theirs = (library.nn.ConvTranspose1d(4, 6, 3, **options) for library in (tg, torch))
    assert repr(ours) == repr(theirs)
    assert_module(ours, theirs, rng.standard_normal(shape).astype(dtype), scale=16.0)


@pytest.mark.parametrize(
    "options", [*TRANSPOSED, {"stride": (1, 2), "output_padding": (0, 1), "padding": (1, 0)}], ids=str
)
@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (4, 3, 4)], ids=str)
def test_conv_transpose2d(options, shape, dtype, rng):
    ours, theirs = (library.nn.ConvTranspose2d(4, 6, (3, 2), **options) for library in (tg, torch))
    assert repr(ours) == repr(theirs)
    assert_module(ours, theirs, rng.standard_normal(shape).astype(dtype), scale=32.0)


def test_an_output_size_chooses_among_those_that_fit(rng):
    ours, theirs = (library.nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1) for library in (tg, torch))
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    x = rng.standard_normal((1, 2, 4, 5)).astype(np.float32)
    for size in ((7, 9), (8, 10), (7, 10)):
        y = ours(Tensor(x), output_size=size)
        want = theirs(torch.from_numpy(x), output_size=size).detach().numpy()
        assert y.shape == want.shape and np.abs(y.detach().numpy() - want).max() < 1e-5
    with pytest.raises(ValueError, match=r"output_size is \(9, 9\); expected \(7, 9\) to \(8, 10\)"):
        ours(Tensor(x), output_size=(9, 9))


def test_it_undoes_the_shape_of_a_convolution():
    x = tg.randn(2, 3, 11, 8)
    down, up = nn.Conv2d(3, 5, 4, stride=3, padding=1), nn.ConvTranspose2d(5, 3, 4, stride=3, padding=1)
    assert up(down(x), output_size=x.shape).shape == x.shape


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (2, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("channels", [False, True])
def test_prelu(shape, channels, dtype, rng):
    n = shape[1] if channels and len(shape) > 1 else 1
    x = rng.standard_normal(shape).astype(dtype)
    x.reshape(-1)[0] = 0
    assert_function(F.prelu, torch.nn.functional.prelu, x, rng.standard_normal(n).astype(dtype), scale=4.0)
    ours, theirs = nn.PReLU(n, 0.1), torch.nn.PReLU(n, 0.1)
    assert repr(ours) == repr(theirs) and ours.weight.tolist() == [np.float32(0.1)] * n
    assert_module(ours, theirs, x, scale=4.0)


def test_prelu_at_infinity_and_nan():
    x, w = tg.tensor([np.inf, -np.inf, np.nan], requires_grad=True), tg.tensor([0.5], requires_grad=True)
    a, b = (torch.tensor(v.tolist(), requires_grad=True) for v in (x, w))
    y, z = F.prelu(x, w), torch.nn.functional.prelu(a, b)
    np.testing.assert_array_equal(y.detach().numpy(), z.detach().numpy())
    F.prelu(x[:1], w).sum().backward()
    assert w.grad.item() == 0 and x.grad[0].item() == 1


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x, w: F.conv1d(x, w, stride=2, padding=1), [(2, 3, 7), (2, 3, 3)]),
        (lambda x, w: F.conv_transpose1d(x, w, stride=2, padding=1), [(2, 3, 4), (3, 2, 3)]),
        (lambda x, w: F.conv_transpose2d(x, w, stride=2, output_padding=1), [(1, 2, 3, 2), (2, 2, 2, 3)]),
        (F.prelu, [(2, 3), (3,)]),
    ],
)
def test_second_order(function, shapes, rng):
    assert gradgradcheck(function, tuple(Tensor(rng.standard_normal(s), requires_grad=True) for s in shapes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.conv1d(tg.zeros(2, 3, 4, 5), tg.zeros(1, 3, 2)), r"conv1d: input is \(2, 3, 4, 5\)"),
        (lambda: F.conv1d(tg.zeros(2, 3, 4), tg.zeros(1, 3, 2), padding="some"), "padding is 'some'"),
        (lambda: nn.Conv1d(3, 4, 2, groups=2), "in_channels is 3; expected a multiple of groups, 2"),
        (lambda: nn.Conv1d(2, 4, 2, padding="same", stride=2), "padding is 'same' and stride"),
        (lambda: F.conv_transpose2d(tg.zeros(1, 2, 3, 3), tg.zeros(3, 2, 2, 2)), "expected as many channels"),
        (
            lambda: F.conv_transpose2d(tg.zeros(1, 2, 3, 3), tg.zeros(2, 2, 2, 2), tg.zeros(3)),
            r"bias is \(3,\); expected \(2,\)",
        ),
        (lambda: F.conv_transpose2d(tg.zeros(1, 2, 3, 3), tg.zeros(2, 2, 2, 2), output_padding=1), "output_padding is"),
        (
            lambda: F.conv_transpose2d(tg.zeros(1, 2, 1, 1), tg.zeros(2, 2, 2, 2), padding=1),
            "expected at least 1 each way",
        ),
        (lambda: F.conv_transpose1d(tg.zeros(2, 3, 4, 5), tg.zeros(3, 1, 2)), "conv_transpose1d: input is"),
        (lambda: nn.ConvTranspose2d(2, 2, 2, padding_mode="reflect"), "padding_mode is 'reflect'"),
        (lambda: F.prelu(tg.zeros(2, 3), tg.zeros(2)), r"weight is \(2,\); expected 1 or 3"),
        (lambda: nn.PReLU(0), "num_parameters is 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
