"""Reductions of large arrays: over any axes, in any dense memory order, the same bits whatever the pieces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tilegrad as tg
from tests import dirty
from tests.captured.steps import graphs
from tests.kernels.cpu.test_pieces import in_order
from tilegrad.kernels.cpu import reductions, threads, ufuncs
from tilegrad.kernels.sum import cpu, reference

SHAPES = {  # why: which stages its axes go through
    "one row, in parts": (100_000,),
    "one row, parts of two lengths": (40_001,),
    "rows and columns": (300, 400),
    "more columns than one part has": (33, 2500),
    "few columns, an odd number of rows": (40_001, 3),
    "few columns, side by side": (40_000, 3),
    "a few long rows": (3, 40_001),
    "images": (33, 8, 13, 13),
    "by turns": (2, 3, 2, 3, 90, 17),
    "axes of size 1": (1, 400, 1, 300),
}


def numbers(shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def orders(x):
    return x, x.transpose(), x.transpose(np.random.default_rng(1).permutation(x.ndim))


def choices(ndim):
    return [axes for n in range(1, ndim + 1) for axes in itertools.combinations(range(ndim), n)]


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("ufunc", [np.maximum, np.minimum])
def test_extrema_are_numpys(case, ufunc, monkeypatch):
    for x in orders(numbers(SHAPES[case])):
        for axes in choices(x.ndim):
            want = ufunc.reduce(x, axes, keepdims=True)
            for order in (iter, reversed):
                with monkeypatch.context() as patch, dirty.memory():
                    patch.setattr(threads, "share", in_order(order))
                    got = ufuncs.reduce(ufunc, x, axes, True)
                assert got.shape == want.shape
                assert np.array_equal(got, want)


@pytest.mark.parametrize("odd", [np.nan, -np.nan, np.inf, -np.inf, 1e-45, 0.0])
@pytest.mark.parametrize("place", [0, 1, 7, 299, 150])
def test_special_values_anywhere(place, odd):
    x = -np.abs(numbers((300, 400)))
    x[place, place] = odd
    for axes in choices(2):
        for ufunc in (np.maximum, np.minimum):
            assert np.array_equal(ufuncs.reduce(ufunc, x, axes), ufunc.reduce(x, axes), equal_nan=True)


@pytest.mark.parametrize("case", SHAPES)
def test_sums_do_not_depend_on_the_pieces(case, monkeypatch):
    for x in orders(numbers(SHAPES[case])):
        for axes in choices(x.ndim):
            want = x.sum(axes, dtype=np.float64)
            found = []
            for order in (iter, reversed):
                with monkeypatch.context() as patch, dirty.memory():
                    patch.setattr(threads, "share", in_order(order))
                    found.append(cpu.sum(x, axes))
            found.append(cpu.sum(x, axes, True).reshape(want.shape))
            assert len({each.tobytes() for each in found}) == 1
            of_terms = np.sqrt(x.size / want.size)  # the size of a sum of so many terms of both signs
            assert np.abs(found[0] - want).max() < 4e-7 * of_terms * max(1, np.log2(of_terms))


def test_ones_are_counted_exactly():
    """Every element is summed once."""
    for shape in SHAPES.values():
        for x in orders(np.ones(shape, np.float32)):
            for axes in choices(x.ndim):
                assert np.array_equal(
                    cpu.sum(x, axes), np.full(np.add.reduce(x, axes).shape, x.size / np.add.reduce(x, axes).size)
                )


@pytest.mark.parametrize(
    "x, axes",
    [
        (numbers((30, 40)), (0,)),
        (numbers((300, 400)), ()),
        (numbers((300, 800))[:, ::2], (1,)),
        (numbers((300, 400))[::-1], (1,)),
        (np.broadcast_to(numbers((400,)), (300, 400)), (1,)),
        (numbers((0, 400)), (1,)),
    ],
    ids=["small", "no axes", "gaps", "backwards", "repeated", "empty"],
)
def test_what_is_left_to_the_reference(x, axes):
    assert reductions.reduced(cpu._KERNELS, x, axes, False) is None
    assert cpu.sum(x, axes).tobytes() == reference.sum(x, axes).tobytes()


@pytest.mark.parametrize("case", ["rows and columns", "images"])
def test_a_captured_step_has_them_as_kernels(case):
    x = tg.tensor(numbers(SHAPES[case]))
    step = tg.capture(lambda x: (x.amax(-1), x.amin(0), x.sum(), x.mean(1)), warmup=1)
    for _ in range(3):
        x = x * 1.5
        for got, want in zip(step(x), (x.amax(-1), x.amin(0), x.sum(), x.mean(1)), strict=True):
            assert got.numpy().tobytes() == want.numpy().tobytes()
    assert all(name.endswith("_kernel") for name in graphs(step)[0].graph.nodes())
