"""Grids: CUDA counts blocks along their second and third axis in 16 bits, so what grows with sizes is along the first.

Sizes beyond that are recorded, not run. That programs find their place along one axis is what every other test sees.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compare import assert_close, assert_same
from tests.device import OnDevice
from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import driver
from tilegrad.kernels.launch import triton_kernel as launch

pytestmark = pytest.mark.skipif(not gpu.is_simulated(), reason="a real GPU is in use")
MANY = driver.MOST_ALONG[1] + 1


@pytest.fixture
def triton() -> Any:
    return kernels.load("triton")


def empty(*shape: int) -> Any:
    return gpu.xp().empty(shape, np.float16)


CASES = {
    "groups": lambda m: m.conv2d(empty(1, 5 * MANY, 1, 1), empty(5 * MANY, 5, 1, 1), groups=MANY),
    "groups, to the input": lambda m: m.conv2d_grad_input(
        empty(1, 5 * MANY, 1, 1), empty(5 * MANY, 5, 1, 1), (1, 5 * MANY, 1, 1), (1, 1), (0, 0), (1, 1), MANY
    ),
    "groups of one channel": lambda m: m.conv2d_grad_weight(
        empty(1, MANY, 1, 1), empty(1, MANY, 1, 1), (MANY, 1, 1, 1), (1, 1), (0, 0), (1, 1), MANY
    ),
    "phases": lambda m: m.conv2d_grad_input(
        empty(1, 1, 1, 1), empty(1, 1, 1, 1), (1, 1, 257, 257), (257, 257), (0, 0), (1, 1), 1
    ),
    "phases of a product": lambda m: m.conv2d_grad_input(
        empty(1, 5, 1, 1), empty(5, 5, 1, 1), (1, 5, 257, 257), (257, 257), (0, 0), (1, 1), 1
    ),
    "channels of a pool": lambda m: m.max_pool2d(empty(1, 128 * MANY, 1, 1), (1, 1), (1, 1)),
    "channels of a mean": lambda m: m.avg_pool2d_grad(
        empty(1, 128 * MANY, 1, 1), (1, 128 * MANY, 1, 1), (1, 1), (1, 1)
    ),
    "a long row": lambda m: m.take_rows(empty(1, 128 * MANY), gpu.xp().zeros(1, np.int64)),
    "long sums": lambda m: m.sum(empty(1 << 24), (0,)),
    "a sum over products": lambda m: m.matmul(empty(1, 1 << 24), empty(1 << 24, 1)),
    "rows": lambda m: m.softmax(empty(MANY, 1), 1),
    "classes": lambda m: m.softmax_xent_grad(
        *(gpu.xp().zeros((), np.float32), empty(1, 1 << 22), gpu.xp().zeros(1, np.int64)),
        *(gpu.xp().zeros(1, np.float32), gpu.xp().zeros(1, np.float32), gpu.xp().ones((), np.float32)),
    ),
    "images": lambda m: m.dropout(empty(MANY, 2, 2, 4).transpose(0, 3, 1, 2), 0.5, 0, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_triton(triton, case, monkeypatch):
    monkeypatch.setattr("tilegrad.kernels.take_rows.gpu_triton.BLOCK", 256)  # bytes: so that the row need not be 268 MB
    with launch.collecting() as specs:
        CASES[case](triton)
    assert specs


def test_blocks_of_channels_share_the_first_axis(rng):
    """More channels than a program of a pool takes, and not a multiple of them."""
    triton, reference = OnDevice(kernels.load("triton")), kernels.load("reference")
    x = rng.standard_normal((2, 300, 3, 2)).astype(np.float32)
    geometry = (2, 2), (1, 1), (1, 1)
    y, tap = triton.max_pool2d(x, *geometry)
    want_y, want_tap = reference.max_pool2d(x, *geometry)
    assert_same(y, want_y)
    assert_same(tap, want_tap)
    assert_same(
        triton.max_pool2d_grad(y, tap, x.shape, *geometry), reference.max_pool2d_grad(y, tap, x.shape, *geometry)
    )
    wide = x.astype(np.float64)
    assert_close(
        triton.avg_pool2d(x, *geometry), reference.avg_pool2d(wide, *geometry), reference.avg_pool2d(x, *geometry)
    )
    want, baseline = (reference.avg_pool2d_grad(a, x.shape, *geometry) for a in (y.astype(np.float64), y))
    assert_close(triton.avg_pool2d_grad(y, x.shape, *geometry), want, baseline)


def test_what_does_not_fit_is_refused_before_it_is_launched(triton):
    """A gradient to the weight of so many groups that are no depthwise ones."""
    with (
        launch.collecting() as specs,
        pytest.raises(ValueError, match=r"^_conv2d_grad_weight_kernel: a grid of \(1, 1,"),
    ):
        shape = 1, 5 * MANY, 1, 1
        triton.conv2d_grad_weight(empty(*shape), empty(*shape), (5 * MANY, 5, 1, 1), (1, 1), (0, 0), (1, 1), MANY)
    assert specs == []


@pytest.mark.parametrize("grid", [(2**31,), (1, 65536), (1, 1, 65536)], ids=str)
def test_both_languages_refuse_the_same_grids(grid):
    from tilegrad.kernels.launch import numba_kernel as launch_numba

    def _some_kernel(x_ptr):
        pass

    x = gpu.xp().zeros(1, np.float32)
    message = rf"^_some_kernel: a grid of \({', '.join(map(str, grid))},?\) blocks; expected at most \d+ along axis"
    with pytest.raises(ValueError, match=message):
        launch.kernel(_some_kernel)(grid, x)
    with pytest.raises(ValueError, match=message):
        launch_numba.kernel(_some_kernel)(grid, (1,), x)


def test_numba_steps_through_more_classes_than_blocks(rng):
    """Of a row, by the grid's second axis: as few blocks as the simulator is given."""
    numba, reference = OnDevice(kernels.load("numba")), kernels.load("reference")
    z, t = rng.standard_normal((2, 300)).astype(np.float32), np.array([299, 128])
    loss, m, s, total = reference.softmax_xent(z, t)
    got = numba.softmax_xent_grad(np.ones((), np.float32), z, t, m, s, total)
    wide = z.astype(np.float64)
    _, *saved = reference.softmax_xent(wide, t)
    want = reference.softmax_xent_grad(np.ones(()), wide, t, *saved)
    assert_close(got, want, reference.softmax_xent_grad(np.ones((), np.float32), z, t, m, s, total))
