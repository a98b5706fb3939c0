"""Captured steps on the CPU leave no memory behind (tests/captured/memory.py), as the system counts it."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

import tilegrad as tg
from tests.captured.memory import *  # noqa: F403
from tilegrad import kernels, nn
from tilegrad.kernels.cpu import buffers

# Steps run plainly here on purpose; that each says so, once, is tested in tests/captured/changes.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*it runs plainly, as summary:RuntimeWarning")


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield


_GROWTH = """
import gc
import numpy as np
import tilegrad
from tilegrad import kernels
from tilegrad import nn, optim
from tilegrad.nn import functional as F

kernels.use("cpu")
x, t = tilegrad.randn(256, 256), tilegrad.zeros(256, dtype=tilegrad.int64)


def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def once():
    model = nn.Sequential(nn.Linear(256, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 256))
    optimizer = optim.Adam(model.parameters())

    @tilegrad.capture(warmup=1)
    def step(x, t):
        loss = F.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        step(x, t)
    assert len([a for s in step._shapes.values() for a in s.accounts]) == 1


for _ in range(8):
    once()
before = resident()
for _ in range(25):
    once()
print(resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the system tells resident memory elsewhere")
def test_a_process_that_captures_and_drops_does_not_grow():
    """A round's weights, moments and activations are some 7 MB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True, timeout=120, env=environment)
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) < 8 << 20


def test_gradients_that_the_first_launch_replaces_go_to_the_system():
    layer = nn.Linear(256, 256)  # large enough that its gradients come from the pool

    @tg.capture(warmup=1)
    def step(x):
        loss = layer(x).square().sum()
        layer.zero_grad()
        loss.backward()
        return loss

    x = tg.ones(2, 256)
    step(x)
    plain = weakref.ref(layer.weight.grad.data)
    for _ in range(2):
        step(x)
        assert plain() is None and buffers.idle_bytes() == 0
        want = (2 * layer(x).sum(0)).detach().numpy()
        np.testing.assert_allclose(layer.bias.grad.numpy(), want, rtol=1e-5)
