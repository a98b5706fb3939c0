"""Scaled dot-product attention against torch: masks, causality, broadcasting, queries that see nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import tilegrad as tg
from tests.compare import assert_close
from tests.nn.versus import assert_function
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

SHAPES = [
    ((3, 4), (5, 4), (5, 2)),  # matrices
    ((2, 3, 4), (2, 5, 4), (2, 5, 4)),  # a batch
    ((2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 6)),  # heads
    ((2, 3, 1, 4), (2, 3, 7, 4), (2, 3, 7, 4)),  # one query
]


def qkv(rng, shapes, dtype):
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}], ids=str)
def test_plain(shapes, options, dtype, rng):
    ours = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)  # noqa: E731
    theirs = lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, **options)  # noqa: E731
    assert_function(ours, theirs, *qkv(rng, shapes, dtype), scale=1.0)


@pytest.mark.parametrize("mask_shape", [(3, 5), (2, 3, 5), (1, 5)], ids=str)
def test_masks(mask_shape, dtype, rng):
    q, k, v = qkv(rng, SHAPES[1], dtype)
    allowed = rng.random(mask_shape) < 0.6
    allowed[..., 0] = True
    added = rng.standard_normal(mask_shape).astype(dtype)
    assert_function(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, Tensor(allowed)),
        lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, torch.from_numpy(allowed)),
        q,
        k,
        v,
        scale=1.0,
    )
    assert_function(F.scaled_dot_product_attention, TF.scaled_dot_product_attention, q, k, v, added, scale=1.0)


@pytest.mark.parametrize("kind", ["bool", "added", "added, with a gradient of its own"])
def test_a_query_that_sees_nothing_gives_0(kind, rng):
    q, k, v = (Tensor(a, requires_grad=True) for a in qkv(rng, SHAPES[0], np.float64))
    mask = np.ones((3, 5), bool)
    mask[1] = False
    given = Tensor(mask) if kind == "bool" else Tensor(np.where(mask, 0.0, -math.inf), "with" in kind)
    y = F.scaled_dot_product_attention(q, k, v, given)
    y.sum().backward()
    np.testing.assert_array_equal(y.detach().numpy()[1], 0)
    np.testing.assert_array_equal(q.grad.numpy()[1], 0)
    rest = F.scaled_dot_product_attention(q.detach()[[0, 2]], k.detach(), v.detach())
    assert_close(y.detach().numpy()[[0, 2]], rest.numpy())
    assert all(np.isfinite(x.grad.numpy()).all() for x in (q, k, v))


BROADCAST = [
    ((2, 1, 3, 4), (5, 7, 4), (2, 5, 7, 4)),
    ((3, 4), (2, 5, 4), (5, 6)),
    ((2, 3, 2, 3, 4), (3, 2, 5, 4), (1, 1, 5, 4)),
    ((2, 3, 3, 4), (2, 1, 5, 4), (2, 1, 5, 4)),
]


@pytest.mark.parametrize("shapes", BROADCAST, ids=str)
def test_leading_dimensions_broadcast(shapes, rng):
    arrays = qkv(rng, shapes, np.float64)
    lead = np.broadcast_shapes(*[s[:-2] for s in shapes])
    mask = rng.random((*lead[:-1], *[1] * bool(lead), 3, shapes[1][-2])) < 0.7

    def whole(q, k, v):  # torch's own kernels take no such shapes
        return TF.scaled_dot_product_attention(
            *[x.expand(*lead, *x.shape[-2:]) for x in (q, k, v)], torch.from_numpy(mask)
        )

    ours = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, Tensor(mask))  # noqa: E731
    assert_function(ours, whole, *arrays, scale=1.0)


@pytest.mark.parametrize(
    "shapes", [((2, 6, 3, 4), (2, 2, 5, 4), (2, 3, 5, 4)), ((6, 3, 4), (2, 5, 4), (2, 5, 4))], ids=str
)
@pytest.mark.parametrize("options", [{}, {"is_causal": True}], ids=str)
def test_shared_heads(shapes, options, dtype, rng):
    ours = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options, enable_gqa=True)  # noqa: E731
    theirs = lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, **options, enable_gqa=True)  # noqa: E731
    assert_function(ours, theirs, *qkv(rng, shapes, dtype), scale=1.0)


def test_no_keys_and_no_queries_and_heads_without_width():
    for q, k, v in (
        ((2, 3, 4), (2, 0, 4), (2, 0, 5)),
        ((2, 0, 4), (2, 3, 4), (2, 3, 5)),
        ((2, 3, 0), (2, 4, 0), (2, 4, 5)),
    ):
        arrays = [tg.ones(*shape, requires_grad=True) for shape in (q, k, v)]
        want = TF.scaled_dot_product_attention(*[torch.ones(shape) for shape in (q, k, v)])
        y = F.scaled_dot_product_attention(*arrays)
        y.sum().backward()
        np.testing.assert_array_equal(y.detach().numpy(), want.numpy())
        assert [x.grad.shape for x in arrays] == [q, k, v]


@pytest.mark.parametrize(
    "options", [{"is_causal": True}, {"mask": "bool"}, {"mask": "added"}, {"dropout_p": 0.4}], ids=str
)
def test_first_and_second_order(options, rng):
    """Over heads that share keys: of the primitive, and of what its gradient is composed of."""
    options = dict(options)
    q, k, v = (Tensor(a, requires_grad=True) for a in qkv(rng, ((1, 4, 3, 2), (1, 2, 4, 2), (1, 2, 4, 3)), np.float64))
    kind = options.pop("mask", None)
    mask = rng.random((3, 4)) < 0.6
    mask[1] = False
    inputs = [q, k, v]
    if kind == "bool":
        options["attn_mask"] = Tensor(mask)
    elif kind:
        inputs.append(Tensor(rng.standard_normal((3, 4)), requires_grad=True))

    def function(*inputs):
        tg.manual_seed(3)  # the same weights are dropped at every call
        return F.scaled_dot_product_attention(*inputs, **options, enable_gqa=True)

    assert tg.gradcheck(function, inputs)
    assert tg.gradgradcheck(function, inputs)


def test_the_gradient_is_the_same_with_and_without_a_graph_of_its_own(rng):
    """The primitive's, and the composed one: of every option at once."""
    arrays = qkv(rng, ((2, 4, 6, 8), (2, 2, 5, 8), (2, 2, 5, 3)), np.float64)
    mask = Tensor(np.where(rng.random((2, 1, 6, 5)) < 0.7, rng.standard_normal((2, 1, 6, 5)), -math.inf))
    found = []
    for graph in (False, True):
        inputs = [Tensor(a, requires_grad=True) for a in arrays]
        tg.manual_seed(5)
        y = F.scaled_dot_product_attention(*inputs, mask, 0.3, enable_gqa=True)
        found.append(tg.grad(y.square().sum(), inputs, create_graph=graph))
    for primitive, composed in zip(*found):
        np.testing.assert_allclose(primitive.detach().numpy(), composed.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_dropout_takes_weights_away(rng):
    q, k, v = (Tensor(a) for a in qkv(rng, ((1, 4), (5000, 4), (5000, 1)), np.float64))
    v = tg.ones(5000, 1, dtype="float64")
    tg.manual_seed(0)
    # Weights that add up to 1, each dropped or doubled: the sum is 1 on average.
    y = F.scaled_dot_product_attention(q * 0, k, v, dropout_p=0.5).item()
    assert 0 < abs(y - 1) < 5 / math.sqrt(5000)


Q = tg.ones(3, 4)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: F.scaled_dot_product_attention(Q, tg.ones(3, 5), Q), ValueError, "query is (3, 4), key (3, 5)"),
        (lambda: F.scaled_dot_product_attention(Q, Q, tg.ones(2, 4)), ValueError, "query is (3, 4), key (3, 4)"),
        (
            lambda: F.scaled_dot_product_attention(Q[0], Q, Q),
            ValueError,
            "query is (4,), key (3, 4), value (3, 4); expected",
        ),
        (lambda: F.scaled_dot_product_attention(Q, Q, Q.double()), TypeError, "dtypes are float32 and float64"),
        (
            lambda: F.scaled_dot_product_attention(Q, Q, Q, Q[:, :3], is_causal=True),
            ValueError,
            "got both attn_mask and",
        ),
        (
            lambda: F.scaled_dot_product_attention(Q, Q, Q, tg.ones(2, 3, 3)),
            ValueError,
            "attn_mask is (2, 3, 3); expected",
        ),
        (
            lambda: F.scaled_dot_product_attention(Q, Q, Q, Q[:, :3].long()),
            TypeError,
            "expected a floating-point tensor",
        ),
        (
            lambda: F.scaled_dot_product_attention(Q, Q, Q, enable_gqa=True),
            ValueError,
            "query is (3, 4), key (3, 4), value (3, 4); expected heads of key and value that divide those of query",
        ),
        (
            lambda: F.scaled_dot_product_attention(tg.ones(4, 3, 4), tg.ones(3, 3, 4), Q[None], enable_gqa=True),
            ValueError,
            "query is (4, 3, 4), key (3, 3, 4), value (1, 3, 4); expected heads of key and value that divide",
        ),
        (lambda: F.scaled_dot_product_attention(Q, Q, Q, dropout_p=2), ValueError, "p is 2; expected 0 <= p <= 1"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith("scaled_dot_product_attention: " + message)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"mask": "bool"}, {"mask": "added"}], ids=str)
def test_half_precision_is_computed_in_float32_and_rounded_once(kind, options, rng):
    shapes = [(2, 33, 16), (2, 40, 16), (2, 40, 8)]
    q, k, v = (tg.tensor(6 * rng.standard_normal(s), dtype=kind, requires_grad=True) for s in shapes)
    mask = tg.tensor(rng.standard_normal((33, 40)) * 3)
    mask = {"bool": mask > 0, "added": mask.to(dtype=kind)}.get(options.get("mask"))
    options = {"is_causal": options.get("is_causal", False)}
    found, wide = [], [x.detach().float() for x in (q, k, v)]
    for inputs, m in (((q, k, v), mask), (wide, mask if mask is None or mask.dtype == tg.bool else mask.float())):
        for x in inputs:
            x.requires_grad = True
        y = F.scaled_dot_product_attention(*inputs, attn_mask=m, **options)
        dy = tg.tensor(rng.bit_generator.__class__(7).random_raw(y.numel()) % 5, dtype="float32")
        found.append([y, *tg.grad(y, inputs, dy.reshape(y.shape).to(dtype=y.dtype))])
    for got, want in zip(*found):
        assert got.dtype == kind
        assert (got.detach().numpy() == want.detach().numpy().astype(got.dtype)).all()
