"""What executing our own kernels found that no simulator shows, each at the sizes that showed it.

Run by test_found.py in a process of its own with TILEGRAD_SIMULATE=ptx.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.compare import assert_close
from tests.device import OnDevice
from tilegrad import kernels
from tilegrad.kernels.backends import reference


@pytest.mark.parametrize("out_channels", [2, 6])
def test_phases_beyond_the_image(out_channels):
    """A stride that is larger than the image: some of its phases have no pixel, and pixels are counted by dividing by
    the rows and columns of a phase. The kernels for few and for many output channels wrote behind dx, for an integer
    that a GPU divides by zero becomes -1; in Triton's interpreter it becomes 0."""
    rng = np.random.default_rng(0)
    w, dy = (rng.standard_normal(s).astype(np.float32) for s in ((out_channels, 5, 1, 1), (2, out_channels, 1, 1)))
    geometry = (2, 5, 2, 1), (3, 2), (0, 0), (1, 1), 1
    got = OnDevice(kernels.load("triton")).conv2d_grad_input(dy, w, *geometry)
    want = reference.conv2d_grad_input(dy.astype(np.float64), w.astype(np.float64), *geometry)
    assert_close(got, want, reference.conv2d_grad_input(dy, w, *geometry))
