"""The captured step of the seed CNN on a GPU, node by node: a copy that comes back, or a launch more, fails here."""

from __future__ import annotations

from collections import Counter

import pytest

import tilegrad as tg
from tests.captured_steps import graphs
from tilegrad import nn, optim
from tilegrad.bench.nets import NETS
from tilegrad.data import image_batch
from tilegrad.kernels.device import gpu
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
    found = nodes("CNN")
    assert found == Counter(FORWARD) + Counter(BACKWARD) + Counter(UPDATE)
    assert found.total() == 28
