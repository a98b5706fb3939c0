"""A warp's product is the product of the matrices that the manual's figures put in its registers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.tensor_cores.helpers import (
    a_registers,
    b_registers,
    d_registers,
    encoded,
    random_values,
    same,
)
from tilegrad.kernels.simulate.ptx.tensor_cores import elements
from tilegrad.kernels.simulate.ptx.tensor_cores.mma import Form, mma, read

FORMS = [Form(k, dtype) for dtype in ("f16", "bf16") for k in (8, 16)] + [Form(k, "tf32") for k in (4, 8)]
forms = pytest.mark.parametrize("form", FORMS, ids=str)


def product(form: Form, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
    """From matrices to the registers of D."""
    return mma(form, a_registers(a, form.dtype), b_registers(b, form.dtype), d_registers(c))


def opcode(form: Form) -> str:
    return f"mma.sync.aligned.m16n8k{form.k}.row.col.f32.{form.dtype}.{form.dtype}.f32"


@forms
def test_random_matrices(form):
    rng = np.random.default_rng(0)
    a, b = random_values(rng, (3, 16, form.k)), random_values(rng, (3, form.k, 8))
    c = rng.standard_normal((3, 16, 8)).astype(np.float32)
    exact = (a.astype(np.float64) @ b.astype(np.float64) + c).astype(np.float32)
    got = product(form, a, b, c)
    assert same(got, d_registers(exact))


@forms
def test_every_element_has_its_place(form):
    """A one in A at (0, 0), (0, 1), ... brings each row of B to where it belongs, and the other way round."""
    numbers = np.arange(128, dtype=np.float32)
    b = numbers[: form.k * 8].reshape(1, form.k, 8)
    a = (numbers[: 16 * 8].reshape(16, 8)[:, : form.k] if form.k < 16 else np.arange(256).reshape(16, 16) % 251)[None]
    for k in range(form.k):
        selecting = np.zeros((1, 16, form.k), np.float32)
        selecting[0, :, k] = 1
        picked = mma(
            form, a_registers(selecting, form.dtype), b_registers(b, form.dtype), d_registers(np.zeros((1, 16, 8)))
        )
        assert same(picked, d_registers(np.broadcast_to(b[:, k], (1, 16, 8)))), k
        selecting = np.zeros((1, form.k, 8), np.float32)
        selecting[0, k] = 1
        picked = mma(
            form, a_registers(a, form.dtype), b_registers(selecting, form.dtype), d_registers(np.zeros((1, 16, 8)))
        )
        assert same(picked, d_registers(np.broadcast_to(a[:, :, k, None], (1, 16, 8)))), k
    c = np.arange(128, dtype=np.float32).reshape(1, 16, 8)
    assert same(product(form, np.zeros((1, 16, form.k)), np.zeros((1, form.k, 8)), c), d_registers(c))


@forms
def test_nan_and_infinity(form):
    a, b, c = np.zeros((1, 16, form.k)), np.ones((1, form.k, 8)), np.zeros((1, 16, 8))
    a[0, 0, 0], a[0, 1, 1], a[0, 2, :2], a[0, 3, 2] = np.nan, np.inf, (np.inf, -np.inf), -np.inf
    b[0, 2, 5] = 0  # times an infinity
    c[0, 4, 0], c[0, 5, 0] = np.inf, np.nan
    got = product(form, a, b, c)
    expected = np.zeros((1, 16, 8), np.float32)
    expected[0, 0], expected[0, 1], expected[0, 2], expected[0, 3] = np.nan, np.inf, np.nan, -np.inf
    expected[0, 3, 5], expected[0, 4, 0], expected[0, 5, 0] = np.nan, np.inf, np.nan
    bits = expected.view(np.uint32)
    bits[np.isnan(expected)] = 0x7FFFFFFF
    assert same(got, d_registers(expected))


@forms
def test_subnormals_are_kept(form):
    """Of inputs, as 2^24 times the smallest float16 is 1; and of results."""
    smallest = {"f16": 2.0**-24, "bf16": 2.0**-133, "tf32": 2.0**-136}[form.dtype]
    large = {"f16": 2.0**15, "bf16": 2.0**120, "tf32": 2.0**120}[form.dtype]
    a, b, c = np.zeros((1, 16, form.k)), np.zeros((1, form.k, 8)), np.zeros((1, 16, 8))
    a[0, 0, 0], b[0, 0] = smallest, large
    c[0, 1] = 2.0**-149
    got = product(form, a, b, c)
    expected = c.astype(np.float32)
    expected[0, 0] = smallest * large
    assert (expected[0, :2] != 0).all()
    assert same(got, d_registers(expected))


def test_the_sum_is_rounded_once():
    """1 + 2^-24 + 2^-24 is more than 1 in float32 only if the small ones are added before anything is rounded."""
    a, b = np.zeros((1, 16, 16)), np.ones((1, 16, 8))
    a[0, :, 3], a[0, :, 9] = 2.0**-24, 2.0**-24
    got = mma(Form(16, "f16"), a_registers(a, "f16"), b_registers(b, "f16"), d_registers(np.ones((1, 16, 8))))
    assert same(got, d_registers(np.full((1, 16, 8), 1 + 2.0**-23)))


def test_products_past_the_largest_float32_are_infinite():
    a, b = np.full((1, 16, 8), 2.0**100), np.full((1, 8, 8), 2.0**100)
    got = mma(Form(8, "tf32"), a_registers(a, "tf32"), b_registers(b, "tf32"), d_registers(np.zeros((1, 16, 8))))
    assert same(got, d_registers(np.full((1, 16, 8), np.inf)))


def test_the_lower_bits_of_a_tf32_do_not_count():
    one = encoded(np.ones(1), "tf32")
    assert (elements.values(one | np.uint32(0x1FFF), "tf32") == 1).all()
    assert (elements.values(one + np.uint32(0x2000), "tf32") == 1 + 2.0**-10).all()


def test_cvt_rna_tf32_rounds_ties_away_from_zero():
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [
            rng.integers(0, 2**32, 10000, np.uint64).astype(np.uint32).view(np.float32),
            np.array(
                [1 + 2.0**-11, -1 - 2.0**-11, 1 + 3 * 2.0**-11, np.finfo(np.float32).max, -0.0, 2.0**-149], np.float32
            ),
        ]
    )
    x = x[~np.isnan(x)]
    got = elements.cvt_rna_tf32_f32(x.view(np.uint32)).view(np.float32)
    exact = x.astype(np.float64)
    unit = np.exp2(np.maximum(np.frexp(exact)[1] - 1, -126) - 10.0)  # of the last bit
    nearest = np.copysign(np.floor(np.abs(exact) / unit + 0.5) * unit, exact)
    with np.errstate(over="ignore"):
        nearest = nearest.astype(np.float32)
    infinite = np.isinf(x)
    assert np.array_equal(got[~infinite].view(np.uint32), nearest[~infinite].view(np.uint32))
    assert np.array_equal(got[infinite], x[infinite])
    nan = np.array([0x7F800001, 0xFFC00000, 0x7FFFFFFF], np.uint32)
    assert (elements.cvt_rna_tf32_f32(nan) == 0x7FFFFFFF).all()


@forms
def test_opcodes_are_read(form):
    assert read(opcode(form)) == form
    words = form.k * (4 if form.dtype == "tf32" else 2) // 4
    assert form.registers == (words // 2, words // 4, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        "mma.sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16",
        "mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32",
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    ],
)
def test_an_unknown_opcode_is_refused(wrong):
    with pytest.raises(ValueError, match="not a known form"):
        read(wrong)


def test_wrong_registers_are_refused():
    a, b, c = (np.zeros((count, 1, 32), np.uint32) for count in (4, 2, 4))
    with pytest.raises(ValueError, match=r"got \(4, 1, 4\) registers for A, B and C; expected \(4, 2, 4\)"):
        mma(Form(16, "f16"), a, b[:1], c)
    with pytest.raises(ValueError, match=r"got a register \(1, 32\) of int64"):
        mma(Form(16, "f16"), a.astype(np.int64), b, c)
