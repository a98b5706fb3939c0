"""On device cuda as on the CPU: assigning data and grad, indices in PyTorch's order, diagonals, deep copies."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.compare import assert_same
from tilegrad import nn
from tilegrad.kernels.device import gpu
from tilegrad.nn import init


def test_gradient_descent_by_hand():
    w = nn.Parameter(tg.tensor([1.0, 2.0, 3.0], device="cuda"))
    w.grad = tg.ones(3, device="cuda")
    w.data = w.data - 0.5 * w.grad
    assert gpu.is_array(w.data) and w.tolist() == [0.5, 1.5, 2.5]
    w.data -= 0.5 * w.grad.data
    assert w.tolist() == [0.0, 1.0, 2.0]
    before = w.data
    with pytest.raises(TypeError):  # CuPy's own: its arrays take no foreign objects in place
        w.data -= 0.5 * w.grad
    assert w.data is before and w.tolist() == [0.0, 1.0, 2.0]
    for wrong in (tg.ones(3), tg.ones(2, device="cuda")):
        with pytest.raises((TypeError, ValueError), match="grad: the gradient is"):
            w.grad = wrong
    w.data = tg.zeros(3)  # to another device
    assert w.device == "cpu" and w.grad.device == "cuda"


def test_arrays_and_tensors_of_two_devices():
    x = tg.ones(2, device="cuda")
    for act in (
        lambda: np.ones(2) + x,
        lambda: np.ones(2).__iadd__(x),
        lambda: x.data + tg.ones(2),
    ):
        with pytest.raises(TypeError, match="devices|device|is on cuda"):
            act()
    assert (np.float32(2.0) * x).tolist() == (x.data + x).tolist() == [2.0, 2.0]


def test_init_of_an_array():
    layer = nn.Linear(3, 2).to("cuda")
    init.constant_(layer.weight.data, 0.25)
    assert layer.weight.tolist() == [[0.25] * 3] * 2


@pytest.mark.parametrize(
    "index",
    [
        (0, slice(None), np.array([0, 1])),
        (np.array([0, 1]), ..., np.array([1, 2])),
        (slice(None), np.array([0, 1]), 0, np.array([1, 2])),
        (1, slice(None), np.array([[0], [1]]), None, 2),
        (slice(None), np.array([1, 0, 1], np.uint8)),
        (np.array(1), slice(1, None), np.array([-1, 0])),
    ],
    ids=range(6),
)
@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
def test_order_of_dimensions(index):
    values = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    x = tg.tensor(values, device="cuda", requires_grad=True)
    t = torch.tensor(values, requires_grad=True)
    ours = tuple(tg.tensor(i, device="cuda") if isinstance(i, np.ndarray) else i for i in index)
    theirs = tuple(torch.tensor(i) if isinstance(i, np.ndarray) else i for i in index)
    got, want = x[ours], t[theirs]
    assert_same(got.detach().cpu().numpy(), want.detach().numpy())
    (got * got).sum().backward()
    (want * want).sum().backward()
    assert_same(x.grad.cpu().numpy(), t.grad.numpy())
    y, s = x * 1.0, t * 1.0
    y[ours] = got.detach() * 2
    s[theirs] = want.detach() * 2
    assert_same(y.detach().cpu().numpy(), s.detach().numpy())
    with pytest.raises(IndexError, match="out of bounds"):
        x[0, :, tg.tensor([4], device="cuda")]


def test_a_diagonal_is_a_view_one_can_write_through():
    x = tg.zeros(3, 4, device="cuda")
    x.diagonal(1).fill_(2.0)
    assert x.tolist() == [[0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 2.0]]


def test_views_of_one_buffer_are_views_of_one_in_a_deep_copy():
    flat = tg.zeros(10, device="cuda")
    rows = [flat, flat[2:6], flat.reshape(5, 2)[:, 1], nn.Parameter(flat.data[4:])]
    for order in (1, -1):
        twins = copy.deepcopy(rows[::order])[::order]
        twins[0][4] = 7.0
        twins[0][5] = 8.0
        assert [x.tolist() for x in twins[1:]] == [[0, 0, 7, 8], [0, 0, 8, 0, 0], [7, 8, 0, 0, 0, 0]]
        assert flat.tolist() == [0.0] * 10


def test_what_a_captured_step_assigns():
    w = tg.zeros(3, device="cuda")

    def fn(x):
        w.data = (w + x).data
        return w * 2

    step = tg.capture(fn, warmup=1)
    x = tg.ones(3, device="cuda")
    step(x)
    with pytest.raises(tg.CaptureError, match=r"fn: data gives a tensor other memory; expected a write .*\(.*:\d+\)"):
        step(x)
    assert w.tolist() == [1.0, 1.0, 1.0]
