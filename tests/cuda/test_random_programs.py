"""Random programs of ops and in-place writes on device cuda: refused where the CPU refuses, else with its gradients."""

from __future__ import annotations

from collections import Counter

import numpy as np

import tilegrad as tg
from tests.autograd.test_random_programs import SHAPE, loss_of, values_of
from tests.compare import assert_close

PROGRAMS = 30


def run(seed, dtype, device):
    """The gradients on the host, or None where the program is refused."""
    values = [v.astype(np.float32).astype(dtype) for v in values_of(seed)]
    leaves = [tg.tensor(v, device=device, requires_grad=True) for v in values]
    try:
        found = tg.grad(loss_of(seed, leaves), leaves, allow_unused=True)
    except RuntimeError:
        return None
    return [np.zeros(SHAPE, dtype) if g is None else g.cpu().numpy() for g in found]


def test_random_programs():
    outcomes = Counter()
    for seed in range(PROGRAMS):
        got, want = run(seed, np.float32, "cuda"), run(seed, np.float64, "cpu")
        outcomes[got is None] += 1
        assert (got is None) == (want is None), f"program {seed}: refused on one device only"
        if got is None:
            continue
        for g, w, b in zip(got, want, run(seed, np.float32, "cpu"), strict=True):
            assert_close(g, w, b)
    assert min(outcomes[False], outcomes[True]) > 5, outcomes  # both kinds were seen
