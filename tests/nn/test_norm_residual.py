"""Layer and RMS normalisation of a sum: one primitive, and the results of the two."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.nn.test_fusion import calls  # noqa: F401 - a fixture
from tilegrad import nn
from tilegrad.nn.functional.norm import layer_norm_residual, rms_norm_residual
from tilegrad.tensor import Tensor

NORMS = {
    "layer_norm": lambda: nn.LayerNorm(6),
    "layer_norm, two axes": lambda: nn.LayerNorm((5, 6)),
    "layer_norm, plain": lambda: nn.LayerNorm(6, elementwise_affine=False),
    "layer_norm, no bias": lambda: nn.LayerNorm(6, bias=False),
    "rms_norm": lambda: nn.RMSNorm(6, eps=1e-3),
    "rms_norm, plain": lambda: nn.RMSNorm(6, elementwise_affine=False),
}
every_norm = pytest.mark.parametrize("name", NORMS)


def made(name, dtype=np.float32):
    norm = NORMS[name]().to(dtype)
    for p in norm.parameters():
        nn.init.normal_(p)
    return norm


def apart(norm, x, residual):
    s = x + residual
    return norm(s), s


def leaf(rng, *shape, dtype=np.float32):
    return Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)


def run(function, norm, x, residual, dy, ds):
    """y and s, and all gradients of dy y + ds s; either may be None."""
    leaves = [x, residual, *norm.parameters()]
    y, s = function(x, residual) if function is not apart else apart(norm, x, residual)
    given = [(out, g) for out, g in ((y, dy), (s, ds)) if g is not None]
    grads = tg.grad([out for out, _ in given], leaves, [g for _, g in given], allow_unused=True)
    return [y, s, *grads]


@every_norm
@pytest.mark.parametrize("sent", ["both", "y", "s"])
def test_the_results_are_those_of_sum_and_norm(name, sent, dtype, rng):
    norm, (x, residual) = made(name, dtype), (leaf(rng, 3, 5, 6, dtype=dtype) for _ in range(2))
    dy, ds = (Tensor(rng.standard_normal((3, 5, 6)).astype(dtype)) for _ in range(2))
    dy, ds = dy if sent != "s" else None, ds if sent != "y" else None
    got, want = run(norm.forward_residual, norm, x, residual, dy, ds), run(apart, norm, x, residual, dy, ds)
    for a, b in zip(got[:2], want[:2], strict=True):
        assert_same(a.detach().numpy(), b.detach().numpy())
    for a, b in zip(got[2:], want[2:], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a.numpy(), b.numpy().astype(np.float64), b.numpy(), scale=1.0)


@every_norm
def test_second_order(name, rng):
    norm = made(name, np.float64)
    x, residual = leaf(rng, 2, 5, 6, dtype=np.float64), leaf(rng, 2, 5, 6, dtype=np.float64)

    def both(x, residual, *affine):
        function = layer_norm_residual if isinstance(norm, nn.LayerNorm) else rms_norm_residual
        y, s = function(x, residual, norm.normalized_shape, *affine, eps=norm.eps)
        return tg.cat([y.square(), (s * y).sin()])

    inputs = [x, residual, *norm.parameters()]
    assert tg.gradcheck(both, inputs)
    assert tg.gradgradcheck(both, inputs)
    assert tg.gradgradcheck(lambda *a: both(*a)[:2], inputs)


@every_norm
def test_gradients_of_gradients_twice_over_one_graph(name, rng):
    """Each time the sum takes part in them anew."""
    norm = made(name, np.float64)
    x, residual = leaf(rng, 2, 5, 6, dtype=np.float64), leaf(rng, 2, 5, 6, dtype=np.float64)

    def twice(function):
        y, s = function(x, residual)
        loss = (y.square() * s).sum()
        first = [tg.grad(loss, [x, residual], create_graph=True) for _ in range(2)]
        return tg.grad(sum((g * g.detach()).sum() for pair in first for g in pair), [x, residual])

    for got, want in zip(twice(norm.forward_residual), twice(lambda *a: apart(norm, *a)), strict=True):
        assert_close(got.numpy(), want.numpy(), scale=1.0)


def test_one_primitive_each_way(calls, rng):  # noqa: F811
    for name in ("layer_norm", "rms_norm"):
        norm, x, residual = made(name), leaf(rng, 4, 6), leaf(rng, 4, 6)
        calls.clear()
        y, s = norm.forward_residual(x, residual)
        (y + s).sum().backward()
        assert [each for each in calls.names() if "norm" in each] == [name, f"{name}_grad"]
        assert_same(x.grad.numpy(), residual.grad.numpy())
        assert x.grad.data is not residual.grad.data


def test_a_gradient_that_only_passes_is_nobody_else_s(rng):
    norm, x, residual = made("layer_norm"), leaf(rng, 4, 6), leaf(rng, 4, 6)
    ds = Tensor(np.ones((4, 6), np.float32))
    norm.forward_residual(x, residual)[1].backward(ds)
    x.grad.zero_()
    assert_same(ds.numpy(), np.ones((4, 6), np.float32))
    assert_same(residual.grad.numpy(), np.ones((4, 6), np.float32))


def test_the_terms_are_not_kept(rng):
    """What the gradient needs is the sum."""
    norm, a = made("layer_norm"), leaf(rng, 4, 6)
    x, residual = a * 2, a * 3
    terms = [weakref.ref(each.data) for each in (x, residual)]
    y, s = norm.forward_residual(x, residual)
    del x, residual
    gc.collect()
    assert [term() for term in terms] == [None, None]
    (y * s).sum().backward()


def test_a_sum_that_was_written_to(rng):
    norm, x = made("layer_norm"), leaf(rng, 4, 6)
    y, s = norm.forward_residual(x, x * 2)
    with tg.no_grad():
        s.add_(1)
    with pytest.raises(RuntimeError, match="a tensor saved by 'layer_norm' was written to in place"):
        y.sum().backward()


def test_without_gradients(rng):
    norm, x = made("layer_norm"), Tensor(rng.standard_normal((4, 6)).astype(np.float32))
    with tg.no_grad():
        y, s = norm.forward_residual(x, x)
    assert not y.requires_grad and not s.requires_grad
    frozen = nn.LayerNorm(6, elementwise_affine=False)
    assert not frozen.forward_residual(x, x)[0].requires_grad


def test_errors():
    norm, rms = nn.LayerNorm(6), nn.RMSNorm(6)
    x = tg.ones(4, 6)
    for name, layer in (("layer_norm", norm), ("rms_norm", rms)):
        with pytest.raises(
            ValueError, match=rf"^{name}: input is \(4, 6\) but residual is \(1, 6\); expected \(4, 6\)$"
        ):
            layer.forward_residual(x, x[:1])
        with pytest.raises(TypeError, match=f"^{name}: input is float32 but residual is float64; expected one dtype$"):
            layer.forward_residual(x, x.double())
        with pytest.raises(
            ValueError, match=rf"^{name}: input is \(4, 5\); expected its last dimensions to be \(6,\)$"
        ):
            layer.forward_residual(x[:, :5], x)


class Layers(nn.Module):
    """Blocks whose sums are made by the norm after them."""

    def __init__(self, norm, fused):
        super().__init__()
        self.norms = nn.Sequential(norm(8), norm(8), norm(8))
        self.linears = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
        self.fused = fused

    def forward(self, x):
        s, y = x, self.linears[0](x)
        for norm, linear in zip(self.norms, self.linears):
            if self.fused:
                y, s = norm.forward_residual(y, s)
            else:
                s = y + s
                y = norm(s)
            y = linear(y)
        return y


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_captured_steps_are_eager_ones(norm, rng):
    """And those of the sum and the norm made apart, within rounding."""
    x, t = rng.standard_normal((5, 4, 16, 8)).astype(np.float32), rng.integers(0, 3, (5, 64))

    def trained(captured, fused=True):
        tg.manual_seed(3)
        model = Layers(norm, fused)
        optimizer = tg.optim.Adam(model.parameters(), lr=1e-2)

        def step(x, t):
            loss = nn.functional.cross_entropy(model(x).reshape(-1, 3), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        step = tg.capture(step) if captured else step
        losses = [step(Tensor(a), Tensor(b)).item() for a, b in zip(x, t)]
        if captured:
            assert "plainly" not in step.summary()
        return [*losses, *[p.detach().numpy() for p in model.parameters()]]

    eager = trained(False)
    for got, want in zip(trained(True), eager, strict=True):
        assert_same(np.asarray(got), np.asarray(want))
    np.testing.assert_allclose(trained(False, fused=False)[:5], eager[:5], rtol=1e-5)
