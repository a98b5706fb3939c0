"""Layers that pad, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tilegrad as tg
from tests.nn.versus import assert_function
from tilegrad import nn

LAYERS = [
    *[(name, padding) for name in ("ZeroPad1d", "ReflectionPad1d", "ReplicationPad1d") for padding in (1, (2, 0))],
    *[(n, padding) for n in ("ZeroPad2d", "ReflectionPad2d", "ReplicationPad2d") for padding in (2, (1, 2, 0, 3))],
    ("ZeroPad2d", (-1, 2, 0, -2)),
]


@pytest.mark.parametrize("has_batch", [True, False])
@pytest.mark.parametrize(("name", "padding"), LAYERS, ids=str)
def test_layers(name, padding, has_batch, dtype, rng):
    ours, theirs = (getattr(lib, name)(padding) for lib in (nn, torch.nn))
    assert repr(ours) == repr(theirs) and ours.padding == theirs.padding
    shape = (2, 3, 4, 5)[: 2 + int(name[-2])]
    assert_function(ours, theirs, rng.standard_normal(shape if has_batch else shape[1:]).astype(dtype))


@pytest.mark.parametrize(("name", "padding"), [("ConstantPad1d", 2), ("ConstantPad2d", (1, 0, 2, 3))])
def test_constants(name, padding, dtype, rng):
    ours, theirs = (getattr(lib, name)(padding, 1.5) for lib in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    assert_function(ours, theirs, rng.standard_normal((2, 3, 4, 5)[: 2 + int(name[-2])]).astype(dtype))


def test_errors():
    with pytest.raises(TypeError, match=r"ZeroPad2d: padding is \(1, 2\); expected an int, or 4 of them"):
        nn.ZeroPad2d((1, 2))
    with pytest.raises(TypeError, match="ReflectionPad1d: padding is 1.5; expected an int, or 2 of them"):
        nn.ReflectionPad1d(1.5)
    with pytest.raises(ValueError, match=r"ReplicationPad2d: input is \(4,\); expected 3 or 4 dimensions"):
        nn.ReplicationPad2d(1)(tg.ones(4))
    assert np.isnan(nn.ConstantPad1d(1, float("nan"))(tg.ones(1, 2)).numpy()).sum() == 2
