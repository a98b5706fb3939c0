"""clip_norm_step on every backend, against the same in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.compare import assert_close, assert_same
from tests.layouts import framed

SHAPES = [(3, 4), (5,), (), (2, 3, 2), (0, 3), (70, 7)]


def lists(rng, dtype=np.float32, shapes=SHAPES):
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def joint_norm(arrays, dtype=np.float64):
    return np.sqrt(sum((np.square(a.astype(dtype)).sum(dtype=dtype) for a in arrays), dtype(0)))


def check(backend, arrays, max_norm):
    before = [a.copy() for a in arrays]
    total = backend.clip_norm_step(arrays, max_norm)
    norm = joint_norm(before)
    wide = np.float64 if any(a.dtype == np.float64 for a in arrays) else np.float32
    assert total.shape == () and total.dtype == wide
    assert_close(np.asarray(total), np.asarray(norm), np.asarray(joint_norm(before, wide), wide))
    factor = min(1.0, max_norm / (norm + 1e-6))
    for a, x in zip(arrays, before, strict=True):
        want = np.asarray(x.astype(np.float64) * factor)
        assert_close(a, want, want.astype(a.dtype), scale=float(np.abs(want).max(initial=0)))
    if factor == 1.0:
        for a, x in zip(arrays, before, strict=True):
            assert_same(a, x)


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e4, math.inf])
def test_values(backend, dtype, max_norm, rng):
    check(backend, lists(rng, dtype), max_norm)


def test_layouts(backend, layout, rng):
    arrays = [layout(a) if a.ndim else a for a in lists(rng, shapes=[(3, 4), (2, 3, 5), (7,)])]
    check(backend, arrays, 0.5)


def test_what_lies_around_an_array_stays(backend, rng):
    x = framed(rng.standard_normal((3, 5)).astype(np.float32))
    owner = x.base
    outside = np.isnan(owner).sum()
    backend.clip_norm_step([x], 0.1)
    assert np.isnan(owner).sum() == outside > 0


def test_mixed_dtypes(backend, rng):
    check(backend, [*lists(rng, np.float16), *lists(rng, np.float32)], 0.5)


def test_long_arrays(backend, rng):
    shapes = [(150,), (3,)] if _is_numba(backend) else [(9000,), (3,)]
    check(backend, lists(rng, shapes=shapes), 0.5)


def _is_numba(backend):
    return getattr(getattr(backend, "module", None), "__name__", "").endswith("numba_backend")


def test_more_blocks_than_the_sum_takes_at_once(backend, rng, monkeypatch):
    if hasattr(backend, "module") and not _is_numba(backend):
        monkeypatch.setattr("tilegrad.kernels.clip_norm.gpu_triton.PARTIALS", 32)
        check(backend, lists(rng, shapes=[(3,)] * 70), 0.5)
    else:
        check(backend, lists(rng, shapes=[(3,)] * 7), 0.5)


def test_halves_do_not_overflow(backend):
    x = np.full(200, 300, np.float16)
    total = backend.clip_norm_step([x], 1.0)
    assert_close(np.asarray(total), np.asarray(300 * math.sqrt(200)), np.asarray(300 * math.sqrt(200), np.float32))
    want = np.full(200, 1 / math.sqrt(200))
    assert_close(x, want, want.astype(np.float16))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite(backend, bad):
    """As PyTorch: all is NaN for NaN; for infinity all is 0, but what was infinite is NaN."""
    x = np.array([1.0, bad, -2.0], np.float32)
    total = backend.clip_norm_step([x], 1.0)
    assert_same(np.asarray(total), np.asarray(bad, np.float32))
    assert_same(x, np.array([np.nan] * 3 if np.isnan(bad) else [0, np.nan, -0.0], np.float32))


def test_nothing_to_clip(backend):
    for arrays in ([], [np.zeros((0, 3), np.float32)]):
        assert_same(np.asarray(backend.clip_norm_step(arrays, 1.0)), np.zeros((), np.float32))


@pytest.mark.parametrize(
    "arrays, max_norm, error, message",
    [
        ([np.ones(2, np.int64)], 1.0, TypeError, r"arrays\[0\] is int64; expected float16"),
        ([3.0], 1.0, TypeError, r"arrays\[0\] is a float; expected an array"),
        ([np.ones(2, np.float32)], -1.0, ValueError, "max_norm is -1.0; expected >= 0"),
        ([np.ones(2, np.float32)], math.nan, ValueError, "max_norm is nan; expected >= 0"),
    ],
)
def test_bad_arguments(backend, arrays, max_norm, error, message):
    with pytest.raises(error, match=f"clip_norm_step: {message}"):
        backend.clip_norm_step(arrays, max_norm)
