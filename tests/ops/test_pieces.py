"""Gradients of the pieces of one tensor: joined once, whichever of them were used, and differentiable themselves."""

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_close

CUTS = {
    "split": lambda x: x.split([2, 1, 3], 1),
    "chunk": lambda x: x.chunk(3, -1),
    "unbind": lambda x: x.unbind(1),
    "unbind, permuted": lambda x: x.permute(2, 0, 1).unbind(0),
    "chunk, transposed": lambda x: x.transpose(0, 2).chunk(2, 0),
    "of one dimension": lambda x: x.reshape(-1).unbind(0)[:7],
}


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((3, 6, 5))


def _first_and_second(library, x, cut, used):
    leaf = library.tensor(x, requires_grad=True)
    pieces = cut(leaf * 2)
    y = sum((pieces[i % len(pieces)] ** 3 * (k + 1)).sum() for k, i in enumerate(used))
    grad = torch.autograd.grad if library is torch else tg.grad
    (first,) = grad(y, leaf, create_graph=True)
    (first**2).sum().backward()
    return first.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize("used", [(0, 1, 2), (2, 0), (1,), (1, 1)])
@pytest.mark.parametrize("cut", CUTS)
def test_gradients_of_both_orders_are_torchs(x, cut, used):
    for got, want in zip(
        _first_and_second(tg, x, CUTS[cut], used), _first_and_second(torch, x, CUTS[cut], used), strict=True
    ):
        assert_close(got, want)


def test_a_walk_that_failed_leaves_nothing_to_the_next(x):
    leaf = tg.tensor(x, requires_grad=True)
    first, second = leaf.split(3, 1)
    is_failing = True

    def fail(dy):
        if is_failing:
            raise KeyError("hook")

    other = first * 1
    other.register_hook(fail)
    with pytest.raises(KeyError):
        (other.sum() + (second * 2).sum()).backward(retain_graph=True)
    is_failing = False
    (first * 3).sum().backward()
    assert leaf.grad[:, :3].eq(3).all().item() and leaf.grad[:, 3:].eq(0).all().item()


def test_a_gradient_for_a_piece_alone(x):
    leaf = tg.tensor(x, requires_grad=True)
    pieces = leaf.unbind(0)
    (got,) = tg.grad((pieces[1] * 5).sum() + pieces[0].sum(), [pieces[1]])
    assert got.eq(5).all().item() and leaf.grad is None


def test_a_graph_serves_twice(x):
    leaf = tg.tensor(x, requires_grad=True)
    a, b = leaf.chunk(2, 1)
    y = (a * b).sum()
    y.backward(retain_graph=True)
    once = leaf.grad.numpy().copy()
    y.backward()
    assert_close(leaf.grad.numpy(), 2 * once)


def test_no_gradient_has_zeros_written_for_the_other_pieces():
    w = tg.ones(96, requires_grad=True)

    @tg.capture
    def step(x):
        a, b, c = (x * w).chunk(3, -1)
        w.grad = None
        (a * b * c).sum().backward()

    for _ in range(4):
        step(tg.ones(4, 96))
        assert w.grad.eq(4).all().item()
    assert "concatenate" in step.summary() and "setitem" not in step.summary(), step.summary()
