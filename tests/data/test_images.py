"""image_batch: a batch gathered and normalised, on either device."""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_close
from tilegrad.data import image_batch
from tilegrad.kernels.device import gpu

CUDA = pytest.param("cuda", marks=[pytest.mark.gpu] if gpu.is_available() else [])


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_values(device):
    rng = np.random.default_rng(0)
    images, index = rng.integers(0, 256, (9, 1, 4, 5)).astype(np.uint8), np.array([8, 0, -1, 3])
    y = image_batch(tg.tensor(images, device=device), tg.tensor(index, device=device), 0.13, 0.31)
    want = (images[index] / 255 - 0.13) / 0.31
    assert_close(y.cpu().numpy(), want, want.astype(np.float32), scale=1.0)


def test_errors():
    images, index = tg.zeros(2, 3, dtype=tg.uint8), tg.zeros(2, dtype=tg.int64)
    with pytest.raises(ValueError, match="image_batch: std is 0; expected > 0"):
        image_batch(images, index, 0.5, 0)
    with pytest.raises(TypeError, match="take_rows: x is float32; expected uint8"):
        image_batch(images.float(), index)
    with pytest.raises(IndexError, match=r"index\[0\] is 2; expected -2 <= index < 2"):
        image_batch(images, index + 2)
