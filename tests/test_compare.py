"""The comparer must fail what is wrong, not only pass what is right."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compare import assert_close, assert_same
from tests.layouts import LAYOUTS, assert_border, inside_frame, untouched

SHAPES = [(1, 1), (2, 2), (5, 10), (33, 257), (3, 4096)]  # one element; tiny; ragged; one past a tile; wide


def noise(shape, seed=0):
    """Random numbers away from zero, so that no element of a tiny array is negligible."""
    x = np.random.default_rng(seed).standard_normal(shape)
    return np.where(x < 0, x - 0.5, x + 0.5)


@pytest.fixture(params=SHAPES, ids=str)
def want(request, dtype):
    return noise(request.param)


@pytest.fixture(params=[np.float16, np.float32, np.float64], ids=["float16", "float32", "float64"])
def dtype(request):
    return request.param


def rejects(got, want, baseline, match, **options):
    with pytest.raises(AssertionError, match=match):
        assert_close(got, want, baseline, **options)


# --- what must pass


def test_the_correctly_rounded_result_passes(want, dtype):
    assert_close(want.astype(dtype), want, want.astype(dtype), elementwise=True)


def test_two_ulp_off_passes(want, dtype):
    rounded = want.astype(dtype)
    off = np.nextafter(np.nextafter(rounded, dtype(np.inf)), dtype(np.inf))
    assert_close(off, want, rounded, elementwise=True)


def test_another_order_of_summation_passes(dtype):
    """Two dot products of 4096 terms, each in its own order: both are right, neither is exact."""
    a, b = noise((2, 4096), 1).astype(dtype)
    products = a.astype(np.float64) * b.astype(np.float64)
    want = np.array([products.sum()])
    baseline = np.array([(a * b).sum()], dtype)
    got = np.array([(a * b)[::-1].reshape(64, 64).sum(0).sum()], dtype)
    assert_close(got, want, baseline, scale=64.0)  # the size of a sum of 4096 random signs


def test_a_result_of_zeros_must_be_zeros(dtype):
    zeros = np.zeros((3, 4), dtype)
    assert_close(zeros, np.zeros((3, 4)), zeros)
    wrong = zeros.copy()
    wrong[1, 2] = np.finfo(dtype).tiny
    rejects(wrong, np.zeros((3, 4)), zeros, r"worst at \(1, 2\)")


def test_empty_arrays_pass(dtype):
    assert_close(np.empty((0, 10), dtype), np.empty((0, 10)), np.empty((0, 10), dtype))


def test_zero_dimensional_arrays_are_judged(dtype):
    assert_close(np.array(3.0, dtype), np.array(3.0), np.array(3.0, dtype))
    rejects(np.array(3.03, dtype), np.array(3.0), np.array(3.0, dtype), "2-norm")


# --- what must fail


def test_all_zero_fails(want, dtype):
    rejects(np.zeros_like(want, dtype), want, want.astype(dtype), "2-norm")


@pytest.mark.parametrize("factor", [1.01, 0.99, -1.0])
def test_a_scaled_result_fails(want, dtype, factor):
    rejects((want * factor).astype(dtype), want, want.astype(dtype), "2-norm")


@pytest.mark.parametrize("n", [2, 3, 16, 128])
def test_a_transposed_result_fails(n, dtype):
    want = noise((n, n))
    rejects(want.T.astype(dtype), want, want.astype(dtype), "norm")


def test_a_transposed_shape_fails(dtype):
    want = noise((5, 10))
    rejects(want.T.astype(dtype), want, want.astype(dtype), "shape")


def test_one_wrong_element_among_many_fails(dtype):
    want = noise((300, 1000))
    got = want.astype(dtype)
    got[17, 3] *= dtype(1.1)
    rejects(got, want, want.astype(dtype), r"worst at \(17, 3\)")


def test_a_wrong_small_element_fails_elementwise(dtype):
    """It hides beside 1.0 in any norm of the whole array."""
    small = 64 * np.finfo(dtype).tiny
    want = np.array([1.0, small])
    got = np.array([1.0, 2 * small], dtype)
    assert_close(got, want, want.astype(dtype))
    rejects(got, want, want.astype(dtype), r"element \(1,\)", elementwise=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])  # float16 has no room between an ulp and 1.01
def test_twice_the_baselines_error_passes_and_three_times_fails(dtype):
    want = noise((64, 64))
    eps = np.finfo(dtype).eps
    baseline = (want * (1 + 100 * eps)).astype(dtype)
    assert_close((want * (1 + 190 * eps)).astype(dtype), want, baseline)
    rejects((want * (1 + 300 * eps)).astype(dtype), want, baseline, "2-norm")


def test_another_dtype_fails():
    want = noise((5, 10))
    rejects(want, want, want.astype(np.float32), "float64, expected float32")
    rejects(want.astype(np.float32), want, None, "float32, expected float64")


def test_what_is_no_array_fails():
    rejects([1.0], np.array([1.0]), None, "list")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_must_be_at_the_same_places(value, dtype):
    want = noise((4, 6))
    want[2, 3] = value
    got = want.astype(dtype)
    assert_close(got, want, want.astype(dtype))
    moved = noise((4, 6)).astype(dtype)
    moved[3, 2] = value
    rejects(moved, want, want.astype(dtype), r"different places, 2 of 24; first at \(2, 3\)")
    rejects(noise((4, 6)).astype(dtype), want, want.astype(dtype), "different places, 1 of 24")
    rejects(np.where(np.isnan(got) | np.isinf(got), dtype(0), got), want, got, "different places")


def test_infinity_of_the_wrong_sign_fails(dtype):
    want = np.array([np.inf, 1.0])
    rejects((-want).astype(dtype), want, want.astype(dtype), "inf at different places")


def test_overflow_of_the_dtype_counts_as_infinity():
    want = np.array([1e5, 1.0])
    rounded = np.array([np.inf, 1.0], np.float16)
    assert_close(rounded, want, rounded)
    rejects(np.array([65504.0, 1.0], np.float16), want, rounded, "inf at different places")


def test_a_baseline_that_cannot_judge_is_refused(dtype):
    want = noise((16, 16))
    right = want.astype(dtype)
    rejects(right, want, (1.01 * want).astype(dtype), "baseline is too far from want")
    rejects(0 * right, 0 * want, np.full_like(right, 1e-3), "baseline is too far from want")
    rejects(right, want, np.full_like(right, np.nan), "baseline is not finite")
    rejects(right, want, right[:1], "baseline has shape")


def test_a_cancelling_sum_is_judged_by_the_size_of_its_terms(dtype):
    """A row of softmax gradients sums to 0; what is left is rounding of terms of size 1."""
    eps = np.finfo(dtype).eps
    left_over = np.full(8, eps, dtype)
    rejects(left_over, np.zeros(8), np.zeros(8, dtype), "2-norm")
    assert_close(left_over, np.zeros(8), np.zeros(8, dtype), scale=1.0)
    rejects(100 * left_over, np.zeros(8), np.zeros(8, dtype), "2-norm", scale=1.0)


def test_want_must_be_float64():
    with pytest.raises(TypeError, match="want is float32; expected the float64 result"):
        assert_close(np.ones(3, np.float32), np.ones(3, np.float32))


def test_assert_same_sees_one_bit_dtype_and_shape(dtype):
    x = noise((3, 5)).astype(dtype)
    x[0, 0] = np.nan
    assert_same(x.copy(), x)
    other = x.copy()
    other[2, 4] = np.nextafter(other[2, 4], dtype(np.inf))
    for wrong, match in (
        (other, "not equal"),
        (x.T, "shape"),
        (x.astype(np.longdouble), "expected float"),
        (np.nan_to_num(x), "not equal"),
    ):
        with pytest.raises(AssertionError, match=match):
            assert_same(wrong, x)


# --- the layouts: equal values, different memory


@pytest.mark.parametrize("shape", [(), (7,), (5, 10), (2, 3, 4, 5), (0, 10)], ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_changes_memory_and_nothing_else(name, shape, dtype):
    x = noise(shape).astype(dtype)
    y = LAYOUTS[name](x)
    assert_same(y, x)
    assert not np.shares_memory(x, y)


def test_each_layout_is_the_memory_it_names():
    x = noise((2, 3, 4, 5))
    strides = {name: [s // 8 for s in f(x).strides] for name, f in LAYOUTS.items()}
    assert strides == {
        "contiguous": [60, 20, 5, 1],
        "transposed": [1, 2, 6, 24],
        "channels_last": [60, 1, 15, 3],
        "backwards": [-60, -20, -5, -1],
        "framed": [7 * 8 * 9, 8 * 9, 9, 1],
    }


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_the_frame_is_poison_and_a_write_to_it_is_seen(kind):
    x = np.arange(12).reshape(3, 4).astype(kind)
    whole, inside = inside_frame(x)
    inside += 1
    assert_same(inside, x + 1)
    assert_border(whole, inside)
    assert np.isnan(whole[0, 0]) if kind is np.float32 else whole[0, 0] == np.iinfo(kind).max
    whole[1, 3] = 0
    with pytest.raises(AssertionError, match="border"):
        assert_border(whole, inside)


def test_untouched_sees_a_write_to_an_array_or_to_the_memory_around_it():
    whole, inside = inside_frame(noise((3, 4)))
    with untouched(inside, None):
        inside + 1
    for target in (whole[:1], inside):
        with pytest.raises(AssertionError, match="was written to"), untouched(inside):
            target[0, 0] = 5
