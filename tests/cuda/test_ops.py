"""Every op on device cuda, forward and backward, in float32.

Judged by the CPU in float64, with the CPU in float32 as baseline.
"""

from __future__ import annotations

import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_close
from tests.ops import test_gradients as table
from tilegrad import Tensor

CONSTANTS = ("LABELS", "INDEX", "MASK")  # tensors that the table's functions name


def run(name, dtype, device, inputs):
    """The outputs, and the gradients along the same random directions, on the host."""
    tensors = [tg.tensor(x.astype(dtype), device=device, requires_grad=True) for x in inputs]
    rng = np.random.default_rng(7)
    outputs = [y for y in table.outputs_of(table.OPS[name][0](*tensors)) if y.is_floating_point()]
    assert all(y.device == device for y in outputs)
    seeds = [tg.tensor(rng.integers(-4, 5, y.shape) / 2, dtype=dtype, device=device) for y in outputs]
    linked = [(y, v) for y, v in zip(outputs, seeds, strict=True) if y.requires_grad]
    grads = tg.grad([y for y, _ in linked], tensors, [v for _, v in linked], allow_unused=True)
    assert all(g is None or g.device == device for g in grads)
    return [x.detach().cpu().numpy() for x in (*outputs, *(g for g in grads if g is not None))]


@pytest.mark.parametrize("name", table.OPS)
def test_values_and_gradients(name, monkeypatch):
    _, *makers = table.OPS[name]
    inputs = [np.asarray(make(*shape)).astype(np.float32) for make, shape in makers]
    want = run(name, np.float64, "cpu", inputs)
    baseline = run(name, np.float32, "cpu", inputs)
    for constant in CONSTANTS:
        monkeypatch.setattr(table, constant, getattr(table, constant).cuda())
    got = run(name, np.float32, "cuda", inputs)
    for g, w, b in zip(got, want, baseline, strict=True):
        assert_close(g, w, b)


def test_the_table_names_no_other_tensor():
    found = {name for name, value in vars(table).items() if isinstance(value, Tensor)}
    assert found == set(CONSTANTS)
