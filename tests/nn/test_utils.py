"""Clipping and vectors against torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close, assert_same
from tilegrad import nn
from tilegrad.nn import utils

SHAPES = [(3, 4), (5,), (), (2, 3, 2), (0, 3)]


def parameters(rng, dtype):
    """Ours, torch's in float64, torch's in dtype; the last one has no gradient."""
    ours, wide, narrow = [], [], []
    for shape in [*SHAPES, (2,)]:
        p, g = (np.asarray(rng.standard_normal(shape), dtype) for _ in range(2))
        ours.append(nn.Parameter(p.copy()))
        wide.append(torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)))
        narrow.append(torch.nn.Parameter(torch.tensor(p)))
        if shape != (2,):
            ours[-1].grad = tg.tensor(g)
            wide[-1].grad = torch.tensor(g, dtype=torch.float64)
            narrow[-1].grad = torch.tensor(g)
    return ours, wide, narrow


@pytest.mark.parametrize("max_norm", [0.5, 1000.0, 0.0])
@pytest.mark.parametrize("norm_type", [2.0, 1, 3.5, math.inf, "inf"])
def test_clip_grad_norm(norm_type, max_norm, dtype, rng):
    ours, wide, narrow = parameters(rng, dtype)
    # torch takes no maximum over a gradient without elements
    keep = [i for i, p in enumerate(ours) if p.numel() or float(norm_type) != math.inf]
    ours, wide, narrow = ([params[i] for i in keep] for params in (ours, wide, narrow))
    held = ours[0].grad
    total = utils.clip_grad_norm_(ours, max_norm, norm_type)
    want, baseline = (torch.nn.utils.clip_grad_norm_(params, max_norm, float(norm_type)) for params in (wide, narrow))
    assert total.shape == () and total.dtype == dtype
    assert_close(total.numpy(), want.numpy(), baseline.numpy())
    assert ours[0].grad is held and ours[-1].grad is None
    for p, a, b in zip(ours[:-1], wide, narrow, strict=False):
        assert_close(p.grad.numpy(), a.grad.numpy(), b.grad.numpy())


def test_clip_grad_norm_of_one_parameter_and_of_none():
    p = nn.Parameter(tg.ones(4))
    assert utils.clip_grad_norm_(p, 1.0).item() == 0
    assert utils.clip_grad_norm_([], 1.0).item() == 0
    p.grad = tg.full((4,), 2.0)
    assert utils.clip_grad_norm_(iter([p]), 100.0).item() == 4
    assert_same(p.grad.numpy(), np.full(4, 2, np.float32))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_gradients(bad):
    p = nn.Parameter(tg.ones(2))
    p.grad = tg.tensor([bad, 1.0])
    with pytest.raises(RuntimeError, match=f"clip_grad_norm_: the norm of the gradients is {bad}; expected it to be"):
        utils.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    np.testing.assert_array_equal(p.grad.numpy(), np.array([bad, 1.0], np.float32))
    theirs = torch.nn.Parameter(torch.ones(2))
    theirs.grad = torch.tensor([bad, 1.0])
    want = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    np.testing.assert_array_equal(utils.clip_grad_norm_(p, 1.0).numpy(), want.numpy())
    np.testing.assert_array_equal(p.grad.numpy(), theirs.grad.numpy())


def test_float16_norms_do_not_overflow():
    p = nn.Parameter(tg.zeros(1000, dtype="float16"))
    p.grad = tg.full((1000,), 100.0, dtype="float16")
    total = utils.clip_grad_norm_(p, 1.0)
    assert total.dtype == np.float32 and abs(total.item() - 100 * math.sqrt(1000)) < 1e-2
    want = np.full(1000, 1 / math.sqrt(1000))
    assert_close(p.grad.numpy(), want, want.astype(np.float16))


def test_a_transposed_gradient():
    p = nn.Parameter(tg.zeros(3, 2))
    p.grad = tg.tensor(np.arange(6.0, dtype=np.float32).reshape(2, 3)).T
    assert_close(utils.clip_grad_norm_(p, 1.0).numpy(), np.array(math.sqrt(55)), np.array(math.sqrt(55), np.float32))


def test_clipped_gradients_are_written_to(rng):
    """A graph that saved a gradient notices."""
    x = nn.Parameter(tg.ones(2))
    (x * x * x).sum().backward(create_graph=True)
    penalty = (x.grad * x.grad).sum()
    x.grad = x.grad.detach()
    utils.clip_grad_norm_(x, 0.1)
    with pytest.raises(RuntimeError, match="was written to in place"):
        penalty.backward()


def test_clip_grad_value(dtype, rng):
    ours, _, narrow = parameters(rng, dtype)
    utils.clip_grad_value_(ours, 0.7)
    torch.nn.utils.clip_grad_value_(narrow, 0.7)
    for p, q in zip(ours[:-1], narrow, strict=False):
        assert_same(p.grad.numpy(), q.grad.numpy())


def test_vector_and_back(rng, dtype):
    ours, _, narrow = parameters(rng, dtype)
    vector = utils.parameters_to_vector(ours)
    assert_same(vector.detach().numpy(), torch.nn.utils.parameters_to_vector(narrow).detach().numpy())
    memory = [p.data for p in ours]
    utils.vector_to_parameters(vector.detach() * 2, ours)
    for p, q, m in zip(ours, narrow, memory, strict=True):
        assert p.data is m
        assert_same(p.detach().numpy(), 2 * q.detach().numpy())


def test_vectors_carry_gradients():
    ps = [nn.Parameter(tg.ones(2, 2)), nn.Parameter(tg.ones(3))]
    (utils.parameters_to_vector(ps) * tg.arange(7.0)).sum().backward()
    assert_same(ps[0].grad.numpy(), np.array([[0, 1], [2, 3]], np.float32))
    assert_same(ps[1].grad.numpy(), np.array([4, 5, 6], np.float32))


P = nn.Parameter(tg.ones(2))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: utils.clip_grad_norm_(P, -1.0), ValueError, "clip_grad_norm_: max_norm is -1.0; expected >= 0"),
        (lambda: utils.clip_grad_norm_(P, math.nan), ValueError, "clip_grad_norm_: max_norm is nan; expected >= 0"),
        (lambda: utils.clip_grad_norm_(P, 1.0, 0), ValueError, "clip_grad_norm_: norm_type is 0; expected > 0"),
        (lambda: utils.clip_grad_norm_([P, 3], 1.0), TypeError, "clip_grad_norm_: expected tensors; got int"),
        (lambda: utils.clip_grad_value_(P, -1.0), ValueError, "clip_grad_value_: clip_value is -1.0; expected >= 0"),
        (
            lambda: utils.vector_to_parameters(tg.ones(3), [P]),
            ValueError,
            "vector_to_parameters: vec is (3,); expected (2,)",
        ),
        (
            lambda: utils.vector_to_parameters([1.0], [P]),
            TypeError,
            "vector_to_parameters: vec is list; expected a tensor",
        ),
        (lambda: utils.parameters_to_vector([]), ValueError, "cat: expected at least one tensor; got none"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)
