"""The compiled cross-entropy of many numbers: its threads, and rows that hold NaN or infinity."""

import numpy as np
import pytest

from tests.compare import assert_same
from tests.layouts import untouched
from tilegrad.kernels.backends import cpu
from tilegrad.kernels.backends import reference as specification
from tilegrad.kernels.cpu import threads

SHAPES = [
    (2000, 10),
    (301, 65),
    (150, 128),
    (150, 129),
    (37, 1024),
    (5, 5001),
]  # each large enough that threads share the rows


def batch(shape):
    rng = np.random.default_rng(shape)
    z, t = 3 * rng.standard_normal(shape, dtype=np.float32), rng.integers(0, shape[1], shape[0])
    t[1::7] = -100
    return z, t


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_number_of_threads_gives_the_same_bits(shape, reduction, monkeypatch):
    z, t = batch(shape)
    results = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "_count", count)
        with untouched(z, t):
            loss, m, s, total = cpu.softmax_xent(z, t, reduction=reduction)
            dloss = np.full(loss.shape, 0.5, np.float32)
            results.append((loss, m, s, total, cpu.softmax_xent_grad(dloss, z, t, m, s, total, reduction=reduction)))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert_same(got, want)
    wide = z.astype(np.float64)
    want = specification.softmax_xent(wide, t, reduction=reduction)
    want_grad = specification.softmax_xent_grad(np.full(want[0].shape, 0.5), wide, t, *want[1:], reduction=reduction)
    for got, exact in zip(results[0], (*want, want_grad), strict=True):
        np.testing.assert_allclose(got, exact, rtol=3e-6, atol=1e-6 * np.abs(exact).max())


def test_threads_do_not_share_their_room(monkeypatch):
    """Each piece writes to its own part of what is shared: to no number of another's, whichever comes first."""
    z, t = batch((2000, 10))
    monkeypatch.setattr(threads, "_count", 4)
    share, seen = threads.share, []

    def watched(kernel, most, items, *arguments):
        if kernel.py_func.__name__ != "_losses":
            share(kernel, most, items, *arguments)
            return
        shifted = arguments[-2]
        for part in range(4):
            shifted[...] = np.nan
            kernel(*arguments, 500 * part, 500 * part + 500, part, 0)
            seen.append(set(np.flatnonzero(~np.isnan(shifted))))

    monkeypatch.setattr(threads, "share", watched)
    cpu.softmax_xent(z, t)
    assert all(seen) and len(set.union(*seen)) == sum(map(len, seen))


@pytest.mark.parametrize("classes", [65, 300])  # many rows at once, and row by row
@pytest.mark.parametrize("place", [0, 7, 40, 64])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf], ids=["nan", "negative nan", "inf", "-inf"])
def test_a_row_with_no_number_in_it(value, place, classes):
    """Its m and s are the specification's; its neighbours' results are those without it."""
    z, t = batch((301, classes))
    clean = cpu.softmax_xent(z, t, reduction="none")
    z[150, place] = np.copysign(np.float32(value), np.float32(value))
    z[17, :] = value
    z[18, place], z[18, (place + 9) % 65] = np.inf, value
    got, want = cpu.softmax_xent(z, t, reduction="none"), specification.softmax_xent(z, t, reduction="none")
    for a, b, before in zip(got[:3], want[:3], clean[:3], strict=True):
        for row in (17, 18, 150):
            assert_same(a[row], b[row]) if not np.isfinite(b[row]) else np.testing.assert_allclose(a[row], b[row], 1e-6)
        others = np.delete(np.arange(301), [17, 18, 150])
        assert_same(a[others], before[others])
    ones = np.ones(301, np.float32)
    got_grad = cpu.softmax_xent_grad(ones, z, t, *got[1:], reduction="none")
    want_grad = specification.softmax_xent_grad(ones, z, t, *got[1:], reduction="none")
    np.testing.assert_allclose(got_grad, want_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", [-1, 65, 1 << 40])
def test_a_label_out_of_range_in_a_later_thread_s_rows(label, monkeypatch):
    z, t = batch((301, 65))
    _, m, s, total = cpu.softmax_xent(z, t)
    t[290] = label
    monkeypatch.setattr(threads, "_count", 3)
    message = rf"t\[290\] is {label}; expected 0 <= t < 65, or ignore_index -100"
    with pytest.raises(ValueError, match="softmax_xent: " + message):
        cpu.softmax_xent(z, t)
    with pytest.raises(ValueError, match="softmax_xent_grad: " + message):
        cpu.softmax_xent_grad(np.array(1, np.float32), z, t, m, s, total)
