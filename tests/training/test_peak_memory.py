"""The most memory that arrays hold at once in a step of the seed CNN."""

import tracemalloc

import pytest

import tilegrad as tg
from tilegrad import kernels, nn
from tilegrad.kernels.cpu import buffers
from tilegrad.nn import functional as F


@pytest.mark.parametrize("backend", list(kernels.BACKENDS))
def test_forward_and_backward_at_batch_128_stay_below_400_mb(backend):
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    images, labels = tg.randn(128, 1, 28, 28), tg.randint(10, (128,))
    with kernels.use(backend):
        F.cross_entropy(model(images[:2]), labels[:2]).backward()  # compiled code is no array
        buffers.free()
        tracemalloc.start()
        try:
            F.cross_entropy(model(images), labels).backward()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    outputs_of_convolutions = 4 * 128 * (32 * 26 * 26 + 64 * 11 * 11 + 64 * 3 * 3)
    assert outputs_of_convolutions < peak < 400e6
