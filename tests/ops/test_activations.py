"""Activations, softmax, convolution, pooling, cross-entropy: the primitives, tied into the graph, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tilegrad as tg
from tests.compare import assert_close
from tests.ops.same import assert_same_op, random
from tilegrad import ops
from tilegrad.kernels.activations.reference import ACTIVATIONS as PRIMITIVES
from tilegrad.ops import activations

SHAPES = [(1, 1), (5, 10), (0, 10), (), (2, 3, 4)]  # degenerate, ragged, empty, no dimensions, three

ACTIVATIONS = {
    "relu": (ops.relu, torch.relu),
    "leaky_relu": (ops.leaky_relu, F.leaky_relu),
    "leaky_relu 0.2": (lambda x: ops.leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, 0.2)),
    "gelu": (ops.gelu, F.gelu),
    "gelu tanh": (lambda x: ops.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "silu": (ops.silu, F.silu),
    "tanh": (ops.tanh, torch.tanh),
    "sigmoid": (ops.sigmoid, torch.sigmoid),
    "erf": (ops.erf, torch.erf),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, shape):
    assert_same_op(*ACTIVATIONS[name], 2 * random(*shape))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_derivatives(name):
    """d/dx <v, d/dx <u, f(x)>>: the rules of the gradient primitives themselves."""
    ours, theirs = ACTIVATIONS[name]
    assert_same_op(
        lambda x, u, v: twice(tg, ours, x, u, v),
        lambda x, u, v: twice(torch.autograd, theirs, x, u, v),
        *(random(5, 10, seed=i) for i in range(3)),
        gradients=False,
        layouts=["contiguous"],
        scale=1.0,
    )


def twice(library, f, x, u, v):
    x, u = (t.detach().clone().requires_grad_() for t in (x, u))
    (first,) = library.grad(f(x), [x], [u], create_graph=True)
    seconds = library.grad(first, [x, u], [v], allow_unused=True)
    return tuple(v * 0.0 if g is None else g for g in seconds)


def test_every_activation_of_an_epilogue_has_one_way_to_its_gradient():
    assert {*activations.from_output, *activations.kept} == {*activations.ACTIVATIONS} == {*PRIMITIVES}
    assert not activations.from_output.keys() & activations.kept.keys()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    ("shape", "dim"), [((1, 1), 0), ((5, 10), 0), ((5, 10), -1), ((0, 10), 1), ((2, 3, 4), 1), ((), 0), ((), -1)]
)
def test_softmax(name, shape, dim):
    x = 3 * random(*shape)
    assert_same_op(lambda x: getattr(x, name)(dim), None, x, scale=1.0)
    assert_same_op(lambda x: getattr(x, name)(dim), None, 1000 + x, scale=1000.0, layouts=["contiguous"])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_takes_integers_and_a_dtype(name):
    x = np.array([[1, 2, 3], [0, 0, 5]])
    for ours, theirs in ((tg.float32, torch.float32), (tg.float64, torch.float64)):
        got = getattr(tg, name)(tg.tensor(x), 1, dtype=ours)
        want = getattr(torch, name)(torch.from_numpy(x), 1, dtype=torch.float64)
        assert_close(got.numpy(), want.numpy(), want.to(theirs).numpy())


@pytest.mark.parametrize("options", [{}, {"stride": (2, 1), "padding": (1, 2)}, {"dilation": (2, 1)}, {"groups": 2}])
def test_conv2d(options):
    x, w, b = random(2, 4, 7, 6), random(6, 4 // options.get("groups", 1), 3, 2, seed=1), random(6, seed=2)
    assert_same_op(
        lambda x, w, b: ops.conv2d(x, w, b, **options), lambda x, w, b: F.conv2d(x, w, b, **options), x, w, b, scale=1.0
    )


def test_pooling():
    x = random(2, 3, 7, 6)
    assert_same_op(
        lambda x: ops.max_pool2d(x, (3, 2), (2, 2), (1, 0), return_indices=True),
        lambda x: F.max_pool2d(x, (3, 2), (2, 2), (1, 0), return_indices=True),
        x,
    )
    assert_same_op(
        lambda x: ops.avg_pool2d(x, (3, 2), (2, 2), (1, 0)), lambda x: F.avg_pool2d(x, (3, 2), (2, 2), (1, 0)), x
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_softmax_xent(reduction):
    z, t = random(5, 10), np.array([3, 0, 9, 3, 1])
    assert_same_op(
        lambda z, t: ops.softmax_xent(z, t, reduction=reduction, label_smoothing=0.1, ignore_index=3),
        lambda z, t: F.cross_entropy(z, t, reduction=reduction, label_smoothing=0.1, ignore_index=3),
        z,
        t,
    )


def test_dropout_draws_its_bits_again_for_the_gradient():
    x = tg.ones(64, 33, dtype="float64", requires_grad=True)
    tg.manual_seed(3)
    y = tg.dropout(x, 0.25)
    kept = y.detach().numpy() != 0
    assert set(np.unique(y.detach().numpy())) == {0.0, 1 / 0.75}
    # Of 2112 elements 1584 are kept on average, with a standard deviation of 19.9: 6 of them make one failure in 10^9.
    assert abs(kept.sum() - 1584) < 120
    dy = random(64, 33)
    y.backward(tg.Tensor(dy))
    assert_close(x.grad.numpy(), np.where(kept, dy / 0.75, 0.0))
    assert tg.dropout(x, 0.5, training=False) is x and tg.dropout(x, 0.0) is x
    assert not tg.dropout(x, 1.0).detach().numpy().any()
