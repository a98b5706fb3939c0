"""Floating-point instructions: rounding, ties, NaN, subnormal numbers, fusing (PTX ISA 9.7.3, 9.7.4, 9.7.6)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import bits, lanewise
from tilegrad.kernels.checks import bfloat16

F = np.float32
NAN, INF, TINY = F(np.nan), F(np.inf), np.finfo(F).smallest_subnormal


def f32(body: str, *values) -> np.ndarray:
    return lanewise(body, *(np.atleast_1d(F(v)) for v in values), result=F)


def nearest(exact: Fraction) -> np.float32:
    """A rational as float32, to nearest, ties to even, by comparing with its neighbours."""
    guess = F(float(exact))
    around = [np.nextafter(guess, F(-np.inf)), guess, np.nextafter(guess, INF)]
    best = min(abs(Fraction(float(x)) - exact) for x in around)
    winners = [x for x in around if abs(Fraction(float(x)) - exact) == best]
    return next(x for x in winners if len(winners) == 1 or not int(bits(x)) & 1)


def test_fma_rounds_once():
    """Where float64 lands on a middle between two float32, what it rounded off decides."""
    one, eps = F(1), F(2.0**-23)
    cases = [
        (one + eps, one + eps, F(2.0**-70)),
        (F(1 + 2.0**-12), F(1 + 2.0**-12), F(2.0**-60)),
        (F(1 + 3 * 2.0**-12), F(1 + 2.0**-12), F(-(2.0**-60))),
        (F(16777217 - 1), one + eps, F(2.0**-40)),
        (F(2.0**-100), F(2.0**-46), F(2.0**-126)),
        (F(2.0**-75), F(2.0**-75), TINY),
        (F(-(2.0**-75)), F(2.0**-75), TINY),
        (F(2.0**-75) * F(1.5), F(2.0**-75), F(0)),
        (F(2.0**-75 + 2.0**-95), F(2.0**-75 - 2.0**-95), F(2.0**-127 + 2.0**-149)),  # a middle of subnormal ones
    ]
    rng = np.random.default_rng(0)
    for scale in (1, 2.0**-24, 2.0**-25, 2.0**-60):  # the sum then has ties that a rest breaks
        a, b = (1 + rng.integers(0, 1 << 12, 250) * 2.0**-12 for _ in range(2))
        c = np.where(rng.random(250) < 0.5, 1, -1) * rng.integers(1, 1 << 10, 250) * scale
        cases += list(zip(F(a), F(b), F(c)))
    a, b, c = (F(each) for each in zip(*cases))
    got = f32("fma.rn.f32 %d, %a0, %a1, %a2;", a, b, c)
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c)]
    assert bits(got).tolist() == [int(bits(nearest(e))) for e in exact]
    twice = (a.astype(np.float64) * b + c).astype(F)
    assert (bits(twice) != bits(got)).any(), "no case here shows the difference"


@pytest.mark.parametrize(("mode", "up", "down"), [("rn", 0, 0), ("rz", 0, 0), ("rm", 0, 1), ("rp", 1, 0)])
def test_rounding_modes(mode, up, down):
    """1 + 2^-30 and -1 - 2^-30: in units of the last digit away from what is nearest."""
    got = f32(f"add.{mode}.f32 %d, %a0, %a1;", [1, -1], [2.0**-30, -(2.0**-30)])
    assert got.tolist() == [1 + up * 2.0**-23, -1 - down * 2.0**-23]
    got = f32(f"fma.{mode}.f32 %d, %a0, %a1, %a2;", [1, -1], [1, 1], [2.0**-30, -(2.0**-30)])
    assert got.tolist() == [1 + up * 2.0**-23, -1 - down * 2.0**-23]
    got = f32(f"mul.{mode}.f32 %d, %a0, %a1;", [1 + 2.0**-23], [1 + 2.0**-23])
    assert got[0] == F(1 + 2.0**-22) + up * F(2.0**-23)


def test_ties_go_to_even():
    got = f32("add.f32 %d, %a0, %a1;", [2.0**24, 2.0**24 + 2], [1, 1])
    assert got.tolist() == [2.0**24, 2.0**24 + 4]


def test_subnormal_numbers_stay_without_ftz():
    assert f32("mul.f32 %d, %a0, %a1;", 2.0**-126, 0.5)[0] == F(2.0**-127)
    assert bits(f32("mul.ftz.f32 %d, %a0, %a1;", -(2.0**-126), 0.5))[0] == 0x80000000
    assert bits(f32("add.ftz.f32 %d, %a0, %a1;", -(2.0**-127), -0.0))[0] == 0x80000000
    assert f32("fma.rn.ftz.f32 %d, %a0, %a1, %a2;", 2.0**-127, 2, 3)[0] == 3


def test_saturation():
    assert f32("add.sat.f32 %d, %a0, %a1;", [-1, 0.25, 7, NAN], [0, 0.25, 0, 0]).tolist() == [0, 0.5, 1, 0]
    assert f32("cvt.sat.f32.f32 %d, %a0;", [-0.5, 0.5, INF, NAN]).tolist() == [0, 0.5, 1, 0]


MIN_MAX = [  # form, a, b, bits
    ("max.f32", NAN, 1, bits(F(1))),
    ("max.f32", 1, NAN, bits(F(1))),
    ("max.f32", NAN, NAN, 0x7FFFFFFF),
    ("max.NaN.f32", NAN, 1, 0x7FFFFFFF),
    ("max.NaN.f32", 1, NAN, 0x7FFFFFFF),
    ("min.NaN.f32", 1, NAN, 0x7FFFFFFF),
    ("min.f32", NAN, -INF, bits(F(-np.inf))),
    ("max.f32", -0.0, 0.0, 0),
    ("max.f32", 0.0, -0.0, 0),
    ("min.f32", 0.0, -0.0, 0x80000000),
    ("min.NaN.f32", -0.0, 0.0, 0x80000000),
    ("max.ftz.f32", -1, 2.0**-130, 0),
]


@pytest.mark.parametrize(("form", "a", "b", "want"), MIN_MAX)
def test_extremes(form, a, b, want):
    assert bits(f32(f"{form} %d, %a0, %a1;", a, b))[0] == int(want)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_extremes_of_halves_and_pairs(kind):
    dtype = np.dtype(np.float16) if kind == "f16" else bfloat16
    a, b = np.array([np.nan, 1, -0.0, 5], dtype).view(np.uint16), np.array([2, np.nan, 0, -5], dtype).view(np.uint16)
    want = np.array([2, 1, 0, 5], dtype).view(np.uint16)
    assert lanewise(f"max.{kind} %d, %a0, %a1;", a, b, result=np.uint16).tolist() == want.tolist()
    got = lanewise(f"max.NaN.{kind} %d, %a0, %a1;", a, b, result=np.uint16)
    assert got.tolist() == [0x7FFF, 0x7FFF, 0, want[3]]
    pairs = lanewise(f"max.NaN.{kind}x2 %d, %a0, %a1;", a.view(np.uint32), b.view(np.uint32))
    assert pairs.view(np.uint16).tolist() == got.tolist()


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_sums_and_products_of_halves_are_rounded_once(name, kind):
    """Against rationals, over numbers that make ties, on halves and on pairs of them."""
    dtype = np.dtype(np.float16) if kind == "f16" else bfloat16
    rng = np.random.default_rng(1)
    a, b = ((rng.standard_normal(512) * 2.0 ** rng.integers(-6, 6, 512)).astype(dtype) for _ in range(2))
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name]
    want = function(a.astype(np.float64), b.astype(np.float64))
    exact = np.array([half_nearest(x, dtype) for x in want], dtype).view(np.uint16)
    u, v = a.view(np.uint16), b.view(np.uint16)
    assert (lanewise(f"{name}.{kind} %d, %a0, %a1;", u, v, result=np.uint16) == exact).all()
    pairs = lanewise(f"{name}.{kind}x2 %d, %a0, %a1;", u.view(np.uint32), v.view(np.uint32))
    assert (pairs.view(np.uint16) == exact).all()


def half_nearest(x: float, dtype: np.dtype) -> float:
    """A float64 to the nearest of a 16-bit format, ties to even, by scaling it to integers."""
    fraction, least = (10, -24) if dtype == np.float16 else (7, -133)
    unit = 2.0 ** max(np.frexp(x)[1] - 1 - fraction, least)
    return float(np.rint(x / unit) * unit)  # rint: ties to even


def test_fma_of_halves_rounds_once():
    """1 * 1 + 2^-11 is a tie of float16; a rest far below decides it, and float32 would have lost it."""
    one, tie = np.float16(1), np.float16(2.0**-11)
    a, b = np.float16([1 + 2.0**-10]), np.float16([2.0**-11])
    got = lanewise("fma.rn.f16 %d, %a0, %a1, %a2;", bits(a), bits(b), bits(np.float16([1])), result=np.uint16)
    assert got.view(np.float16)[0] == np.float16(1 + 2.0**-10) and one + tie == one
    a, b, c = (np.array([x], bfloat16).view(np.uint16) for x in (1.0625, 1.0625, 2.0**-40))  # a tie, and a rest
    got = lanewise("fma.rn.bf16 %d, %a0, %a1, %a2;", a, b, c, result=np.uint16)
    assert got.view(bfloat16)[0] == 1 + 17 * 2.0**-7
    a, b, c = (np.array([x], bfloat16).view(np.uint16) for x in (2.0**-60, 2.0**-60, 1 + 2.0**-7))
    got = lanewise("fma.rn.bf16 %d, %a0, %a1, %a2;", a, b, c, result=np.uint16)
    assert got[0] == c[0]


def test_division_and_roots():
    rng = np.random.default_rng(2)
    a, b = F(rng.standard_normal(1000)), F(rng.standard_normal(1000))
    want = (a.astype(np.float64) / b).astype(F)  # a quotient of float32 is never so near a tie that this is wrong
    assert (f32("div.rn.f32 %d, %a0, %a1;", a, b) == want).all()
    assert (f32("div.full.f32 %d, %a0, %a1;", a, b) == want).all()
    assert (f32("sqrt.rn.f32 %d, %a0;", a**2) == np.sqrt((a**2).astype(np.float64)).astype(F)).all()
    assert np.isnan(f32("sqrt.rn.f32 %d, %a0;", -1)[0]) and bits(f32("sqrt.rn.f32 %d, %a0;", -0.0))[0] == 0x80000000
    assert f32("div.rn.f32 %d, %a0, %a1;", [1, -1], [0, 0]).tolist() == [np.inf, -np.inf]
    assert f32("rcp.rn.f32 %d, %a0;", 3)[0] == F(1 / 3)


def test_approximations_are_exact_and_then_rounded():
    x = np.linspace(-140, 127, 700, dtype=F)
    assert (f32("ex2.approx.f32 %d, %a0;", x) == np.exp2(x.astype(np.float64)).astype(F)).all()
    flushed = f32("ex2.approx.ftz.f32 %d, %a0;", x)
    assert (flushed[x < -126] == 0).all() and (flushed[x >= -126] > 0).all()
    assert f32("ex2.approx.f32 %d, %a0;", [-np.inf, np.inf]).tolist() == [0, np.inf]
    assert f32("lg2.approx.f32 %d, %a0;", [8, 0]).tolist() == [3, -np.inf]
    assert f32("rcp.approx.ftz.f32 %d, %a0;", [4]).tolist() == [0.25]


def test_signs_are_bits():
    assert bits(f32("neg.f32 %d, %a0;", [0.0, NAN])).tolist() == [0x80000000, int(bits(NAN)) ^ 0x80000000]
    assert bits(f32("abs.f32 %d, %a0;", [-0.0, -3]))[1] == bits(F(3))
    assert f32("copysign.f32 %d, %a0, %a1;", [-1, 1], [5, -6]).tolist() == [-5, 6]
    assert lanewise("abs.bf16x2 %d, %a0;", np.uint32([0xBF803F80]))[0] == 0x3F803F80
    assert lanewise("neg.f16x2 %d, %a0;", np.uint32([0x3C00BC00]))[0] == 0xBC003C00


ORDERED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@pytest.mark.parametrize("name", [*ORDERED, *(f"{n}u" for n in ORDERED), "num", "nan"])
def test_comparisons_with_nan(name):
    """Without u a comparison is false where one is NaN, `ne` too; with u it is true."""
    a, b = (F(each).ravel() for each in np.meshgrid([-1, 0, -0.0, 2, NAN], [-1, 0, 2, NAN]))
    got = lanewise(f"setp.{name}.f32 %p0, %a0, %a1; selp.b32 %d, 1, 0, %p0;", a, b)
    for x, y, found in zip(a.tolist(), b.tolist(), got):
        unordered = x != x or y != y
        if name in ("num", "nan"):
            want = unordered == (name == "nan")
        else:
            want = name[-1] == "u" and len(name) == 3 if unordered else eval(f"{x} {ORDERED[name[:2]]} {y}")
        assert found == want, (name, x, y)


def test_comparisons_of_pairs_and_integers():
    a, b = np.float16([1, 5, 3, np.nan]).view(np.uint32), np.float16([2, 4, 3, 0]).view(np.uint32)
    body = "setp.{}.f16x2 %p0|%p1, %a0, %a1; selp.b32 %r0, 1, 0, %p0; selp.b32 %d, 2, 0, %p1; or.b32 %d, %d, %r0;"
    assert lanewise(body.format("gt"), a, b).tolist() == [2, 0]
    assert lanewise(body.format("gtu"), a, b).tolist() == [2, 2]
    a, b = np.uint32([0xFFFFFFFF, 1]), np.uint32([1, 0xFFFFFFFF])
    for form, want in (("lt.s32", [1, 0]), ("lt.u32", [0, 1]), ("hi.u32", [1, 0]), ("ne.b32", [1, 1])):
        assert lanewise(f"setp.{form} %p0, %a0, %a1; selp.b32 %d, 1, 0, %p0;", a, b).tolist() == want
    body = "setp.eq.b32 %p0, %a0, 1; setp.eq.and.b32 %p1|%p2, %a1, -1, %p0; selp.b32 %r0, 1, 0, %p1;"
    assert lanewise(body + "selp.b32 %d, 2, 0, %p2; or.b32 %d, %d, %r0;", a, b).tolist() == [0, 1]
