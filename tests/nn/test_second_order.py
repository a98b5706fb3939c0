"""Gradients, and gradients of gradients, of the functionals against finite differences in float64.

What is piecewise linear has no second derivative worth the name, but its gradient is still linear in dy: that is
checked too. Inputs stay clear of the kinks.
"""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import nn
from tilegrad.gradcheck import GradcheckError
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

RNG = np.random.default_rng(0)


def leaf(*shape, positive=False):
    x = RNG.standard_normal(shape)
    x = np.where(np.abs(x) < 0.05, 0.5, x)
    return Tensor(np.abs(x) * 0.2 + 0.05 if positive else x, requires_grad=True)


IMAGE, KERNEL, BIAS = leaf(2, 2, 5, 4), leaf(4, 1, 3, 2), leaf(4)
ROWS, LABELS = leaf(4, 5), Tensor(np.array([0, 4, 2, 2]))
UNIT, PROBABILITY = leaf(4, 5, positive=True), Tensor(RNG.random((4, 5)) * 0.8 + 0.1, requires_grad=True)
CLASS_WEIGHT = Tensor(RNG.random(5) + 0.1)
TABLE = leaf(5, 3)
Q, K, V = leaf(2, 3, 4), leaf(2, 5, 4), leaf(2, 5, 2)

CASES = {
    "linear": (F.linear, [leaf(2, 3, 5), leaf(4, 5), leaf(4)]),
    "conv2d": (lambda *a: F.conv2d(*a, stride=(1, 2), padding=1, groups=2), [IMAGE, KERNEL, BIAS]),
    "conv2d, same": (lambda *a: F.conv2d(*a, padding="same", groups=2), [IMAGE, KERNEL]),
    "conv2d, one image": (lambda x, w: F.conv2d(x[0], w, groups=2, dilation=(2, 1)), [IMAGE, KERNEL]),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2) * F.max_pool2d(x, 2), [IMAGE]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False).square(), [IMAGE]),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (2, 3)).square(), [IMAGE]),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (2, 3)).square(), [IMAGE]),
    "batch_norm, rows": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [ROWS, leaf(5), leaf(5)]),
    "batch_norm, images": (lambda x, w: F.batch_norm(x, None, None, w, None, True), [IMAGE, leaf(2)]),
    "batch_norm, bias alone": (lambda x, b: F.batch_norm(x, None, None, None, b, True), [IMAGE, leaf(2)]),
    "batch_norm, frozen": (
        lambda x, w: F.batch_norm(x, tg.ones(5, dtype="float64"), tg.ones(5, dtype="float64"), w),
        [ROWS, leaf(5)],
    ),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, 5, w, b), [ROWS, leaf(5), leaf(5)]),
    "layer_norm, weight alone": (lambda x, w: F.layer_norm(x, 5, w), [ROWS, leaf(5)]),
    "layer_norm, bias alone": (lambda x, b: F.layer_norm(x, 5, None, b), [ROWS, leaf(5)]),
    "rms_norm": (lambda x, w: F.rms_norm(x, (4, 5), w), [ROWS, leaf(4, 5)]),
    "rms_norm, plain": (lambda x: F.rms_norm(x, 5), [ROWS]),
    "layer_norm, plain": (lambda x: F.layer_norm(x, (4, 5)), [ROWS]),
    "batch_norm, frozen images": (
        lambda x, w, b: F.batch_norm(x, tg.ones(2, dtype="float64"), tg.ones(2, dtype="float64"), w, b),
        [IMAGE, leaf(2), leaf(2)],
    ),
    "instance_norm": (lambda x, w, b: F.instance_norm(x, None, None, w, b), [IMAGE, leaf(2), leaf(2)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), [leaf(2, 4, 3), leaf(4), leaf(4)]),
    "normalize": (F.normalize, [ROWS]),
    "embedding": (lambda w: F.embedding(LABELS, w, padding_idx=1).square(), [TABLE]),
    "elu": (lambda x: F.elu(x, 1.3), [ROWS]),
    "selu": (F.selu, [ROWS]),
    "silu": (F.silu, [ROWS]),
    "mish": (F.mish, [ROWS]),
    "gelu": (F.gelu, [ROWS]),
    "gelu, tanh": (lambda x: F.gelu(x, "tanh"), [ROWS]),
    "tanh": (F.tanh, [ROWS]),
    "sigmoid": (F.sigmoid, [ROWS]),
    "logsigmoid": (F.logsigmoid, [ROWS]),
    "softplus": (lambda x: F.softplus(x, 2.0, 1.0), [ROWS]),
    "softsign": (F.softsign, [ROWS]),
    "hardswish": (F.hardswish, [ROWS]),
    "hardsigmoid": (F.hardsigmoid, [ROWS]),
    "hardtanh": (lambda x: F.hardtanh(x, -0.7, 0.9), [ROWS]),
    "relu": (F.relu, [ROWS]),
    "relu6": (F.relu6, [ROWS]),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.3), [ROWS]),
    "relu in place": (lambda x: F.relu(x * x - 0.5, inplace=True), [ROWS]),
    "glu": (lambda x: F.glu(x, 0), [ROWS]),
    "softmax": (lambda x: F.softmax(x, 1), [ROWS]),
    "log_softmax": (lambda x: F.log_softmax(x, 0), [ROWS]),
    "cross_entropy": (lambda x: F.cross_entropy(x, LABELS), [ROWS]),
    "cross_entropy, all options": (
        lambda x: F.cross_entropy(x, LABELS, CLASS_WEIGHT, ignore_index=4, label_smoothing=0.1),
        [ROWS],
    ),
    "cross_entropy, none": (lambda x: F.cross_entropy(x, LABELS, CLASS_WEIGHT, reduction="none"), [ROWS]),
    "cross_entropy, images": (lambda x: F.cross_entropy(x, tg.tensor([[0, 1, 1], [1, 0, 1]])), [leaf(2, 2, 3)]),
    "cross_entropy, probabilities": (
        lambda x, t: F.cross_entropy(x, t, CLASS_WEIGHT, label_smoothing=0.2),
        [ROWS, UNIT],
    ),
    "nll_loss": (lambda x: F.nll_loss(x, LABELS, CLASS_WEIGHT, ignore_index=2).square(), [ROWS]),
    "mse_loss": (F.mse_loss, [ROWS, UNIT]),
    "l1_loss": (lambda x, t: F.l1_loss(x, t, reduction="none").square(), [ROWS, UNIT]),
    "smooth_l1_loss": (lambda x, t: F.smooth_l1_loss(x, t, beta=0.6), [ROWS, UNIT]),
    "huber_loss": (lambda x, t: F.huber_loss(x, t, delta=0.6), [ROWS, UNIT]),
    "bce": (F.binary_cross_entropy, [PROBABILITY, UNIT]),
    "bce, weighted": (lambda x, t: F.binary_cross_entropy(x, t, CLASS_WEIGHT, reduction="none"), [PROBABILITY, UNIT]),
    "bce with logits": (
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=CLASS_WEIGHT),
        [ROWS, UNIT],
    ),
    "kl_div": (F.kl_div, [ROWS, UNIT]),
    "kl_div, logarithms": (lambda x, t: F.kl_div(x, t, log_target=True, reduction="batchmean"), [ROWS, leaf(4, 5)]),
    "attention": (F.scaled_dot_product_attention, [Q, K, V]),
    "attention, causal": (lambda *a: F.scaled_dot_product_attention(*a, is_causal=True), [Q, K, V]),
    "pad": (lambda x: F.pad(x, (1, 2, 2, 0), "reflect").square(), [IMAGE]),
}


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_order(name):
    function, inputs = CASES[name]
    assert tg.gradcheck(function, inputs)
    assert tg.gradgradcheck(function, inputs)


def test_the_gradient_of_a_padded_embedding_is_a_function_of_dy():
    scale = tg.tensor(RNG.standard_normal((5, 3)))

    def gradient(dy):
        dw = tg.grad(F.embedding(LABELS, TABLE, padding_idx=2), TABLE, dy, create_graph=True)[0]
        return dw.square() + dw * scale  # the square alone has no slope at the row that is 0

    assert tg.gradcheck(gradient, [leaf(4, 3)])


def dropped(x):
    tg.manual_seed(0)  # the same mask at every evaluation
    return F.dropout2d(F.dropout(x, 0.4), 0.3)


def test_dropout():
    assert tg.gradcheck(dropped, [IMAGE])
    assert tg.gradgradcheck(lambda x: dropped(x * x), [IMAGE])


def test_a_whole_model():
    """Second order through modules, fused and not."""
    tg.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.Tanh(), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 4), nn.GELU()
    ).double()
    assert tg.gradcheck(model, [IMAGE])
    assert tg.gradgradcheck(model, [IMAGE])


def test_the_check_would_notice():
    """A batch norm whose gradient forgets how the moments depend on x fails."""

    def forgetful(x):
        mean, var = x.detach().mean(0), x.detach().var(0, correction=0)
        return (x - mean) / (var + 1e-5).sqrt()

    with pytest.raises(GradcheckError):
        tg.gradcheck(forgetful, [ROWS])
