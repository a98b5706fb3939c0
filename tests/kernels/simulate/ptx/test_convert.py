"""cvt in every mode that is known, mov, and registers that are wider than the instruction (PTX ISA 9.7.9, 9.4)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import bits, lanewise
from tilegrad.kernels.checks import bfloat16

F = np.float32


def test_float32_to_bfloat16_ties_to_even():
    x = np.uint32([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0xFF800000, 0x7F800001, 0x00008000, 0x80018000])
    want = [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0xFF80, 0x7FFF, 0x0000, 0x8002]
    assert lanewise("cvt.rn.bf16.f32 %d, %a0;", x, result=np.uint16).tolist() == want


def test_float32_to_float16_ties_to_even():
    x = F([1 + 2.0**-11, 1 + 3 * 2.0**-11, 65519.996, 65520, 2.0**-25, 3 * 2.0**-25, -(2.0**-26), np.nan])
    want = [0x3C00, 0x3C02, 0x7BFF, 0x7C00, 0, 2, 0x8000, 0x7FFF]
    assert lanewise("cvt.rn.f16.f32 %d, %a0;", x, result=np.uint16).tolist() == want


@pytest.mark.parametrize(("kind", "dtype"), [("f16", np.float16), ("bf16", bfloat16)])
def test_halves_and_back(kind, dtype):
    every = np.arange(1 << 16, dtype=np.uint16)[::97]
    got = lanewise(f"cvt.f32.{kind} %d, %a0;", every[:600], result=F)
    want = every[:600].view(dtype).astype(F)
    assert ((got == want) | (np.isnan(got) & np.isnan(want))).all()
    a, b = F([1.5, -2]), F([3, 1e4])
    pair = lanewise(f"cvt.rn.{kind}x2.f32 %d, %a0, %a1;", a, b).view(np.uint16).reshape(2, 2)
    assert (pair[:, 0] == b.astype(dtype).view(np.uint16)).all() and (
        pair[:, 1] == a.astype(dtype).view(np.uint16)
    ).all()


def test_tf32_ties_go_away_from_zero():
    x = np.uint32([0x3F801000, 0xBF801000, 0x3F800FFF, 0x3F803000, 0x7F800000])
    want = [0x3F802000, 0xBF802000, 0x3F800000, 0x3F804000, 0x7F800000]
    assert lanewise("cvt.rna.tf32.f32 %d, %a0;", x).tolist() == want


TO_INTEGER = [  # mode, type, float, bits
    ("rni", "s32", 2.5, 2),
    ("rni", "s32", 3.5, 4),
    ("rzi", "s32", -2.9, -2),
    ("rmi", "s32", -2.1, -3),
    ("rpi", "s32", -2.9, -2),
    ("rzi", "s32", 3e9, 2**31 - 1),
    ("rzi", "s32", -np.inf, -(2**31)),
    ("rzi", "s32", np.nan, 0),
    ("rzi", "u32", -1, 0),
    ("rzi", "u32", 5e9, 2**32 - 1),
    ("rzi", "u16", 70000, 65535),
    ("rzi", "s16", -40000, -32768),
]


@pytest.mark.parametrize(("mode", "kind", "x", "want"), TO_INTEGER)
def test_float_to_integer(mode, kind, x, want):
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}")
    got = lanewise(f"cvt.{mode}.{kind}.f32 %d, %a0;", F([x]), result=dtype)
    assert got[0] == dtype.type(want)


def test_float_to_wide_integer():
    x = F([2.0**62, -(2.0**63), 2.0**63, 2.0**65])
    got = lanewise("cvt.rzi.s64.f32 %d, %a0;", x, result=np.int64)
    assert got.tolist() == [2**62, -(2**63), 2**63 - 1, 2**63 - 1]
    assert lanewise("cvt.rzi.u64.f32 %d, %a0;", x, result=np.uint64).tolist() == [2**62, 0, 2**63, 2**64 - 1]


def test_integer_to_float_rounds_to_even():
    n = np.uint32([2**24 + 1, 2**24 + 3, 2**32 - 1, 0x80000000])
    assert lanewise("cvt.rn.f32.u32 %d, %a0;", n, result=F).tolist() == [2.0**24, 2.0**24 + 4, 2.0**32, 2.0**31]
    assert lanewise("cvt.rn.f32.s32 %d, %a0;", n, result=F).tolist() == [2.0**24, 2.0**24 + 4, -1, -(2.0**31)]
    n = np.uint64([2**63 + 2**39 + 1, 2**63 + 2**39])  # above a tie, and on it
    want = [2.0**63 + 2.0**40, 2.0**63]
    assert lanewise("cvt.rn.f32.u64 %d, %a0;", n, result=F).tolist() == want


def test_rounding_to_whole_floats():
    x = F([2.5, -2.5, -0.2])
    assert lanewise("cvt.rni.f32.f32 %d, %a0;", x, result=F).tolist() == [2, -2, -0.0]
    assert lanewise("cvt.rpi.f32.f32 %d, %a0;", x, result=F).tolist() == [3, -2, -0.0]
    assert bits(lanewise("cvt.ftz.f32.f32 %d, %a0;", F([2.0**-130]), result=F))[0] == 0


def test_integers_are_cut_off_and_extended():
    n = np.uint32([0x1234FFFE])
    assert lanewise("cvt.u16.u32 %d, %a0;", n, result=np.uint16)[0] == 0xFFFE
    assert lanewise("cvt.s64.s32 %d, %a0;", np.uint32([0xFFFFFFFE]), result=np.int64)[0] == -2
    assert lanewise("cvt.u64.u32 %d, %a0;", np.uint32([0xFFFFFFFE]), result=np.uint64)[0] == 0xFFFFFFFE
    assert lanewise("cvt.s32.s16 %d, %a0;", n, result=np.int32)[0] == -2  # of a wider source the lower bits
    assert lanewise("cvt.s32.s8 %d, %a0;", n, result=np.int32)[0] == -2
    assert lanewise("cvt.u32.s16 %d, %a0;", n)[0] == 0xFFFFFFFE  # the source's type says how it is extended
    assert lanewise("cvt.sat.u16.s32 %d, %a0;", np.int32([-5]), result=np.uint16)[0] == 0
    assert lanewise("cvt.sat.s16.s32 %d, %a0;", np.int32([70000]), result=np.int16)[0] == 32767


def test_a_load_of_fewer_bits_is_extended_by_its_type():
    x = np.uint16([0x8001, 0x7FFF])
    body = "mul.lo.s64 %at, %il, 2; ld.param.u64 %ptr, [p0]; add.s64 %at, %at, %ptr; ld.global.{} %d, [%at];"
    assert lanewise(body.format("s16"), x, result=np.int64).tolist() == [-32767, 32767]
    assert lanewise(body.format("u16"), x, result=np.int64).tolist() == [32769, 32767]
    assert lanewise(body.format("b16"), x, result=np.int64).tolist() == [32769, 32767]


def test_mov_packs_and_unpacks_lowest_first():
    x = np.uint64([0x1111222233334444])
    body = "mov.b64 {%h0, %h1, %h2, %h3}, %a0; mov.b64 %d, {%h3, %h2, %h1, %h0};"
    assert lanewise(body, x, result=np.uint64)[0] == 0x4444333322221111
    assert lanewise("mov.b64 {_, %d}, %a0;", x)[0] == 0x11112222
    assert lanewise("mov.b32 %d, {%h0, %h1};", x)[0] == 0xFFFFFFFF  # nothing was written to them


def test_numbers_in_the_text():
    one = np.uint32([0])
    assert lanewise("add.s32 %d, %a0, -2147483648;", one)[0] == 0x80000000
    assert lanewise("and.b32 %d, %a0, 0xFF0U;", ~one)[0] == 0xFF0
    assert lanewise("add.f32 %d, %a0, 0fBF800000;", one, result=F)[0] == -1
    assert lanewise("mov.b64 %l0, 0d3FF0000000000000; cvt.rn.f32.f64 %d, %l0;", one, result=F)[0] == 1
