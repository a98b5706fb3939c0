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


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [8, 31])
def test_lanes_of_a_row_have_one_sum(n, order):
    """Each lane added to its own product what others sent it, in one fused operation: lanes of a row then had sums that
    differed in the last bit, or stored them to one place. Columns that are alike have one gradient."""
    rng = np.random.default_rng(0)
    y = np.broadcast_to(rng.random((64, 1), np.float32), (64, n)).copy(order)
    two, which = rng.standard_normal((64, 2)).astype(np.float32), rng.integers(0, 2, (64, n))
    dy = np.asarray(np.take_along_axis(two, which, 1), order=order)
    for row, of in zip(OnDevice(kernels.load("triton")).softmax_grad(dy, y), which, strict=True):
        assert all(np.unique(row[of == k]).size <= 1 for k in (0, 1))
