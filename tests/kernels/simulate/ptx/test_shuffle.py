"""shfl.sync at its edges, vote and redux (PTX ISA 9.7.9, 9.7.13)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import lanewise
from tilegrad.kernels.simulate.ptx.faults import Fault

LANE = np.arange(32, dtype=np.uint32)
VALUES = LANE + 100


def shuffled(mode: str, b: int, c: int) -> tuple[list[int], list[int]]:
    """(source lanes, predicates) of a whole warp."""
    body = f"shfl.sync.{mode}.b32 %r0|%p0, %a0, {b}, {c}, -1; selp.b32 %r1, 1000, 0, %p0; add.s32 %d, %r0, %r1;"
    got = lanewise(body, VALUES)
    return (got % 1000 - 100).tolist(), (got // 1000).tolist()


def expected(mode: str, b: int, c: int) -> tuple[list[int], list[int]]:
    """The manual's pseudo code."""
    sources, found = [], []
    for lane in range(32):
        b5, clamp, segment = b & 31, c & 31, c >> 8 & 31
        highest, lowest = (lane & segment) | (clamp & ~segment & 31), lane & segment
        j = {"up": lane - b5, "down": lane + b5, "bfly": lane ^ b5, "idx": lowest | (b5 & ~segment & 31)}[mode]
        inside = j >= highest if mode == "up" else j <= highest
        sources.append(j if inside else lane)
        found.append(int(inside))
    return sources, found


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("b", [0, 1, 5, 16, 31, 33])
@pytest.mark.parametrize("c", [0, 31, 0x181F, 0x1F1F, 0x1800, 7])
def test_sources_and_predicates(mode, b, c):
    sources, found = expected(mode, b, c)
    assert shuffled(mode, b, c) == (sources, found)


def test_the_ends_keep_their_own():
    """By hand: down by 1 with c = 31 leaves the last lane, up by 1 with c = 0 the first."""
    assert shuffled("down", 1, 31)[0] == [*range(1, 32), 31]
    assert shuffled("up", 1, 0) == ([0, *range(31)], [0] + [1] * 31)
    assert shuffled("bfly", 16, 31)[0] == [*range(16, 32), *range(16)]


def test_warps_do_not_mix():
    values = np.arange(96, dtype=np.uint32)
    assert lanewise("shfl.sync.bfly.b32 %d, %a0, 31, 31, -1;", values).tolist() == [
        *range(31, -1, -1), *range(63, 31, -1), *range(95, 63, -1),
    ]  # fmt: skip


def test_a_lane_that_does_not_execute_it_has_no_value():
    body = "setp.lt.u32 %p0, %a0, 116; mov.b32 %d, 0; @%p0 shfl.sync.idx.b32 %d, %a0, {}, 31, 0xFFFF;"
    assert lanewise(body.format(15), VALUES).tolist() == [115] * 16 + [0] * 16
    with pytest.raises(Fault, match="takes the value of lane 20, which does not execute this"):
        lanewise(body.format(20), VALUES)


def test_all_lanes_of_the_mask_must_come():
    body = "setp.lt.u32 %p0, %a0, 116; mov.b32 %d, 0; @%p0 shfl.sync.idx.b32 %d, %a0, 0, 31, {};"
    with pytest.raises(Fault, match=r"thread \(16, 0, 0\): .*: this lane of the member mask executes something else"):
        lanewise(body.format(-1), VALUES)
    with pytest.raises(Fault, match="the member mask lacks the lane itself"):
        lanewise(body.format(0xFF), VALUES)


def test_lanes_that_have_ended_may_be_missing():
    body = "setp.ge.u32 %p0, %a0, 116; @%p0 ret; shfl.sync.idx.b32 %d, %a0, 3, 31, -1;"
    assert lanewise(body, VALUES).tolist() == [103] * 16 + [0] * 16


@pytest.mark.parametrize(
    ("form", "want"),
    [("add.s32", -240), ("add.u32", 2**32 - 240), ("min.s32", -23), ("max.u32", 2**32 - 1), ("max.s32", 8)],
)
def test_redux(form, want):
    got = lanewise(f"redux.sync.{form} %d, %a0, -1;", np.arange(-23, 9, dtype=np.int32), result=np.int32)
    assert (got == np.int64(want).astype(np.int32)).all()


def test_redux_of_some_lanes():
    body = "setp.lt.u32 %p0, %a0, 104; mov.b32 %d, 9; @%p0 redux.sync.{} %d, %a0, 15;"
    assert lanewise(body.format("add.s32"), VALUES).tolist() == [406] * 4 + [9] * 28
    assert lanewise(body.format("min.u32"), VALUES)[0] == 100
    assert lanewise(body.format("and.b32"), VALUES)[0] == 100


def test_vote():
    body = "setp.{} %p0, %a0, 100; vote.sync.{}.pred %p1, %p0, -1; selp.b32 %d, 1, 0, %p1;"
    for compare, mode, want in [
        ("ge.u32", "all", 1), ("gt.u32", "all", 0), ("gt.u32", "any", 1), ("lt.u32", "any", 0), ("lt.u32", "uni", 1),
        ("gt.u32", "uni", 0),
    ]:  # fmt: skip
        assert (lanewise(body.format(compare, mode), VALUES) == want).all()
    ballot = lanewise("setp.gt.u32 %p0, %a0, 129; vote.sync.ballot.b32 %d, %p0, -1;", VALUES)
    assert (ballot == 0xC0000000).all()
