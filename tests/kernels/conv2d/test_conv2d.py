"""conv2d and its gradients against torch: geometry, groups, layouts, epilogue, tiles, errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.device import OnDevice
from tests.kernels.epilogues import EPILOGUES
from tests.layouts import untouched
from tilegrad.kernels.conv2d import reference as conv2d_reference
from tilegrad.kernels.device import gpu


class Case(NamedTuple):
    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def geometry(self):
        return self[2:]

    def torch(self, x, w, bias=None):
        return F.conv2d(x, w, bias, *self.geometry)

    @property
    def y_shape(self):
        return tuple(self.torch(torch.empty(self.x), torch.empty(self.w)).shape)


CASES = {
    "degenerate": Case((1, 1, 1, 1), (1, 1, 1, 1)),
    "one input channel": Case((3, 1, 9, 8), (5, 1, 3, 3)),
    "ragged": Case((3, 5, 7, 9), (7, 5, 3, 2)),
    "1x1": Case((2, 6, 5, 4), (3, 6, 1, 1)),
    "1x1 with stride": Case((2, 6, 5, 4), (3, 6, 1, 1), stride=(2, 3)),
    "kernel = image": Case((3, 4, 5, 6), (2, 4, 5, 6)),
    "stride": Case((2, 3, 9, 10), (4, 3, 3, 3), stride=(2, 3)),
    "stride beyond the kernel": Case((2, 3, 9, 10), (4, 3, 2, 1), stride=(3, 4)),
    "padding": Case((2, 3, 5, 6), (4, 3, 3, 3), padding=(1, 2)),
    "padding wider than the kernel": Case((2, 2, 3, 2), (3, 2, 2, 1), padding=(3, 2)),
    "dilation": Case((2, 3, 9, 10), (4, 3, 3, 2), dilation=(2, 3)),
    "groups": Case((2, 6, 5, 6), (4, 3, 3, 3), groups=2),
    "depthwise": Case((2, 5, 6, 7), (5, 1, 3, 3), groups=5),
    "depthwise, two outputs a channel": Case((2, 3, 6, 7), (6, 1, 3, 3), padding=(1, 1), groups=3),
    "everything": Case((3, 4, 11, 12), (6, 2, 3, 2), (2, 1), (1, 2), (2, 3), 2),
    "stride beyond the image": Case((2, 5, 2, 1), (6, 5, 1, 1), stride=(3, 2)),
    "empty batch": Case((0, 3, 5, 6), (4, 3, 3, 3), padding=(1, 1)),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def operands(rng, dtype, case):
    """x, w, bias and dy."""
    shapes = case.x, case.w, case.w[:1], case.y_shape
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def check_value_and_gradients(backend, case, x, w, bias, dy):
    with untouched(x, w, bias, dy):
        y = backend.conv2d(x, w, bias, *case.geometry)
        dx = backend.conv2d_grad_input(dy, w, x.shape, *case.geometry)
        dw = backend.conv2d_grad_weight(dy, x, w.shape, *case.geometry)
        db = backend.conv2d_grad_bias(dy)
    want_dx, want_dw, want_db = oracle.gradients(case.torch, dy, x, w, bias)
    assert_close(y, *oracle.value(case.torch, x, w, bias))
    assert_close(dx, *want_dx)
    assert_close(dw, *want_dw)
    assert_close(db, *want_db)


def test_value_and_gradients(backend, dtype, rng, case):
    check_value_and_gradients(backend, case, *operands(rng, dtype, case))


@pytest.mark.parametrize("name", ["one input channel", "1x1", "padding", "groups", "depthwise", "everything"])
def test_any_layout(backend, layout, rng, name):
    """Cases that read their arrays in different ways, in one dtype: how an array lies in memory is not its dtype's."""
    case = CASES[name]
    check_value_and_gradients(backend, case, *map(layout, operands(rng, np.float32, case)))


@pytest.mark.parametrize("name", ["one input channel", "padding", "everything"])
def test_no_bias(backend, dtype, rng, name):
    case = CASES[name]
    x, w, _, _ = operands(rng, dtype, case)
    assert_close(backend.conv2d(x, w, None, *case.geometry), *oracle.value(case.torch, x, w))


@pytest.mark.parametrize("stretched", ["scalar", "per channel", "per pixel"])
def test_stride_0_gradient(backend, dtype, rng, stretched):
    """What the gradient of a sum or of a mean over some axes looks like."""
    case = CASES["everything"]
    x, w, bias, dy = operands(rng, dtype, case)
    seed = {"scalar": dy[:1, :1, :1, :1], "per channel": dy[:1, :, :1, :1], "per pixel": dy[:1, :1]}[stretched]
    dy = np.broadcast_to(seed, dy.shape)
    want_dx, want_dw, want_db = oracle.gradients(case.torch, dy, x, w, bias)
    with untouched(dy):
        assert_close(backend.conv2d_grad_input(dy, w, x.shape, *case.geometry), *want_dx)
        assert_close(backend.conv2d_grad_weight(dy, x, w.shape, *case.geometry), *want_dw)
        assert_close(backend.conv2d_grad_bias(dy), *want_db)


@pytest.mark.parametrize("name", ["one input channel", "groups", "everything"])
@pytest.mark.parametrize("activation", EPILOGUES)
def test_activation_in_the_epilogue(backend, dtype, rng, activation, name):
    case = CASES[name]
    x, w, bias, _ = operands(rng, dtype, case)
    y = backend.conv2d(x, w, bias, *case.geometry, activation=activation)
    want = oracle.value(lambda x, w, bias: EPILOGUES[activation](case.torch(x, w, bias)), x, w, bias)
    assert_close(y, *want)


# --- the gradients together


def check_gradients_together(backend, case, x, w, bias, dy, relu, **options):
    """What conv2d_grad gives for each subset of the operands, against torch; with relu, of a result that is near 0."""
    y = backend.conv2d(x, w, bias, *case.geometry, activation="relu") if relu else None
    sizes = case.x, case.w, *case.geometry

    def torch_y(x, w, bias):
        return F.relu(case.torch(x, w, bias)) if relu else case.torch(x, w, bias)

    want = oracle.gradients(torch_y, dy, x, w, bias)
    with untouched(x, w, dy, *([] if y is None else [y])):
        got = backend.conv2d_grad(dy, y, x, w, *sizes, bias=True, **options)
        alone = [
            backend.conv2d_grad(dy, y, None, w, *sizes, **options),
            backend.conv2d_grad(dy, y, x, None, *sizes, **options),
            backend.conv2d_grad(dy, y, None, None, *sizes, bias=True, **options),
        ]
    assert len(got) == 3 and [len(each) for each in alone] == [1, 1, 1]
    for found in (got, [each for (each,) in alone]):
        for array, expected in zip(found, want, strict=True):
            assert_close(array, *expected)
    assert backend.conv2d_grad(dy, y, None, None, *sizes) == ()
    return got


@pytest.mark.parametrize("relu", [False, True])
def test_gradients_together(backend, dtype, rng, case, relu):
    check_gradients_together(backend, case, *operands(rng, dtype, case), relu)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", ["one input channel", "padding", "depthwise", "everything"])
def test_gradients_together_in_any_layout(backend, layout, rng, name, relu):
    case = CASES[name]
    check_gradients_together(backend, case, *map(layout, operands(rng, np.float32, case)), relu)


@pytest.mark.parametrize("name", ["one input channel", "1x1", "depthwise", "everything", "empty batch"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_gradient_to_a_weight_lies_as_the_weight(backend, dtype, rng, name, channels_last):
    case = CASES[name]
    x, w, bias, dy = operands(rng, dtype, case)
    if channels_last:
        w = np.ascontiguousarray(w.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    _, dw, _ = check_gradients_together(backend, case, x, w, bias, dy, True, like=w)
    assert (dw.transpose(0, 2, 3, 1) if channels_last else dw).flags.c_contiguous


def test_gradients_together_keep_nan_and_leave_out_what_relu_cut(backend, rng):
    """Where relu was 0 no gradient counts, be it infinite; where it was NaN, all of them do."""
    case = CASES["ragged"]
    x, w, bias, dy = operands(rng, np.float32, case)
    x[1, 2, 3, 4] = np.nan
    y = backend.conv2d(x, w, bias, *case.geometry, activation="relu")
    dy = np.where(y == 0, np.inf, dy)
    nan = np.argwhere(np.isnan(y))[0]
    _, _, db = backend.conv2d_grad(dy, y, x, w, case.x, case.w, *case.geometry, bias=True)
    assert np.isfinite(db).all()
    dy[tuple(nan)] = np.nan
    _, _, db = backend.conv2d_grad(dy, y, x, w, case.x, case.w, *case.geometry, bias=True)
    assert_same(np.isnan(db), np.arange(len(db)) == nan[1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dy": (2, 4, 5, 5)}, ValueError, "expected"),
        ({"y": (3, 7, 5, 7)}, ValueError, "relu_grad: dy is (3, 7, 5, 8)"),
    ],
)
def test_errors_of_gradients_together(backend, rng, change, error, message):
    case = CASES["ragged"]
    x, w, _, dy = operands(rng, np.float32, case)
    arrays = {"dy": dy, "y": None} | {name: np.ones(shape, np.float32) for name, shape in change.items()}
    with pytest.raises(error) as caught:
        backend.conv2d_grad(*arrays.values(), x, w, case.x, case.w, *case.geometry)
    assert message in str(caught.value)


def test_images_come_back_channels_last(backend, layout, dtype, rng):
    case = CASES["everything"]
    x, w, _, dy = operands(rng, dtype, case)
    y = backend.conv2d(layout(x), w, None, *case.geometry)
    dx = backend.conv2d_grad_input(layout(dy), w, x.shape, *case.geometry)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert dx.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("name", ["one input channel", "ragged", "1x1", "depthwise", "everything", "empty batch"])
def test_images_come_back_in_c_order_if_asked(backend, dtype, rng, activation, name):
    case = CASES[name]
    x, w, bias, _ = operands(rng, dtype, case)
    options = {"activation": activation}
    y = backend.conv2d(x, w, bias, *case.geometry, **options, channels_last=False)
    assert y.flags.c_contiguous
    assert_same(y, backend.conv2d(x, w, bias, *case.geometry, **options))


def test_any_geometry(backend):
    """Random small geometry: value and every gradient. Few where each program is interpreted, or compiled anew."""
    on_device = isinstance(backend, OnDevice)
    dtype = np.float32 if on_device else np.float64
    examples = 100 if not on_device else 5 if gpu.is_executed() else 25

    @given(data=st.data())
    @settings(max_examples=examples, deadline=None, derandomize=True)
    def check(data):
        case = any_case(data)
        x, w, bias, dy = operands(np.random.default_rng(1), dtype, case)
        check_value_and_gradients(backend, case, x, w, bias, dy)

    check()


def any_case(data):
    groups, in_channels, out_channels = (data.draw(st.integers(1, 3)) for _ in range(3))
    kernel, stride, dilation = (data.draw(st.tuples(*[st.integers(1, 3)] * 2)) for _ in range(3))
    padding = data.draw(st.tuples(*[st.integers(0, 3)] * 2))
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    image = [max(1, s - 2 * p) + data.draw(st.integers(0, 4)) for s, p in zip(span, padding, strict=True)]
    return Case(
        (data.draw(st.integers(0, 3)), groups * in_channels, *image),
        (groups * out_channels, in_channels, *kernel),
        stride,
        padding,
        dilation,
        groups,
    )


@pytest.mark.parametrize("tile_bytes", [1, 3000, 20000], ids=["one row", "some rows", "some images"])
def test_tiles_leave_no_seams(monkeypatch, rng, case, tile_bytes):
    """Of the reference only: the same result however the work is cut."""
    monkeypatch.setattr(conv2d_reference, "TILE_BYTES", tile_bytes)
    x, w, bias, dy = operands(rng, np.float64, case)
    want_dx, want_dw, _ = oracle.gradients(case.torch, dy, x, w, bias)
    y = conv2d_reference.conv2d(x, w, bias, *case.geometry, "relu")
    assert_close(y, *oracle.value(lambda *arrays: case.torch(*arrays).relu(), x, w, bias))
    assert_close(conv2d_reference.conv2d_grad_input(dy, w, x.shape, *case.geometry), *want_dx)
    assert_close(conv2d_reference.conv2d_grad_weight(dy, x, w.shape, *case.geometry), *want_dw)


@pytest.mark.parametrize("shape", [(2, 32, 13, 13)], ids=str)
def test_layers_of_many_tiles(backend, shape, rng):
    """The seed network's second layer: several tiles of the default size, the last one ragged.

    On the device a tile is 64 pixels or more, in the reference 6 images.
    """
    case = Case((shape[0] if isinstance(backend, OnDevice) else 17, *shape[1:]), (64, 32, 3, 3))
    x, w, bias, dy = operands(rng, np.float32, case)
    want_dx, want_dw, want_db = oracle.gradients(case.torch, dy, x, w, bias)
    assert_close(backend.conv2d(x, w, bias), *oracle.value(case.torch, x, w, bias))
    assert_close(backend.conv2d_grad_input(dy, w, x.shape, *case.geometry), *want_dx)
    assert_close(backend.conv2d_grad_weight(dy, x, w.shape, *case.geometry), *want_dw)
    assert_close(backend.conv2d_grad_bias(dy), *want_db)


def test_half_precision_accumulates_in_float32(backend):
    """Added one by one in float16, ones stop counting at 2048."""
    window = np.ones((1, 64, 8, 8), np.float16)
    x, dy = (np.ones((1, 1, 64, 64), np.float16) for _ in range(2))
    four_thousand = np.full((1, 1, 1, 1), 4096, np.float16)
    geometry = (1, 1), (0, 0), (1, 1), 1
    assert_same(backend.conv2d(window, window.copy()), four_thousand)
    assert_same(backend.conv2d_grad_weight(dy, x, (1, 1, 1, 1), *geometry), four_thousand)
    assert_same(backend.conv2d_grad_bias(dy), four_thousand.reshape(1))
    wide = np.ones((4096, 1, 1, 1), np.float16)
    dx = backend.conv2d_grad_input(wide.reshape(1, 4096, 1, 1), wide, (1, 1, 1, 1), *geometry)
    assert_same(dx, four_thousand)


def test_half_precision_overflows_to_infinity_only_at_the_end(backend):
    """60000 + 60000 does not fit, but 60000 + 60000 - 60000 does."""
    big = np.float16(60000)
    x, w = np.full((1, 2, 1, 1), big), np.ones((1, 2, 1, 1), np.float16)
    assert_same(backend.conv2d(x, w), np.full((1, 1, 1, 1), np.inf, np.float16))
    assert_same(backend.conv2d(x, w, np.array([-big])), np.full((1, 1, 1, 1), big))


def test_nan_reaches_the_windows_that_see_it_and_no_others(backend, dtype, rng):
    case = CASES["everything"]
    x, w, bias, dy = operands(rng, dtype, case)
    x[1, 3, 4, 5] = np.nan
    dy[2, 1, 1, 2] = np.inf
    y = backend.conv2d(x, w, bias, *case.geometry, "relu")
    assert_close(y, *oracle.value(lambda *arrays: case.torch(*arrays).relu(), x, w, bias))
    assert not np.isnan(y[:, :3]).any()  # the other group
    want_dx, want_dw, want_db = oracle.gradients(case.torch, dy, x, w, bias)
    assert_close(backend.conv2d_grad_input(dy, w, x.shape, *case.geometry), *want_dx)
    assert_close(backend.conv2d_grad_weight(dy, x, w.shape, *case.geometry), *want_dw)
    assert_close(backend.conv2d_grad_bias(dy), *want_db)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_small_integers_are_exact_in_every_precision(backend, rng, precision):
    """Ten bits of mantissa hold them, so that TF32 loses nothing either."""
    case = CASES["everything"]
    x, w, _, dy = (rng.integers(-8, 9, a.shape).astype(np.float32) for a in operands(rng, np.float32, case))
    (want_dx, _), (want_dw, _) = oracle.gradients(case.torch, dy, x, w)
    want, _ = oracle.value(case.torch, x, w)
    y = backend.conv2d(x, w, None, *case.geometry, precision=precision)
    dx = backend.conv2d_grad_input(dy, w, x.shape, *case.geometry, precision=precision)
    dw = backend.conv2d_grad_weight(dy, x, w.shape, *case.geometry, precision=precision)
    assert_same(y, want.astype(np.float32))
    assert_same(dx, want_dx.astype(np.float32))
    assert_same(dw, want_dw.astype(np.float32))


# --- errors


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


X, W, DY = zeros(2, 4, 5, 6), zeros(6, 4, 3, 3), zeros(2, 6, 3, 4)

FORWARD_ERRORS = {
    "x is no image": (
        dict(x=zeros(4, 5, 6)),
        ValueError,
        "x is (4, 5, 6); expected 4 dimensions (N, C, H, W)",
    ),
    "w is no kernel": (
        dict(w=zeros(6, 4)),
        ValueError,
        "w is (6, 4); expected 4 dimensions (O, C / groups, KH, KW)",
    ),
    "channels": (
        dict(w=zeros(6, 3, 3, 3)),
        ValueError,
        "x is (2, 4, 5, 6) and w is (6, 3, 3, 3) with groups=1; expected w[1] * groups == 4",
    ),
    "one channel does not broadcast": (
        dict(w=zeros(6, 1, 3, 3)),
        ValueError,
        "x is (2, 4, 5, 6) and w is (6, 1, 3, 3) with groups=1; expected w[1] * groups == 4",
    ),
    "outputs and groups": (
        dict(w=zeros(7, 2, 3, 3), groups=2),
        ValueError,
        "x is (2, 4, 5, 6) and w is (7, 2, 3, 3) with groups=2; expected w[0] to be a positive multiple of groups",
    ),
    "no groups": (dict(groups=0), ValueError, "groups is 0; expected >= 1"),
    "groups of a float": (dict(groups=2.0), TypeError, "groups is 2.0; expected an int"),
    "bias size": (dict(bias=zeros(4)), ValueError, "bias is (4,); expected (6,)"),
    "bias of size 1 does not broadcast": (dict(bias=zeros(1)), ValueError, "bias is (1,); expected (6,)"),
    "too tall": (
        dict(w=zeros(6, 4, 7, 3)),
        ValueError,
        "a (7, 3) window with dilation (1, 1) over (5, 6) images with padding (0, 0); "
        "expected a padded height >= 7, got 5",
    ),
    "too wide by dilation": (
        dict(dilation=(1, 5), padding=(0, 2)),
        ValueError,
        "a (3, 3) window with dilation (1, 5) over (5, 6) images with padding (0, 2); "
        "expected a padded width >= 11, got 10",
    ),
    "empty kernel": (dict(w=zeros(6, 4, 0, 3)), ValueError, "kernel_size is (0, 3); expected both >= 1"),
    "stride 0": (dict(stride=(1, 0)), ValueError, "stride is (1, 0); expected both >= 1"),
    "negative padding": (dict(padding=(-1, 0)), ValueError, "padding is (-1, 0); expected both >= 0"),
    "dilation 0": (dict(dilation=(0, 1)), ValueError, "dilation is (0, 1); expected both >= 1"),
    "stride of one int": (dict(stride=2), TypeError, "stride is 2; expected a pair of ints (height, width)"),
    "padding of floats": (
        dict(padding=(1.0, 1.0)),
        TypeError,
        "padding is (1.0, 1.0); expected a pair of ints (height, width)",
    ),
    "activation": (
        dict(activation="swish"),
        ValueError,
        "activation is 'swish'; expected one of None, 'relu', 'leaky_relu', 'gelu', ",
    ),
    "precision": (
        dict(precision="fp32"),
        ValueError,
        "precision is 'fp32'; expected one of 'ieee', 'tf32', 'tf32x3'",
    ),
    "two dtypes": (
        dict(w=zeros(6, 4, 3, 3, dtype=np.float64)),
        TypeError,
        "x is float32, w is float64; expected one dtype for all",
    ),
    "integers": (
        dict(x=zeros(2, 4, 5, 6, dtype=np.uint8)),
        TypeError,
        "x is uint8, w is float32; expected float16, bfloat16, float32 or float64",
    ),
}


@pytest.mark.parametrize(("change", "kind", "message"), FORWARD_ERRORS.values(), ids=FORWARD_ERRORS.keys())
def test_forward_errors(backend, change, kind, message):
    with pytest.raises(kind) as error:
        backend.conv2d(**{"x": X, "w": W, **change})
    assert str(error.value).startswith(f"conv2d: {message}")


INPUT = dict(dy=DY, w=W, x_shape=X.shape)
WEIGHT = dict(dy=DY, x=X, w_shape=W.shape)
GEOMETRY = dict(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)

GRADIENT_ERRORS = {
    "dx: dy of another size": (
        "conv2d_grad_input",
        INPUT | dict(dy=zeros(2, 6, 3, 3)),
        ValueError,
        "dy is (2, 6, 3, 3); expected (2, 6, 3, 4)",
    ),
    "dx: dy does not broadcast": (
        "conv2d_grad_input",
        INPUT | dict(dy=zeros(1, 6, 3, 4)),
        ValueError,
        "dy is (1, 6, 3, 4); expected (2, 6, 3, 4)",
    ),
    "dx: x_shape": (
        "conv2d_grad_input",
        INPUT | dict(x_shape=(4, 5, 6)),
        ValueError,
        "x_shape is (4, 5, 6); expected 4 dimensions (N, C, H, W)",
    ),
    "dx: x_shape of floats": (
        "conv2d_grad_input",
        INPUT | dict(x_shape=(2.0, 4, 5, 6)),
        TypeError,
        "x_shape is (2.0, 4, 5, 6); expected a tuple of ints (N, C, H, W)",
    ),
    "dx: channels": (
        "conv2d_grad_input",
        INPUT | dict(x_shape=(2, 3, 5, 6)),
        ValueError,
        "x_shape is (2, 3, 5, 6) and w is (6, 4, 3, 3) with groups=1; expected w[1] * groups == 3",
    ),
    "dx: dtypes": (
        "conv2d_grad_input",
        INPUT | dict(dy=DY.astype(np.float16)),
        TypeError,
        "dy is float16, w is float32; expected one dtype for all",
    ),
    "dx: precision": (
        "conv2d_grad_input",
        INPUT | dict(precision=None),
        ValueError,
        "precision is None; expected one of 'ieee', 'tf32', 'tf32x3'",
    ),
    "dw: dy of another size": (
        "conv2d_grad_weight",
        WEIGHT | dict(dy=zeros(2, 5, 3, 4)),
        ValueError,
        "dy is (2, 5, 3, 4); expected (2, 6, 3, 4)",
    ),
    "dw: w_shape": (
        "conv2d_grad_weight",
        WEIGHT | dict(w_shape=(6, 4, 3)),
        ValueError,
        "w_shape is (6, 4, 3); expected 4 dimensions (O, C / groups, KH, KW)",
    ),
    "dw: groups": (
        "conv2d_grad_weight",
        WEIGHT | dict(groups=2),
        ValueError,
        "x is (2, 4, 5, 6) and w_shape is (6, 4, 3, 3) with groups=2; expected w_shape[1] * groups == 4",
    ),
    "dw: dtypes": (
        "conv2d_grad_weight",
        WEIGHT | dict(x=X.astype(np.float64)),
        TypeError,
        "dy is float32, x is float64; expected one dtype for all",
    ),
    "dw: precision": (
        "conv2d_grad_weight",
        WEIGHT | dict(precision="bf16"),
        ValueError,
        "precision is 'bf16'; expected one of 'ieee', 'tf32', 'tf32x3'",
    ),
}


@pytest.mark.parametrize(("op", "arguments", "kind", "message"), GRADIENT_ERRORS.values(), ids=GRADIENT_ERRORS.keys())
def test_gradient_errors(backend, op, arguments, kind, message):
    with pytest.raises(kind) as error:
        getattr(backend, op)(**{**GEOMETRY, **arguments})
    assert str(error.value) == f"{op}: {message}"


def test_grad_bias_errors(backend):
    with pytest.raises(ValueError) as error:
        backend.conv2d_grad_bias(zeros(2, 3))
    assert str(error.value) == "conv2d_grad_bias: dy is (2, 3); expected 4 dimensions (N, C, H, W)"
    with pytest.raises(TypeError) as error:
        backend.conv2d_grad_bias(zeros(2, 3, 4, 5, dtype=np.int32))
    assert str(error.value) == "conv2d_grad_bias: dy is int32; expected float16, bfloat16, float32 or float64"
