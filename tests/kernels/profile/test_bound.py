"""Occupancy and bounds against figures worked out by hand; the cards against their data sheets."""

from __future__ import annotations

from collections import Counter

import pytest

from tilegrad.kernels.profile.bound import bounds
from tilegrad.kernels.profile.cards import CARDS
from tilegrad.kernels.profile.occupancy import occupancy
from tilegrad.kernels.simulate.ptx.counters.watch import Banks, Counters


@pytest.mark.parametrize(("card", "tflops"), [("A100", 19.5), ("H100", 67), ("H200", 67)])
def test_peaks_are_the_data_sheets(card, tflops):
    assert CARDS[card].fp32 == pytest.approx(tflops * 1e12, rel=0.002)
    assert CARDS[card].tensor["tf32"] * 2 == CARDS[card].tensor["bf16"] == CARDS[card].tensor["f16"]


@pytest.mark.parametrize(
    ("card", "warps", "registers", "shared", "blocks", "limit"),
    [
        ("H200", 8, 32, 0, 8, "warps"),  # 64 warps in all
        ("H200", 1, 32, 0, 32, "blocks"),
        ("H200", 4, 255, 0, 2, "registers"),  # 8192 a warp: 8 warps
        ("H200", 4, 65, 0, 7, "registers"),  # 2304 a warp: 28 warps
        ("H200", 2, 100, 0, 8, "registers"),  # 3328 a warp: 19 warps, of which 16 in fours
        ("H200", 4, 32, 48 << 10, 4, "shared memory"),  # 49 KB of 228
        ("A100", 4, 32, 48 << 10, 3, "shared memory"),  # of 164
        ("H200", 4, 32, 227 << 10, 1, "shared memory"),
        ("A100", 4, 32, 227 << 10, 0, "shared memory"),
    ],
)
def test_occupancy(card, warps, registers, shared, blocks, limit):
    found = occupancy(CARDS[card], warps, registers, shared)
    assert (found.blocks, found.limit) == (blocks, limit)
    assert found.share == blocks * warps / 64


def counters(**given) -> Counters:
    return Counters(blocks=given.pop("blocks", 132), **given)


def test_each_unit_has_its_bound_and_the_longest_is_first():
    """132 blocks, on each multiprocessor of an H200 one."""
    clock = 1.98e9
    c = counters(
        read=4_800_000 // 32, written=0, warps=Counter(integer=132 * 4000), shared_loads=Banks(1, 132 * 500, 132 * 500)
    )
    c.flop = Counter({"fp32": 132 * 256 * 300, "tensor bf16": int(989.4e6), "special": 132 * 16 * 200})
    found = bounds(c, 132, CARDS["H200"])
    want = {"memory": 1e-6, "issue": 1000 / clock, "shared memory": 500 / clock, "fp32": 300 / clock}
    want |= {"tensor bf16": 1e-6, "special": 200 / clock}
    assert found == pytest.approx(want)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_few_blocks_have_few_multiprocessors():
    """The peak of one of 132; the memory's is whole."""
    c = counters(blocks=1, read=100, warps=Counter(integer=4000))
    found = bounds(c, 1, CARDS["H200"])
    assert found == pytest.approx({"issue": 1000 / 1.98e9, "memory": 3200 / 4.8e12})


def test_blocks_that_were_not_run_are_like_those_that_were():
    """But memory moves no more than there is."""
    c = counters(blocks=33, read=100, written=10, held=150, warps=Counter(integer=33 * 4000))
    found = bounds(c, 132, CARDS["H200"])
    assert found == pytest.approx({"issue": 1000 / 1.98e9, "memory": 32 * (150 + 40) / 4.8e12})


def test_of_several_launches_the_mean():
    c = counters(blocks=264, read=200, held=100, warps=Counter(integer=2 * 132 * 4000))
    assert bounds(c, 132, CARDS["H200"]) == pytest.approx({"issue": 1000 / 1.98e9, "memory": 3200 / 4.8e12})
