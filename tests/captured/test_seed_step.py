"""How many calls of compiled kernels the steps of the seed nets are on the CPU.

A step that lost its kernels would compute the same losses, slowly: so they are counted by name.
"""

from __future__ import annotations

import pytest

import tilegrad as tg
from tests.captured.steps import graphs
from tilegrad import nn, optim
from tilegrad.bench.nets import NETS
from tilegrad.nn import functional as F

KERNELS = {
    "CNN": {
        "tiles_kernel": 12, "dots_kernel": 2, "sum_rows_kernel": 5, "relu_grad_kernel": 2, "max_2x2_kernel": 2,
        "max_grad_2x2_kernel": 2, "losses_kernel": 1, "gradient_kernel": 1, "adam_kernel": 10, "set_scalars_kernel": 1,
        "copy_rows_kernel": 8,
    },
    "MLP": {
        "tiles_kernel": 5, "dots_kernel": 3, "sum_rows_kernel": 3, "relu_grad_kernel": 2, "losses_kernel": 1,
        "gradient_kernel": 1, "adam_kernel": 6, "set_scalars_kernel": 1,
    },
}  # fmt: skip
OTHERS = {"CNN": {"copy": 1, "copyto_kernel": 1, "fill": 3, "reduce": 3}, "MLP": {}}  # of one thread


@pytest.fixture(autouse=True)
def one_thread():
    before = tg.get_num_threads()
    tg.set_num_threads(1)
    yield
    tg.set_num_threads(before)


@pytest.mark.parametrize("net", NETS)
def test_the_nodes(net):
    model = NETS[net](nn)
    optimizer = optim.Adam(model.parameters())

    @tg.capture(warmup=1)
    def step(images, labels):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    images, labels = tg.randn(8, 1, 28, 28), tg.arange(8)
    for _ in range(2):
        step(images, labels)
    (account,) = graphs(step)
    assert account.graph.nodes() == KERNELS[net] | OTHERS[net]
