"""What only the Triton convolution has: configurations, two kinds of kernel, shares of pixels, TF32, wide offsets."""

from __future__ import annotations

import numpy as np
import pytest
from ml_dtypes import bfloat16

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.device import OnDevice
from tests.kernels.conv2d.test_conv2d import CASES, Case, operands
from tilegrad import kernels
from tilegrad.kernels.conv2d import gpu_triton as conv2d_triton
from tilegrad.kernels.conv2d import gpu_triton_grad_input as conv2d_grad_input_triton
from tilegrad.kernels.conv2d import gpu_triton_grad_weight as conv2d_grad_weight_triton
from tilegrad.kernels.conv2d import gpu_triton_windows as conv2d_windows_triton
from tilegrad.kernels.conv2d import reference
from tilegrad.kernels.conv2d.gpu_triton_configs import PRODUCTS, WEIGHT
from tilegrad.kernels.device import addresses, gpu
from tilegrad.kernels.launch import tuning

pytestmark = [pytest.mark.gpu] if gpu.is_available() else []
LAUNCHERS = conv2d_triton, conv2d_grad_input_triton, conv2d_grad_weight_triton
TILES = Case((2, 6, 7, 6), (20, 6, 3, 1), padding=(1, 0))  # wider than FEW, two blocks of 16 channels, ragged
CONFIGURATIONS = [(kind, i) for kind in PRODUCTS for i in range(max(len(PRODUCTS[kind]), len(WEIGHT[kind])))]


@pytest.fixture
def triton():
    return OnDevice(kernels.load("triton"))


@pytest.fixture
def serve(monkeypatch):
    """serve(FEW=0) sets a constant wherever a launcher holds it."""

    def change(**constants):
        for name, value in constants.items():
            for module in (*LAUNCHERS, conv2d_windows_triton):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, value)

    return change


def everything(triton, case, x, w, bias, dy, precision="ieee"):
    """y, dx and dw, by themselves, then dx, dw and db, together."""
    y = triton.conv2d(x, w, bias, *case.geometry, precision=precision)
    dx = triton.conv2d_grad_input(dy, w, x.shape, *case.geometry, precision=precision)
    dw = triton.conv2d_grad_weight(dy, x, w.shape, *case.geometry, precision=precision)
    shapes = x.shape, w.shape
    return y, dx, dw, *triton.conv2d_grad(dy, None, x, w, *shapes, *case.geometry, bias=True, precision=precision)


def expected(case, x, w, bias, dy):
    """What `everything` should give: in float64, and in the arrays' own dtype."""
    dx, dw, db = oracle.gradients(case.torch, dy, x, w, bias)
    return oracle.value(case.torch, x, w, bias), dx, dw, dx, dw, db


def check(triton, rng, dtype, case):
    x, w, bias, dy = operands(rng, dtype, case)
    wants = expected(case, x, w, bias, dy)
    for got, want in zip(everything(triton, case, x, w, bias, dy), wants, strict=True):
        assert_close(got, *want)


@pytest.mark.parametrize(("kind", "index"), CONFIGURATIONS)
def test_every_configuration(triton, rng, kind, index):
    """Of float32 with tensor cores on small integers, which no precision rounds."""
    with tuning.forced(index):
        if kind in ("half", "ieee"):
            check(triton, rng, bfloat16 if kind == "half" else np.float32, TILES)
            return
        x, w, bias, dy = (rng.integers(-8, 9, a.shape).astype(np.float32) for a in operands(rng, np.float32, TILES))
        results = everything(triton, TILES, x, w, bias, dy, kind)
    for got, (want, _) in zip(results, expected(TILES, x, w, bias, dy), strict=True):
        assert_same(got, want.astype(np.float32))


@pytest.mark.parametrize("name", ["one input channel", "stride beyond the image", "depthwise", "everything"])
@pytest.mark.parametrize("few", [0, 8], ids=["product", "direct"])
def test_both_kinds_of_kernel(triton, serve, rng, few, name):
    """Cases that one kind serves by default; each must serve them all."""
    serve(FEW=few)
    check(triton, rng, np.float32, CASES[name])


@pytest.mark.parametrize("name", ["ragged", "depthwise"])
@pytest.mark.parametrize("share", [64, 192, 1024], ids=str)
def test_shares_of_pixels_add_up(triton, monkeypatch, rng, share, name):
    """Several shares with a ragged last one, and a single one, which needs no workspace."""
    case = Case((2, *CASES[name].x[1:2], 9, 12), CASES[name].w, padding=(1, 1), groups=CASES[name].groups)
    monkeypatch.setattr(conv2d_grad_weight_triton, "_share", lambda *_: share)
    x, w, bias, dy = operands(rng, np.float32, case)
    dw = triton.conv2d_grad_weight(dy, x, w.shape, *case.geometry)
    again = triton.conv2d_grad_weight(dy, x, w.shape, *case.geometry)
    _, want_dw, want_db = oracle.gradients(case.torch, dy, x, w, bias)
    assert_close(dw, *want_dw)
    assert_same(again, dw)
    for like in (None, w.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)):
        for _ in range(2):
            both = triton.conv2d_grad(dy, None, x, None, x.shape, w.shape, *case.geometry, True, like)
            assert_same(both[0], dw)
            assert_close(both[1], *want_db)


def test_more_shares_than_are_added_at_once(triton, monkeypatch, rng):
    monkeypatch.setattr(conv2d_grad_weight_triton, "_share", lambda *_: 64)
    case = Case((19, 1, 8, 8), (2, 1, 1, 1))
    x, w, _, dy = operands(rng, np.float32, case)
    dw = triton.conv2d_grad_weight(dy, x, w.shape, *case.geometry)
    assert_close(dw, *oracle.gradients(case.torch, dy, x, w)[1])


@pytest.mark.parametrize(
    "case", [TILES, CASES["everything"], CASES["depthwise"]], ids=["product", "direct", "depthwise"]
)
def test_offsets_of_64_bits(triton, monkeypatch, rng, case):
    """As for arrays of 2^31 elements, which no test can hold: every index and offset is computed in int64."""
    monkeypatch.setattr(addresses, "NARROW", 1)
    check(triton, rng, np.float32, case)


@pytest.mark.parametrize("turned", [0, 16, 1 << 20], ids=["never", "as shipped", "always"])
def test_a_weight_with_its_channels_last(triton, monkeypatch, rng, turned):
    """Turned on its way to the float32 pipes, or copied first: the same bits as of one in C order."""
    monkeypatch.setattr(conv2d_triton, "TURNED", turned)
    for case in (TILES, Case((2, 18, 5, 5), (70, 9, 1, 1), groups=2), Case((1, 40, 4, 4), (3, 40, 3, 3))):
        for dtype in (np.float32, bfloat16):
            x, w, bias, _ = operands(rng, dtype, case)
            last = w.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
            for index in range(len(PRODUCTS["ieee" if dtype == np.float32 else "half"])):
                with tuning.forced(index):
                    want = triton.conv2d(x, w, bias, *case.geometry)
                    assert_same(triton.conv2d(x, last, bias, *case.geometry), want)
            assert_close(want, *oracle.value(case.torch, x, w, bias))


def test_tf32_is_coarser_than_ieee_and_never_unasked(triton, rng):
    x, w, bias, dy = operands(rng, np.float32, TILES)
    wants = [want for want, _ in expected(TILES, x, w, bias, dy)[:-1]]

    def errors(*precision):
        *results, db = everything(triton, TILES, x, w, bias, dy, *precision)
        assert_close(db, *expected(TILES, x, w, bias, dy)[-1])  # which no precision rounds
        return np.array(
            [np.abs(got - want).max() / np.abs(want).max() for got, want in zip(results, wants, strict=True)]
        )

    assert (errors() < 1e-6).all()
    assert (errors("tf32x3") < 2e-6).all()
    assert (errors("tf32") > 1e-4).all()
    assert (errors("tf32") < 2e-3).all()


def test_float64_is_left_to_numpy(triton):
    x, w, dy = (np.zeros(shape) for shape in ((2, 4, 5, 6), (6, 4, 3, 3), (2, 6, 3, 4)))
    geometry = (1, 1), (0, 0), (1, 1), 1
    for call in (
        lambda: triton.conv2d(x, w),
        lambda: triton.conv2d_grad_input(dy, w, x.shape, *geometry),
        lambda: triton.conv2d_grad_weight(dy, x, w.shape, *geometry),
    ):
        with pytest.raises(TypeError, match="float64, which the backend 'triton' does not serve"):
            call()


def test_every_part_of_a_tile_with_a_nan_is_summed_term_by_term(triton, rng):
    """A tile of 64 pixels by 32 channels, not all of them there, and one of the channels behind the first part's."""
    case = Case((1, 20, 8, 8), (6, 20, 3, 3), padding=(1, 1))
    _, w, _, dy = operands(rng, np.float32, case)
    w[2, 17, 0, 0] = np.nan
    dx = triton.conv2d_grad_input(dy, w, case.x, *case.geometry)
    wide = (a.astype(np.float64) for a in (dy, w))
    assert_close(dx, *(reference.conv2d_grad_input(a, b, case.x, *case.geometry) for a, b in (wide, (dy, w))))
    assert np.isnan(dx[0, 17, :7, :7]).all() and np.isnan(dx).sum() == 49
