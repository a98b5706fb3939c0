"""Batch normalisation and ReLU as one primitive: Sequential asks for it, and the results are those of the two."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.nn.test_fusion import calls, run  # noqa: F401 - a fixture
from tilegrad import nn
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

NORMS = {"BatchNorm1d": (lambda: nn.BatchNorm1d(5), (7, 5)), "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (3, 4, 5, 6))}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_the_results_are_those_of_both(name, training, dtype, rng):
    make, shape = NORMS[name]
    fused = nn.Sequential(make(), nn.ReLU()).to(dtype).train(training)
    tg.nn.init.normal_(fused[0].bias)
    apart = nn.Sequential(fused[0], nn.Identity(), fused[1]).train(training)
    x = rng.standard_normal(shape).astype(dtype)
    (y, *grads), (want, *want_grads) = run(fused, x), run(apart, x)
    assert_same(y, want)
    for got, each in zip(grads, want_grads, strict=True):
        assert_close(got, each.astype(np.float64), each, scale=1.0)


def test_a_convolution_before_it_stays_apart(calls):  # noqa: F811
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))
    y = model(tg.randn(2, 1, 8, 8))
    assert calls.names() == [
        "conv2d", "batch_moments", "batch_norm", "batch_moments_step", "conv2d", "batch_moments", "batch_norm",
        "batch_moments_step",
    ]  # fmt: skip
    calls.clear()
    y.backward(y)
    assert calls.names() == ["batch_norm_grad", "conv2d_grad", "batch_norm_grad", "conv2d_grad"]


class MyBatchNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize(
    "modules",
    [
        lambda: (MyBatchNorm(4), nn.ReLU()),
        lambda: (nn.BatchNorm2d(4), nn.LeakyReLU()),
        lambda: (nn.BatchNorm2d(4), nn.GELU()),
        lambda: (nn.InstanceNorm2d(4), nn.ReLU()),
        lambda: (nn.GroupNorm(2, 4), nn.ReLU()),
    ],
)
def test_what_runs_one_by_one(modules, calls):  # noqa: F811
    nn.Sequential(*modules())(tg.randn(2, 4, 3, 3))
    assert any(name.endswith(("relu", "gelu")) for name in calls.names())


def test_a_hook_sees_the_result_between_them(calls):  # noqa: F811
    model, seen = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), []
    model[0].register_forward_hook(lambda module, args, y: seen.append(y))
    model(tg.randn(2, 4, 3, 3))
    assert (seen[0].detach().numpy() < 0).any() and "relu" in calls.names()


def test_second_order_through_the_epilogue(rng):
    model = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()).double()
    tg.nn.init.normal_(model[0].bias)
    x = Tensor(rng.standard_normal((3, 2, 2, 3)), requires_grad=True)
    assert tg.gradcheck(model, [x])
    assert tg.gradgradcheck(model, [x])


WITH_RELU = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()).double()
nn.init.normal_(WITH_RELU[0].bias)
BOTH_WAYS = {
    "batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    "batch_norm, frozen": lambda x, w, b: F.batch_norm(x, w.detach() * 0, b.detach() ** 2 + 1, w, b),
    "batch_norm and relu": lambda x, w, b: WITH_RELU(x),
    "group_norm": lambda x, w, b: F.group_norm(x, 2, w, b),
    "instance_norm": lambda x, w, b: F.instance_norm(x, None, None, w, b),
    "layer_norm": lambda x, w, b: F.layer_norm(x.movedim(1, -1), 4, w, b),
    "rms_norm": lambda x, w, b: F.rms_norm(x.movedim(1, -1), 4, w, 1e-3),
}


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_the_gradient_by_ops_is_the_primitives(name, rng):
    """The one is computed where a gradient of it will be asked for."""
    x, w, b = (Tensor(rng.standard_normal(s), requires_grad=True) for s in ((3, 4, 2, 5), 4, 4))
    dy = Tensor(rng.standard_normal((3, 4, 2, 5)))
    y = BOTH_WAYS[name](x, w, b)
    dy = dy if y.shape == dy.shape else dy.movedim(1, -1)
    leaves = [x] if name == "batch_norm and relu" else [x, w] if name == "rms_norm" else [x, w, b]
    by_ops = tg.grad(y, leaves, dy, create_graph=True)
    assert by_ops[0].requires_grad
    for got, want in zip(by_ops, tg.grad(BOTH_WAYS[name](x, w, b), leaves, dy), strict=True):
        assert_close(got.detach().numpy(), want.numpy(), scale=1.0)


def test_a_gradient_after_the_running_statistics_have_moved(rng):
    """Evaluation takes them as constants; what the next training step makes of them is not its business."""
    layer = nn.BatchNorm2d(2).eval()
    x = Tensor(rng.standard_normal((3, 2, 2, 3)).astype(np.float32), requires_grad=True)
    y = layer(x)
    layer.train()(x.detach() + 5)
    y.sum().backward()
    assert_close(x.grad.numpy(), np.full(x.shape, 1 / np.sqrt(1 + 1e-5)), np.full(x.shape, 1, np.float32))
