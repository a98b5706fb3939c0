"""The compiled clipping: any number of threads gives the same bits, what is no number is the specification's."""

import numpy as np
import pytest

from tests.compare import assert_same
from tilegrad.kernels.backends import cpu
from tilegrad.kernels.backends import reference as specification
from tilegrad.kernels.cpu import threads


def lists(rng):
    return [rng.standard_normal(shape, dtype=np.float32) for shape in ((70_001,), (3,), (300, 301), (4096,))]


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_any_number_of_threads_gives_the_same_bits(max_norm, monkeypatch):
    results = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "_count", count)
        arrays = lists(np.random.default_rng(0))
        results.append([cpu.clip_norm_step(arrays, max_norm), *arrays])
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert_same(got, want)
    wide = [a.astype(np.float64) for a in lists(np.random.default_rng(0))]
    for got, want in zip(results[0], [specification.clip_norm_step(wide, max_norm), *wide], strict=True):
        np.testing.assert_allclose(got, want, rtol=3e-7)


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e6, np.inf])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 0.0], ids=str)
def test_a_norm_that_is_no_number(value, max_norm):
    arrays = [np.full(5, value, np.float32), np.arange(3, dtype=np.float32)]
    wanted = [a.copy() for a in arrays]
    got, want = cpu.clip_norm_step(arrays, max_norm), specification.clip_norm_step(wanted, max_norm)
    for a, b in zip([got, *arrays], [want, *wanted], strict=True):
        np.testing.assert_allclose(a, b, rtol=3e-7)


def test_one_array_that_is_not_in_c_order_makes_the_list_the_specification_s():
    base = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    arrays, wanted = ([base.copy()[:, ::2], base.copy()] for _ in range(2))
    assert_same(cpu.clip_norm_step(arrays, 0.5), specification.clip_norm_step(wanted, 0.5))
    for a, b in zip(arrays, wanted, strict=True):
        assert_same(a, b)
