"""Training, not only ops: 50 steps of both nets from the same weights and batches, against torch, loss by loss."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.compare import assert_close
from tests.training.nets import NETS, OURS, RECIPES, TORCH, train

# Rounding in float64 grows over the steps, by the nets' own sensitivity, to some 1e-12; a wrong rule is off by 1e-3.
FLOAT64 = 1e-9

torch_float64 = cache(lambda net, recipe: train(TORCH, net, recipe, np.float64))

both_nets = pytest.mark.parametrize("net", NETS)
every_recipe = pytest.mark.parametrize("recipe", RECIPES)


@both_nets
@every_recipe
def test_float64(net, recipe):
    got, got_params = train(OURS, net, recipe, np.float64)
    want, want_params = torch_float64(net, recipe)
    assert want[-7:].mean() < 0.5 * want[0]  # there is something to follow: the net learns
    np.testing.assert_allclose(got, want, rtol=FLOAT64, atol=0)
    for got_param, want_param in zip(got_params, want_params, strict=True):
        assert got_param.dtype == np.float64
        assert np.linalg.norm(got_param - want_param) <= FLOAT64 * np.linalg.norm(want_param)


@both_nets
@every_recipe
def test_float32_is_as_near_to_float64_as_torchs_float32(net, recipe):
    got, _ = train(OURS, net, recipe, np.float32)
    want, _ = torch_float64(net, recipe)
    baseline, _ = train(TORCH, net, recipe, np.float32)
    assert_close(got, want, baseline)
