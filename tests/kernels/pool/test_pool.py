"""max_pool2d, avg_pool2d and their gradients against torch: geometry, ties, NaN, padding, layouts, errors."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ml_dtypes import bfloat16

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.device import OnDevice
from tests.layouts import contiguous, untouched
from tilegrad.kernels.device import gpu
from tilegrad.kernels.pool import reference as pool_reference


class Case(NamedTuple):
    x: tuple[int, int, int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)  # of max_pool2d only
    ceil_mode: bool = False

    @property
    def geometry(self):
        return self[1:]

    def torch_max(self, x):
        return F.max_pool2d(x, *self.geometry)

    def images(self, rng, dtype):
        """No two pixels of an image are equal, not even in bfloat16."""
        n, c, h, w = self.x
        pixels = [rng.permutation(h * w) - h * w / 2 for _ in range(n * c)]
        return np.array(pixels).reshape(self.x).astype(dtype)

    def dy(self, rng, dtype):
        return rng.standard_normal(self.torch_max(torch.empty(self.x)).shape).astype(dtype)


CASES = {
    "degenerate": Case((1, 1, 1, 1), (1, 1), (1, 1)),
    "2x2, even": Case((3, 5, 8, 6), (2, 2), (2, 2)),
    "2x2, ragged": Case((3, 5, 7, 9), (2, 2), (2, 2)),
    "kernel = image": Case((2, 3, 5, 4), (5, 4), (5, 4)),
    "overlapping": Case((2, 3, 9, 8), (3, 3), (2, 2)),
    "stride 1": Case((2, 3, 5, 6), (3, 2), (1, 1)),
    "stride beyond the kernel": Case((2, 3, 9, 10), (2, 1), (3, 4)),
    "padding": Case((2, 3, 7, 8), (3, 4), (2, 3), (1, 2)),
    "dilation": Case((2, 3, 9, 10), (3, 2), (2, 1), (1, 0), (2, 3)),
    "ceil": Case((2, 3, 7, 8), (2, 3), (2, 3), ceil_mode=True),
    "ceil, last window starts in the padding": Case((2, 3, 3, 3), (2, 2), (2, 2), (1, 1), ceil_mode=True),
    "everything": Case((2, 3, 10, 11), (3, 4), (2, 3), (1, 2), (2, 1), True),
    "empty batch": Case((0, 3, 5, 6), (2, 2), (2, 2)),
}
MANY_TAPS = Case((1, 2, 20, 19), (17, 17), (3, 2))  # more than a byte can tell apart


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


@pytest.fixture(params=["2x2, even", "everything"])
def some_case(request):
    return CASES[request.param]


def affordable(backend, cases):
    """All the cases; of the simulated device, where a launch takes 50 ms, every eleventh."""
    return cases[::11] if isinstance(backend, OnDevice) and gpu.is_simulated() else cases


def winning_pixels(tap, case):
    """The index h * W + w of the pixel at tap of each window: what torch returns as indices."""
    (_, kw), (sh, sw), (ph, pw), (dh, dw) = case.geometry[:4]
    row, col = np.indices(tap.shape[2:])
    tap = tap.astype(np.int64)
    return (row * sh + tap // kw * dh - ph) * case.x[3] + col * sw + tap % kw * dw - pw


def check_max(backend, x, case):
    """y and tap are torch's, in x's own dtype: a maximum does not round. Returns tap."""
    with untouched(x):
        y, tap = backend.max_pool2d(x, *case.geometry)
    want, indices = F.max_pool2d(oracle.to_tensor(x).double(), *case.geometry, return_indices=True)
    assert_same(y, want.numpy().astype(x.dtype))
    assert tap.dtype == (np.uint8 if np.prod(case.kernel_size) <= 255 else np.int32)
    assert_same(winning_pixels(tap, case), indices.numpy())
    return tap


def check_relu(backend, x, dy, case, layout=contiguous):
    """relu of the maxima: y, the gradient, and a tap that is the maximum's where it passes one, else none."""
    m, tap = backend.max_pool2d(layout(x), *case.geometry)
    cut = m.astype(np.float64) <= 0  # a comparison with a bfloat16 NaN warns
    with untouched(moved := layout(x)):
        y, relu_tap = backend.max_pool2d(moved, *case.geometry, activation="relu")
    assert_same(y, np.where(cut, x.dtype.type(0), m))
    assert_same(relu_tap, np.where(cut, np.prod(case.kernel_size), tap).astype(tap.dtype))
    dx = backend.max_pool2d_grad(layout(dy), layout(relu_tap), x.shape, *case.geometry)
    (want,) = oracle.gradients(lambda x: case.torch_max(x).relu(), dy, x)
    assert_close(dx, *want)
    return cut


def check_max_and_gradient(backend, x, dy, case, layout=contiguous):
    tap = layout(check_max(backend, layout(x), case))
    dy = layout(dy)
    with untouched(dy, tap):
        dx = backend.max_pool2d_grad(dy, tap, x.shape, *case.geometry)
    (want,) = oracle.gradients(case.torch_max, dy, x)
    assert_close(dx, *want)


def test_max(backend, dtype, rng, case):
    check_max_and_gradient(backend, case.images(rng, dtype), case.dy(rng, dtype), case)


def test_layouts_of_max(backend, layout, dtype, rng, some_case):
    case = some_case
    check_max_and_gradient(backend, case.images(rng, dtype), case.dy(rng, dtype), case, layout)


def test_max_of_257_taps_and_more(backend, dtype, rng):
    case = MANY_TAPS
    check_max_and_gradient(backend, case.images(rng, dtype), case.dy(rng, dtype), case)


def test_the_number_of_taps_means_none(backend):
    """255 fits into a byte."""
    x = -np.ones((1, 1, 16, 17), np.float32)
    x[..., -1, -1] = 1
    y, tap = backend.max_pool2d(x, (15, 17), (1, 1), activation="relu")
    assert_same(tap.reshape(-1), np.array([255, 254], np.uint8))
    assert_same(backend.max_pool2d_grad(np.ones_like(y), tap, x.shape, (15, 17), (1, 1)), np.maximum(x, 0))


def test_256_taps_take_more_than_a_byte():
    """Of the reference, which the others ask."""
    _, tap = pool_reference.max_pool2d(-np.ones((1, 1, 16, 16)), (16, 16), (1, 1), activation="relu")
    assert_same(tap, np.full((1, 1, 1, 1), 256, np.int32))


def test_max_stride_0_gradient(backend, dtype, rng):
    case = CASES["everything"]
    x = case.images(rng, dtype)
    _, tap = backend.max_pool2d(x, *case.geometry)
    dy = np.broadcast_to(dtype(3), tap.shape)
    (want,) = oracle.gradients(case.torch_max, dy, x)
    assert_close(backend.max_pool2d_grad(dy, tap, x.shape, *case.geometry), *want)


def test_the_first_of_equal_maxima_wins(backend, dtype, rng, case):
    x = rng.integers(0, 2, case.x).astype(dtype)
    x[rng.random(case.x) < 0.2] *= dtype(-1)  # and -0.0 equals 0.0
    check_max(backend, x, case)


def test_padding_never_wins(backend, dtype, case):
    """Not even against minus infinity."""
    check_max(backend, np.full(case.x, -np.inf, dtype), case)


def test_nan_wins(backend, dtype, rng, case):
    x = case.images(rng, dtype)
    x[:, -1, case.x[2] // 2, case.x[3] // 2] = np.nan
    check_max(backend, x, case)


def test_of_several_nan_the_first_wins(backend, dtype):
    x = np.array([1, np.nan, np.nan, np.inf], dtype).reshape(1, 1, 2, 2)
    y, tap = backend.max_pool2d(x, (2, 2), (2, 2))
    assert_same(y, np.full((1, 1, 1, 1), np.nan, dtype))
    assert_same(tap, np.full((1, 1, 1, 1), 1, np.uint8))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_infinite_gradient_reaches_the_maximum_only(backend, dtype, rng, value):
    """A mask that is multiplied would make 0 * inf = NaN of the others."""
    case = CASES["2x2, ragged"]
    x, dy = case.images(rng, dtype), case.dy(rng, dtype)
    dy[1, 2, 1, 1] = value
    _, tap = backend.max_pool2d(x, *case.geometry)
    (want,) = oracle.gradients(case.torch_max, dy, x)
    assert_close(backend.max_pool2d_grad(dy, tap, x.shape, *case.geometry), *want)


def test_a_window_of_padding_alone(backend, dtype):
    """Two taps, dilated past both sides of a single pixel: minus infinity, and no gradient."""
    x = np.ones((1, 1, 1, 1), dtype)
    geometry = (2, 2), (1, 1), (1, 1), (2, 2)
    y, tap = backend.max_pool2d(x, *geometry)
    assert_same(y, np.full((1, 1, 1, 1), -np.inf, dtype))
    assert_same(tap, np.full((1, 1, 1, 1), 4, np.uint8))
    assert_same(backend.max_pool2d_grad(np.ones_like(y), tap, x.shape, *geometry), np.zeros_like(x))
    y, tap = backend.max_pool2d(x, *geometry, activation="relu")
    assert_same(y, np.zeros((1, 1, 1, 1), dtype))
    assert_same(tap, np.full((1, 1, 1, 1), 4, np.uint8))


# --- with relu


@pytest.fixture(params=["2x2, ragged", "overlapping", "ceil, last window starts in the padding", "everything"])
def relu_case(request):
    return CASES[request.param]


def some_negative(rng, case, dtype):
    """Images half of whose windows have no positive pixel: zeros of both signs and ties among them."""
    x = np.minimum(case.images(rng, np.float32), 3)
    below = rng.random(case.x[:2]) < 0.5
    x[below] = -np.abs(np.round(x[below] / 8))
    return x.astype(dtype)


def test_relu(backend, dtype, rng, relu_case):
    case = relu_case
    cut = check_relu(backend, some_negative(rng, case, dtype), case.dy(rng, dtype), case)
    assert cut.any() and not cut.all()


def test_layouts_of_relu(backend, layout, dtype, rng):
    case = CASES["everything"]
    check_relu(backend, some_negative(rng, case, dtype), case.dy(rng, dtype), case, layout)


def test_relu_any_geometry(backend, rng):
    for case in affordable(backend, list(any_maximum())):
        check_relu(backend, some_negative(rng, case, np.float32), case.dy(rng, np.float32), case)


def test_relu_of_nan_and_infinity(backend, dtype, rng, relu_case):
    """NaN wins and passes its gradient, minus infinity passes none."""
    case = relu_case
    x = some_negative(rng, case, dtype)
    x[0, 0], x[0, 1, 1::2] = -np.inf, np.inf
    x[:, 0, 1, 1] = np.nan  # a single one of a window: torch takes another of several
    cut = check_relu(backend, x, case.dy(rng, dtype), case)
    assert cut[0, 0].any() and not cut[0, 0].all()


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_gradient_that_relu_cuts_is_dropped(backend, dtype, value):
    """A mask that is multiplied would make NaN of it."""
    x = -np.ones((1, 1, 4, 2), dtype)
    x[0, 0, 3, 1] = 1
    _, tap = backend.max_pool2d(x, (2, 2), (2, 2), activation="relu")
    dx = backend.max_pool2d_grad(np.array([value, 5], dtype).reshape(1, 1, 2, 1), tap, x.shape, (2, 2), (2, 2))
    assert_same(dx, (np.maximum(x, 0) * dtype(5)).astype(dtype))


def any_maximum():
    """Every small geometry along one axis, a different one along the other."""
    for kernel, stride, dilation, ceil_mode in itertools.product((1, 2, 3), (1, 2, 4), (1, 2), (False, True)):
        for padding, size in itertools.product(range(kernel // 2 + 1), range(1, 8)):
            if size + 2 * padding <= dilation * (kernel - 1) or size <= padding:
                continue  # does not fit, or a window may be all padding
            yield Case((1, 2, size, 6), (kernel, 2), (stride, 2), (padding, 1), (dilation, 1), ceil_mode)


def test_max_any_geometry(backend, rng):
    cases = list(any_maximum())
    assert len(cases) > 250
    for case in affordable(backend, cases):
        check_max_and_gradient(backend, case.images(rng, np.float32), case.dy(rng, np.float32), case)


# --- average


AVERAGES = [  # ceil_mode, count_include_pad, divisor_override
    (False, True, None),
    (False, False, None),
    (True, True, None),
    (True, False, None),
    (False, True, 7),
    (True, False, -3),
]


def average(case, ceil_mode, count_include_pad, divisor_override):
    """(arguments of avg_pool2d, the same function of torch) for a case without its dilation."""
    arguments = *case.geometry[:3], ceil_mode, count_include_pad, divisor_override
    return arguments, lambda x: F.avg_pool2d(x, *arguments)


def check_average(backend, x, rng, case, options, layout=contiguous):
    """Value and gradient, of a random dy."""
    arguments, torch_average = average(case, *options)
    x = layout(x)
    with untouched(x):
        y = backend.avg_pool2d(x, *arguments)
    assert_close(y, *oracle.value(torch_average, x))

    dy = layout(rng.standard_normal(y.shape).astype(x.dtype))
    with untouched(dy):
        dx = backend.avg_pool2d_grad(dy, x.shape, *arguments)
    (want,) = oracle.gradients(torch_average, dy, x)
    assert_close(dx, *want)


def test_average(backend, dtype, rng, case):
    check_average(backend, rng.standard_normal(case.x).astype(dtype), rng, case, AVERAGES[3])


def test_layouts_of_average(backend, layout, dtype, rng, some_case):
    x = rng.standard_normal(some_case.x).astype(dtype)
    check_average(backend, x, rng, some_case, AVERAGES[3], layout)


@pytest.mark.parametrize("options", AVERAGES, ids=str)
def test_options_of_the_average(backend, rng, case, options):
    check_average(backend, rng.standard_normal(case.x).astype(np.float32), rng, case, options)


def test_average_of_257_taps_and_more(backend, rng):
    check_average(backend, rng.standard_normal(MANY_TAPS.x).astype(np.float32), rng, MANY_TAPS, AVERAGES[0])


def test_average_stride_0_gradient(backend, dtype, rng):
    arguments, torch_average = average(CASES["padding"], True, False, None)
    x = rng.standard_normal(CASES["padding"].x).astype(dtype)
    dy = np.broadcast_to(dtype(3), backend.avg_pool2d(x, *arguments).shape)
    (want,) = oracle.gradients(torch_average, dy, x)
    assert_close(backend.avg_pool2d_grad(dy, x.shape, *arguments), *want)


def any_average():
    """Every small geometry along one axis, a different one along the other, with every way to count."""
    for kernel, stride, options in itertools.product((1, 2, 3), (1, 2, 4), AVERAGES[:4]):
        for padding, size in itertools.product(range(kernel // 2 + 1), range(1, 7)):
            if size + 2 * padding >= kernel:
                yield Case((1, 2, size, 6), (kernel, 3), (stride, 2), (padding, 1)), options


def test_average_any_geometry(backend, rng):
    cases = list(any_average())
    assert len(cases) > 250
    for case, options in affordable(backend, cases):
        check_average(backend, rng.standard_normal(case.x).astype(np.float32), rng, case, options)


def test_average_of_nan_and_infinity(backend, dtype, rng):
    arguments, torch_average = average(CASES["padding"], False, True, None)
    x = rng.standard_normal(CASES["padding"].x).astype(dtype)
    x[0, 0, 3, 3], x[0, 1, 2, 2], x[0, 1, 3, 3], x[1, 0, 0, 0] = np.nan, np.inf, -np.inf, np.inf
    assert_close(backend.avg_pool2d(x, *arguments), *oracle.value(torch_average, x))


@pytest.mark.parametrize("dtype", [np.float16, bfloat16], ids=str)
def test_half_precision_is_summed_in_float32(backend, dtype):
    """A one added to the first integer whose successor is no half is lost, and 60000 + 60000 overflows float16."""
    one, last = dtype(1), dtype(2 / ml_dtypes.finfo(dtype).eps)
    row = np.array([one, last, one], dtype).reshape(1, 1, 1, 3)  # added in halves, from either end, it stays at `last`
    want = np.full((1, 1, 1, 1), last + dtype(2), dtype)
    assert want > last
    assert_same(backend.avg_pool2d(row, (1, 3), (1, 3), divisor_override=1), want)

    # The middle pixel is in all three windows, and wins them.
    shape, geometry = (1, 1, 1, 5), ((1, 3), (1, 1))
    assert_same(backend.avg_pool2d_grad(row, shape, *geometry, divisor_override=1)[..., 2:3], want)
    _, tap = backend.max_pool2d(np.array([0, 0, 1, 0, 0], dtype).reshape(shape), *geometry)
    assert_same(backend.max_pool2d_grad(row, tap, shape, *geometry)[..., 2:3], want)

    big = np.full((1, 1, 2, 2), 60000, dtype)
    assert_same(backend.avg_pool2d(big, (2, 2), (2, 2)), big[:, :, :1, :1])


# --- both


def test_images_come_back_channels_last(backend, layout, dtype, rng):
    case = CASES["everything"]
    x = layout(case.images(rng, dtype))
    y, tap = backend.max_pool2d(x, *case.geometry)
    mean = backend.avg_pool2d(x, *case.geometry[:3])
    max_grad = backend.max_pool2d_grad(layout(y), layout(tap), x.shape, *case.geometry)
    mean_grad = backend.avg_pool2d_grad(layout(mean), x.shape, *case.geometry[:3])
    for image in (y, tap, mean, max_grad, mean_grad):
        assert image.transpose(0, 2, 3, 1).flags.c_contiguous


def test_batches_leave_no_seams(monkeypatch, rng, case):
    """Of the reference only: one image at a time gives the same bits as all together."""
    x, dy = case.images(rng, np.float32), case.dy(rng, np.float32)
    y, tap = pool_reference.max_pool2d(x, *case.geometry)
    dx = pool_reference.max_pool2d_grad(dy, tap, x.shape, *case.geometry)
    monkeypatch.setattr(pool_reference, "BATCH_BYTES", 1)
    assert_same(pool_reference.max_pool2d(x, *case.geometry)[0], y)
    assert_same(pool_reference.max_pool2d(x, *case.geometry)[1], tap)
    assert_same(pool_reference.max_pool2d_grad(dy, tap, x.shape, *case.geometry), dx)


# --- errors


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


X, Y = zeros(2, 3, 5, 6), zeros(2, 3, 2, 3)
TAP = zeros(2, 3, 2, 3, dtype=np.uint8)
WINDOW = dict(kernel_size=(2, 2), stride=(2, 2))

FORWARD_ERRORS = {
    "no image": (dict(x=zeros(3, 5, 6)), ValueError, "x is (3, 5, 6); expected 4 dimensions (N, C, H, W)"),
    "empty image": (
        dict(x=zeros(2, 3, 0, 6), padding=(1, 1)),
        ValueError,
        "x is (2, 3, 0, 6); expected images of at least one pixel",
    ),
    "integers": (
        dict(x=zeros(2, 3, 5, 6, dtype=np.uint8)),
        TypeError,
        "x is uint8; expected float16, bfloat16, float32 or float64",
    ),
    "no array": (dict(x=[[[[1.0]]]]), TypeError, "x is a list; expected an array"),
    "one int": (
        dict(kernel_size=2),
        TypeError,
        "kernel_size is 2; expected a pair of ints (height, width)",
    ),
    "booleans": (
        dict(stride=(True, True)),
        TypeError,
        "stride is (True, True); expected a pair of ints (height, width)",
    ),
    "no stride": (dict(stride=None), TypeError, "stride is None; expected a pair of ints (height, width)"),
    "empty kernel": (dict(kernel_size=(2, 0)), ValueError, "kernel_size is (2, 0); expected both >= 1"),
    "stride 0": (dict(stride=(0, 2)), ValueError, "stride is (0, 2); expected both >= 1"),
    "negative padding": (dict(padding=(0, -1)), ValueError, "padding is (0, -1); expected both >= 0"),
    "too much padding": (
        dict(kernel_size=(3, 2), padding=(2, 1)),
        ValueError,
        "padding is (2, 1); expected at most half of kernel_size (3, 2)",
    ),
    "too large": (
        dict(kernel_size=(2, 9), padding=(0, 1)),
        ValueError,
        "a (2, 9) window with dilation (1, 1) over (5, 6) images with padding (0, 1); "
        "expected a padded width >= 9, got 8",
    ),
}


@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(("change", "kind", "message"), FORWARD_ERRORS.values(), ids=FORWARD_ERRORS.keys())
def test_forward_errors(backend, op, change, kind, message):
    with pytest.raises(kind) as error:
        getattr(backend, op)(**{"x": X, **WINDOW, **change})
    assert str(error.value) == f"{op}: {message}"


MAX_GRAD = WINDOW | dict(dy=Y, tap=TAP, x_shape=X.shape)
AVG_GRAD = WINDOW | dict(dy=Y, x_shape=X.shape)

MORE_ERRORS = {
    "dilation 0": (
        "max_pool2d",
        WINDOW | dict(x=X, dilation=(1, 0)),
        ValueError,
        "dilation is (1, 0); expected both >= 1",
    ),
    "another activation": (
        "max_pool2d",
        WINDOW | dict(x=X, activation="tanh"),
        ValueError,
        "activation is 'tanh'; expected one of None, 'relu'",
    ),
    "max dy of another size": (
        "max_pool2d_grad",
        MAX_GRAD | dict(dy=zeros(2, 3, 2, 2)),
        ValueError,
        "dy is (2, 3, 2, 2); expected the output's shape (2, 3, 2, 3)",
    ),
    "tap of another size": (
        "max_pool2d_grad",
        MAX_GRAD | dict(tap=zeros(1, 3, 2, 3, dtype=np.uint8)),
        ValueError,
        "tap is (1, 3, 2, 3); expected the output's shape (2, 3, 2, 3)",
    ),
    "tap of another dtype": (
        "max_pool2d_grad",
        MAX_GRAD | dict(tap=TAP.astype(np.int64)),
        TypeError,
        "tap is int64; expected uint8 for kernel_size (2, 2)",
    ),
    "tap is no array": (
        "max_pool2d_grad",
        MAX_GRAD | dict(tap=[0]),
        TypeError,
        "tap is list; expected uint8 for kernel_size (2, 2)",
    ),
    "max x_shape": (
        "max_pool2d_grad",
        MAX_GRAD | dict(x_shape=5),
        TypeError,
        "x_shape is 5; expected a tuple of ints (N, C, H, W)",
    ),
    "max dy of integers": (
        "max_pool2d_grad",
        MAX_GRAD | dict(dy=TAP),
        TypeError,
        "dy is uint8; expected float16, bfloat16, float32 or float64",
    ),
    "average dy of another size": (
        "avg_pool2d_grad",
        AVG_GRAD | dict(dy=zeros(2, 1, 2, 3)),
        ValueError,
        "dy is (2, 1, 2, 3); expected the output's shape (2, 3, 2, 3)",
    ),
    "average x_shape": (
        "avg_pool2d_grad",
        AVG_GRAD | dict(x_shape=(3, 5, 6)),
        ValueError,
        "x_shape is (3, 5, 6); expected 4 dimensions (N, C, H, W)",
    ),
    "average dy of integers": (
        "avg_pool2d_grad",
        AVG_GRAD | dict(dy=TAP),
        TypeError,
        "dy is uint8; expected float16, bfloat16, float32 or float64",
    ),
    "divisor 0": (
        "avg_pool2d",
        WINDOW | dict(x=X, divisor_override=0),
        ValueError,
        "divisor_override is 0; expected another int",
    ),
    "divisor of a float": (
        "avg_pool2d_grad",
        AVG_GRAD | dict(divisor_override=2.0),
        TypeError,
        "divisor_override is 2.0; expected an int or None",
    ),
}


@pytest.mark.parametrize(("op", "arguments", "kind", "message"), MORE_ERRORS.values(), ids=MORE_ERRORS.keys())
def test_more_errors(backend, op, arguments, kind, message):
    with pytest.raises(kind) as error:
        getattr(backend, op)(**arguments)
    assert str(error.value) == f"{op}: {message}"
