"""Losses against torch: targets of every kind, weights, reductions, smoothing, and their extremes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tests.nn.versus import assert_function
from tilegrad import nn
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

REDUCTIONS = ["mean", "sum", "none"]
CLASS_SHAPES = [
    (4, 5),  # rows
    (5,),  # one row
    (3, 5, 2),  # one further dimension
    (2, 5, 3, 2),  # two
    (1, 1),  # a single class
]


def labels_for(rng, shape, ignored=()):
    dim = 0 if len(shape) == 1 else 1
    t = rng.integers(0, shape[dim], (*shape[:dim], *shape[dim + 1 :]))
    if ignored:
        t.reshape(-1)[::3] = ignored[0]
    return t


def both(name, **options):
    """Our function and torch's with the same options; array options become tensors of the input's dtype."""

    def ours(x, t):
        return getattr(F, name)(
            x, t, **{k: Tensor(v.astype(x.dtype)) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        )

    def theirs(x, t):
        given = {k: torch.from_numpy(v).to(x.dtype) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        return getattr(TF, name)(x, t, **given)

    return ours, theirs


# --- class indices


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
def test_cross_entropy(shape, smoothing, weighted, reduction, dtype, rng):
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    if weighted:
        options["weight"] = rng.random(shape[1] if len(shape) > 1 else shape[0]) + 0.1
    for ignore_index in (-100, 0) if len(shape) > 1 and shape != (1, 1) else (-100,):
        t = labels_for(rng, shape, (ignore_index,))
        if shape in ((5,), (1, 1)):
            t[...] = 0
        ours, theirs = both("cross_entropy", **options, ignore_index=ignore_index)
        assert_function(ours, theirs, x, t, scale=1.0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
def test_nll(shape, weighted, reduction, dtype, rng):
    x = rng.standard_normal(shape).astype(dtype)
    options = {"reduction": reduction}
    if weighted:
        options["weight"] = rng.random(shape[1] if len(shape) > 1 else shape[0]) + 0.1
    t = labels_for(rng, shape, (-100,) if len(shape) > 1 and shape != (1, 1) else ())
    ours, theirs = both("nll_loss", **options)
    assert_function(ours, theirs, x, t, scale=1.0)


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.int8, np.int16])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_labels_of_any_integer_dtype(name, kind, rng):
    x, t = Tensor(rng.standard_normal((4, 5)).astype(np.float32)), rng.integers(0, 5, 4)
    assert_same(getattr(F, name)(x, Tensor(t.astype(kind))).numpy(), getattr(F, name)(x, Tensor(t)).numpy())


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_nothing_counts(name):
    """The mean over no label is nan, the sum 0; gradients of the sum are 0."""
    x = tg.randn(3, 4, requires_grad=True)
    t = tg.full((3,), -100)
    assert math.isnan(getattr(F, name)(x, t).item())
    total = getattr(F, name)(x, t, reduction="sum")
    assert total.item() == 0
    total.backward()
    assert_same(x.grad.numpy(), np.zeros((3, 4), np.float32))


def test_nll_ignores_even_infinity():
    x = tg.tensor([[-math.inf, 0.0], [-0.5, -1.0]], requires_grad=True)
    loss = F.nll_loss(x, tg.tensor([0, 1]), ignore_index=0)
    loss.backward()
    assert loss.item() == 1.0
    assert_same(x.grad.numpy(), np.array([[0, 0], [0, -1]], np.float32))


def test_huge_logits_keep_their_digits():
    """Shifted before subtracting: at 1e4 a loss of 0.125 is not rounded away."""
    z = tg.tensor([[10000.0, 10000.125]])
    want = np.array(math.log1p(math.exp(0.125)))
    assert_close(F.cross_entropy(z, tg.tensor([0])).numpy(), want, want.astype(np.float32))


def test_the_three_ways_to_cross_entropy(rng):
    """Fused, through nll_loss, and through one-hot probabilities."""
    x = Tensor(rng.standard_normal((6, 4)))
    t = rng.integers(0, 4, 6)
    fused = F.cross_entropy(x, Tensor(t)).numpy()
    assert_close(F.nll_loss(F.log_softmax(x, 1), Tensor(t)).numpy(), fused)
    assert_close(F.cross_entropy(x, F.one_hot(Tensor(t), 4).double()).numpy(), fused)


# --- probabilities


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
def test_cross_entropy_of_probabilities(shape, smoothing, weighted, reduction, dtype, rng):
    x, t = (3 * rng.standard_normal(shape)).astype(dtype), rng.random(shape).astype(dtype)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    if weighted:
        options["weight"] = rng.random(shape[1] if len(shape) > 1 else shape[0]) + 0.1
    assert_function(*both("cross_entropy", **options), x, t, scale=1.0)


# --- regression


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(4, 5), (), (7,), (2, 1, 3)], ids=str)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mse_loss", {}),
        ("l1_loss", {}),
        ("smooth_l1_loss", {}),
        ("smooth_l1_loss", {"beta": 0.3}),
        ("smooth_l1_loss", {"beta": 0}),
        ("huber_loss", {}),
        ("huber_loss", {"delta": 0.4}),
    ],
    ids=str,
)
def test_regression(name, options, shape, reduction, dtype, rng):
    x, t = (np.asarray(rng.standard_normal(shape), dtype) for _ in range(2))
    assert_function(*both(name, reduction=reduction, **options), x, t)


@pytest.mark.parametrize(("name", "options"), [("smooth_l1_loss", {"beta": 0.5}), ("huber_loss", {"delta": 0.5})])
def test_where_square_and_line_meet(name, options, dtype):
    x = np.array([0.5, -0.5, 0.499, 0.501, -0.499, -0.501, 0.5 + 2**-20, 0.5 - 2**-20], dtype)
    assert_function(*both(name, reduction="none", **options), x, np.zeros_like(x))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_weighted_regression(name, reduction, dtype, rng):
    x, t = (rng.standard_normal((4, 3)).astype(dtype) for _ in range(2))
    assert_function(*both(name, reduction=reduction, weight=rng.random((4, 3))), x, t)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
def test_where_input_equals_target_the_gradient_is_0(name):
    x = tg.ones(3, requires_grad=True)
    loss = getattr(F, name)(x, tg.ones(3))
    loss.backward()
    assert loss.item() == 0
    assert_same(x.grad.numpy(), np.zeros(3, np.float32))


def test_integer_targets_are_promoted(rng):
    x = rng.standard_normal(4).astype(np.float32)
    got = F.mse_loss(Tensor(x), Tensor(np.arange(4)))
    assert_same(got.numpy(), F.mse_loss(Tensor(x), Tensor(np.arange(4, dtype=np.float32))).numpy())


# --- Bernoulli


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight_shape", [None, (3,), (4, 3), (4, 1)], ids=str)
def test_bce(weight_shape, reduction, dtype, rng):
    x, t = (rng.random((4, 3)).astype(dtype) for _ in range(2))
    options = {"reduction": reduction}
    if weight_shape:
        options["weight"] = rng.random(weight_shape)
    assert_function(*both("binary_cross_entropy", **options), x, t, scale=1.0)


@pytest.mark.parametrize(("x", "t"), list(itertools.product([0.0, 1.0], [0.0, 1.0, 0.5])))
def test_bce_at_the_ends(x, t, dtype):
    """Logarithms are cut at -100, the denominator at 1e-12: large, but finite."""
    p, q = (tg.tensor(np.array(v, dtype), requires_grad=True) for v in (x, t))
    loss = F.binary_cross_entropy(p, q)
    dp, dq = tg.grad(loss, (p, q))
    assert loss.item() == 100 * abs(x - t)
    assert_close(dp.numpy(), np.array((x - t) / 1e-12), np.array((x - t) / 1e-12, dtype))
    assert dq.item() == (-100 if x else 100)
    assert_same(loss.detach().numpy(), TF.binary_cross_entropy(*(torch.from_numpy(a.data) for a in (p, q))).numpy())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight_shape", [None, (3,), (4, 1)], ids=str)
@pytest.mark.parametrize("pos_shape", [None, (3,), (1,)], ids=str)
def test_bce_with_logits(pos_shape, weight_shape, reduction, dtype, rng):
    x, t = (3 * rng.standard_normal((4, 3))).astype(dtype), rng.random((4, 3)).astype(dtype)
    options = {"reduction": reduction}
    if weight_shape:
        options["weight"] = rng.random(weight_shape)
    if pos_shape:
        options["pos_weight"] = rng.random(pos_shape) + 0.5
    assert_function(*both("binary_cross_entropy_with_logits", **options), x, t, scale=1.0)


@pytest.mark.parametrize("x", [-1000.0, -80.0, -20.0, 0.0, 20.0, 80.0, 1000.0])
@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_bce_with_extreme_logits(x, t):
    """t softplus(-x) + (1 - t) softplus(x), every digit of it; torch's own loses small ones."""

    def softplus(v):
        return max(v, 0.0) + math.log1p(math.exp(-abs(v)))

    want = np.array(t * softplus(-x) + (1 - t) * softplus(x))
    got = F.binary_cross_entropy_with_logits(tg.tensor(x), tg.tensor(t)).numpy()
    assert_close(got, want, want.astype(np.float32))


# --- Kullback-Leibler


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("log_target", [False, True], ids=["probabilities", "logarithms"])
# torch warns that "mean" is not the mathematical one
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
def test_kl_div(reduction, log_target, dtype, rng):
    x, t = rng.standard_normal((4, 3)).astype(dtype), rng.random((4, 3)).astype(dtype)
    t = np.log(t) if log_target else t
    assert_function(*both("kl_div", reduction=reduction, log_target=log_target), x, t, scale=1.0)


def test_kl_div_of_impossible_events():
    x, t = tg.tensor([[-1.0, -2.0]], requires_grad=True), tg.tensor([[0.0, 1.0]])
    loss = F.kl_div(x, t, reduction="batchmean")
    loss.backward()
    assert loss.item() == 2.0
    assert_same(x.grad.numpy(), np.array([[0, -1]], np.float32))


# --- layers


LAYERS = {
    "CrossEntropyLoss": [{}, {"label_smoothing": 0.1, "reduction": "sum", "ignore_index": 2, "weight": 5}],
    "NLLLoss": [{}, {"reduction": "none", "ignore_index": 2, "weight": 5}],
    "MSELoss": [{}, {"reduction": "sum"}],
    "L1Loss": [{}, {"reduction": "none"}],
    "SmoothL1Loss": [{}, {"reduction": "sum", "beta": 0.4}],
    "HuberLoss": [{}, {"reduction": "sum", "delta": 0.4}],
    "BCELoss": [{}, {"reduction": "sum", "weight": 5}],
    "BCEWithLogitsLoss": [{}, {"reduction": "none", "weight": 5, "pos_weight": 5}],
    "KLDivLoss": [{"reduction": "batchmean"}, {"reduction": "sum", "log_target": True}],
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, rng):
    for options in LAYERS[name]:
        arrays = {k: rng.random(v).astype(np.float32) for k, v in options.items() if "weight" in k}
        ours = getattr(nn, name)(**{**options, **{k: Tensor(v) for k, v in arrays.items()}})
        theirs = getattr(torch.nn, name)(**{**options, **{k: torch.from_numpy(v) for k, v in arrays.items()}})
        x = rng.random((4, 5)).astype(np.float32)
        t = rng.integers(0, 5, 4) if name in ("CrossEntropyLoss", "NLLLoss") else rng.random((4, 5)).astype(np.float32)
        got = ours(Tensor(x), Tensor(t)).numpy()
        want = theirs.double()(
            torch.from_numpy(x).double(), torch.from_numpy(t).double() if t.dtype.kind == "f" else torch.from_numpy(t)
        )
        baseline = theirs.float()(torch.from_numpy(x), torch.from_numpy(t))
        assert_close(got, want.numpy(), baseline.numpy(), scale=1.0)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert repr(ours) == repr(theirs)


# --- errors

X, T = tg.ones(4, 5), tg.tensor([0, 1, 2, 3])
P = tg.full((4, 5), 0.5)
ERRORS = {
    "label too large": (
        lambda: F.cross_entropy(X, tg.tensor([0, 1, 5, 0])),
        ValueError,
        "softmax_xent: t[2] is 5; expected 0 <= t < 5, or ignore_index -100",
    ),
    "label negative": (
        lambda: F.nll_loss(X, tg.tensor([0, 1, -1, 0])),
        ValueError,
        "nll_loss: target holds -1; expected 0 <= t < 5, or ignore_index -100",
    ),
    "labels of another batch": (
        lambda: F.cross_entropy(X, tg.tensor([0, 1])),
        ValueError,
        "cross_entropy: input is (4, 5) but target is (2,); expected (4,)",
    ),
    "labels as a column": (
        lambda: F.nll_loss(X, T.reshape(4, 1)),
        ValueError,
        "nll_loss: input is (4, 5) but target is (4, 1); expected (4,)",
    ),
    "labels of images": (
        lambda: F.cross_entropy(tg.ones(2, 5, 3, 3), tg.zeros(2, 3, 2, dtype="int64")),
        ValueError,
        "cross_entropy: input is (2, 5, 3, 3) but target is (2, 3, 2); expected (2, 3, 3)",
    ),
    "bool labels": (
        lambda: F.cross_entropy(X, T > 1),
        TypeError,
        "cross_entropy: target is bool; expected integers (class indices)",
    ),
    "no classes": (
        lambda: F.cross_entropy(tg.tensor(1.0), tg.tensor(0)),
        ValueError,
        "cross_entropy: input is ()",
    ),
    "integer logits": (
        lambda: F.cross_entropy(X.long(), T),
        TypeError,
        "cross_entropy: expected a floating-point tensor; got int64",
    ),
    "target is a list": (
        lambda: F.cross_entropy(X, [0, 1, 2, 3]),
        TypeError,
        "cross_entropy: target is list; expected",
    ),
    "class weight": (
        lambda: F.cross_entropy(X, T, tg.ones(4)),
        ValueError,
        "cross_entropy: weight is (4,); expected (5,), one a class",
    ),
    "class weight's dtype": (
        lambda: F.nll_loss(X, T, tg.ones(5, dtype="float64")),
        TypeError,
        "nll_loss: dtypes are float32 and float64; expected one for all",
    ),
    "class weight requires grad": (
        lambda: F.cross_entropy(X, T, tg.ones(5, requires_grad=True)),
        RuntimeError,
        "cross_entropy: weight requires grad, but the loss has no gradient for it; expected a constant",
    ),
    "smoothing": (
        lambda: F.cross_entropy(X, T, label_smoothing=1.1),
        ValueError,
        "softmax_xent: label_smoothing is 1.1; expected 0 to 1",
    ),
    "smoothing of probabilities": (
        lambda: F.cross_entropy(X, P, label_smoothing=-0.1),
        ValueError,
        "cross_entropy: label_smoothing is -0.1; expected 0 to 1",
    ),
    "ignore_index with probabilities": (
        lambda: F.cross_entropy(X, P, ignore_index=1),
        ValueError,
        "cross_entropy: ignore_index is 1; expected none where target holds probabilities",
    ),
    "probabilities of another shape": (
        lambda: F.cross_entropy(X, P[:, :4]),
        ValueError,
        "cross_entropy: input is (4, 5) but target is (4, 4); expected one shape",
    ),
    "mse broadcast": (
        lambda: F.mse_loss(tg.ones(4, 1), tg.ones(4)),
        ValueError,
        "mse_loss: input is (4, 1) but target is (4,); expected one shape",
    ),
    "l1 broadcast": (lambda: nn.L1Loss()(X, tg.ones(5)), ValueError, "l1_loss: input is (4, 5) but target is (5,)"),
    "huber broadcast": (
        lambda: F.huber_loss(X, tg.ones(4, 1)),
        ValueError,
        "huber_loss: input is (4, 5) but target",
    ),
    "bce broadcast": (
        lambda: F.binary_cross_entropy(P, tg.ones(4, 1)),
        ValueError,
        "binary_cross_entropy: input is (4, 5) but target is (4, 1); expected one shape",
    ),
    "bce dtype": (
        lambda: F.binary_cross_entropy(P, tg.ones(4, 5, dtype="int64")),
        TypeError,
        "binary_cross_entropy: expected a floating-point tensor; got int64",
    ),
    "bce beyond 1": (
        lambda: F.binary_cross_entropy(P * 3, P),
        ValueError,
        "binary_cross_entropy: input holds values from 1.5 to 1.5; expected 0 <= input <= 1",
    ),
    "bce of nan": (
        lambda: F.binary_cross_entropy(P * math.nan, P),
        ValueError,
        "binary_cross_entropy: input holds values",
    ),
    "bce weight": (
        lambda: F.binary_cross_entropy(P, P, tg.ones(4)),
        ValueError,
        "binary_cross_entropy: shapes (4, 5) and (4,) do not broadcast",
    ),
    "pos_weight": (
        lambda: F.binary_cross_entropy_with_logits(P[0], P[0], pos_weight=tg.ones(2, 5)),
        ValueError,
        "binary_cross_entropy_with_logits: input is (5,) but pos_weight is (2, 5); expected it to broadcast to input",
    ),
    "kl broadcast": (lambda: F.kl_div(X, P[0]), ValueError, "kl_div: input is (4, 5) but target is (5,)"),
    "kl batchmean": (
        lambda: F.kl_div(tg.tensor(0.5), tg.tensor(0.5), reduction="batchmean"),
        ValueError,
        "kl_div: input is (); expected a batch for reduction 'batchmean'",
    ),
    "mse weight": (
        lambda: F.mse_loss(X, X, weight=tg.ones(5)),
        ValueError,
        "mse_loss: input is (4, 5) but weight is (5,); expected one shape",
    ),
    "beta": (lambda: F.smooth_l1_loss(X, X, beta=-1), ValueError, "smooth_l1_loss: beta is -1; expected >= 0"),
    "delta": (lambda: F.huber_loss(X, X, delta=0), ValueError, "huber_loss: delta is 0; expected > 0"),
    "reduction": (
        lambda: F.mse_loss(X, X, reduction="max"),
        ValueError,
        "mse_loss: reduction is 'max'; expected one of 'mean', 'sum', 'none'",
    ),
    "layer's reduction": (lambda: nn.MSELoss(reduction="batchmean"), ValueError, "MSELoss: reduction is 'batchmean'"),
    "layer's smoothing": (
        lambda: nn.CrossEntropyLoss(label_smoothing=2),
        ValueError,
        "CrossEntropyLoss: label_smoothing",
    ),
    "size_average": (
        lambda: nn.MSELoss(True),
        TypeError,
        "_Loss.__init__() takes 1 positional argument but 2 were given",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)


# --- the kernel, and what ops compute where a gradient needs a gradient or no kernel fits


FUSED = {
    "mse_loss": [{}, {"weight": True}],
    "l1_loss": [{}, {"weight": True}],
    "smooth_l1_loss": [{}, {"beta": 0.4}, {"beta": 0}],
    "huber_loss": [{"delta": 0.4}, {"weight": True}],
    "binary_cross_entropy": [{}, {"weight": True}],
    "binary_cross_entropy_with_logits": [{}, {"weight": True}, {"pos_weight": True}],
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("name", "options"), [(n, o) for n, each in FUSED.items() for o in each], ids=str)
def test_slopes_by_ops_are_the_primitives(name, options, reduction, rng):
    """And a loss that ops compose, for the sake of a weight's gradient, is the kernel's."""
    x, t = (Tensor(rng.random((4, 3)), requires_grad=True) for _ in range(2))
    w = Tensor(rng.random((4, 3)) + 0.5)
    given = {k: w if v is True else v for k, v in options.items()}
    loss = getattr(F, name)(x, t, reduction=reduction, **given)
    dy = tg.ones_like(loss) * 1.5
    with_rule = tg.grad(loss, (x, t), dy, create_graph=True)
    plain = tg.grad(getattr(F, name)(x, t, reduction=reduction, **given), (x, t), dy)
    for a, b in zip(with_rule, plain, strict=True):
        assert_close(a.detach().numpy(), b.numpy())
    if True in options.values():
        w.requires_grad_()
        composed = getattr(F, name)(x, t, reduction=reduction, **given)
        assert_close(composed.detach().numpy(), loss.detach().numpy())
        for a, b in zip(tg.grad(composed, (x, t), dy), plain, strict=True):
            assert_close(a.numpy(), b.numpy())


def test_slopes_by_ops_at_the_ends():
    """Those of binary_cross_entropy are cut there too."""
    p, q = (Tensor(np.array(v), requires_grad=True) for v in ([0.0, 1.0, 0.5], [1.0, 1.0, 0.0]))
    loss = F.binary_cross_entropy(p, q, reduction="sum")
    for a, b in zip(tg.grad(loss, (p, q), create_graph=True), tg.grad(loss, (p, q))):
        assert_close(a.detach().numpy(), b.numpy())


@pytest.mark.parametrize("name", FUSED)
def test_a_loss_is_two_kernels_of_a_captured_step(name):
    """And its bits are those of the plain function."""
    x = tg.rand(700, 7, requires_grad=True)

    def fn(t):
        x.grad = None
        loss = getattr(F, name)(x, t)
        loss.backward()
        return loss

    step = tg.capture(fn, warmup=1)
    for _ in range(3):
        t = tg.rand(700, 7)
        got = step(t).detach().numpy().copy(), x.grad.numpy().copy()
        want = fn(t).detach().numpy(), x.grad.numpy()
        for a, b in zip(got, want, strict=True):
            assert_same(a, b)
