"""Products whose terms are added in several blocks: the bias comes before the first, ReLU after the last."""

import numpy as np
import pytest

from tests.compare import assert_close
from tilegrad.kernels.backends import cpu
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.cpu.tile import LANES
from tilegrad.kernels.matmul import cpu as matmul_cpu

BLOCK = matmul_cpu._BLOCK


# One block, one term more than a block, three blocks of other sizes, many; rows that fill no item, and one row.
@pytest.mark.parametrize("k", [BLOCK, BLOCK + 1, 3 * BLOCK - 5, 1000])
@pytest.mark.parametrize("m", [1, 65, 128])
@pytest.mark.parametrize("by_columns", [False, True])
def test_bias_and_relu_around_the_blocks(k, m, by_columns):
    n = 7 * LANES  # panels of every width
    rng = np.random.default_rng(k + m)
    a = rng.standard_normal((k, m)).astype(np.float32).T if by_columns else rng.standard_normal((m, k), np.float32)
    b, bias = rng.standard_normal((k, n), np.float32), rng.standard_normal(n, np.float32)
    want = np.maximum(a.astype(np.float64) @ b + bias, 0)
    scale = float((np.abs(a.astype(np.float64)) @ np.abs(b)).max())
    assert_close(cpu.matmul(a, b, bias, "relu"), want, np.maximum(a @ b + bias, 0), scale=scale)


def test_blocks_and_threads_change_no_bit():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((300, 700), np.float32), rng.standard_normal((700, 64), np.float32)
    before = threads.num_threads()
    try:
        threads.set_num_threads(1)
        want, of_rows = cpu.matmul(a, b), cpu.matmul(a, np.asfortranarray(b))
        threads.set_num_threads(3)
        assert np.array_equal(cpu.matmul(a, b), want)
        assert np.array_equal(cpu.matmul(a, np.asfortranarray(b)), of_rows)
        # both in the order of their columns: b is laid out in panels, and its terms are added in one block
        assert np.array_equal(cpu.matmul(np.asfortranarray(a), np.asfortranarray(b)), want)
    finally:
        threads.set_num_threads(before)
