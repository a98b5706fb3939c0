"""The functions of layers and losses, against torch in float64."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from keras import ops
from torch.nn import functional as F

from tests.compare import assert_close


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(got, want):
    """got against torch's in float64."""
    want = want.detach().numpy()
    assert_close(ops.convert_to_numpy(got), want, want.astype(np.float32))


def double(x):
    return torch.from_numpy(x).double()


ACTIVATIONS = {
    "relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "silu": F.silu, "selu": F.selu,
    "softplus": F.softplus, "softsign": F.softsign, "log_sigmoid": F.logsigmoid, "elu": F.elu, "celu": F.celu,
    "hard_tanh": F.hardtanh, "hard_sigmoid": F.hardsigmoid, "hard_silu": F.hardswish, "tanh_shrink": F.tanhshrink,
    "soft_shrink": F.softshrink, "hard_shrink": F.hardshrink, "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2), "softmax": lambda x: F.softmax(x, -1), "glu": F.glu,
    "log_softmax": lambda x: F.log_softmax(x, -1), "threshold": lambda x: F.threshold(x, 0.3, -1.0),
    "squareplus": lambda x: (x + torch.sqrt(x * x + 4)) / 2,
    "sparse_sigmoid": lambda x: torch.clamp((x + 1) / 2, 0, 1),
    "sparse_plus": lambda x: torch.where(x <= -1, 0 * x, torch.where(x < 1, (x + 1) ** 2 / 4, x)),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    x = normal(7, 6) * 3
    arguments = (0.3, -1.0) if name == "threshold" else ()
    check(getattr(ops, name)(x, *arguments), ACTIVATIONS[name](double(x)))


def test_exact_gelu_and_softmax_over_everything():
    x = normal(3, 4)
    check(ops.gelu(x, approximate=False), F.gelu(double(x)))
    check(ops.softmax(x, axis=0), F.softmax(double(x), 0))


def nchw(x):
    return double(x).movedim(-1, 1)


def oihw(kernel):
    return double(kernel).movedim((-1, -2), (0, 1))


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), ((2, 1), 1, 1), (1, 2, 1), (1, 1, 2)])
def test_conv_of_images(stride, dilation, groups):
    x, kernel = normal(2, 8, 7, 4), normal(3, 2, 4 // groups, 6, seed=1)
    want = F.conv2d(nchw(x), oihw(kernel), None, stride, 0, dilation, groups).movedim(1, -1)
    check(ops.conv(x, kernel, stride, "valid", dilation_rate=dilation), want)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("width", [2, 3])
def test_same_padding_has_one_more_behind(size, width, stride):
    """As many windows as ceil(n / stride), as TensorFlow counts them."""
    x, kernel = normal(2, size, 3), normal(width, 3, 5, seed=1)
    count = -(-size // stride)
    total = max((count - 1) * stride + width - size, 0)
    padded = F.pad(nchw(x), (total // 2, total - total // 2))
    got = ops.conv(x, kernel, stride, "same")
    assert got.shape == (2, count, 5)
    check(got, F.conv1d(padded, oihw(kernel), None, stride).movedim(1, -1))


def test_channels_first():
    x, kernel = normal(2, 4, 6, 5), normal(3, 3, 4, 6, seed=1)
    check(ops.conv(x, kernel, data_format="channels_first"), F.conv2d(double(x), oihw(kernel)))
    check(ops.max_pool(x, 2, data_format="channels_first"), F.max_pool2d(double(x), 2))


def test_depthwise_and_separable():
    x, kernel, points = normal(2, 6, 5, 3), normal(3, 3, 3, 2, seed=1), normal(1, 1, 6, 4, seed=2)
    per_channel = double(kernel).permute(2, 3, 0, 1).reshape(6, 1, 3, 3)
    depthwise = F.conv2d(nchw(x), per_channel, groups=3)
    check(ops.depthwise_conv(x, kernel), depthwise.movedim(1, -1))
    check(ops.separable_conv(x, kernel, points), F.conv2d(depthwise, oihw(points)).movedim(1, -1))


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_transpose(stride):
    x, kernel = normal(2, 4, 5, 3), normal(3, 3, 4, 3, seed=1)
    want = F.conv_transpose2d(nchw(x), double(kernel).permute(3, 2, 0, 1), None, stride)
    check(ops.conv_transpose(x, kernel, stride), want.movedim(1, -1))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("stride", "width"), [(1, 3), (2, 3), (2, 2), (3, 2)])
def test_conv_transpose_is_the_adjoint_of_conv(padding, stride, width):
    """<conv(y), x> = <y, conv_transpose(x)>, at the size that is a multiple of the stride."""
    x, kernel = normal(2, 4, 3), normal(width, 5, 3, seed=1)
    y = ops.conv_transpose(x, kernel, stride, padding)
    n = 4 * stride if padding == "same" else 4 * stride + max(width - stride, 0)
    assert y.shape == (2, n, 5)
    other = normal(2, n, 5, seed=2)
    left = np.vdot(ops.convert_to_numpy(ops.conv(other, kernel, stride, padding)), x)
    np.testing.assert_allclose(left, np.vdot(other, ops.convert_to_numpy(y)), rtol=1e-4)


def test_pooling():
    x = normal(2, 7, 6, 3)
    check(ops.max_pool(x, (2, 3), 2), F.max_pool2d(nchw(x), (2, 3), 2).movedim(1, -1))
    check(ops.average_pool(x, 2), F.avg_pool2d(nchw(x), 2).movedim(1, -1))
    padded = F.pad(nchw(x), (0, 1, 0, 1), value=-np.inf)
    check(
        ops.max_pool(x, 3, 2, "same")[:, :, :3],
        F.max_pool2d(F.pad(padded, (0, 0, 1, 0), value=-np.inf), 3, 2).movedim(1, -1),
    )
    ones = np.ones((1, 5, 4, 1), np.float32)
    np.testing.assert_allclose(ops.average_pool(ones, 3, 2, "same"), np.ones((1, 3, 2, 1)))  # of what there is
    volumes = normal(1, 4, 4, 4, 1)
    boxes = volumes.reshape(1, 2, 2, 2, 2, 2, 2, 1)
    np.testing.assert_array_equal(ops.max_pool(volumes, 2), boxes.max((2, 4, 6)))
    np.testing.assert_allclose(ops.average_pool(volumes, 2), boxes.mean((2, 4, 6)), rtol=1e-5)


def test_crossentropies():
    z, labels = normal(5, 4) * 4, np.array([0, 3, 1, 1, 2])
    soft = np.abs(normal(5, 4, seed=1))
    logp = F.log_softmax(double(z), -1)
    want = F.nll_loss(logp, torch.from_numpy(labels), reduction="none")
    probabilities = ops.softmax(z)
    check(ops.sparse_categorical_crossentropy(labels, z, from_logits=True), want)
    check(ops.sparse_categorical_crossentropy(labels[:, None], probabilities), want)
    check(ops.sparse_categorical_crossentropy(labels, ops.convert_to_numpy(probabilities)), want)
    check(ops.categorical_crossentropy(soft, z, from_logits=True), -(double(soft) * logp).sum(-1))
    check(ops.categorical_crossentropy(soft, probabilities), -(double(soft) * logp).sum(-1))
    check(ops.categorical_crossentropy(soft, ops.convert_to_numpy(probabilities)), -(double(soft) * logp).sum(-1))
    t = (soft < 0.5).astype(np.float32)
    want = F.binary_cross_entropy_with_logits(double(z), double(t), reduction="none")
    check(ops.binary_crossentropy(t, z, from_logits=True), want)
    check(ops.binary_crossentropy(t, ops.sigmoid(z)), want)


def test_losses_of_sure_predictions_are_exact():
    """The logits behind the probabilities are known: a probability that is rounded to 1 costs what it costs."""
    z = np.array([[0, 60.0], [60.0, 0]], np.float32)
    wrong = np.array([0, 1])
    np.testing.assert_allclose(ops.sparse_categorical_crossentropy(wrong, ops.softmax(z)), [60, 60])
    np.testing.assert_allclose(ops.categorical_crossentropy(np.eye(2, dtype=np.float32), ops.softmax(z)), [60, 60])
    np.testing.assert_allclose(
        ops.binary_crossentropy(np.float32([0, 1]), ops.sigmoid(np.float32([60, -60]))), [60, 60]
    )
    copied = ops.convert_to_numpy(ops.softmax(z))
    assert float(ops.sparse_categorical_crossentropy(wrong, copied)[0]) < 20  # cut at epsilon, as Keras does it


def test_ctc_loss_of_labels_among_which_is_the_blank():
    """Keras' padding is 0, the blank's class, and may be in the middle: then it is emitted like any other label."""
    z, labels, lengths = normal(3, 6, 4), np.array([[1, 2, 3, 1], [1, 0, 2, 0], [2, 2, 0, 0]]), np.array([4, 3, 2])
    steps = np.full(3, 6)
    logp = F.log_softmax(double(z), -1).transpose(0, 1)
    arrays = [torch.from_numpy(x) for x in (labels, steps, lengths)]
    check(ops.ctc_loss(labels, z, lengths, steps), F.ctc_loss(logp, *arrays, blank=0, reduction="none"))


def test_wrong_shapes_of_targets():
    z = normal(5, 4)
    with pytest.raises(ValueError, match="must have the same shape"):
        ops.categorical_crossentropy(z[:, :3], z)
    with pytest.raises(ValueError, match="must have the same shape"):
        ops.binary_crossentropy(z[:, :3], z)
    with pytest.raises(ValueError, match="must have the shape"):
        ops.sparse_categorical_crossentropy(np.zeros(4, int), z)


def test_attention():
    q, k, v = normal(2, 3, 4, 5), normal(2, 6, 2, 5, seed=1), normal(2, 6, 2, 5, seed=2)
    mask, bias = normal(2, 1, 3, 6, seed=3) > -1, normal(1, 4, 3, 6, seed=4)
    heads = [double(x).transpose(1, 2) for x in (q, k, v)]
    shown = torch.from_numpy(mask)
    want = F.scaled_dot_product_attention(*heads, shown, enable_gqa=True)
    check(ops.dot_product_attention(q, k, v, mask=mask), want.transpose(1, 2))
    added = torch.where(shown, double(bias), -torch.inf)
    want = F.scaled_dot_product_attention(*heads, added, scale=0.3, enable_gqa=True)
    check(ops.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=0.3), want.transpose(1, 2))
    want = F.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
    check(ops.dot_product_attention(q, k, v, is_causal=True), want.transpose(1, 2))


def test_encodings():
    at = np.array([[0, 2], [-1, 1]])
    want = np.array([[[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 1, 0]]])
    np.testing.assert_array_equal(ops.one_hot(at, 3), want)
    np.testing.assert_array_equal(ops.one_hot(at, 3, axis=1), want.transpose(0, 2, 1))
    assert keras.backend.standardize_dtype(ops.one_hot(at, 3, dtype="int32").dtype) == "int32"
    np.testing.assert_array_equal(ops.multi_hot(at, 3), want.max(1))


def test_math():
    x = normal(3, 7)
    values, places = ops.top_k(x, 3)
    np.testing.assert_array_equal(values, -np.sort(-x, -1)[:, :3])
    np.testing.assert_array_equal(places, np.argsort(-x, -1)[:, :3])
    targets = np.array([1, 5, 9])
    want = [np.sum(row > row[t]) < 2 if t < 7 else False for row, t in zip(x, targets)]
    np.testing.assert_array_equal(ops.in_top_k(targets, x, 2), want)
    check(ops.logsumexp(x * 100, axis=1), torch.logsumexp(double(x * 100), 1))
    check(ops.erf(x), torch.erf(double(x)))
    check(ops.erf(np.array([0, 1, -2])), torch.erf(torch.tensor([0.0, 1, -2]).double()))
    unit = np.tanh(x)
    check(ops.erfinv(unit), torch.erfinv(double(unit)))
    np.testing.assert_array_equal(ops.erfinv(np.float32(-1)), -np.inf)
    np.testing.assert_array_equal(ops.segment_sum(x, np.array([1, -1, 1]), num_segments=2), [x[0] * 0, x[0] + x[2]])
    q, r = ops.qr(normal(5, 3))
    np.testing.assert_allclose(ops.matmul(q, r), normal(5, 3), atol=1e-5)
