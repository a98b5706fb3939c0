"""Pooling against torch: geometry, ceil mode, ties, indices, adaptive windows, layers."""

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

MAX_CASES = {
    "2": ((2, 3, 6, 4), (2,), {}),
    "odd image": ((2, 3, 7, 5), (2,), {}),
    "odd image, ceil": ((2, 3, 7, 5), (2,), {"ceil_mode": True}),
    "overlapping": ((2, 3, 7, 6), (3, 2), {"padding": 1}),
    "pairs": ((1, 2, 8, 9), ((3, 2), (2, 3)), {"padding": (1, 0)}),
    "dilated": ((1, 2, 9, 8), (3, 1), {"dilation": (2, 1), "padding": 1}),
    "ceil, padded": ((1, 2, 8, 8), (3, 3), {"padding": 1, "ceil_mode": True}),
    "unbatched": ((3, 6, 5), (2,), {}),
}
AVG_CASES = {
    "2": ((2, 3, 6, 4), (2,), {}),
    "odd image, ceil": ((2, 3, 7, 5), (2,), {"ceil_mode": True}),
    "overlapping": ((2, 3, 7, 6), (3, 2), {"padding": 1}),
    "padding not counted": ((2, 3, 7, 6), (3, 2), {"padding": 1, "count_include_pad": False}),
    "ceil, not counted": ((2, 3, 7, 6), (3, 2), {"padding": 1, "count_include_pad": False, "ceil_mode": True}),
    "divisor": ((1, 2, 8, 9), ((3, 2), (2, 3)), {"padding": (1, 0), "divisor_override": 5}),
    "unbatched": ((3, 6, 5), (2,), {}),
}


def distinct(rng, shape, dtype):
    """No ties: where there are several maxima is a test of its own."""
    return rng.permutation(int(np.prod(shape))).reshape(shape).astype(dtype)


@pytest.mark.parametrize("case", MAX_CASES)
def test_max_pool(case, dtype, rng):
    shape, arguments, options = MAX_CASES[case]
    x = distinct(rng, shape, dtype)
    assert_function(
        lambda x: F.max_pool2d(x, *arguments, **options), lambda x: TF.max_pool2d(x, *arguments, **options), x
    )
    y, at = F.max_pool2d(Tensor(x), *arguments, **options, return_indices=True)
    want, want_at = TF.max_pool2d(torch.from_numpy(x), *arguments, **options, return_indices=True)
    assert_same(y.numpy(), want.numpy())
    assert_same(at.numpy(), want_at.numpy())


def test_of_equal_maxima_the_first_takes_the_gradient():
    x = np.zeros((1, 1, 4, 4), np.float32)
    assert_function(lambda x: F.max_pool2d(x, 2), lambda x: TF.max_pool2d(x, 2), x)
    assert_function(lambda x: F.max_pool2d(x, 3, 1), lambda x: TF.max_pool2d(x, 3, 1), x)
    assert_function(lambda x: F.adaptive_max_pool2d(x, 3), lambda x: TF.adaptive_max_pool2d(x, 3), x)


@pytest.mark.parametrize("case", AVG_CASES)
def test_avg_pool(case, dtype, rng):
    shape, arguments, options = AVG_CASES[case]
    x = rng.standard_normal(shape).astype(dtype)
    assert_function(
        lambda x: F.avg_pool2d(x, *arguments, **options), lambda x: TF.avg_pool2d(x, *arguments, **options), x
    )


ADAPTIVE = [
    ((2, 3, 6, 8), (3, 2)),  # windows of one size
    ((2, 3, 7, 5), (3, 2)),  # windows of two sizes, overlapping
    ((2, 3, 7, 5), 1),  # the whole image
    ((2, 3, 3, 2), (5, 4)),  # more windows than pixels
    ((2, 3, 6, 5), (None, 2)),  # one side kept
    ((2, 3, 4, 4), None),  # both kept
    ((3, 7, 5), (3, 4)),  # one image
]


@pytest.mark.parametrize(("shape", "size"), ADAPTIVE, ids=str)
def test_adaptive(shape, size, dtype, rng):
    x = distinct(rng, shape, dtype)
    torch_size = size or (None, None)
    assert_function(lambda x: F.adaptive_avg_pool2d(x, size), lambda x: TF.adaptive_avg_pool2d(x, torch_size), x)
    assert_function(lambda x: F.adaptive_max_pool2d(x, size), lambda x: TF.adaptive_max_pool2d(x, torch_size), x)
    y, at = F.adaptive_max_pool2d(Tensor(x), size, return_indices=True)
    want, want_at = TF.adaptive_max_pool2d(torch.from_numpy(x), torch_size, return_indices=True)
    assert_same(y.numpy(), want.numpy())
    assert_same(at.numpy(), want_at.numpy())


def test_adaptive_keeps_nan_and_infinity_where_they_are():
    x = np.ones((1, 1, 5, 5), np.float32)
    x[0, 0, 0, 0], x[0, 0, 4, 4] = np.nan, np.inf
    want = TF.adaptive_avg_pool2d(torch.from_numpy(x), 3).numpy()
    np.testing.assert_array_equal(F.adaptive_avg_pool2d(Tensor(x), 3).numpy(), want)


LAYERS = {
    "MaxPool2d": [((2,), {}), ((3, 2), {"padding": 1, "ceil_mode": True}), (((3, 2),), {"dilation": 2, "stride": 1})],
    "AvgPool2d": [((2,), {}), ((3, 2), {"padding": 1, "ceil_mode": True}), ((2,), {"count_include_pad": False})],
    "AdaptiveAvgPool2d": [((3,), {}), (((2, None),), {})],
    "AdaptiveMaxPool2d": [((3,), {}), (((2, None),), {})],
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, rng):
    x = distinct(rng, (2, 3, 7, 6), np.float32)
    for arguments, options in LAYERS[name]:
        ours, theirs = getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options)
        assert_function(ours, theirs, x)
        assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", ["MaxPool2d", "AdaptiveMaxPool2d"])
def test_layer_returns_indices(name, rng):
    x = distinct(rng, (2, 3, 7, 6), np.float32)
    got = getattr(nn, name)(2, return_indices=True)(Tensor(x))
    want = getattr(torch.nn, name)(2, return_indices=True)(torch.from_numpy(x))
    for a, b in zip(got, want, strict=True):
        assert_same(a.numpy(), b.numpy())


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.MaxPool2d(0), ValueError, "MaxPool2d: kernel_size is 0; expected >= 1"),
        (lambda: nn.MaxPool2d(2, 0), ValueError, "MaxPool2d: stride is 0; expected >= 1"),
        (lambda: nn.MaxPool2d(2, padding=-1), ValueError, "MaxPool2d: padding is -1; expected >= 0"),
        (lambda: nn.MaxPool2d(2, dilation=0), ValueError, "MaxPool2d: dilation is 0; expected >= 1"),
        (lambda: nn.AvgPool2d("2"), TypeError, "AvgPool2d: kernel_size is '2'; expected an int"),
        (lambda: nn.AdaptiveAvgPool2d(0), ValueError, "AdaptiveAvgPool2d: output_size is 0; expected >= 1"),
        (
            lambda: nn.AdaptiveMaxPool2d((1, 2, 3)),
            TypeError,
            "AdaptiveMaxPool2d: output_size is (1, 2, 3); expected an int, None, or two of them",
        ),
        (
            lambda: F.max_pool2d(tg.ones(4, 4), 2),
            ValueError,
            "max_pool2d: input is (4, 4); expected (N, C, H, W) or (C, H, W)",
        ),
        (
            lambda: F.max_pool2d(tg.ones(1, 4, 4), 2, padding=2),
            ValueError,
            "max_pool2d: padding is (2, 2); expected at most half of",
        ),
        (lambda: F.max_pool2d(tg.ones(1, 4, 4), 5), ValueError, "max_pool2d: a (5, 5) window with dilation (1, 1)"),
        (
            lambda: F.max_pool2d(tg.ones(1, 4, 4, dtype="int64"), 2),
            TypeError,
            "max_pool2d: expected a floating-point tensor; got int64",
        ),
        (
            lambda: F.avg_pool2d(tg.ones(1, 4, 4), 2, divisor_override=0),
            ValueError,
            "avg_pool2d: divisor_override is 0; expected another int",
        ),
        (
            lambda: F.adaptive_avg_pool2d(tg.ones(1, 0, 4), 2),
            ValueError,
            "adaptive_avg_pool2d: input is (1, 0, 4); expected images of at least one pixel",
        ),
        (
            lambda: F.adaptive_avg_pool2d(tg.ones(1, 4, 4), (1,)),
            TypeError,
            "adaptive_avg_pool2d: output_size is (1,); expected an int, None, or two of them",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(message)


def test_sequences_of_one_stand_for_both_sides():
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    for name in ("max_pool2d", "avg_pool2d"):
        for arguments in (((3,), (2,), (1,)), ([2],), (2, ()), (2, (1,)), ((2,), None, [1])):
            ours, theirs = getattr(F, name), getattr(TF, name)
            assert_function(lambda x, f=ours, a=arguments: f(x, *a), lambda x, f=theirs, a=arguments: f(x, *a), x)
    w = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    options = {"stride": (2,), "padding": [1], "dilation": (1,)}
    assert_function(lambda x, w: F.conv2d(x, w, **options), lambda x, w: TF.conv2d(x, w, **options), x, w)
    assert nn.MaxPool2d((2,), (1,))(Tensor(x)).shape == (2, 3, 7, 7)
    with pytest.raises(TypeError, match=r"conv2d: stride is \(\)"):
        F.conv2d(Tensor(x), Tensor(w), stride=())
