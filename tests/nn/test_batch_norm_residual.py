"""Batch normalisation that adds a residual: one primitive, and the results of norm, sum and relu."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.nn.test_fusion import calls  # noqa: F401 - a fixture
from tilegrad import nn
from tilegrad.nn import functional as F
from tilegrad.nn.functional.norm import batch_norm_activated
from tilegrad.tensor import Tensor

NORMS = {
    "rows": (lambda: nn.BatchNorm1d(5), (7, 5)),
    "sequences": (lambda: nn.BatchNorm1d(4), (3, 4, 6)),
    "images": (lambda: nn.BatchNorm2d(4), (3, 4, 2, 5)),
    "plain": (lambda: nn.BatchNorm2d(4, affine=False), (3, 4, 2, 5)),
    "no bias": (lambda: nn.BatchNorm2d(4, bias=False), (3, 4, 2, 5)),
    "no statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (3, 4, 2, 5)),
    "mean of all": (lambda: nn.BatchNorm2d(4, momentum=None), (3, 4, 2, 5)),
}
every_norm = pytest.mark.parametrize("name", NORMS)
activations = pytest.mark.parametrize("activation", [None, "relu"])


def made(name, dtype=np.float32, training=True):
    norm = NORMS[name][0]().to(dtype).train(training)
    for p in norm.parameters():
        nn.init.normal_(p)
    return norm


def leaf(rng, *shape, dtype=np.float32):
    return Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)


def apart(norm, x, residual, activation):
    y = norm(x) + residual
    return F.relu(y) if activation else y


def run(function, norm, x, residual, activation, dy):
    """The result, all gradients, and the statistics afterwards."""
    y = function(norm, x, residual, activation)
    grads = tg.grad(y, [x, residual, *norm.parameters()], dy)
    return [each.detach().numpy() for each in (y, *grads, *norm.buffers())]


@every_norm
@activations
@pytest.mark.parametrize("training", [True, False])
def test_the_results_are_those_of_norm_sum_and_relu(name, activation, training, dtype, rng):
    shape = NORMS[name][1]
    x, residual = leaf(rng, *shape, dtype=dtype), leaf(rng, *shape, dtype=dtype)
    dy = Tensor(rng.standard_normal(shape).astype(dtype))
    found = []
    for function in (lambda norm, *args: norm.forward_residual(*args), apart):
        tg.manual_seed(0)
        found.append(run(function, made(name, dtype, training), x, residual, activation, dy))
    for got, want in zip(*found, strict=True):
        if dtype in (np.float32, np.float64):
            assert_same(got, want)
        else:
            assert_close(got, want.astype(np.float64), want, scale=2.0)


@every_norm
@activations
def test_second_order(name, activation, rng):
    shape = NORMS[name][1]
    for training in (True, False):
        norm = made(name, np.float64, training)
        x, residual = leaf(rng, *shape, dtype=np.float64), leaf(rng, *shape, dtype=np.float64)

        def function(x, residual, *affine, norm=norm):
            given = dict(zip(("weight", "bias"), affine, strict=False))
            running = (None, None) if norm.training else (norm.running_mean, norm.running_var)
            weight, bias = given.get("weight"), given.get("bias")
            training = norm.training or running[0] is None
            return batch_norm_activated(
                x, *running, weight, bias, training, 0.0, norm.eps, activation, residual
            ).square()

        inputs = [x, residual, *norm.parameters()]
        assert tg.gradcheck(function, inputs)
        assert tg.gradgradcheck(function, inputs)


@activations
def test_the_gradient_by_ops_is_the_primitives(activation, rng):
    """The one is computed where a gradient of it will be asked for."""
    norm = made("images", np.float64)
    x, residual = leaf(rng, 3, 4, 2, 5, dtype=np.float64), leaf(rng, 3, 4, 2, 5, dtype=np.float64)
    dy, leaves = Tensor(rng.standard_normal((3, 4, 2, 5))), [x, residual, *norm.parameters()]
    by_ops = tg.grad(norm.forward_residual(x, residual, activation), leaves, dy, create_graph=True)
    assert by_ops[0].requires_grad
    for got, want in zip(by_ops, tg.grad(norm.forward_residual(x, residual, activation), leaves, dy), strict=True):
        assert_close(got.detach().numpy(), want.numpy(), scale=1.0)


def test_one_primitive_each_way(calls, rng):  # noqa: F811
    norm, x, residual = made("images"), leaf(rng, 3, 4, 2, 5), leaf(rng, 3, 4, 2, 5)
    calls.clear()
    y = norm.forward_residual(x, residual, "relu")
    assert calls.names() == ["batch_moments", "batch_norm", "batch_moments_step"]
    calls.clear()
    y.backward(tg.ones_like(y))
    assert calls.names() == ["batch_norm_grad"]
    assert_same(residual.grad.numpy(), (y > 0).float().numpy())


def test_a_gradient_that_only_passes_is_nobody_else_s(rng):
    norm, x, residual = made("images"), leaf(rng, 3, 4, 2, 5), leaf(rng, 3, 4, 2, 5)
    dy = tg.ones(3, 4, 2, 5)
    norm.forward_residual(x, residual).backward(dy)
    residual.grad.zero_()
    assert_same(dy.numpy(), np.ones((3, 4, 2, 5), np.float32))


@activations
def test_the_residual_is_not_kept(activation, rng):
    """What the gradient needs of it is in the result."""
    norm, x, a = made("images"), leaf(rng, 3, 4, 2, 5), leaf(rng, 3, 4, 2, 5)
    residual = a * 2
    term = weakref.ref(residual.data)
    y = norm.forward_residual(x, residual, activation)
    del residual
    gc.collect()
    assert term() is None
    y.sum().backward()


@activations
def test_what_was_written_to(activation, rng):
    """x and weight are kept, and the result where relu's mask is taken from it."""
    for written in ("x", "weight", "y"):
        norm, a, residual = made("images"), leaf(rng, 3, 4, 2, 5), leaf(rng, 3, 4, 2, 5)
        x = a * 2
        y = norm.forward_residual(x, residual, activation)
        with tg.no_grad():
            {"x": x, "weight": norm.weight, "y": y}[written].add_(1)
        if written == "y" and activation is None:
            y.sum().backward()
            continue
        with pytest.raises(RuntimeError, match="a tensor saved by 'batch_norm' was written to in place"):
            y.sum().backward()


def test_only_some_need_gradients(rng):
    x, residual = (Tensor(rng.standard_normal((3, 4, 2, 5)).astype(np.float32)) for _ in range(2))
    frozen = nn.BatchNorm2d(4, affine=False)
    assert not frozen.forward_residual(x, residual, "relu").requires_grad
    y = frozen.forward_residual(x, residual.requires_grad_(), "relu")
    y.sum().backward()
    assert_same(residual.grad.numpy(), (y > 0).float().numpy())
    x.requires_grad_()
    (dx,) = tg.grad(frozen.forward_residual(x, residual.detach(), "relu").square().sum(), [x])
    (want,) = tg.grad(apart(frozen, x, residual.detach(), "relu").square().sum(), [x])
    assert_same(dx.numpy(), want.numpy())
    with tg.no_grad():
        assert not frozen.forward_residual(x, residual, "relu").requires_grad


def test_a_gradient_after_the_running_statistics_have_moved(rng):
    """Evaluation takes them as constants, also where nothing but the residual needs a gradient."""
    norm = nn.BatchNorm2d(4, affine=False).eval()
    x, residual = leaf(rng, 3, 4, 2, 5).detach(), leaf(rng, 3, 4, 2, 5)
    y = norm.forward_residual(x, residual, "relu")
    norm.train()(x + 5)
    y.sum().backward()
    assert_same(residual.grad.numpy(), (y > 0).float().numpy())


def test_the_input_is_its_own_residual(rng):
    """Both gradients go to one tensor."""
    norm, x = made("images", np.float64), leaf(rng, 3, 4, 2, 5, dtype=np.float64)
    dy = Tensor(rng.standard_normal((3, 4, 2, 5)))
    (got,) = tg.grad(norm.forward_residual(x, x, "relu"), [x], dy)
    (want,) = tg.grad(apart(norm, x, x, "relu"), [x], dy)
    assert_same(got.numpy(), want.numpy())


def test_an_empty_batch():
    norm, x = nn.BatchNorm2d(4), tg.zeros(0, 4, 2, 5, requires_grad=True)
    y = norm.forward_residual(x, x, "relu")
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 4, 2, 5)


def test_errors():
    norm, x = nn.BatchNorm2d(4), tg.ones(3, 4, 2, 5)
    with pytest.raises(
        ValueError, match=r"^batch_norm: input is \(3, 4, 2, 5\) but residual is \(1, 4, 2, 5\); expected"
    ):
        norm.forward_residual(x, x[:1])
    with pytest.raises(TypeError, match="^batch_norm: input is float32 but residual is float64; expected one dtype$"):
        norm.forward_residual(x, x.double())
    with pytest.raises(TypeError, match="^batch_norm: residual is float; expected a tensor$"):
        norm.forward_residual(x, 1.0)
    with pytest.raises(ValueError, match="^batch_norm: activation is 'gelu'; expected one of None, 'relu'$"):
        norm.forward_residual(x, x, "gelu")
    with pytest.raises(ValueError, match=r"^BatchNorm2d: input is \(4, 2, 5\); expected"):
        norm.forward_residual(x[0], x[0])


class Net(nn.Module):
    """Two blocks, each relu(norm(conv(x)) + x)."""

    def __init__(self, fused):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(4) for _ in range(2)])
        self.fused = fused

    def forward(self, x):
        x = self.first(x)
        for conv, norm in zip(self.convs, self.norms):
            x = norm.forward_residual(conv(x), x, "relu") if self.fused else F.relu(norm(conv(x)) + x)
        return self.last(x.mean((2, 3)))


def test_captured_steps_are_eager_ones_and_those_of_three_ops(rng):
    x, t = rng.standard_normal((5, 8, 1, 6, 6)).astype(np.float32), rng.integers(0, 3, (5, 8))

    def trained(captured, fused=True):
        tg.manual_seed(3)
        model = Net(fused)
        optimizer = tg.optim.Adam(model.parameters(), lr=1e-2)

        def step(x, t):
            loss = F.cross_entropy(model(x), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        step = tg.capture(step) if captured else step
        losses = [step(Tensor(a), Tensor(b)).item() for a, b in zip(x, t)]
        if captured:
            assert "plainly" not in step.summary()
        return [*losses, *[p.detach().numpy() for p in (*model.parameters(), *model.buffers())]]

    eager = trained(False)
    for other in (trained(True), trained(False, fused=False)):
        for got, want in zip(other, eager, strict=True):
            assert_same(np.asarray(got), np.asarray(want))


def test_a_captured_step_follows_train_and_eval(rng):
    """Of a layer that is not called, and that nothing which the function reads holds: by its own word."""
    norm = made("images")
    x, residual = (leaf(rng, 3, 4, 2, 5).detach() for _ in range(2))
    found = weakref.ref(norm)
    function = tg.capture(lambda x, r: found().forward_residual(x, r, "relu"))
    for training in (True, False, True):
        norm.train(training)
        for _ in range(4):
            before = [each.clone() for each in norm.buffers()]
            got = function(x, residual)
            moved = [each.clone() for each in norm.buffers()]
            for buffer, each in zip(norm.buffers(), before, strict=True):
                buffer.copy_(each)
            assert_same(got.detach().numpy(), norm.forward_residual(x, residual, "relu").detach().numpy())
            for buffer, each in zip(norm.buffers(), moved, strict=True):
                assert_same(buffer.numpy(), each.numpy())
