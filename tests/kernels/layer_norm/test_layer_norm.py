"""Layer and RMS normalisation and their gradients against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.layouts import channels_last, inside_frame, untouched
from tilegrad.kernels.checks import accumulator

SHAPES = [
    ((1, 1), 1),  # one element a row: xhat is 0
    ((5, 10), 1),  # ragged
    ((5, 10), 2),  # all of it is one row
    ((3, 4, 5), 2),  # a row of two axes
    ((7,), 1),  # a row alone, whose mean has no axis
    ((0, 10), 1),  # no row
    ((33, 257), 1),  # one past a tile
    ((3, 257), 1),  # and few enough for a simulator
    ((3, 4096), 1),  # wide
    ((300, 20), 1),  # several programs, of several tiles each
    ((37, 20), 1),  # and parts, few enough for a simulator
]
NAMES = ["layer_norm", "rms_norm"]
EPS = 1e-5


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


def torch_of(name, ndim, *options):
    if name == "layer_norm":
        return lambda x, w=None, b=None: TF.layer_norm(x, x.shape[-ndim:], w, b, *options)
    return lambda x, w=None: TF.rms_norm(x, x.shape[-ndim:], w, *(options or (EPS,)))


def forward(backend, name, x, ndim, *affine):
    """(y, what the gradient needs)."""
    y, *saved = getattr(backend, name)(x, ndim, *affine)
    for each in saved:
        assert each.shape == x.shape[:-ndim] and each.dtype == accumulator(x.dtype)
    return y, saved


def check(backend, name, x, dy, ndim, *affine, scale=0.0):
    """Value and gradients, and that nothing given was written to."""
    with untouched(x, dy, *affine):
        y, saved = forward(backend, name, x, ndim, *affine)
    assert_close(y, *oracle.value(torch_of(name, ndim), x, *affine), scale=1.0)
    wanted = (True,) * len(affine) if name == "rms_norm" else (len(affine) > 0, len(affine) > 1)
    weight = affine[0] if affine else None
    with untouched(dy, x, *saved, *affine):
        found = getattr(backend, f"{name}_grad")(dy, x, *saved, weight, *wanted)
    expected = gradients(torch_of(name, ndim), dy, x, *affine)
    assert len(found) == len(expected)
    rows = max(1, saved[0].size)
    for i, (got, (want, baseline)) in enumerate(zip(found, expected, strict=True)):
        assert_close(got, want, baseline, scale=max(scale, 1.0 if i == 0 else rows**0.5))  # a sum over so many rows
    return y, found


def gradients(function, *arrays):
    """The baseline of float16 is float32 rounded once: torch adds up rows in float16."""
    if arrays[0].dtype != np.float16:
        return oracle.gradients(function, *arrays)
    wide = oracle.gradients(function, *[a.astype(np.float32) for a in arrays])
    return [(want, baseline.astype(np.float16)) for want, baseline in wide]


def draw(rng, name, shape, ndim, dtype):
    x, dy = rng.standard_normal((2, *shape))
    affine = rng.standard_normal((2 if name == "layer_norm" else 1, *shape[-ndim:])) + 0.5
    return x.astype(dtype), dy.astype(dtype), [a.astype(dtype) for a in affine]


@pytest.mark.parametrize("shape, ndim", SHAPES, ids=str)
def test_values_and_gradients(backend, name, shape, ndim, dtype, rng):
    x, dy, affine = draw(rng, name, shape, ndim, dtype)
    check(backend, name, x, dy, ndim, *affine)


@pytest.mark.parametrize("shape, ndim", [((5, 10), 1), ((2, 3, 4), 2)], ids=str)
def test_without_weight_and_bias(backend, name, shape, ndim, dtype, rng):
    x, dy, affine = draw(rng, name, shape, ndim, dtype)
    check(backend, name, x, dy, ndim)
    check(backend, name, x, dy, ndim, affine[0])


def test_a_bias_without_a_weight_and_gradients_that_are_not_asked_for(backend, rng):
    x, dy, (_, bias) = draw(rng, "layer_norm", (5, 10), 1, np.float32)
    y, mean, rstd = backend.layer_norm(x, 1, None, bias)
    assert_close(y, *oracle.value(lambda x, b: TF.layer_norm(x, (10,), None, b), x, bias))
    both = backend.layer_norm_grad(dy, x, mean, rstd, None, True, True)
    for to_weight, to_bias in ((True, False), (False, True), (False, False)):
        found = backend.layer_norm_grad(dy, x, mean, rstd, None, to_weight, to_bias)
        wanted = [both[0], *([both[1]] if to_weight else []), *([both[2]] if to_bias else [])]
        for got, want in zip(found, wanted, strict=True):
            assert_same(got, want)


@pytest.mark.parametrize("ndim", [1, 2])
def test_layouts(backend, name, layout, ndim, rng):
    x, dy, affine = draw(rng, name, (5, 6, 10), ndim, np.float32)
    y, found = check(backend, name, layout(x), layout(dy), ndim, *map(layout, affine))
    assert y.flags.c_contiguous and found[0].flags.c_contiguous
    check(backend, name, layout(x), dy, ndim, *affine)


def test_arrays_of_several_memory_orders(backend, name, dtype, rng):
    x, dy, affine = draw(rng, name, (2, 3, 4, 5), 2, dtype)
    check(backend, name, inside_frame(x)[1], channels_last(dy), 2, *affine)
    check(backend, name, channels_last(x), inside_frame(dy)[1], 2, *affine)


def test_an_incoming_gradient_of_stride_0(backend, name, dtype, rng):
    """One row for all, one column for all, and one number for all, as sum() sends it."""
    x, _, affine = draw(rng, name, (5, 10), 1, dtype)
    for shape in ((1, 10), (5, 1), (1, 1)):
        dy = np.broadcast_to(rng.standard_normal(shape).astype(dtype), x.shape)
        check(backend, name, x, dy, 1, *affine, scale=4.0)


@pytest.mark.parametrize("shape", [(2, 40000), (9, 10000)], ids=str)
def test_more_than_a_gpu_keeps_in_registers(backend, name, shape, rng):
    """Rows that the forward loops over, or the gradient alone."""
    x, dy, affine = draw(rng, name, shape, 1, np.float32)
    check(backend, name, x, dy, 1, *affine)


@pytest.mark.parametrize("shape", [(3, 40000), (4, 200), (6, 3)], ids=str)
def test_a_mean_of_ten_thousand_deviations_costs_no_digits(backend, shape, rng):
    """x itself has three digits behind the point left; the mean and the variance are not to lose any of those."""
    x = (rng.standard_normal(shape) + 1e4).astype(np.float32)
    y, mean, rstd = backend.layer_norm(x, 1)
    wide = x.astype(np.float64)
    want = TF.layer_norm(torch.from_numpy(wide), shape[1:]).numpy()
    assert_close(y, want, want.astype(np.float32), scale=1.0)
    assert_close(mean, wide.mean(1), wide.mean(1).astype(np.float32))
    want = 1 / np.sqrt(wide.var(1) + EPS)
    assert_close(rstd, want, want.astype(np.float32))


def test_a_constant_row_is_its_bias(backend, rng):
    bias = rng.standard_normal(13).astype(np.float32)
    for value in (0.1, 1e4 / 3, -7.0):
        y, mean, rstd = backend.layer_norm(np.full((3, 13), value, np.float32), 1, None, bias)
        assert_close(y, np.tile(bias.astype(np.float64), (3, 1)), np.tile(bias, (3, 1)))
        assert_close(mean, np.full(3, np.float64(np.float32(value))), np.full(3, value, np.float32))
        assert_close(rstd, np.full(3, EPS**-0.5), np.full(3, EPS**-0.5, np.float32))


def test_rows_without_elements(backend, name):
    x = np.zeros((3, 0), np.float32)
    y, saved = forward(backend, name, x, 1)
    assert y.shape == (3, 0) and all(np.isnan(each).all() for each in saved)
    found = getattr(backend, f"{name}_grad")(x, x, *saved, None, True)
    assert [each.shape for each in found] == [(3, 0), (0,)]


def test_no_rows_have_gradients_of_zero(backend, name):
    x, w = np.zeros((0, 5), np.float32), np.ones(5, np.float32)
    _, saved = forward(backend, name, x, 1, w)
    _, dw = getattr(backend, f"{name}_grad")(x, x, *saved, w, True)
    assert_same(dw, np.zeros(5, np.float32))


def test_eps_is_within_the_root(backend, name, rng):
    x = (1e-3 * rng.standard_normal((4, 6))).astype(np.float32)
    for eps in (1e-12, 0.5):
        y, *_ = getattr(backend, name)(x, 1, eps=eps)
        assert_close(y, *oracle.value(torch_of(name, 1, eps) if name == "rms_norm" else _with(eps), x), scale=1e-2)


def _with(eps):
    return lambda x: TF.layer_norm(x, x.shape[-1:], eps=eps)


@pytest.mark.parametrize("shape", [(33, 257), (3, 257)], ids=str)
def test_16_bits_are_float32_rounded_once(backend, name, shape, rng):
    x, dy, affine = draw(rng, name, shape, 1, np.float16)
    wide = [a.astype(np.float32) for a in affine]
    y, saved = forward(backend, name, x, 1, *affine)
    other, wide_saved = forward(backend, name, x.astype(np.float32), 1, *wide)
    assert_same(y, other.astype(np.float16))
    grad = getattr(backend, f"{name}_grad")
    found = grad(dy, x, *saved, affine[0], True)
    others = grad(dy.astype(np.float32), x.astype(np.float32), *wide_saved, wide[0], True)
    for got, want in zip(found, others, strict=True):
        assert_same(got, want.astype(np.float16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(backend, name, value):
    x = np.tile(np.arange(4, dtype=np.float32), (3, 1))
    x[1, 2] = value
    spoilt = np.zeros((3, 4), bool)
    spoilt[1] = True
    y, saved = forward(backend, name, x, 1)
    if name == "rms_norm" and np.isinf(value):
        assert np.isnan(y[1, 2]) and (y[1, [0, 1, 3]] == 0).all() and np.isfinite(y[[0, 2]]).all()
    else:
        assert_same(np.isnan(y), spoilt)
    dx, dw = getattr(backend, f"{name}_grad")(np.ones_like(x), x, *saved, None, True)
    assert np.isnan(dx[1]).all() and np.isfinite(dx[[0, 2]]).all()
    assert np.isnan(dw[2])


def test_two_runs_have_the_same_bits(backend, name, rng):
    x, dy, affine = draw(rng, name, (70, 14), 1, np.float32)
    _, saved = forward(backend, name, x, 1, *affine)
    grad = getattr(backend, f"{name}_grad")
    for first, second in zip(grad(dy, x, *saved, affine[0], True), grad(dy, x, *saved, affine[0], True), strict=True):
        assert_same(first, second)


# --- with a residual


def check_residual(backend, name, x, residual, dy, ds, ndim, *affine):
    """Value, sum and gradients of the residual form against torch's add and norm."""
    with untouched(x, residual, *affine):
        y, *saved, joined = getattr(backend, name)(x, ndim, *affine, residual=residual)
    (want_joined, base_joined), (want, baseline) = (
        oracle.value(lambda a, b, *_: a + b, x, residual),
        oracle.value(lambda a, b, *w: torch_of(name, ndim)(a + b, *w), x, residual, *affine),
    )
    assert_close(joined, want_joined, base_joined)
    assert joined.dtype == x.dtype and joined.flags.c_contiguous
    assert_close(y, want, baseline, scale=1.0)
    wanted = (True,) * len(affine) if name == "rms_norm" else (len(affine) > 0, len(affine) > 1)
    weight = affine[0] if affine else None
    with untouched(dy, ds, joined, *saved, *affine):
        found = getattr(backend, f"{name}_grad")(dy, joined, *saved, weight, *wanted, ds=ds)

    def both(s, *w):
        """One number whose gradient is that of dy and of ds."""
        normed = torch_of(name, ndim)(s, *w)
        return torch.stack((normed, s))

    expected = gradients(both, np.stack((dy, ds)), joined, *affine)
    rows = max(1, saved[0].size)
    for i, (got, (want, baseline)) in enumerate(zip(found, expected, strict=True)):
        assert_close(got, want, baseline, scale=1.0 if i == 0 else rows**0.5)
    return y, saved, joined, found


RESIDUAL_SHAPES = [((1, 1), 1), ((5, 10), 1), ((3, 4, 5), 2), ((7,), 1), ((0, 10), 1), ((33, 257), 1), ((37, 20), 1)]


@pytest.mark.parametrize("shape, ndim", RESIDUAL_SHAPES, ids=str)
def test_residual(backend, name, shape, ndim, dtype, rng):
    x, dy, affine = draw(rng, name, shape, ndim, dtype)
    residual, ds, _ = draw(rng, name, shape, ndim, dtype)
    check_residual(backend, name, x, residual, dy, ds, ndim, *affine)


def test_residual_without_weight_and_bias(backend, name, dtype, rng):
    x, dy, _ = draw(rng, name, (5, 10), 1, dtype)
    residual, ds, _ = draw(rng, name, (5, 10), 1, dtype)
    check_residual(backend, name, x, residual, dy, ds, 1)


def test_residual_layouts(backend, name, layout, rng):
    x, dy, affine = draw(rng, name, (5, 6, 10), 1, np.float32)
    residual, ds, _ = draw(rng, name, (5, 6, 10), 1, np.float32)
    check_residual(backend, name, layout(x), residual, dy, layout(ds), 1, *affine)
    check_residual(backend, name, x, layout(residual), layout(dy), ds, 1, *map(layout, affine))


def test_residual_gradients_of_stride_0(backend, name, rng):
    """As sum() sends it, by either way."""
    x, dy, affine = draw(rng, name, (5, 10), 1, np.float32)
    one = np.broadcast_to(np.float32(0.5), x.shape)
    check_residual(backend, name, x, dy, dy, one, 1, *affine)
    check_residual(backend, name, x, dy, one, dy, 1, *affine)
    check_residual(backend, name, x, np.broadcast_to(x[:1], x.shape), dy, one, 1, *affine)


@pytest.mark.parametrize("shape", [(2, 40000), (9, 10000)], ids=str)
def test_residual_of_more_than_a_gpu_keeps_in_registers(backend, name, shape, rng):
    x, dy, affine = draw(rng, name, shape, 1, np.float32)
    residual, ds, _ = draw(rng, name, shape, 1, np.float32)
    check_residual(backend, name, x, residual, dy, ds, 1, *affine)


@pytest.mark.parametrize("shape", [(5, 10), (37, 20), (2, 40000)], ids=str)
def test_the_residual_form_has_the_bits_of_the_sum_and_the_norm(backend, name, shape, dtype, rng):
    """The sum is rounded before it is normalised. Of the 16-bit types only the sum of two gradients is rounded less."""
    x, dy, affine = draw(rng, name, shape, 1, dtype)
    residual, ds, _ = draw(rng, name, shape, 1, dtype)
    function, grad = getattr(backend, name), getattr(backend, f"{name}_grad")
    y, *saved, joined = function(x, 1, *affine, residual=residual)
    want, *want_saved = function(joined, 1, *affine)
    assert_same(joined, (x.astype(accumulator(dtype)) + residual.astype(accumulator(dtype))).astype(dtype))
    for got, each in zip((y, *saved), (want, *want_saved), strict=True):
        assert_same(got, each)
    dx, *others = grad(dy, joined, *saved, affine[0], True, ds=ds)
    _, *want_others = grad(dy, joined, *saved, affine[0], True)
    assert_same(
        grad(dy, joined, *saved, affine[0], True, ds=np.zeros_like(ds))[0], grad(dy, joined, *saved, affine[0])[0]
    )
    for got, each in zip(others, want_others, strict=True):
        assert_same(got, each)
    assert not np.array_equal(dx, grad(dy, joined, *saved, affine[0])[0])


def test_residual_without_rows_and_without_elements(backend, name):
    for shape in ((0, 5), (3, 0)):
        x = np.zeros(shape, np.float32)
        y, *saved, joined = getattr(backend, name)(x, 1, residual=x)
        assert y.shape == joined.shape == shape
        (dx,) = getattr(backend, f"{name}_grad")(x, joined, *saved, ds=x)
        assert dx.shape == shape


def test_wrong_residuals(backend, name):
    x, s = np.ones((5, 10), np.float32), np.ones((5, 1), np.float32)
    with pytest.raises(ValueError, match=rf"^{name}: x is \(5, 10\) but residual is \(5, 1\); expected \(5, 10\)$"):
        getattr(backend, name)(x, 1, residual=s)
    with pytest.raises(TypeError, match=f"^{name}: x is float32, residual is float16; expected one dtype for all$"):
        getattr(backend, name)(x, 1, residual=x.astype(np.float16))
    _, *saved = getattr(backend, name)(x, 1)
    with pytest.raises(ValueError, match=rf"^{name}_grad: x is \(5, 10\) but ds is \(5, 1\); expected \(5, 10\)$"):
        getattr(backend, f"{name}_grad")(x, x, *saved, ds=s)


# --- errors


def test_wrong_arguments(backend, name):
    function, grad = getattr(backend, name), getattr(backend, f"{name}_grad")
    x, w = np.ones((5, 10), np.float32), np.ones(10, np.float32)
    for ndim in (0, 3):
        message = rf"^{name}: ndim is {ndim} but x is \(5, 10\); expected 1 <= ndim <= x.ndim$"
        with pytest.raises(ValueError, match=message):
            function(x, ndim)
    with pytest.raises(TypeError, match=f"^{name}: ndim is 1.0; expected an int$"):
        function(x, 1.0)
    with pytest.raises(ValueError, match=rf"^{name}: x is \(5, 10\) but weight is \(5,\); expected \(10,\)$"):
        function(x, 1, w[:5])
    with pytest.raises(TypeError, match=f"^{name}: x is float32, weight is float64; expected one dtype for all$"):
        function(x, 1, w.astype(np.float64))
    with pytest.raises(TypeError, match=f"^{name}: eps is None; expected a real number$"):
        function(x, 1, eps=None)
    with pytest.raises(TypeError, match=f"^{name}: x is int64; expected float16, bfloat16, float32 or float64$"):
        function(np.arange(3), 1)

    _, *saved = function(x, 1, w)
    with pytest.raises(ValueError, match=rf"^{name}_grad: x is \(5, 10\) but dy is \(4, 10\); expected \(5, 10\)$"):
        grad(x[:4], x, *saved, w)
    with pytest.raises(ValueError, match=rf"^{name}_grad: x is \(5, 10\) but weight is \(5,\); expected \(10,\)$"):
        grad(x, x, *saved, w[:5])
    with pytest.raises(ValueError, match=rf"^{name}_grad: rstd is \(4,\) but x is \(5, 10\); expected the shape of x"):
        grad(x, x, *[a[:4] for a in saved], w)
    half = x.astype(np.float16)
    with pytest.raises(TypeError, match=f"^{name}_grad: rstd is float64 but x is float16; expected float32$"):
        grad(half, half, *[a.astype(np.float64) for a in saved])
