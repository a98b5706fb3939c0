"""relu before max pooling: its mask is applied once, at the smaller size. All gradients keep their bits."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import ops
from tilegrad.autograd import relu_mask
from tilegrad.gradcheck import gradcheck, gradgradcheck
from tilegrad.nn import functional as F
from tilegrad.ops import activations, conv, pool

SHAPE = (2, 16, 9, 8)


@pytest.fixture
def skips(monkeypatch):
    """Of each relu whose rule ran, whether it skipped its mask."""
    found = []

    def noted(dy, y):
        found.append(relu_mask.is_masked(dy, y))
        return found[-1]

    monkeypatch.setattr(activations, "is_masked", noted)
    monkeypatch.setattr(conv, "is_masked", noted)
    return found


def images(dtype=np.float32, seed=0):
    """With windows of zeros and of negative numbers alone, and with NaN."""
    x = np.random.default_rng(seed).standard_normal(SHAPE)
    x[:, ::2] -= 1.5
    x[0, 1], x[0, 3] = 0.0, -0.0
    x[1, 2, 3, 3] = x[1, 2, 3, 4] = np.nan
    return x.astype(dtype)


def seed_of(y):
    g = np.asarray(np.random.default_rng(1).standard_normal(y.shape))
    if y.ndim:
        g.flat[::7], g.flat[3], g.flat[5] = -0.0, np.inf, np.nan
    return tg.tensor(g.astype(y.dtype))


def through_relu(x, w):
    return F.relu(x)


def through_conv(x, w):
    return ops.conv2d(tg.where(tg.isnan(x), 0.0, x), w, padding=(1, 1), activation="relu")


def written(x, w):
    return (x * 1.0).relu_()


def viewed(x, w):
    h = F.relu(x).permute(0, 2, 3, 1)  # as Keras has it
    return h.movedim(-1, 1).unsqueeze(0).squeeze(0).transpose(2, 3)


def gradients(of, after, monkeypatch=None, dtype=np.float32):
    """(result, gradients of x and w); with a monkeypatch those that relu's own mask gives."""
    if monkeypatch is not None:
        monkeypatch.setattr(pool, "is_unseen", lambda path: False)
    x = tg.tensor(images(dtype), requires_grad=True)
    w = tg.tensor(np.random.default_rng(2).standard_normal((16, 16, 3, 3)).astype(dtype), requires_grad=True)
    y = after(of(x, w))
    found = tg.grad(y, [x, w], seed_of(y), allow_unused=True)
    return [y.detach(), *[g for g in found if g is not None]]


def assert_bits(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        kind = np.dtype(f"i{a.dtype.itemsize}")
        assert_same(a.numpy().view(kind), b.numpy().view(kind))


WINDOWS = {
    "side by side": ((2, 2), (2, 2)),
    "overlapping": ((3, 3), (2, 2), (1, 1)),
    "dilated": ((2, 2), (2, 2), (1, 1), (2, 2)),
    "ceil": ((2, 2), (2, 2), (0, 0), (1, 1), True),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, tg.float16])
@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("of", [through_relu, through_conv, viewed])
def test_the_mask_is_skipped_and_the_bits_stay(of, windows, dtype, skips, monkeypatch):
    def after(h):
        return ops.max_pool2d(h, *WINDOWS[windows])

    got = gradients(of, after, dtype=dtype)
    assert skips == [True]
    assert_bits(got, gradients(of, after, monkeypatch, dtype))
    assert skips == [True, False]


MIXED = {
    "a sum beside it": lambda h: ops.max_pool2d(h, (2, 2), (2, 2)).sum() + (h * h).sum(),
    "two poolings": lambda h: ops.max_pool2d(h, (3, 3), (2, 2)).sum() + (2.0 * ops.max_pool2d(h, (2, 2), (1, 1))).sum(),
    "of a part": lambda h: ops.max_pool2d(h[:, :, 1:], (2, 2), (2, 2)),
    "of a product": lambda h: ops.max_pool2d(h * -1.0, (2, 2), (2, 2)),
    "of a copy": lambda h: ops.max_pool2d(h.clone(), (2, 2), (2, 2)),
    "of the mean": lambda h: ops.avg_pool2d(h, (2, 2), (2, 2)),
}


@pytest.mark.parametrize("after", MIXED.values(), ids=MIXED)
def test_other_gradients_are_masked_by_relu_itself(after, skips, monkeypatch):
    got = gradients(through_relu, after)
    assert skips == [False]
    assert_bits(got, gradients(through_relu, after, monkeypatch))


def test_of_a_relu_in_place_the_mask_is_relu_s_own(skips, monkeypatch):
    def then_written(x, w):
        h = written(x, w)
        with tg.no_grad():
            h.mul_(-1.0)  # which autograd passes over
        return h

    def after(h):
        return ops.max_pool2d(h, (2, 2), (2, 2))

    for of in (written, then_written):
        got = gradients(of, after)
        with monkeypatch.context() as patch:
            assert_bits(got, gradients(of, after, patch))
    assert skips == [False] * 4


def test_another_gradient_on_the_way_is_masked_with_it(skips):
    """The sum of both goes through the view."""
    x = tg.tensor([[[[-1.0, 2.0]]]], requires_grad=True)
    h = F.relu(x)
    v = h.permute(0, 1, 3, 2)
    (ops.max_pool2d(v, (2, 1), (2, 1)).sum() + (v * 3.0).sum()).backward()
    assert x.grad.tolist() == [[[[0.0, 4.0]]]] and skips == [False]


def zeros():
    """(x, relu of x) with one window of zeros and one with a winner."""
    x = tg.tensor([[[[-1.0, -2.0, 3.0, 1.0]]]], requires_grad=True)
    return x, F.relu(x)


def test_who_sees_the_gradient_of_relu_s_result_sees_it_whole(skips):
    whole = [[[[1.0, 0.0, 1.0, 0.0]]]]
    x, h = zeros()
    seen = []
    h.register_hook(lambda g: seen.append(g.tolist()))
    ops.max_pool2d(h, (1, 2), (1, 2)).sum().backward()
    assert seen == [whole] and x.grad.tolist() == [[[[0.0, 0.0, 1.0, 0.0]]]]

    x, h = zeros()
    h.retain_grad()
    ops.max_pool2d(h, (1, 2), (1, 2)).sum().backward()
    assert h.grad.tolist() == whole and x.grad.tolist() == [[[[0.0, 0.0, 1.0, 0.0]]]]

    x, h = zeros()
    v = h.permute(0, 1, 3, 2)
    y = ops.max_pool2d(v, (2, 1), (2, 1)).sum()
    for asked in (h, v):
        found = tg.grad(y, [x, asked], retain_graph=True)
        assert found[0].tolist() == [[[[0.0, 0.0, 1.0, 0.0]]]] and found[1].reshape(-1).tolist() == whole[0][0][0]

    x, h = zeros()
    y = ops.max_pool2d(h, (1, 2), (1, 2)).sum()
    y.backward(inputs=[h])
    assert h.grad.tolist() == whole and skips == [False] * 4

    _, h = zeros()
    leaf = h.detach().requires_grad_()
    ops.max_pool2d(leaf, (1, 2), (1, 2)).sum().backward()
    assert leaf.grad.tolist() == whole


def test_a_hook_s_gradient_is_masked(skips):
    for hook in (lambda g: g + 5.0, lambda g: g.add_(5.0)):
        x, h = zeros()
        h.register_hook(hook)
        ops.max_pool2d(h, (1, 2), (1, 2)).sum().backward()
        assert x.grad.tolist() == [[[[0.0, 0.0, 6.0, 5.0]]]]
    assert skips == [False, False]


def test_a_rule_between_sees_the_gradient_whole(skips):
    seen = []

    class Identity(tg.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view(x.shape)

        @staticmethod
        def backward(ctx, dy):
            seen.append(dy.tolist())
            return dy

    x, h = zeros()
    ops.max_pool2d(Identity.apply(h), (1, 2), (1, 2)).sum().backward()
    assert seen == [[[[[1.0, 0.0, 1.0, 0.0]]]]] and skips == [False]
    assert x.grad.tolist() == [[[[0.0, 0.0, 1.0, 0.0]]]]


def test_a_gradient_that_is_written_to_has_lost_the_mask():
    x, h = zeros()
    path = relu_mask.path_to_relu(h)
    y = tg.Tensor(h)  # as relu's rule gets it
    y._node = h._node
    dy = tg.ones(h.shape)
    relu_mask.mark(dy, path)
    assert relu_mask.is_masked(dy, y) and relu_mask.is_masked(dy.permute(0, 1, 3, 2), y)
    assert not relu_mask.is_masked(dy + 0.0, y) and not relu_mask.is_masked(dy, x)
    dy.add_(1.0)
    assert not relu_mask.is_masked(dy, y)


def test_maxima_that_are_written_to_do_not_count(skips):
    x, h = zeros()
    y = ops.max_pool2d(h, (1, 2), (1, 2))
    y.sub_(3.0)  # which is allowed: no rule needs them
    y.backward(tg.ones(y.shape))
    assert x.grad.tolist() == [[[[0.0, 0.0, 1.0, 0.0]]]] and skips == [False]


def test_maxima_may_be_written_to_before_a_second_gradient():
    x, h = zeros()
    y = ops.max_pool2d(h, (1, 2), (1, 2))
    (dx,) = tg.grad((y.clone() ** 2.0).sum(), x, create_graph=True)
    y.sub_(5.0)
    (ddx,) = tg.grad(dx.sum(), x)
    assert dx.tolist() == [[[[0.0, 0.0, 6.0, 0.0]]]] and ddx.tolist() == [[[[0.0, 0.0, 2.0, 0.0]]]]


def test_what_relu_gave_is_written_to():
    x, h = zeros()
    h.mul_(-1.0)  # its rule kept the values that there were
    y = ops.max_pool2d(h, (1, 2), (1, 2))
    assert y.tolist() == [[[[0.0, -1.0]]]] and relu_mask.path_to_relu(h) == ()


def test_gradients_of_gradients(skips):
    x = tg.tensor(np.random.default_rng(0).standard_normal((1, 2, 4, 4)), requires_grad=True)

    def function(x):
        return ops.max_pool2d(F.relu(x), (2, 2), (2, 2)) ** 3

    assert gradcheck(function, (x,)) and any(skips)
    assert gradgradcheck(function, (x,))


def test_a_captured_step_has_the_bits_of_a_plain_one(skips, monkeypatch):
    def run(step):
        x, w = (
            tg.tensor(np.float32(np.random.default_rng(k).standard_normal(shape)), requires_grad=True)
            for k, shape in enumerate([SHAPE, (16, 16, 3, 3)])
        )

        def plain(g):
            y = ops.max_pool2d(F.relu(F.conv2d(x, w)).permute(0, 2, 3, 1).movedim(-1, 1), (2, 2), (2, 2))
            x.grad = w.grad = None
            y.backward(g)
            return y

        call, found = step(plain), []
        for k in range(4):
            y = call(tg.tensor(np.random.default_rng(k).standard_normal((2, 16, 3, 3)).astype(np.float32)))
            found += [y.detach().clone(), x.grad.clone(), w.grad.clone()]
        return found

    got = run(tg.capture)
    assert skips == [True] * 3  # two plain calls, and that which is captured
    assert_bits(got, run(lambda f: f))
    monkeypatch.setattr(pool, "is_unseen", lambda path: False)
    assert_bits(got, run(lambda f: f))
