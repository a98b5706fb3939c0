"""What nets are made of, each block as a whole: its gradients, and gradients of gradients, against finite differences.

By the block's input and all of its parameters, in float64. tests/nn/test_second_order.py has the functions one by one;
here they pass gradients to one another, and fused forms take the place of several.
"""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_close
from tilegrad import nn
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor


def conv_norm_relu(channels, out, **options):
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, **options), nn.BatchNorm2d(out), nn.ReLU())


class Residual(nn.Module):
    """relu(x + f(x)) (He et al. 2016)."""

    def __init__(self):
        super().__init__()
        self.first = conv_norm_relu(2, 2, bias=False)
        self.second = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2))

    def forward(self, x):
        return F.relu(x + self.second(self.first(x)))


class Attention(nn.Module):
    """x + attention(norm(x)), then s + mlp(norm(s)) (Xiong et al. 2020)."""

    def __init__(self, norm=nn.LayerNorm, fused=False, causal=False):
        super().__init__()
        self.norms = nn.Sequential(norm(4), norm(4))
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
        self.mlp = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4))
        self.fused, self.causal = fused, causal

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).reshape(n, length, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        y = self.out(heads.transpose(1, 2).reshape(n, length, width))
        if self.fused:
            y, s = self.norms[1].forward_residual(y, x)
        else:
            s = x + y
            y = self.norms[1](s)
        return s + self.mlp(y)


BLOCKS = {
    "conv, BatchNorm, ReLU": (lambda: conv_norm_relu(2, 3), (2, 2, 4, 3)),
    "conv, BatchNorm, ReLU, pool": (lambda: nn.Sequential(*conv_norm_relu(1, 2), nn.MaxPool2d(2)), (2, 1, 4, 4)),
    "residual": (Residual, (2, 2, 3, 4)),
    "attention": (Attention, (2, 3, 4)),
    "causal attention": (lambda: Attention(causal=True), (2, 3, 4)),
    "attention, sum and norm in one": (lambda: Attention(fused=True), (2, 3, 4)),
    "attention, sum and RMS norm in one": (lambda: Attention(nn.RMSNorm, fused=True), (2, 3, 4)),
}
MODES = [(name, training) for name in BLOCKS for training in (True, False) if training or "attention" not in name]


def of_parameters(block):
    """(a function of the input and of all parameters, these)."""
    places = [(owner, name) for owner in block.modules() for name, _ in owner.named_parameters(recurse=False)]

    def function(x, *values):
        for (owner, name), value in zip(places, values, strict=True):
            owner.__dict__[name] = value  # past the check that it is a Parameter
        return block(x)

    return function, [getattr(owner, name) for owner, name in places]


@pytest.mark.parametrize("name, training", MODES)
def test_gradients_to_second_order(name, training, rng):
    make, shape = BLOCKS[name]
    block = make().double().train(training)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    for each in block.modules():  # what evaluation normalises by
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.running_mean)
            nn.init.uniform_(each.running_var, 0.5, 2.0)
    function, parameters = of_parameters(block)
    inputs = [Tensor(rng.standard_normal(shape), requires_grad=True), *parameters]
    assert tg.gradcheck(function, inputs)
    assert tg.gradgradcheck(function, inputs, atol=1e-5)
    y = function(*inputs)
    dy = Tensor(rng.standard_normal(y.shape))
    by_ops = tg.grad(y, inputs, dy, create_graph=True)  # whose gradients those were, not the primitives'
    for got, want in zip(by_ops, tg.grad(function(*inputs), inputs, dy), strict=True):
        assert_close(got.detach().numpy(), want.numpy(), scale=1.0)


@pytest.fixture
def rng():
    return np.random.default_rng(1)
