"""What matmul on Numba-CUDA has beyond the contract: two kernels that must agree, and tiles of two sizes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compare import assert_same
from tests.device import OnDevice, to_device
from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.matmul import gpu_numba as numba_matmul

pytestmark = [pytest.mark.gpu] if gpu.is_available() else []

TILES = {"large": numba_matmul.LARGE, "small": numba_matmul.SMALL}


@pytest.fixture
def matmul():
    return OnDevice(kernels.load("numba")).matmul


def integers(rng, dtype, *shape):
    """Exact, products and sums too, whatever their order."""
    return to_device(rng.integers(-3, 4, shape).astype(dtype))


def both(a, b, bias, activation, tile):
    """(tiled, naive) of operands as the kernels take them."""
    outer, inner, m, n = *a.shape[:3], b.shape[2]
    results = []
    for kernel, rest in ((numba_matmul.tiled, (tile,)), (numba_matmul.naive, ())):
        y = gpu.xp().empty((outer, inner, m, n), a.dtype)
        kernel(a, b, bias, y, activation, *rest)
        results.append(y.get())
    return results


@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("rows", "columns", "steps", "terms"),
    [
        (0, 0, 2, 0),  # one tile exactly, two steps
        (1, 1, 1, 1),  # one element beyond a tile along each axis
        (-1, 1, 1, 0),  # one short, one beyond, one step
        (1, -3, 0, 1),  # less than a step
        (1, 1, 0, 0),  # nothing to add
    ],
)
def test_tiled_against_naive(rng, name, dtype, rows, columns, steps, terms):
    tile = TILES[name]
    m, n, k = tile.size + rows, tile.size + columns, steps * tile.terms + terms
    a, b, bias = integers(rng, dtype, 1, 1, m, k), integers(rng, dtype, 1, 1, n, k), integers(rng, dtype, n)
    ours, second = both(a, b, bias, "relu", tile)
    assert_same(ours, second)
    exact = np.maximum(a.get().astype(np.float64) @ b.get().astype(np.float64).swapaxes(2, 3) + bias.get(), 0)
    assert_same(ours, exact.astype(dtype))


@pytest.mark.parametrize("dense_b", [False, True])
@pytest.mark.parametrize("dense_a", [False, True])
def test_operands_of_either_order_in_batches(rng, dense_a, dense_b):
    """Batches of two axes, one of them broadcast in each operand."""
    tile = numba_matmul.SMALL
    m, n, k = tile.size + 1, tile.size - 2, tile.terms + 1
    a = integers(rng, np.float32, 2, 1, *((m, k) if dense_a else (k, m)))
    b = integers(rng, np.float32, 1, 2, *((n, k) if dense_b else (k, n)))
    a, b = (x if dense else x.swapaxes(2, 3) for x, dense in ((a, dense_a), (b, dense_b)))
    want = a.get() @ b.get().swapaxes(2, 3)
    a, b = (gpu.xp().broadcast_to(x, (2, 2, *x.shape[2:])) for x in (a, b))
    for y in both(a, b, None, None, tile):
        assert_same(y, want)


def test_tiles_in_groups_are_each_computed_once(rng):
    """More rows of tiles than a group has, a multiple of it in one case only."""
    size, group = numba_matmul.SMALL.size, numba_matmul.GROUP
    for tiles_m, tiles_n in ((group + 1, 2), (group, 3), (2, 3)):
        a = integers(rng, np.float32, 1, 1, tiles_m * size, 1)
        b = integers(rng, np.float32, 1, 1, tiles_n * size, 1)
        y = gpu.xp().empty((1, 1, tiles_m * size, tiles_n * size), np.float32)
        numba_matmul.tiled(a, b, None, y, None, numba_matmul.SMALL)
        assert_same(y.get(), a.get() @ b.get().swapaxes(2, 3))


def test_what_is_small_or_thin_is_left_to_the_naive_kernel(monkeypatch):
    asked = []
    monkeypatch.setattr(numba_matmul, "tiled", lambda *args: asked.append(args[5]))
    monkeypatch.setattr(numba_matmul, "naive", lambda *args: asked.append("naive"))
    few, many = numba_matmul.SMALL.size * 2, numba_matmul.LARGE.size * numba_matmul.LARGE_FROM
    for m, n, k in ((2, 2, 2), (1, many, 64), (many, 4, 64), (few, few, 64), (many, 2 * numba_matmul.LARGE.size, 64)):
        numba_matmul.matmul(gpu.xp().empty((m, k), np.float32), gpu.xp().empty((k, n), np.float32))
    assert asked == ["naive", "naive", "naive", numba_matmul.SMALL, numba_matmul.LARGE]


@pytest.mark.parametrize("activation", ["gelu", None])
def test_two_runs_give_the_same_bits(matmul, rng, activation):
    a, b = rng.standard_normal((18, 21)).astype(np.float32), rng.standard_normal((21, 17)).astype(np.float32)
    assert_same(matmul(a, b, None, activation), matmul(a, b, None, activation, "tf32"))


def test_float64_is_left_to_the_cpu(matmul):
    with pytest.raises(TypeError, match="matmul: the arrays are float64, which the backend 'numba' does not serve"):
        matmul(np.ones((2, 2)), np.ones((2, 2)))


def test_batches_of_more_strides_than_the_kernels_walk(matmul, rng):
    a = rng.integers(-3, 4, (2, 1, 3, 1, 5, 6)).astype(np.float32)
    b = rng.integers(-3, 4, (1, 2, 1, 2, 6, 5)).astype(np.float32)
    assert_same(matmul(a, b), a @ b)
