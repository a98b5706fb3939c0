"""Integer instructions against the manual's definitions, most of them in Python's integers (PTX ISA 9.7.1, 9.7.8)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import lanewise
from tilegrad.kernels.simulate.ptx.faults import Fault

EDGES = {16: [0, 1, 2, 7, 0x7FFF, 0x8000, 0x8001, 0xFFFF], 32: [0, 1, 3, 31, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]}
EDGES[64] = [0, 1, 5, 63, 2**31, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 0x123456789ABCDEF0]


def signed(n: int, width: int, kind: str) -> int:
    return n - (1 << width) if kind == "s" and n >> (width - 1) else n


def toward_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


PYTHON = {
    "add": lambda a, b, w: a + b,
    "sub": lambda a, b, w: a - b,
    "mul.lo": lambda a, b, w: a * b,
    "mul.hi": lambda a, b, w: a * b >> w,
    "min": lambda a, b, w: min(a, b),
    "max": lambda a, b, w: max(a, b),
    "div": lambda a, b, w: toward_zero(a, b),
    "rem": lambda a, b, w: a - b * toward_zero(a, b),
}


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("name", PYTHON)
def test_two_sources(name, kind):
    """With wrap-around: the smallest number by -1 too."""
    width = int(kind[1:])
    a, b = (each.ravel() for each in np.meshgrid(*[np.array(EDGES[width], f"u{width // 8}")] * 2))
    if name in ("div", "rem"):
        a, b = a[b != 0], b[b != 0]
    got = lanewise(f"{name}.{kind} %d, %a0, %a1;", a, b, result=a.dtype)
    numbers = [(signed(int(x), width, kind[0]), signed(int(y), width, kind[0])) for x, y in zip(a, b)]
    assert got.tolist() == [PYTHON[name](x, y, width) & (1 << width) - 1 for x, y in numbers]


@pytest.mark.parametrize("kind", ["u16", "s64"])
@pytest.mark.parametrize("name", ["div", "rem"])
def test_a_division_by_zero_is_a_fault(name, kind):
    """Also by a constant; not in a thread that does not execute it."""
    b = np.array([1, 2, 0, 3], f"u{int(kind[1:]) // 8}")
    with pytest.raises(Fault, match=rf"thread \(2, 0, 0\): {name}.{kind}: a division by zero"):
        lanewise(f"{name}.{kind} %d, 7, %a0;", b, result=b.dtype)
    with pytest.raises(Fault, match=rf"thread \(0, 0, 0\): {name}.{kind}: a division by zero"):
        lanewise(f"{name}.{kind} %d, %a0, 0;", b, result=b.dtype)
    guarded = f"mov.b{kind[1:]} %d, 0; setp.ne.{kind} %p1, %a0, 0; @%p1 {name}.{kind} %d, 7, %a0;"
    assert lanewise(guarded, b, result=b.dtype).tolist() == ([7, 3, 0, 2] if name == "div" else [0, 1, 0, 1])


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_wide_products(kind):
    width = int(kind[1:])
    a, b = (each.ravel() for each in np.meshgrid(*[np.array(EDGES[width], f"u{width // 8}")] * 2))
    c = np.arange(a.size, dtype=f"u{width // 4}") << 7
    numbers = [signed(int(x), width, kind[0]) * signed(int(y), width, kind[0]) for x, y in zip(a, b)]
    got = lanewise(f"mul.wide.{kind} %d, %a0, %a1;", a, b, result=c.dtype)
    assert got.tolist() == [n & (1 << 2 * width) - 1 for n in numbers]
    got = lanewise(f"mad.wide.{kind} %d, %a0, %a1, %a2;", a, b, c, result=c.dtype)
    assert got.tolist() == [n + int(z) & (1 << 2 * width) - 1 for n, z in zip(numbers, c)]


def test_mad_wraps():
    assert lanewise("mad.lo.s32 %d, %a0, %a1, 7;", np.uint32([0x10000, 3]), np.uint32([0x10001, 5])).tolist() == [
        0x10007,
        22,
    ]


@pytest.mark.parametrize(
    ("form", "n", "want"),
    [
        ("shl.b32", 31, 0x80000000),
        ("shl.b32", 32, 0),
        ("shl.b32", 0xFFFFFFFF, 0),
        ("shr.u32", 31, 1),
        ("shr.u32", 32, 0),
        ("shr.s32", 31, 0xFFFFFFFF),
        ("shr.s32", 400, 0xFFFFFFFF),
        ("shr.b32", 4, 0x08000000),
    ],
)
def test_shifts_by_more_than_the_width(form, n, want):
    assert lanewise(f"{form} %d, %a0, %a1;", np.uint32([0x80000001]), np.uint32([n]))[0] == want


def test_shifts_of_other_widths():
    assert lanewise("shr.s64 %d, %a0, 70;", np.uint64([2**63]), result=np.uint64)[0] == 2**64 - 1
    assert lanewise("shl.b16 %d, %a0, 15;", np.uint16([3]), result=np.uint16)[0] == 0x8000
    assert lanewise("shr.s16 %d, %a0, 1;", np.uint16([0x8000]), result=np.uint16)[0] == 0xC000


def extracted(a: int, position: int, length: int, kind: str) -> int:
    """bfe as the manual's pseudo code has it."""
    msb = int(kind[1:]) - 1
    position, length = position & 0xFF, length & 0xFF
    sign = 0 if kind[0] == "u" or length == 0 else a >> min(position + length - 1, msb) & 1
    taken = [a >> (position + i) & 1 if i < length and position + i <= msb else sign for i in range(msb + 1)]
    return sum(bit << i for i, bit in enumerate(taken))


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bit_fields(kind):
    width = int(kind[1:])
    cases = [(p, n) for p in (0, 3, 31, 32, 63, 64, 255, 256) for n in (0, 1, 5, 29, 32, 64, 255)]
    position, length = np.array(cases, np.uint32).T.copy()
    for value in (0xDEADBEEF, 0x12345678, 0xDEADBEEF12345678):
        a = value & (1 << width) - 1
        source = np.full(len(cases), a, f"u{width // 8}")
        got = lanewise(f"bfe.{kind} %d, %a0, %a1, %a2;", source, position, length, result=source.dtype)
        assert got.tolist() == [extracted(a, p, n, kind) for p, n in cases]


@pytest.mark.parametrize(
    ("position", "length", "want"),
    [
        (0, 8, 0xFFFFFF55),
        (8, 4, 0xFFFFF5FF),
        (28, 8, 0x5FFFFFFF),
        (32, 8, 0xFFFFFFFF),
        (0, 0, 0xFFFFFFFF),
        (0, 32, 0x55),
    ],
)
def test_a_field_is_put_in(position, length, want):
    got = lanewise(f"bfi.b32 %d, %a0, %a1, {position}, {length};", np.uint32([0x55]), np.uint32([0xFFFFFFFF]))
    assert got[0] == want


@pytest.mark.parametrize(
    ("selector", "want"), [(0x3210, 0x33221180), (0x7654, 0x77665544), (0x0123, 0x80112233), (0x8809, 0xFFFF8000)]
)
def test_bytes_are_chosen_and_signs_copied(selector, want):
    assert lanewise(f"prmt.b32 %d, %a0, %a1, {selector};", np.uint32([0x33221180]), np.uint32([0x77665544]))[0] == want


def test_logic():
    a, b = np.uint32([0b1100]), np.uint32([0b1010])
    assert [lanewise(f"{name}.b32 %d, %a0, %a1;", a, b)[0] for name in ("and", "or", "xor")] == [8, 14, 6]
    assert lanewise("not.b32 %d, %a0;", a)[0] == 0xFFFFFFF3
    body = "setp.ne.b32 %p0, %a0, 0; not.pred %p1, %p0; xor.pred %p2, %p0, %p1; selp.b32 %d, 5, 6, %p2;"
    assert lanewise(body, a)[0] == 5


def test_signs_and_counts():
    assert lanewise("neg.s32 %d, %a0;", np.uint32([0x80000000]))[0] == 0x80000000
    assert lanewise("abs.s32 %d, %a0;", np.uint32([0xFFFFFFFB]))[0] == 5
    assert lanewise("popc.b64 %d, %a0;", np.uint64([0xF0000000000000F1]))[0] == 9
    assert lanewise("clz.b32 %d, %a0;", np.uint32([0, 1, 0x00800000])).tolist() == [32, 31, 8]
    assert lanewise("brev.b32 %d, %a0;", np.uint32([0x80000006]))[0] == 0x60000001
