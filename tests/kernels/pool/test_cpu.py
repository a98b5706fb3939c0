"""The compiled mean over windows: the specification's bits, from any number of threads."""

import numpy as np
import pytest

from tests.compare import assert_same
from tests.layouts import untouched
from tilegrad.kernels.backends import cpu
from tilegrad.kernels.backends import reference as specification
from tilegrad.kernels.cpu import threads

WINDOWS = {  # kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
    "side by side": ((2, 2), (2, 2), (0, 0), False, True, None),
    "the whole image": ((13, 11), (13, 11), (0, 0), False, True, None),
    "with gaps": ((2, 1), (3, 4), (0, 0), False, True, None),
    "that overlap": ((3, 5), (2, 1), (1, 2), False, True, None),
    "over the border": ((3, 3), (2, 3), (1, 1), True, True, None),
    "in the image only": ((3, 3), (2, 3), (1, 1), True, False, None),
    "with a divisor": ((3, 2), (2, 2), (1, 1), True, False, -5),
}


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("special", [0.0, -0.0, np.nan, np.inf], ids=str)
def test_the_specification_s_bits_from_any_number_of_threads(window, special, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((19, 13, 11, 37), dtype=np.float32)
    x[rng.random(x.shape) < 0.02] = special
    x = x.transpose(0, 3, 1, 2)
    want = specification.avg_pool2d(x, *window)
    dy = rng.standard_normal(want.shape, dtype=np.float32)
    exact = specification.avg_pool2d_grad(dy.astype(np.float64), x.shape, *window)
    gradients = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "_count", count)
        with untouched(x, dy):
            assert_same(cpu.avg_pool2d(x, *window), want)
            gradients.append(cpu.avg_pool2d_grad(dy, x.shape, *window))
    for dx in gradients:
        assert dx.strides == x.strides
        assert_same(dx, gradients[0])
    np.testing.assert_allclose(gradients[0], exact, rtol=1e-6, atol=1e-7)


def test_a_gradient_that_is_no_number_reaches_its_window_alone():
    dy = np.zeros((1, 1, 3, 3), np.float32)
    dy[0, 0, 1, 1], dy[0, 0, 2, 0] = np.nan, np.inf
    dx = cpu.avg_pool2d_grad(dy, (1, 1, 7, 6), (2, 2), (2, 2))
    assert_same(dx, specification.avg_pool2d_grad(dy, (1, 1, 7, 6), (2, 2), (2, 2)))
