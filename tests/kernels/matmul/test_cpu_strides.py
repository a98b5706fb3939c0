"""Products large enough for the tile, with operands that lie in memory in every way: NumPy is the oracle."""

import numpy as np
import pytest

from tests.compare import assert_close
from tilegrad.kernels.backends import cpu
from tilegrad.kernels.cpu.tile import LANES
from tilegrad.kernels.matmul import cpu as matmul

M, K, N = 80, 96, 112  # 860,160 multiply-adds, more than BLAS is asked for; whole vectors in M and N


def arrange(array, kind):
    if kind == "contiguous":
        return array
    if kind == "transposed":
        return np.ascontiguousarray(array.T).T
    if kind == "one row for all":
        return np.broadcast_to(array[:1], array.shape)
    if kind == "one column for all":
        return np.broadcast_to(array[:, :1], array.shape)
    if kind == "backwards":
        return array[::-1, ::-1]
    if kind == "read-only":
        frozen = array.copy()
        frozen.flags.writeable = False
        return frozen
    if kind == "every other":
        frame = np.full((2 * array.shape[0], 2 * array.shape[1]), np.nan, array.dtype)
        frame[::2, ::2] = array
        return frame[::2, ::2]
    records = np.zeros(array.shape, np.dtype([("tag", "u1"), ("value", "f4")]))  # steps of 5 bytes
    records["value"] = array
    return records["value"]


KINDS = [
    "contiguous",
    "transposed",
    "one row for all",
    "one column for all",
    "backwards",
    "read-only",
    "every other",
    "field of a packed record",
]


@pytest.mark.parametrize("of_a", KINDS)
@pytest.mark.parametrize("of_b", KINDS)
@pytest.mark.parametrize("columns", [N, N - 1])  # straight, and transposed
def test_any_strides(of_a, of_b, columns):
    rng = np.random.default_rng(0)
    a = arrange(rng.standard_normal((M, K)).astype(np.float32), of_a)
    b = arrange(rng.standard_normal((K, columns)).astype(np.float32), of_b)
    bias = rng.standard_normal(columns).astype(np.float32)
    want = a.astype(np.float64) @ b.astype(np.float64) + bias
    baseline = np.ascontiguousarray(a) @ np.ascontiguousarray(b) + bias
    scale = float((np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))).max())
    assert_close(cpu.matmul(a, b, bias), want, baseline, scale=scale)


@pytest.mark.parametrize("m", [191, 192, 205])  # dots, and from 192 rows on tiles over the weight laid out
@pytest.mark.parametrize("n", [64, 224, 70])  # fewer columns than rows, more, and no whole vectors
def test_a_layer_of_many_rows(m, n, monkeypatch):
    rng = np.random.default_rng(0)
    a, w = (rng.standard_normal((rows, K)).astype(np.float32) for rows in (m, n))
    bias = rng.standard_normal(n).astype(np.float32)
    laid_out = []
    product = matmul._product
    monkeypatch.setattr(matmul, "_product", lambda *given: laid_out.append(1) or product(*given))
    want = np.maximum(a.astype(np.float64) @ w.T.astype(np.float64) + bias, 0)
    baseline = np.maximum(a @ w.T + bias, 0)
    scale = float((np.abs(a.astype(np.float64)) @ np.abs(w.T.astype(np.float64))).max())
    assert_close(cpu.matmul(a, w.T, bias, "relu"), want, baseline, scale=scale)
    assert bool(laid_out) == (m >= 192 and n % LANES == 0)
