"""Normalisation against torch: batch, layer and group norm, running statistics over several steps, normalize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.nn.versus import assert_function, assert_module, load_from_torch, randomize
from tilegrad import nn
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

BATCH_SHAPES = {
    "BatchNorm1d": [(5, 3), (4, 3, 6), (2, 3)],
    "BatchNorm2d": [(2, 3, 4, 5), (1, 3, 2, 1)],
}
OPTIONS = [
    {},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"momentum": None},
    {"momentum": 0.3, "eps": 1e-2},
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("name", "shape"), [(n, s) for n, shapes in BATCH_SHAPES.items() for s in shapes], ids=str)
def test_batch_norm(name, shape, options, training, dtype, rng):
    x = (2 * rng.standard_normal(shape) + 1).astype(dtype)
    ours, theirs = getattr(nn, name)(3, **options), getattr(torch.nn, name)(3, **options)
    assert_module(ours.train(training), theirs.train(training), x, scale=1.0)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("momentum", [0.1, None, 1.0, 0.0], ids=str)
def test_running_statistics_over_steps(momentum, dtype, rng):
    """Several training steps, then evaluation, then training again: the buffers follow torch's all the way."""
    wide = torch.nn.BatchNorm2d(3, momentum=momentum).double()
    randomize(wide, rng)
    theirs = torch.nn.BatchNorm2d(3, momentum=momentum).to(getattr(torch, np.dtype(dtype).name))
    theirs.load_state_dict(wide.state_dict())
    wide.load_state_dict(theirs.state_dict())
    ours = nn.BatchNorm2d(3, momentum=momentum, dtype=dtype)
    load_from_torch(ours, theirs)
    for step in range(8):
        x = (rng.standard_normal((4, 3, 5, 2)) * (step + 1) + step).astype(dtype)
        training = step not in (4, 5)
        y = ours.train(training)(Tensor(x)).detach().numpy()
        want = wide.train(training)(torch.from_numpy(x.astype(np.float64))).detach().numpy()
        baseline = theirs.train(training)(torch.from_numpy(x)).detach().numpy()
        assert_close(y, want, baseline, scale=1.0)
        for key in ("running_mean", "running_var"):
            assert_close(
                ours.get_buffer(key).numpy(), wide.get_buffer(key).numpy(), theirs.get_buffer(key).numpy(), scale=1.0
            )
        assert ours.num_batches_tracked.item() == theirs.num_batches_tracked.item()


def test_running_statistics_take_part_in_no_gradient(rng):
    layer = nn.BatchNorm1d(3)
    x = tg.randn(5, 3, requires_grad=True)
    first = layer(x)
    layer(x * 2)  # moves the running statistics
    first.sum().backward()  # the first graph is still good
    assert not layer.running_mean.requires_grad and layer.running_mean.is_leaf


def test_evaluation_uses_the_statistics_as_constants(rng):
    x = tg.randn(4, 3, requires_grad=True)
    layer = nn.BatchNorm1d(3).eval()
    layer.running_var.fill_(4.0)
    layer(x).backward(tg.ones(4, 3))
    assert_close(x.grad.numpy(), np.full((4, 3), 1 / np.sqrt(4 + 1e-5)), np.full((4, 3), 0.5, np.float32))


def test_reset(rng):
    layer = nn.BatchNorm2d(3)
    layer(tg.randn(2, 3, 4, 4))
    nn.init.constant_(layer.weight, 5.0)
    layer.reset_parameters()
    fresh = nn.BatchNorm2d(3)
    for key, value in layer.state_dict().items():
        assert_same(value.numpy(), fresh.state_dict()[key].numpy())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_batch_norm_function(training, dtype, rng):
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((4, 3, 5), 3, 3))
    mean, var = rng.standard_normal(3).astype(dtype), rng.random(3).astype(dtype) + dtype(0.1)

    def ours(x, w, b):
        return F.batch_norm(x, Tensor(mean.copy()), Tensor(var.copy()), w, b, training)

    def theirs(x, w, b):
        running = (torch.tensor(a, dtype=x.dtype) for a in (mean, var))
        return TF.batch_norm(x, *running, w, b, training)

    assert_function(ours, theirs, x, w, b, repeated=1, scale=1.0)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (4, 5)], ids=str)
@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"bias": False, "eps": 1e-3}], ids=str)
def test_layer_norm(shape, options, dtype, rng):
    x = (2 * rng.standard_normal((2, 4, *shape[:-1], 5)) + 1).astype(dtype)
    ours, theirs = nn.LayerNorm(shape, **options), torch.nn.LayerNorm(shape, **options)
    assert_module(ours, theirs, x, scale=1.0)
    assert repr(ours) == repr(theirs)


def test_layer_norm_function(dtype, rng):
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((4, 3, 5), (3, 5), (3, 5)))
    assert_function(
        lambda *a: F.layer_norm(a[0], (3, 5), *a[1:]), lambda *a: TF.layer_norm(a[0], (3, 5), *a[1:]), x, w, b
    )
    assert nn.LayerNorm(5).normalized_shape == (5,)


@pytest.mark.parametrize("shape", [(5,), (3, 5)], ids=str)
@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"eps": 1e-3}], ids=str)
def test_rms_norm(shape, options, dtype, rng):
    x = (2 * rng.standard_normal((2, 4, *shape[:-1], 5)) + 1).astype(dtype)
    ours, theirs = nn.RMSNorm(shape, **options), torch.nn.RMSNorm(shape, **options)
    assert_module(ours, theirs, x, scale=1.0)
    assert repr(ours) == repr(theirs)


def test_the_eps_of_rms_norm_is_that_of_the_sums_dtype(dtype, rng):
    """Of numbers so small that eps decides: torch's, in float32 for float16."""
    x = (1e-4 * rng.standard_normal((3, 5))).astype(dtype)
    assert_function(lambda x: F.rms_norm(x, 5), lambda x: TF.rms_norm(x, (5,), eps=_eps(dtype)), x)


def _eps(dtype):
    return float(np.finfo(np.float32 if dtype == np.float16 else dtype).eps)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", [(2, 6, 4), (3, 6, 2, 3)], ids=str)
def test_group_norm(groups, shape, dtype, rng):
    x = (2 * rng.standard_normal(shape) + 1).astype(dtype)
    for options in ({}, {"affine": False}, {"eps": 0.1, "bias": False}):
        ours, theirs = nn.GroupNorm(groups, 6, **options), torch.nn.GroupNorm(groups, 6, **options)
        assert_module(ours, theirs, x, scale=1.0)
        assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options",
    [{}, {"affine": True}, {"affine": True, "bias": False}, {"track_running_stats": True, "eps": 0.1}],
    ids=str,
)
@pytest.mark.parametrize(
    ("name", "shape"),
    [("InstanceNorm1d", (2, 3, 4)), ("InstanceNorm1d", (3, 4)), ("InstanceNorm2d", (2, 3, 4, 5)),
     ("InstanceNorm2d", (3, 4, 5))],
    ids=str,
)  # fmt: skip
def test_instance_norm(name, shape, options, training, dtype, rng):
    x = (2 * rng.standard_normal(shape) + 1).astype(dtype)
    ours, theirs = getattr(nn, name)(3, **options), getattr(torch.nn, name)(3, **options)
    assert_module(ours.train(training), theirs.train(training), x, scale=1.0)
    assert repr(ours) == repr(theirs)


def test_instance_norm_function(dtype, rng):
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((4, 3, 5), 3, 3))
    mean, var = rng.standard_normal(3).astype(dtype), rng.random(3).astype(dtype) + dtype(0.1)
    for own in (True, False):

        def ours(x, w, b, own=own):
            return F.instance_norm(x, Tensor(mean.copy()), Tensor(var.copy()), w, b, own)

        def theirs(x, w, b, own=own):
            return TF.instance_norm(x, *(torch.tensor(a, dtype=x.dtype) for a in (mean, var)), w, b, own)

        assert_function(ours, theirs, x, w, b, scale=1.0)


def test_float16_keeps_its_sums_in_float32(rng):
    x = (rng.standard_normal((64, 2, 16, 16)) * 100).astype(np.float16)  # a sum of squares beyond float16's range
    y = F.batch_norm(Tensor(x), None, None, training=True).numpy()
    want = TF.batch_norm(torch.from_numpy(x.astype(np.float64)), None, None, training=True).numpy()
    assert_close(y, want, want.astype(np.float16))


def test_a_large_mean_costs_few_digits(rng):
    """The variance is taken in two passes: a mean of 1000 does not drown it."""
    x = (rng.standard_normal((32, 4)) + 1000).astype(np.float32)
    want = TF.layer_norm(torch.from_numpy(x.astype(np.float64)), (4,)).numpy()
    # The mean itself is rounded to 2^-15, an error of 3e-5 in what is left of x.
    assert np.abs(F.layer_norm(Tensor(x), 4).numpy() - want).max() < 100 * 2**-15


@pytest.mark.parametrize(("p", "dim"), [(2.0, 1), (2.0, -1), (1.0, 0), (3.0, 1)], ids=str)
def test_normalize(p, dim, dtype, rng):
    x = rng.standard_normal((3, 4, 5)).astype(dtype)
    assert_function(lambda x: F.normalize(x, p, dim), lambda x: TF.normalize(x, p, dim), x, repeated=dim - 1, scale=1.0)


def test_normalize_leaves_zero_alone():
    x = tg.zeros(2, 3, requires_grad=True)
    y = F.normalize(x)
    y.sum().backward()
    assert_same(y.detach().numpy(), np.zeros((2, 3), np.float32))
    assert np.isfinite(x.grad.numpy()).all()


C = tg.ones(3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: nn.BatchNorm2d(3)(tg.ones(2, 4, 5, 5)),
            ValueError,
            "BatchNorm2d: input is (2, 4, 5, 5); expected (N, C, H, W) with C = 3",
        ),
        (
            lambda: nn.BatchNorm2d(3)(tg.ones(2, 3)),
            ValueError,
            "BatchNorm2d: input is (2, 3); expected (N, C, H, W) with C = 3",
        ),
        (
            lambda: nn.BatchNorm1d(3)(tg.ones(2, 3, 4, 5)),
            ValueError,
            "BatchNorm1d: input is (2, 3, 4, 5); expected (N, C) or (N, C, L) with C = 3",
        ),
        (
            lambda: nn.BatchNorm1d(3)(tg.ones(1, 3)),
            ValueError,
            "batch_norm: input is (1, 3); expected more than 1 value a channel in training",
        ),
        (lambda: nn.BatchNorm1d(-1), ValueError, "BatchNorm1d: num_features is -1; expected >= 0"),
        (
            lambda: nn.BatchNorm1d(3)(tg.ones(2, 3, dtype="float64")),
            TypeError,
            "batch_norm: input is float64 but weight is float32; expected one dtype",
        ),
        (
            lambda: nn.BatchNorm1d(3)(tg.ones(2, 3, dtype="int64")),
            TypeError,
            "batch_norm: expected a floating-point tensor; got int64",
        ),
        (
            lambda: F.batch_norm(tg.ones(4, 3), None, C),
            ValueError,
            "batch_norm: training=False needs running_mean and running_var; got None",
        ),
        (
            lambda: F.batch_norm(tg.ones(4, 3), None, C, training=True),
            ValueError,
            "batch_norm: running_mean is None but running_var is not; expected both or neither",
        ),
        (
            lambda: F.instance_norm(tg.ones(4, 3, 2), C),
            ValueError,
            "instance_norm: running_var is None but running_mean is not; expected both or neither",
        ),
        (
            lambda: F.batch_norm(tg.ones(4, 3), tg.ones(4), C),
            ValueError,
            "batch_norm: input is (4, 3) but running_mean is (4,); expected (3,)",
        ),
        (lambda: F.batch_norm(C, C, C), ValueError, "batch_norm: input is (3,); expected (N, C) or (N, C, ...)"),
        (lambda: F.batch_norm([1.0], C, C), TypeError, "batch_norm: input is list; expected a tensor"),
        (
            lambda: nn.LayerNorm((4, 5))(tg.ones(2, 5, 4)),
            ValueError,
            "layer_norm: input is (2, 5, 4); expected its last dimensions to be (4, 5)",
        ),
        (lambda: F.layer_norm(C, ()), ValueError, "layer_norm: input is (3,); expected its last dimensions to be ()"),
        (
            lambda: F.layer_norm(C, 3, tg.ones(2)),
            ValueError,
            "layer_norm: input is (3,) but weight is (2,); expected (3,)",
        ),
        (
            lambda: nn.RMSNorm((4, 5))(tg.ones(2, 5, 4)),
            ValueError,
            "rms_norm: input is (2, 5, 4); expected its last dimensions to be (4, 5)",
        ),
        (
            lambda: nn.InstanceNorm2d(3)(tg.ones(2, 4, 5, 5)),
            ValueError,
            "InstanceNorm2d: input is (2, 4, 5, 5); expected (N, C, H, W) or (C, H, W) with C = 3",
        ),
        (
            lambda: nn.InstanceNorm2d(3)(tg.ones(2, 3, 1, 1)),
            ValueError,
            "instance_norm: input is (2, 3, 1, 1); expected more than 1 value for each channel of an image",
        ),
        (
            lambda: F.instance_norm(tg.ones(4, 3, 2), use_input_stats=False),
            ValueError,
            "instance_norm: use_input_stats=False needs running_mean and running_var; got None",
        ),
        (lambda: nn.LayerNorm((3, -1)), ValueError, "LayerNorm: normalized_shape is -1; expected >= 0"),
        (lambda: nn.GroupNorm(4, 6), ValueError, "GroupNorm: num_channels is 6; expected a multiple of num_groups, 4"),
        (lambda: nn.GroupNorm(0, 6), ValueError, "GroupNorm: num_groups is 0; expected >= 1"),
        (
            lambda: F.group_norm(tg.ones(2, 6), 4),
            ValueError,
            "group_norm: input is (2, 6); expected (N, C, ...) with C a multiple of 4 groups",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)


def test_an_error_leaves_the_statistics_alone():
    layer = nn.BatchNorm1d(3)
    with pytest.raises(ValueError):
        layer(tg.ones(1, 3))
    assert layer.num_batches_tracked.item() == 0
    assert_same(layer.running_mean.numpy(), np.zeros(3, np.float32))


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0, 2)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_is_normalised_and_moves_nothing(shape, training):
    channels = shape[1]
    x = np.zeros(shape, np.float32)
    mean, var, w, b = (np.full(channels, n, np.float32) for n in (0.5, 2.0, 3.0, 4.0))
    results = []
    for function, make in ((F, tg.tensor), (TF, torch.tensor)):
        x_, w_, b_ = (make(a, requires_grad=True) for a in (x, w, b))
        running = make(mean), make(var)
        y = function.batch_norm(x_, *running, w_, b_, training=training)
        y.sum().backward()
        results.append([t.detach().numpy() for t in (y, *running, x_.grad, w_.grad, b_.grad)])
    for got, want in zip(*results):
        assert_same(got, want)


def test_no_channels_at_all():
    for shape in ((2, 0), (2, 0, 3), (0,)):  # torch has no gradients here
        for training in (True, False):
            y = F.batch_norm(tg.zeros(*shape), tg.zeros(0), tg.zeros(0), training=training)
            assert_same(y.numpy(), np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"batch_norm: input is \(5,\)"):
        F.batch_norm(tg.zeros(5), tg.zeros(5), tg.zeros(5), training=True)


def test_a_layer_counts_an_empty_batch():
    ours, theirs = nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    assert ours(tg.zeros(0, 3)).shape == tuple(theirs(torch.zeros(0, 3)).shape)
    assert ours.num_batches_tracked.item() == theirs.num_batches_tracked.item()
    assert_same(ours.running_var.numpy(), theirs.running_var.numpy())
