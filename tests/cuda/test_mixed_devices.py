"""Tensors of two devices in one op: an error that names the op and both, before anything is written."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.nn import functional as F

OPS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b.double(),  # a cast would come first
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "remainder": lambda a, b: a % b,
    "eq": lambda a, b: a == b,
    "lt": lambda a, b: a < b,
    "equal": lambda a, b: a.equal(b),
    "allclose": lambda a, b: a.allclose(b),
    "maximum": lambda a, b: tg.maximum(a, b),
    "clamp": lambda a, b: a.clamp(b),
    "where": lambda a, b: tg.where(a > 0, b, b),
    "masked_fill": lambda a, b: a.masked_fill(b > 0, 0.0),
    "masked_select": lambda a, b: a.masked_select(b > 0),
    "matmul": lambda a, b: a @ b,
    "bmm": lambda a, b: tg.bmm(a[None], b[None]),
    "linear": lambda a, b: F.linear(a, b),
    "einsum": lambda a, b: tg.einsum("ij,jk->ik", a, b),
    "conv2d": lambda a, b: F.conv2d(a[None, None], b[None, None]),
    "cat": lambda a, b: tg.cat([a, a, b]),
    "stack": lambda a, b: tg.stack([a, b]),
    "getitem": lambda a, b: a[b.long()],
    "gather": lambda a, b: a.gather(0, b.long()),
    "scatter_add": lambda a, b: a.scatter_add(0, b.long(), a),
    "take_along_dim": lambda a, b: a.take_along_dim(b.long(), 0),
    "index_select": lambda a, b: a.index_select(0, b[0].long()),
    "softmax_xent": lambda a, b: F.cross_entropy(a, a[0].long(), weight=b[0]),
    "cross_entropy": lambda a, b: F.cross_entropy(a, b[0].long()),
    "nll_loss": lambda a, b: F.nll_loss(a, b[0].long()),
    "mse_loss": lambda a, b: F.mse_loss(a, b),
    "binary_cross_entropy": lambda a, b: F.binary_cross_entropy(a, b),
    "embedding": lambda a, b: F.embedding(a.long(), b),
    "layer_norm": lambda a, b: F.layer_norm(a, (2,), b[0]),
    "batch_norm": lambda a, b: F.batch_norm(a, b[0], b[1], training=True),
    "scaled_dot_product_attention": lambda a, b: F.scaled_dot_product_attention(a, a, a, b > 0),
    "add_": lambda a, b: a.clone().add_(b),
    "setitem": lambda a, b: a.clone().__setitem__(0, b[0]),
    "a NumPy array": lambda a, b: a + (b.numpy() if b.device == "cpu" else b.data),
}


@pytest.mark.parametrize("order", [("cuda", "cpu"), ("cpu", "cuda")], ids="-".join)
@pytest.mark.parametrize("op", OPS)
def test_the_op_and_both_devices_are_named(op, order):
    a, b = (tg.ones(2, 2, device=device) for device in order)
    with pytest.raises(TypeError, match=r"^\w+: expected all tensors on one device; got cpu and cuda$"):
        OPS[op](a, b)
    assert a.tolist() == b.tolist() == [[1.0, 1.0]] * 2


def test_the_messages_name_the_op():
    a, b = tg.ones(2, 2), tg.ones(2, 2, device="cuda")
    for op, name in (("add", "add"), ("eq", "eq"), ("matmul", "matmul"), ("linear", "linear"), ("getitem", "getitem")):
        with pytest.raises(TypeError, match=f"^{name}: expected all tensors on one device; got cpu and cuda$"):
            OPS[op](a, b)


def test_copy_is_the_one_that_may():
    x = tg.zeros(2, device="cuda").copy_(tg.tensor([1.0, 2.0]))
    assert x.tolist() == tg.zeros(2).copy_(x).tolist() == [1.0, 2.0]


def test_a_model_and_its_input():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(TypeError, match="conv2d: expected all tensors on one device; got cpu and cuda"):
        model.cuda()(tg.ones(1, 1, 4, 4))


def test_clipping_gradients_of_two_devices():
    params = [nn.Parameter(tg.ones(2, device=device)) for device in ("cpu", "cuda")]
    for p in params:
        p.grad = tg.ones(2, device=p.device)
    with pytest.raises(TypeError, match="clip_grad_norm_: expected all tensors on one device"):
        nn.utils.clip_grad_norm_(params, 0.1)
    assert [p.grad.tolist() for p in params] == [[1.0, 1.0]] * 2


def test_a_gradient_of_another_device():
    p = nn.Parameter(tg.ones(2))
    p.grad = tg.ones(2)
    with pytest.raises(TypeError, match="grad: the gradient is on cuda but the tensor on cpu; expected one device"):
        p.grad = tg.ones(2, device="cuda")
    p.data = tg.ones(2, device="cuda")
    for make in (optim.SGD, optim.Adam):
        with pytest.raises(TypeError, match="grad is on cpu, the parameter on cuda; expected one device"):
            make([("w", p)], lr=0.1).step()
    assert p.tolist() == [1.0, 1.0]


def test_a_learning_rate_of_another_device():
    for param, lr in (("cuda", "cpu"), ("cuda", "cuda"), ("cpu", "cpu")):
        p = nn.Parameter(tg.ones(2, device=param))
        p.grad = tg.ones(2, device=param)
        optim.SGD([p], lr=tg.tensor(0.25, device=lr)).step()
        np.testing.assert_allclose(p.detach().cpu().numpy(), 0.75)
    p = nn.Parameter(tg.ones(2))
    p.grad = tg.ones(2)
    with pytest.raises(TypeError, match="SGD: lr is on cuda but a parameter on cpu"):
        optim.SGD([p], lr=tg.tensor(0.25, device="cuda")).step()
