"""float16: every op's result and gradient, judged by what torch loses in float16."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tilegrad as tg
from tests import oracle
from tests.compare import assert_close
from tests.ops.same import random
from tilegrad import ops

OPS = {
    "add": (lambda a, b: a + b, None, (5, 10), (10,)),
    "mul": (lambda a, b: a * b, None, (5, 10), (5, 1)),
    "div": (lambda a, b: a / b, None, (5, 10), (5, 10)),
    "pow": (lambda a: a**2, None, (5, 10)),
    "maximum": (lambda a, b: a.maximum(b), None, (5, 10), (10,)),
    "clamp": (lambda a: a.clamp(-0.5, 1.0), None, (5, 10)),
    "exp": (lambda a: a.exp(), None, (5, 10)),
    "log": (lambda a: (a * a).log(), None, (5, 10)),
    "tanh": (lambda a: a.tanh(), None, (5, 10)),
    "sigmoid": (lambda a: a.sigmoid(), None, (5, 10)),
    "gelu": (ops.gelu, F.gelu, (5, 10)),
    "silu": (ops.silu, F.silu, (5, 10)),
    "erf": (ops.erf, torch.erf, (5, 10)),
    "relu": (ops.relu, F.relu, (5, 10)),
    "sum": (lambda a: a.sum(1), None, (5, 300)),
    "sum of all": (lambda a: a.sum(), None, (5, 300)),
    "mean": (lambda a: a.mean(0), None, (5, 10)),
    "var": (lambda a: a.var(1), None, (5, 10)),
    "std": (lambda a: a.std(1), None, (5, 10)),
    "norm": (lambda a: a.norm(2, 1), None, (5, 10)),
    "prod": (lambda a: a.prod(1), None, (5, 6)),
    "cumsum": (lambda a: a.cumsum(1), None, (5, 10)),
    "amax": (lambda a: a.amax(1), None, (5, 10)),
    "softmax": (lambda a: a.softmax(1), None, (5, 10)),
    "log_softmax": (lambda a: a.log_softmax(1), None, (5, 10)),
    "logsumexp": (lambda a: a.logsumexp(1), None, (5, 10)),
    "matmul": (lambda a, b: a @ b, None, (5, 70), (70, 3)),
    "linear": (ops.linear, F.linear, (5, 70), (3, 70), (3,)),
    "einsum": (lambda *x: ops.einsum("ij,kj->ki", *x), lambda *x: torch.einsum("ij,kj->ki", *x), (5, 7), (3, 7)),
    "conv2d": (ops.conv2d, F.conv2d, (2, 3, 6, 5), (4, 3, 3, 3)),
    "getitem": (lambda a: a[[0, 0, 3]], None, (5, 10)),
    "cat": (lambda a, b: ops.cat([a, b], 1), lambda a, b: torch.cat([a, b], 1), (5, 10), (5, 2)),
}


@pytest.mark.parametrize("name", OPS)
def test_float16(name):
    ours, theirs, *shapes = OPS[name]
    arrays = [random(*s, seed=i).astype(np.float16) for i, s in enumerate(shapes)]
    want = oracle.value(theirs or ours, *arrays)
    leaves = [tg.Tensor(a, requires_grad=True) for a in arrays]
    y = ours(*leaves)
    assert_close(y.detach().numpy(), *want)
    dy = np.asarray(random(*y.shape, seed=9)).astype(np.float16)
    y.backward(tg.Tensor(dy))
    for leaf, pair in zip(leaves, oracle.gradients(theirs or ours, dy, *arrays), strict=True):
        assert_close(leaf.grad.numpy(), *pair)


def test_the_gradient_of_repeated_indices_adds_up_in_float32():
    """4096 gradients of 1 to one element: in float16, 2048 + 1 is 2048."""
    x = tg.zeros(2, dtype="float16", requires_grad=True)
    x[[0] * 4096].sum().backward()
    assert x.grad.tolist() == [4096.0, 0.0]


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_gradients_of_powers_round_once(kind):
    a, b = (tg.tensor(np.linspace(low, high, 200), dtype=kind) for low, high in ((0.1, 3.0), (2.5, -2.0)))
    for op, inputs in ((lambda a: a.rsqrt(), [a]), (lambda a, b: a**b, [a, b])):
        found = []
        for leaves in ([x.detach().clone() for x in inputs], [x.float() for x in inputs]):
            for x in leaves:
                x.requires_grad = True
            y = op(*leaves)
            found.append((y, tg.grad(y, leaves, tg.ones_like(y))))
        (y, got), (_, want) = found
        for g, w in zip(got, want):
            relative = np.abs(g.float().numpy() - w.numpy()) / np.abs(w.numpy()).clip(1e-3)
            assert relative.max() < 3 * float(np.finfo(np.float16).eps if kind == "float16" else 2.0**-8)
