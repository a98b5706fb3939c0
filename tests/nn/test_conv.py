"""Conv2d and padding against torch: geometry, padding modes, unbatched images, layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import tilegrad as tg
from tests.nn.versus import assert_function, assert_module
from tilegrad import nn
from tilegrad.nn import functional as F

# (input, weight, options), each with the reason it is there
CASES = {
    "1x1": ((2, 3, 5, 4), (6, 3, 1, 1), {}),
    "3x3": ((2, 3, 6, 5), (4, 3, 3, 3), {}),
    "one channel": ((3, 1, 7, 7), (4, 1, 3, 3), {}),
    "padding": ((2, 3, 5, 5), (4, 3, 3, 3), {"padding": 1}),
    "padding pair": ((2, 3, 5, 5), (4, 3, 3, 2), {"padding": (2, 1)}),
    "stride": ((2, 3, 8, 7), (4, 3, 3, 3), {"stride": 2}),
    "stride pair leaves a rest": ((1, 2, 9, 8), (3, 2, 2, 3), {"stride": (3, 2)}),
    "dilation": ((1, 2, 9, 9), (3, 2, 3, 3), {"dilation": (2, 3)}),
    "groups": ((2, 6, 5, 5), (4, 3, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, 4, 5, 5), (8, 1, 3, 3), {"groups": 4}),
    "all": ((2, 4, 9, 8), (6, 2, 3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}),
    "same": ((2, 3, 6, 5), (4, 3, 3, 5), {"padding": "same"}),
    "same, even kernel": ((2, 3, 6, 5), (4, 3, 2, 4), {"padding": "same"}),
    "same, dilated": ((2, 3, 7, 6), (4, 3, 4, 3), {"padding": "same", "dilation": (1, 2)}),
    "valid": ((2, 3, 6, 5), (4, 3, 3, 3), {"padding": "valid", "stride": 2}),
    "unbatched": ((3, 6, 5), (4, 3, 3, 3), {"padding": 1}),
    "unbatched, same": ((3, 6, 5), (4, 3, 2, 2), {"padding": "same"}),
}


# torch warns that padding="same" with an even kernel copies the input
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_function(case, bias, dtype, rng):
    x_shape, w_shape, options = CASES[case]
    arrays = [rng.standard_normal(x_shape), rng.standard_normal(w_shape)]
    if bias:
        arrays.append(rng.standard_normal(w_shape[0]))
    arrays = [a.astype(dtype) for a in arrays]
    assert_function(lambda *a: F.conv2d(*a, **options), lambda *a: TF.conv2d(*a, **options), *arrays)


LAYERS = {
    "defaults": ((3, 4, 3), {}),
    "pair": ((3, 4, (2, 3)), {"stride": (1, 2), "bias": False}),
    "groups": ((4, 6, 3), {"groups": 2, "padding": 1, "dilation": 2}),
    "same": ((3, 4, 3), {"padding": "same"}),
    "reflect": ((3, 4, 3), {"padding": (2, 1), "padding_mode": "reflect"}),
    "replicate": ((3, 4, 3), {"padding": (1, 3), "padding_mode": "replicate", "stride": 2}),
    "circular": ((3, 4, 3), {"padding": (1, 2), "padding_mode": "circular"}),
    "circular, same": ((3, 4, (2, 3)), {"padding": "same", "padding_mode": "circular"}),
    "reflect, valid": ((3, 4, 3), {"padding": "valid", "padding_mode": "reflect"}),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
def test_layer(name, batched, dtype, rng):
    arguments, options = LAYERS[name]
    x = rng.standard_normal((2, arguments[0], 7, 6) if batched else (arguments[0], 7, 6)).astype(dtype)
    ours, theirs = nn.Conv2d(*arguments, **options), torch.nn.Conv2d(*arguments, **options)
    assert_module(ours, theirs, x)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize(
    ("widths", "mode"),
    [
        ((1, 2), "constant"),
        ((1, 2, 0, 3), "constant"),
        ((-1, 2, 1, -2), "constant"),
        ((1, 2, 3, 0), "reflect"),
        ((5, 6, 0, 7), "replicate"),
        ((4, 1, 2, 5), "circular"),
    ],
    ids=str,
)
def test_pad(widths, mode, dtype, rng):
    x = rng.standard_normal((2, 3, 5, 4)).astype(dtype)
    options = {"value": 1.5} if mode == "constant" else {}
    assert_function(lambda x: F.pad(x, widths, mode, **options), lambda x: TF.pad(x, widths, mode, **options), x)


def test_float16(rng):
    x = rng.standard_normal((2, 3, 6, 5)).astype(np.float16)
    assert_module(nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(3, 4, 3, padding=1), x)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.Conv2d(0, 4, 3), ValueError, "Conv2d: in_channels is 0; expected >= 1"),
        (lambda: nn.Conv2d(3, -4, 3), ValueError, "Conv2d: out_channels is -4; expected >= 1"),
        (lambda: nn.Conv2d(3, 4, 0), ValueError, "Conv2d: kernel_size is 0; expected >= 1"),
        (lambda: nn.Conv2d(3, 4, 2.5), TypeError, "Conv2d: kernel_size is 2.5; expected an int"),
        (
            lambda: nn.Conv2d(3, 4, (3, 3, 3)),
            TypeError,
            "Conv2d: kernel_size is (3, 3, 3); expected an int, or one or two of them",
        ),
        (lambda: nn.Conv2d(3, 4, (3, 0)), ValueError, "Conv2d: kernel_size is (3, 0); expected both >= 1"),
        (lambda: nn.Conv2d(3, 4, 3, stride=0), ValueError, "Conv2d: stride is 0; expected >= 1"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), ValueError, "Conv2d: padding is -1; expected >= 0"),
        (lambda: nn.Conv2d(3, 4, 3, dilation=0), ValueError, "Conv2d: dilation is 0; expected >= 1"),
        (lambda: nn.Conv2d(3, 4, 3, groups=0), ValueError, "Conv2d: groups is 0; expected >= 1"),
        (
            lambda: nn.Conv2d(3, 4, 3, groups=2),
            ValueError,
            "Conv2d: in_channels is 3; expected a multiple of groups, 2",
        ),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "Conv2d: out_channels is 3; expected a multiple of groups"),
        (
            lambda: nn.Conv2d(3, 4, 3, padding="full"),
            ValueError,
            "Conv2d: padding is 'full'; expected 'valid', 'same', an int or a pair",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2),
            ValueError,
            "Conv2d: padding is 'same' and stride (2, 2); expected stride 1",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"),
            ValueError,
            "Conv2d: padding_mode is 'mirror'; expected one of 'zeros', 'reflect'",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3)(tg.ones(2, 5, 8, 8)),
            ValueError,
            "conv2d: x is (2, 5, 8, 8) and w is (4, 3, 3, 3) with groups=1; expected w[1] * groups == 5",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3)(tg.ones(8, 8)),
            ValueError,
            "conv2d: input is (8, 8); expected (N, C, H, W) or (C, H, W)",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3)(tg.ones(1, 3, 2, 8)),
            ValueError,
            "conv2d: a (3, 3) window with dilation (1, 1) over (2, 8) images with padding (0, 0)",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3)(tg.ones(1, 3, 8, 8, dtype="float64")),
            TypeError,
            "conv2d: dtypes are float64 and float32; expected one for all",
        ),
        (lambda: nn.Conv2d(3, 4, 3)(np.ones((1, 3, 8, 8))), TypeError, "conv2d: input is ndarray; expected a tensor"),
        (
            lambda: nn.Conv2d(1, 1, 3, padding=4, padding_mode="reflect")(tg.ones(1, 1, 4, 4)),
            ValueError,
            "pad: got (4, 4) for dim 2 of size 4; expected",
        ),
        (
            lambda: F.conv2d(tg.ones(1, 1, 4, 4), tg.ones(1, 1, 3, 3), padding="full"),
            ValueError,
            "conv2d: padding is 'full'; expected",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)
