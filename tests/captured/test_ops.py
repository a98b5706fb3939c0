"""One op in a captured step on the CPU, with an argument and a weight from around it: the plain call's bits.

The weight is written to in place between launches, so that values that were read once and for all would show.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import graphs
from tests.compare import assert_same
from tilegrad import kernels
from tilegrad.nn import functional as F

# Steps run plainly here on purpose; that each says so, once, is tested in tests/captured/changes.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*it runs plainly, as summary:RuntimeWarning")

CAPTURED = """
    x + w;  x - w;  x * w;  x / w;  w - x;  w * w;  w + 1;  2 / w;  x ** 2;  w ** 2;  (x.abs() + 1) ** w;
    x.abs();  x.neg();  x.exp();  x.log1p();  (x * x + 1).log();  (x * x + 1).sqrt();  (x * x + 1).rsqrt();
    x.sin();  x.cos();  x.tanh();  x.sigmoid();  x.relu();  F.gelu(x);  F.silu(w);  F.softplus(x);  F.elu(x);
    x.erf();  w.erf();
    F.leaky_relu(w);  F.hardtanh(x);  x.clamp(-1, 1);  x.clamp(min=w);  tg.maximum(x, w);  tg.minimum(w, x);
    tg.where(x > 0, x, w);  tg.where(w > 0, x, 0.0);  x.masked_fill(x > 0, 1.0);  x.sum();  x.sum(0);  w.sum(1);
    x.mean();  x.mean(1);  w.mean(0);  x.var(0);  w.std(1);  x.prod(0);  x.amax(1);  x.amin(0);  x.max(1)[0];
    x.min(0)[0];  w.max();  x.norm();  w.norm();  x.norm(1, 0);  x.logsumexp(1);  x.cumsum(0);  w.cumsum(1);
    x.softmax(1);  w.log_softmax(0);  x @ w.T;  w @ w.T;  x.matmul(w.T);  F.linear(x, w);  x.reshape(-1);
    w.reshape(6, 4);  x.T;  w.T * 2;  x.transpose(0, 1).contiguous();  x[1];  x[:, 2];  x[1:3, ::2];  w[1];
    w[[0, 2]];  x[[0, 2]];  x[:, [1, 3]];  x[tg.tensor([0, 1, 1])];  tg.cat([x, w]);  tg.stack([w, x]);
    x.split(2)[0];  x.chunk(2)[1];  x.flip(0);  x.roll(1, 0);  x.tril();  w.triu();  x.expand(2, 4, 6);
    w.unsqueeze(0);  x.repeat(2, 1);  x.tile((1, 2));  F.pad(x, (1, 2), value=3.0);
    x.index_select(0, tg.tensor([1, 0]));  x.sort(1)[0];  x.argsort(1).float();  x.topk(2)[0];
    x.argmax(1).float() + x.sum(1);  x.double() * w.double();  x.half().float();  w.long().float() * x;
    x.round();  x.floor() + w;  x.sign() * w;  F.layer_norm(x, (6,), w[0], w[1]);  F.group_norm(x, 2);
    F.batch_norm(x, None, None, training=True);
    F.batch_norm(x, w[0].detach(), w[1].detach().abs() + 1, training=False);  F.normalize(w);  F.mse_loss(x, w);
    F.l1_loss(x, w);  F.smooth_l1_loss(x, w);  F.huber_loss(x, w);
    F.binary_cross_entropy_with_logits(x, w.sigmoid());  F.cross_entropy(x, tg.tensor([0, 1, 2, 3]));
    F.cross_entropy(x, w.softmax(1));  F.cross_entropy(x, tg.tensor([0, 1, 2, 3]), label_smoothing=0.1);
    F.cross_entropy(x, tg.tensor([0, 1, 2, 3]), weight=w[0].detach().abs());
    F.scaled_dot_product_attention(x[None], w[None], w[None]);  F.max_pool2d(x[None, None], 2);
    F.avg_pool2d(x[None, None], 2);  F.conv2d(x[None, None], w[None, None, :2, :2]);  F.dropout(x, 0.3);
    F.dropout(w, 0.3);  x.isnan().float() * w;  (x > w).float();  (w > 0).float() * x;
    x.logical_not().float() + w;  (x == x).float() * w;  x.clone() + w.clone();  w.detach() * x;
    tg.zeros_like(w) + x;  tg.ones_like(x) * w;  w.to(tg.float64);  F.pad(x, (1, 1));
    tg.einsum('ij,kj->ik', x, w);  x.diagonal();  tg.bmm(x[None], w.T[None]);  x.norm(3);  x.detach() * w;
    w.detach().clone().mul_(2) + x;

    x.gather(1, tg.zeros(4, 2, dtype=tg.int64));  w.gather(0, (x > 0).long());  tg.take_along_dim(x, w.argsort(1), 1);
    x.scatter(1, tg.zeros(4, 1, dtype=tg.int64), 2.0);  x.index_select(1, tg.tensor([2, 2]));
    x.scatter_add(0, tg.zeros(1, 6, dtype=tg.int64), w[:1]);  F.embedding(tg.tensor([0, 1]), w) + x[:2];
    F.embedding((x[0] > 0).long(), w, padding_idx=1);  F.embedding((w[0] > 0).long(), x);
    F.one_hot(w.argmax(1), 6).float() * x;  F.nll_loss(x.log_softmax(1), tg.tensor([0, 1, 2, 3]));
    F.nll_loss(x.log_softmax(1), (w[:, 0] > 0).long(), w[0].detach().abs(), ignore_index=1, reduction='none');
    F.cross_entropy(x, (w[:, 0] > 0).long());  F.cross_entropy(x[None].transpose(1, 2), tg.tensor([[0, 1, -100, 3]]));
    F.binary_cross_entropy(x.sigmoid(), w.detach().sigmoid());  F.kl_div(x.log_softmax(1), w.detach().softmax(1));
    F.scaled_dot_product_attention(x[None], w[None], w[None], is_causal=True);
    F.scaled_dot_product_attention(x[None], w[None], w[None], x @ w.detach().T > 0, dropout_p=0.3);
    F.scaled_dot_product_attention(x[None], w[None], w[None], x[None, :, :4] > 0);  x.long() // 3 * w;
    x.long() % (w.long().abs() + 1) * w;  x.long() ** 2 * w;  x // (w.abs() + 1);  x % 2.0;  x.norm("nuc");  w.norm(0);
    x.norm(float("inf"));  tg.eye(4) @ x;  tg.linspace(0, 1, 6) * x;  tg.full((4, 6), 2.5) * w;  tg.arange(6) + w;
    tg.zeros(4, 6).add_(x) * w;  tg.zeros(4, 6).copy_(w) * x;  w.any(1).float() + x.sum(1);  w.flip(0) * x;
    w.roll(1, 0) * x;  F.pad(w, (1, 1));  w.sort(1)[0];  w.all(1).float() + x.sum(1);
    tg.empty(4, 6).copy_(x) * w;  x.cumprod(1);  w.cumprod(0);
    F.pad(x[None, None], (1, 1, 1, 1), mode="reflect");  F.pad(w[None, None], (1, 1, 1, 1), mode="circular");
    x.repeat_interleave(2, 0);  F.adaptive_avg_pool2d(x[None, None], 2);  F.max_pool2d(x[None, None], 3, 1, 1);
    F.avg_pool2d(x[None, None], 3, 1, 1);  F.max_pool2d(x[None, None], 2, return_indices=True)[0];
    F.conv2d(x.reshape(1, 2, 3, 4), w.reshape(2, 1, 3, 4)[:, :, :2, :2], groups=2);  tg.rand(4, 6) * x;
    tg.randn(4, 6) + w;  tg.randint(5, (4, 6)) + x;  x[tg.randperm(4)];  w[tg.randperm(4)] * x;  x * tg.rand_like(w);
    tg.rand(3, dtype=tg.float64).sum().float() * x;  tg.rand(3, dtype=tg.float16).float().sum() * w;
    tg.empty(4, 6).uniform_(-1, 2) * x;  tg.empty(4, 6).normal_(1, 2) * w;  F.dropout(w, 0.3) * tg.rand(6);
    written(x, (slice(None), 1), 5.0) * w;  written(x, ([0, 2],), w[:2]);  written(x, x > 0, 0.0) * w;
    w.index_select(0, x[0].argmax() % 4);  x[w[0].argmax()[None] % 4][0];  x[:, w[:, 0].argmax()[None]] * w;
    written(w, tg.arange(2), x[:2]);  written(w, w > 0, 1.5) * x;
"""


def written(x, index, value):
    """A copy of x with the value at the index."""
    y = x.clone()
    y[index] = value
    return y


REFUSED = """
    w[x > 0];  x[w > 0];  x.nonzero().float();  x.masked_select(w > 0);  F.one_hot(w.argmax(1)).float();
    x * x.sum().item();  x[tg.tensor(1)];  x.sum() if x.sum() > 0 else w.sum();  tg.tensor(x.numpy()) * w;
"""  # whose shapes are decided by values, or that read values


def ops(text):
    return [op for op in (part.strip() for part in text.split(";")) if op]


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield


def bits(op, is_captured, needs_grad):
    """(results and gradients of some calls, the step)."""
    rng = np.random.default_rng(1)
    w = tg.tensor(rng.standard_normal((4, 6)).astype(np.float32), requires_grad=needs_grad)
    call = eval(f"lambda x, w: {op}", {"tg": tg, "F": F, "written": written})
    tg.manual_seed(0)

    def fn(x):
        w.grad = None
        y = call(x, w)
        if needs_grad and y.requires_grad:
            (y * y).sum().backward()
        return y

    step = tg.capture(fn, warmup=1) if is_captured else fn
    seen = []
    for i in range(4):
        x = tg.tensor(rng.standard_normal((4, 6)).astype(np.float32))
        seen.append(step(x).detach().numpy().copy())
        if w.grad is not None:
            seen.append(w.grad.numpy().copy())
        if i == 2:
            with tg.no_grad():
                w.mul_(-1.5)
    return seen, step


@pytest.mark.parametrize("op", ops(CAPTURED))
def test_an_op_s_arguments_are_exchanged(op):
    """What was the argument is the tensor from around the step, and the other way round."""
    op = re.sub(r"\b[xw]\b", lambda name: {"x": "w", "w": "x"}[name[0]], op)
    (got, step), (want, _) = bits(op, True, True), bits(op, False, True)
    for a, b in zip(got, want, strict=True):
        assert_same(a, b)
    assert graphs(step), step.summary()


@pytest.mark.parametrize("needs_grad", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("op", [*ops(CAPTURED), *ops(REFUSED)])
def test_an_op_gives_the_bits_of_a_plain_call(op, needs_grad):
    (got, step), (want, _) = bits(op, True, needs_grad), bits(op, False, needs_grad)
    for a, b in zip(got, want, strict=True):
        assert_same(a, b)
    assert bool(graphs(step)) is (op in ops(CAPTURED)), step.summary()
