"""The compiled stream and its dropout: the specification's bits, wherever a draw begins and whoever makes it."""

import numpy as np
import pytest

from tests.compare import assert_same
from tests.layouts import untouched
from tilegrad.kernels.backends import cpu
from tilegrad.kernels.backends import reference as specification
from tilegrad.kernels.cpu import threads

SEED = 2**63 + 5
OFFSETS = [0, 1, 2, 3, 2**34 + 1, 2**64 - 7]  # the last: the stream goes on behind 2^64 words


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("offset", OFFSETS)
def test_the_specification_s_bits_from_any_number_of_threads(offset, count, monkeypatch):
    monkeypatch.setattr(threads, "_count", count)
    for n in (1, 2, 5, 2047, 2049, 40_003):
        assert_same(cpu.random_bits(SEED, offset, n), specification.random_bits(SEED, offset, n))
        x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
        x[n // 2] = np.inf
        want = specification.dropout(x, 0.3, SEED, offset)
        with untouched(x):
            assert_same(cpu.dropout(x, 0.3, SEED, offset).view(np.int32), want.view(np.int32))
            assert_same(cpu.dropout(x, 0.3, SEED, np.array(offset, np.uint64)), want)


def test_an_offset_that_is_an_array_of_another_type_is_the_specification_s():
    x = np.ones(100, np.float32)
    assert_same(cpu.dropout(x, 0.3, SEED, np.array(9)), specification.dropout(x, 0.3, SEED, 9))


@pytest.mark.parametrize("kind", [np.float16, np.float32], ids=["float16", "float32"])
def test_every_memory_order_and_gaps(kind):
    whole = np.random.default_rng(0).standard_normal((6, 5, 40, 30)).astype(kind)
    for x in (whole.transpose(0, 3, 1, 2), whole.transpose(), whole[:, ::2], np.broadcast_to(whole[0], whole.shape)):
        got, want = cpu.dropout(x, 0.3, SEED, 3), specification.dropout(x, 0.3, SEED, 3)
        assert_same(got, want)
        assert got.strides == want.strides
