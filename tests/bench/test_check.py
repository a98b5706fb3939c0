"""The judge of outputs: right ones pass in every dtype, wrong ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.test_hand_counts import case
from tilegrad.bench import check
from tilegrad.bench.check import complaint, expected, wrong
from tilegrad.bench.inputs import DTYPES, drawn, to_tf32
from tilegrad.bench.ops import OPS
from tilegrad.bench.ops.op import Case
from tilegrad.bench.providers import PROVIDERS, as_tuple

SMALL = {
    "matmul": (24, 16, 40), "activations": (500,), "softmax": (7, 33), "softmax_xent": (7, 33), "adam": (200,),
    "conv": (2, 3, 6, 4, 3, 1), "pool": (2, 3, 6, 5), "attention": (2, 3, 9, 16), "layer_norm": (7, 33),
    "batch_norm": (2, 3, 6, 5), "losses": (200,), "recurrent": (3, 4, 6), "take_rows": (9, 5, 40),
    "bags": (9, 5, 7, 4), "arithmetic": (7, 33),
}  # fmt: skip
CASES = [
    (op.name, v.name, mode, dtype)
    for op in OPS.values()
    for v in op.variants
    for mode in v.modes
    for dtype in (op.dtypes[:2] if mode != "both" else op.dtypes[:1])
]


def outputs(provider: str, of: Case, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    from types import SimpleNamespace

    p = PROVIDERS[provider]
    own = SimpleNamespace(**{n: p.own(x, "cpu") for n, x in inputs.items()}, precision="ieee", device="cpu")
    return tuple(map(p.host, as_tuple(p.call(of, own)())))


@pytest.mark.parametrize("provider", ["reference", "torch"])
@pytest.mark.parametrize(("op", "variant", "mode", "dtype"), CASES)
def test_right_outputs_pass_and_outputs_one_percent_off_do_not(provider, op, variant, mode, dtype):
    of = case(op, variant, mode, SMALL[op], dtype)
    inputs = drawn(of.variant, of.shape, dtype)
    by = expected(of, inputs)
    got = outputs(provider, of, inputs)
    assert wrong(got, by) is None
    assert inputs.keys() == drawn(of.variant, of.shape, dtype).keys()
    for i, (y, want) in enumerate(zip(got, by.want, strict=False)):
        if want.dtype.kind == "f":
            off = (y.astype(np.float64) * 1.01).astype(y.dtype)
            assert f"output {i}" in wrong((*got[:i], off, *got[i + 1 :]), by)


def test_what_is_wrong_is_named():
    of = case("softmax", "softmax", "forward", (4, 8))
    inputs = drawn(of.variant, of.shape, "float32")
    by = expected(of, inputs)
    y = outputs("reference", of, inputs)[0]
    assert "not finite" in wrong((np.where(y > 0.5, np.nan, y),), by)
    assert wrong((y.T,), by) == "output 0: is (8, 4); expected (4, 8)".replace("0: is", "0 is")
    assert "worst 0.0 for" in wrong((np.zeros_like(y),), by)
    assert wrong((y[::-1],), by) is not None


def test_a_large_result_is_checked_on_rows_from_its_first_to_its_last(monkeypatch):
    monkeypatch.setattr(check, "PART", 64)
    of = case("softmax", "softmax", "forward", (100, 8))
    inputs = drawn(of.variant, of.shape, "float32")
    by = expected(of, inputs)
    assert by.rows[0] == 0 and by.rows[-1] == 99 and len(by.rows) == 8 and by.want[0].shape == (8, 8)
    y = outputs("reference", of, inputs)[0]
    assert wrong((y,), by) is None
    for row in (0, 99):
        bad = y.copy()
        bad[row] *= 1.05
        assert wrong((bad,), by) is not None
    assert wrong((y[:50],), by) == "output 0 is (50, 8); expected (100, 8)"


def test_long_sums_may_lose_what_any_order_loses_and_no_more():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 100_000), dtype=np.float32)
    want = x.sum(1, dtype=np.float64)
    one_by_one = np.add.accumulate(x, axis=1)[:, -1]  # float32, in order
    exact = want.astype(np.float32)
    assert complaint(one_by_one, want, exact) is not None
    assert complaint(one_by_one, want, exact, terms=100_000) is None
    assert complaint(one_by_one * np.float32(1.001), want, exact, terms=100_000) is not None


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("terms", [1, 10**12])
def test_one_percent_off_everywhere_is_wrong_however_poor_the_baseline(dtype, terms):
    want = np.random.default_rng(0).standard_normal((20, 30)) + 3
    poor = (want * 1.1).astype(DTYPES[dtype])
    for off, is_right in ((1.005, True), (0.995, True), (1.01, False), (0.99, False)):
        got = (want * off).astype(DTYPES[dtype])
        assert (complaint(got, want, poor, terms) is None) == is_right, off


def test_tf32_keeps_ten_bits_and_cuts_the_rest():
    one = np.float32(1)
    step = np.float32(2.0**-10)
    x = np.array([1, 1 + 2.0**-12, 1 + 2.0**-11, 1 + 3 * 2.0**-11, -1 - 2.0**-11 - 2.0**-20], np.float32)
    np.testing.assert_array_equal(to_tf32(x), [one, one, one, one + step, -one])
    assert to_tf32(np.arange(3)).dtype == np.int64
