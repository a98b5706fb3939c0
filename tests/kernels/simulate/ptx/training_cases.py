"""Three training steps of the seed nets, executed from the PTX of their kernels: the losses of the CPU.

Run by test_training.py in a process of its own with TILEGRAD_SIMULATE=ptx. What float32 rounding explains is not a
number here: the same steps on the CPU, in float64 and in float32, say how far apart two right trainings may be.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.steps import graphs
from tests.compare import assert_close, assert_same
from tilegrad import kernels, nn, optim
from tilegrad.bench.nets import NETS
from tilegrad.kernels.device import gpu
from tilegrad.nn import functional as F

STEPS, BATCH = 3, 8


def test_the_device_executes_ptx():
    assert gpu.is_executed()


class Training(NamedTuple):
    losses: np.ndarray
    gradients: list[np.ndarray]  # of the first step, a parameter each
    parameters: list[np.ndarray]  # after the last
    graphs: list[Any]  # that were captured


@cache
def train(net: str, device: str, dtype: Any = np.float32, captured: bool = False, language: str = "triton") -> Training:
    tg.manual_seed(3)
    model = NETS[net](nn).to(dtype)
    images, labels = tg.randn(STEPS, BATCH, 1, 28, 28).to(dtype), tg.randint(0, 10, (STEPS, BATCH))
    model, images, labels = model.to(device), images.to(device), labels.to(device)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    def plain(x: tg.Tensor, t: tg.Tensor) -> tg.Tensor:
        loss = F.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    step = tg.capture(plain, warmup=1) if captured else plain
    losses, gradients = [], []
    with kernels.use(language if device == "cuda" else "cpu"):
        for x, t in zip(images, labels, strict=True):
            losses.append(step(x, t).item())
            gradients.append([p.grad.cpu().numpy() for p in model.parameters()])
    parameters = [p.detach().cpu().numpy() for p in model.parameters()]
    return Training(np.array(losses, dtype), gradients[0], parameters, graphs(step) if captured else [])


each_net = pytest.mark.parametrize(("net", "language"), [("MLP", "triton"), ("MLP", "numba"), ("CNN", "triton")])


@each_net
def test_the_losses_are_those_of_the_cpu(net, language):
    """And so are the first gradients. Later ones are of parameters that Adam divided by the size of a gradient: where
    that is nearly zero, its rounding moves them as far as a large gradient does."""
    got, want, baseline = train(net, "cuda", language=language), train(net, "cpu", np.float64), train(net, "cpu")
    assert len(set(want.losses)) == STEPS
    assert_close(got.losses, want.losses, baseline.losses)
    for g, w, b in zip(got.gradients, want.gradients, baseline.gradients, strict=True):
        assert_close(g, w, b)


@each_net
def test_a_captured_step_does_the_same(net, language):
    """Bit for bit: the first call is plain, the second is captured and launched, the third is a launch."""
    got, want = train(net, "cuda", captured=True, language=language), train(net, "cuda", language=language)
    (captured,) = got.graphs
    assert all("_kernel" in name for name in captured.graph.nodes())
    assert_same(got.losses, want.losses)
    for g, w in zip((*got.gradients, *got.parameters), (*want.gradients, *want.parameters), strict=True):
        assert_same(g, w)
