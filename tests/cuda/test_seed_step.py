"""The captured step of the seed CNN on a GPU, node by node, and what keeps copies out of it: memory orders."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import graphs
from tests.compare import assert_same
from tilegrad import nn, optim
from tilegrad.autograd import backward
from tilegrad.bench.nets import NETS
from tilegrad.data import image_batch
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.triton_kernel import architecture
from tilegrad.kernels.simulate import tape
from tilegrad.nn import functional as F

BATCH = 64  # of the examples; the gradients of its layers are summed in shares of the pixels

FORWARD = {
    "_rows_kernel": 2,  # the images, the labels
    "_conv2d_few_kernel": 1,
    "_conv2d_kernel": 2,
    "_max_pool2d_kernel": 2,  # with relu
    "_matmul_kernel": 2,
    "_softmax_xent_kernel": 1,
    "_sum_kernel": 1,  # of the rows' losses
}
BACKWARD = {
    "_softmax_xent_grad_kernel": 1,
    "_matmul_kernel": 4,  # dx, and dw with db, of two layers
    "_relu_grad_kernel": 1,  # of the last convolution: from the order of flattened images to that of its gradients
    "_conv2d_grad_input_kernel": 2,
    "_conv2d_grad_weight_kernel": 3,  # with db
    "_sum_shares_kernel": 3,
    "_max_pool2d_grad_kernel": 2,  # with relu's
}
UPDATE = {"_adam_kernel": 1}


def seed_step(net, images, labels):
    model = NETS[net](nn).to("cuda")
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    @tg.capture(warmup=1)
    def step(index):
        loss = F.cross_entropy(model(image_batch(images, index, 0.13, 0.31)), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


@pytest.fixture
def nodes(monkeypatch):
    """nodes(net): those of a captured step; no kernel runs, for which ones there are does not depend on values."""
    if not gpu.is_simulated():
        pytest.skip("reads the nodes of the simulated device's graph")
    if gpu.is_executed():
        from tilegrad.kernels.simulate.ptx import execute

        monkeypatch.setattr(execute, "run_program", lambda *_: None)
    else:
        from tilegrad.kernels.simulate import triton_interpreter

        monkeypatch.setattr(triton_interpreter, "run", lambda name, *_: tape.do(name, lambda: None))
    monkeypatch.setattr(tape.Tape, "launch", lambda self: None)

    def of(net):
        images = tg.zeros(2 * BATCH, 1, 28, 28, dtype=tg.uint8, device="cuda")
        labels = tg.zeros(2 * BATCH, dtype=tg.int64, device="cuda")
        step, index = seed_step(net, images, labels), tg.arange(BATCH, device="cuda")
        step(index), step(index)
        (captured,) = graphs(step)
        return captured.graph.nodes()

    return of


def test_the_nodes_of_the_cnn(nodes):
    if architecture() != 90:
        pytest.skip("of sm_90: on sm_80 a convolution's tile copies its weight, and a product is cut into parts")
    found = nodes("CNN")
    assert found == Counter(FORWARD) + Counter(BACKWARD) + Counter(UPDATE)
    assert found.total() == 28


def test_the_mlp_has_no_node_but_kernels(nodes):
    found = nodes("MLP")
    assert all(name.endswith("_kernel") for name in found), found
    assert found.total() == 15


def test_a_convolution_keeps_its_weight_as_its_kernels_read_it():
    """On a GPU, and its gradient and the optimizer's state with it; the values, and a state_dict's, are as before."""
    conv = nn.Conv2d(6, 20, 3)
    before = conv.weight.detach().numpy().copy()
    conv(tg.randn(1, 6, 5, 5)).sum().backward()
    gradient = conv.weight.grad.numpy().copy()
    conv.to("cuda")
    for array, want in ((conv.weight.data, before), (conv.weight.grad.data, gradient)):
        assert array.transpose(0, 2, 3, 1).flags.c_contiguous and not array.flags.c_contiguous
        assert_same(array.get(), want)
    assert_same(conv.state_dict()["weight"].detach().cpu().numpy(), before)
    optimizer = optim.Adam(conv.parameters())
    optimizer.zero_grad()
    conv(tg.randn(2, 6, 5, 5).to("cuda")).sum().backward()
    assert conv.weight.grad.data.strides == conv.weight.data.strides
    optimizer.step()
    assert optimizer.state[conv.weight]["exp_avg"].data.strides == conv.weight.data.strides
    conv.load_state_dict({"weight": tg.Tensor(before), "bias": tg.zeros(20)})
    assert conv.weight.data.transpose(0, 2, 3, 1).flags.c_contiguous
    assert_same(conv.weight.data.get(), before)
    conv.cpu()
    assert conv.weight.data.flags.c_contiguous
    assert_same(conv.weight.detach().numpy(), before)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("channels", [2, 6])
def test_flattened_images_are_the_same_in_either_order(activation, channels):
    """Fused with a Flatten behind, and apart from it: outputs and gradients, to the bit, and those of the CPU."""
    fused = nn.Sequential(nn.Conv2d(channels, 8, 3), activation(), nn.Flatten(), nn.Linear(32, 3))
    apart = nn.Sequential(fused[0], nn.Identity(), fused[1], nn.Identity(), fused[2], fused[3])
    x = np.random.default_rng(0).standard_normal((5, channels, 4, 4)).astype(np.float32)

    def run(model, device):
        image = tg.Tensor(x).to(device).requires_grad_()
        model.to(device).zero_grad()
        y = model(image)
        y.square().sum().backward()
        return [a.detach().cpu().numpy() for a in (y, image.grad, *(p.grad for p in model.parameters()))]

    want = run(fused, "cpu")
    for got, other, host in zip(run(fused, "cuda"), run(apart, "cuda"), want, strict=True):
        np.testing.assert_allclose(got, host, rtol=1e-4, atol=1e-5)
        assert_same(got, other)


def test_flattening_takes_no_copy():
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten()).to("cuda")
    x = tg.randn(2, 6, 4, 4).to("cuda")
    with tg.no_grad():
        assert model(x).data.base is not None  # a view of the images


def test_the_first_gradient_is_filled_once_and_stays_one():
    """Also where a hook writes to it, or it is what was asked for."""
    w = tg.ones((), device="cuda", requires_grad=True)

    def gradient(scale):
        w.grad = None
        (w * scale).backward()
        return w.grad.item()

    assert [gradient(2.0), gradient(3.0)] == [2.0, 3.0]
    loss = w * 2.0
    loss.register_hook(lambda dy: dy.mul_(7.0))
    loss.backward()
    assert gradient(2.0) == 2.0
    x = tg.ones((), device="cuda", requires_grad=True)
    y = x.reshape(())  # whose rule hands on what it is given
    x.register_hook(lambda dy: dy.mul_(5.0))
    y.backward()
    assert gradient(2.0) == 2.0
    (first,) = tg.grad(loss := w * 1.0, loss)
    first.mul_(9.0)
    (second,) = tg.grad(loss := w * 1.0, loss)
    assert second.item() == 1.0
    w.grad = None
    w.backward()
    w.grad.mul_(3.0)
    assert gradient(2.0) == 2.0


def test_a_first_gradient_that_a_graph_fills_is_that_graphs_own():
    """Its memory has values from the first launch on, and none without one."""
    w = tg.ones((), device="cuda", requires_grad=True)
    x = tg.ones((), device="cuda")

    @tg.capture(warmup=1)
    def step(x):
        w.grad = None
        loss = w * x
        loss.backward()
        return loss

    step(x)
    backward._ones.clear()
    step(x)
    assert graphs(step) and not backward._ones
    w.grad = None
    (w * 3.0).backward()
    assert w.grad.item() == 3.0
