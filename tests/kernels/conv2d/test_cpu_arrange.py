"""Weights and their gradients in the order that is asked for, against NumPy's transposed copies."""

import itertools

import numpy as np
import pytest

from tilegrad.kernels.conv2d.cpu_arrange import arranged
from tilegrad.kernels.cpu import threads


@pytest.mark.parametrize("split", [(2, 16, 3, 1, 2), (1, 2, 5, 3, 3), (4, 1, 1, 1, 1)])
def test_every_order_of_the_axes(split):
    a = np.random.default_rng(0).standard_normal(split, dtype=np.float32)
    for axes in itertools.permutations(range(5)):
        assert np.array_equal(arranged(a, split, axes), a.transpose(axes))


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_what_threads_share(pieces, monkeypatch):
    monkeypatch.setattr(threads, "num_threads", lambda: pieces)
    a = np.random.default_rng(pieces).standard_normal((64, 64, 9), dtype=np.float32)  # not what memory still holds
    assert a.nbytes > threads.WORTH_SHARING
    assert np.array_equal(arranged(a, a.shape, (2, 1, 0)), a.T)


def test_an_array_in_another_order():
    a = np.random.default_rng(0).standard_normal((3, 3, 4, 16), dtype=np.float32).transpose(3, 2, 0, 1)
    assert np.array_equal(
        arranged(a, (2, 8, 4, 3, 3), (0, 3, 4, 2, 1)), a.reshape(2, 8, 4, 3, 3).transpose(0, 3, 4, 2, 1)
    )
