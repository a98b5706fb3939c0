"""interpolate, pixel_shuffle and their layers against torch: modes, sizes, factors; gradients of both orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import tilegrad as tg
from tests.compare import assert_same
from tests.nn.versus import assert_function
from tilegrad import nn
from tilegrad.nn import functional as F
from tilegrad.tensor import Tensor

INPUTS = {1: (2, 3, 5), 2: (2, 3, 4, 5), 3: (1, 2, 3, 4, 2)}
MODES = [
    *[(mode, n) for mode in ("nearest", "nearest-exact", "area") for n in INPUTS],
    *[("linear", 1), ("bilinear", 2), ("bicubic", 2), ("trilinear", 3)],
]
SIZES = [{"size": 7}, {"size": 2}, {"scale_factor": 2}, {"scale_factor": 1.7}, {"scale_factor": 0.6}, {"size": 4}]


@pytest.mark.parametrize("options", SIZES, ids=str)
@pytest.mark.parametrize(("mode", "n"), MODES)
def test_function(mode, n, options, dtype, rng):
    x = rng.standard_normal(INPUTS[n]).astype(dtype)
    every = [{}] if mode in ("nearest", "nearest-exact", "area") else [{"align_corners": c} for c in (False, True)]
    if "scale_factor" in options and mode != "area":
        every.append({"recompute_scale_factor": True})
    for more in every:
        assert_as_torch(x, mode=mode, **options, **more)


def assert_as_torch(x, **options):
    assert_function(
        lambda x: F.interpolate(x, **options), lambda x: TF.interpolate(x, **options), x, scale=2.0, repeated=-1
    )


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_each_dimension_has_its_own(mode, dtype, rng):
    x = rng.standard_normal((2, 3, 4, 5)).astype(dtype)
    for options in ({"size": (4, 9)}, {"scale_factor": (3.0, 1.0)}, {"size": [1, 1]}):
        assert_as_torch(x, mode=mode, **options)


def test_nearest_pixels_of_all_sizes():
    """The places are rounded as torch's are, also where two pixels are equally near."""
    for old in range(1, 40):
        x = np.arange(old, dtype=np.float32).reshape(1, 1, 1, old)
        for new in range(1, 80):
            for mode in ("nearest", "nearest-exact"):
                got = F.interpolate(Tensor(x), (1, new), mode=mode)
                assert_same(got.numpy(), TF.interpolate(torch.from_numpy(x), (1, new), mode=mode).numpy())


def test_nearest_takes_integers_and_keeps_nan_to_itself():
    x = np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4)
    got = F.interpolate(Tensor(x), scale_factor=1.5)
    assert_same(got.numpy(), TF.interpolate(torch.from_numpy(x), scale_factor=1.5).numpy())
    assert_same(F.interpolate(tg.tensor([[[1.0, np.nan]]]), 3).numpy(), np.float32([[[1, 1, np.nan]]]))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "area"])
def test_float16_is_rounded_once(mode, rng):
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float16)
    got = F.interpolate(Tensor(x), 7, mode=mode).numpy()
    want = F.interpolate(Tensor(x.astype(np.float32)), 7, mode=mode).numpy().astype(np.float16)
    assert_same(got, want)


@pytest.mark.parametrize(("mode", "n"), MODES)
def test_gradients_of_gradients(mode, n, rng):
    x = Tensor(rng.standard_normal([1, 2, 3, 4, 2][: n + 2]), requires_grad=True)
    assert tg.gradgradcheck(lambda x: F.interpolate(x, 5, mode=mode).square(), [x])
    assert tg.gradgradcheck(lambda x: F.interpolate(x, scale_factor=2.0, mode=mode).square(), [x])


@pytest.mark.parametrize("lead", [(2,), (), (2, 3)], ids=str)
def test_pixel_shuffle(lead, dtype, rng):
    x = rng.standard_normal((*lead, 8, 3, 5)).astype(dtype)
    assert_function(lambda x: F.pixel_shuffle(x, 2), lambda x: TF.pixel_shuffle(x, 2), x)
    x = rng.standard_normal((*lead, 2, 6, 9)).astype(dtype)
    assert_function(lambda x: F.pixel_unshuffle(x, 3), lambda x: TF.pixel_unshuffle(x, 3), x)


LAYERS = {
    "Upsample": {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
    "Upsample, size": {"size": (3, 7)},
    "Upsample, factors": {"scale_factor": (2, 1.5), "recompute_scale_factor": True},
    "UpsamplingNearest2d": {"size": 6},
    "UpsamplingBilinear2d": {"scale_factor": 3},
    "PixelShuffle": {"upscale_factor": 2},
    "PixelUnshuffle": {"downscale_factor": 2},
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, rng):
    kind = name.split(",")[0]
    ours, theirs = (getattr(lib, kind)(**LAYERS[name]) for lib in (nn, torch.nn))
    assert repr(ours) == repr(theirs) and not ours.state_dict()
    assert_function(ours, theirs, rng.standard_normal((2, 4, 4, 6)).astype(np.float32), scale=1.0)


X = tg.ones(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: F.interpolate(X), ValueError, "interpolate: size is None and scale_factor None; expected one"),
        (lambda: F.interpolate(X, 2, 2.0), ValueError, "interpolate: size is 2 and scale_factor 2.0; expected one"),
        (lambda: F.interpolate(X, (2, 2, 2)), ValueError, "interpolate: got (2, 2, 2) for an input with (4, 4)"),
        (lambda: F.interpolate(X, 2.5), TypeError, "interpolate: size is 2.5; expected ints"),
        (lambda: F.interpolate(X, scale_factor="2"), TypeError, "interpolate: scale_factor is '2'; expected numbers"),
        (lambda: F.interpolate(X, scale_factor=0.1), ValueError, "interpolate: input is (1, 2, 4, 4) and the new"),
        (lambda: F.interpolate(X, 2, mode="cubic"), ValueError, "interpolate: mode is 'cubic'; expected one of"),
        (lambda: F.interpolate(X, 2, mode="linear"), NotImplementedError,
         "interpolate: input is (1, 2, 4, 4); expected 3 dimensions for mode 'linear'"),
        (lambda: F.interpolate(X, 2, align_corners=True), ValueError, "interpolate: align_corners is True and mode"),
        (lambda: F.interpolate(X, 2, mode="bilinear", antialias=True), NotImplementedError,
         "interpolate: antialias is True; expected False"),
        (lambda: F.interpolate(X, 2, recompute_scale_factor=True), ValueError, "interpolate: recompute_scale_factor"),
        (lambda: F.interpolate(X[0, 0], 2), ValueError, "interpolate: input is (4, 4); expected (N, C, W)"),
        (lambda: F.interpolate(X.long(), 2, mode="bilinear"), TypeError, "interpolate: "),
        (lambda: F.interpolate([1.0], 2), TypeError, "interpolate: input is list; expected a tensor"),
        (lambda: F.pixel_shuffle(X, 2), ValueError, "pixel_shuffle: input is (1, 2, 4, 4); expected (..., C, H, W)"),
        (lambda: F.pixel_unshuffle(X, 3), ValueError, "pixel_unshuffle: input is (1, 2, 4, 4); expected (..., C"),
        (lambda: nn.PixelShuffle(0), ValueError, "PixelShuffle: upscale_factor is 0; expected >= 1"),
    ],
)  # fmt: skip
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)
