"""What executing our own kernels found that no simulator shows, each at the sizes that showed it.

Run by test_found.py in a process of its own with TILEGRAD_SIMULATE=ptx, and ptx:90.
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


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("dtype", "precision"), [(np.float16, "ieee"), (np.float32, "tf32")])
def test_an_operand_that_is_summed_beside_its_product(dtype, precision, turned):
    """On sm_90 the product for dw still read rows of dy when later ones were copied over them: Triton gives one place
    too few in shared memory to what wgmma multiplies and registers sum. Integers are exact in TF32."""
    rng = np.random.default_rng(0)
    dy, x = (rng.integers(-4, 5, shape).astype(dtype) for shape in ((512, 64), (512, 128)))
    if turned:
        dy, x = (np.ascontiguousarray(a.T).T for a in (dy, x))
    got = OnDevice(kernels.load("triton")).linear_grad(dy, None, x, None, True, precision)
    want = reference.linear_grad(dy.astype(np.float64), None, x.astype(np.float64), None, True)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, w.astype(dtype))
