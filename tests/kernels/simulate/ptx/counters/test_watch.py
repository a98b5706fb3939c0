"""Hand-written PTX whose counts were worked out by hand, of one warp or two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import module, named, run
from tilegrad.kernels.simulate.ptx import execute
from tilegrad.kernels.simulate.ptx.counters.watch import Counters, Watch

HEAD = """.reg .b32 %i, %at; .reg .b64 %il;
mov.u32 %i, %tid.x; cvt.u64.u32 %il, %i;
"""
SHARED = ".shared .align 16 .b8 rows[16384];"


def counted(body: str, *arrays: Any, threads: int = 32, declared: str = "", grid: int = 1, blocks: Any = None) -> Any:
    counters = Counters()
    program = execute.program(module(HEAD + body, len(arrays), declared), "snippet")
    parameters = [np.uint64(a.__array_interface__["data"][0]).tobytes() for a in arrays]
    known = [named(i, a) for i, a in enumerate(arrays)]
    launch = (grid, 1, 1), (threads, 1, 1), 0, parameters, known
    execute.run_program(program, *launch, Watch(counters, blocks))
    return counters


def aligned(size: int) -> np.ndarray:
    """So many bytes, at a multiple of 128."""
    memory = np.zeros(size + 128, np.uint8)
    return memory[-memory.__array_interface__["data"][0] % 128 :][:size]


# --- global memory


def global_access(access: str, stride: int, shift: int = 0) -> str:
    """By each thread, `stride` bytes after the one before."""
    return f"ld.param.u64 %l0, [p0]; mul.lo.s64 %l1, %il, {stride}; add.s64 %l0, %l0, %l1;\n{access}\n".replace(
        "AT", f"[%l0+{shift}]"
    )


FOUR = "{%r0, %r1, %r2, %r3}"


@pytest.mark.parametrize(
    ("access", "stride", "shift", "asked", "sectors"),
    [
        ("ld.global.b32 %r0, AT;", 4, 0, 128, 4),  # 32 x 4 bytes side by side
        ("ld.global.b32 %r0, AT;", 4, 4, 128, 5),  # beginning within a sector
        ("ld.global.b32 %r0, AT;", 8, 0, 128, 8),  # every other word
        ("ld.global.b32 %r0, AT;", 512, 0, 128, 32),  # a column: a sector for each lane
        ("ld.global.b32 %r0, AT;", 0, 0, 4, 1),  # one word for all
        ("ld.global.b16 %h0, AT;", 2, 0, 64, 2),
        ("ld.global.b8 %h0, AT;", 1, 0, 32, 1),
        (f"ld.global.v4.b32 {FOUR}, AT;", 16, 0, 512, 16),
        (f"ld.global.v4.b32 {FOUR}, AT;", 64, 0, 512, 32),  # half of each sector
        ("@%p0 ld.global.b32 %r0, AT;", 4, 0, 40, 2),  # 10 lanes
    ],
)
def test_loads(access, stride, shift, asked, sectors):
    found = counted("setp.lt.u32 %p0, %i, 10;\n" + global_access(access, stride, shift), aligned(32 * 512))
    assert (found.loads.accesses, found.loads.bytes, found.loads.sectors) == (1, asked, sectors)
    assert (found.stores.accesses, found.atomics.accesses, found.shared_loads.accesses) == (0, 0, 0)
    assert (found.read, found.written) == (sectors, 0)
    assert found.loads.coalescing == asked / (32 * sectors)


def test_stores_apart_and_each_warp_for_itself():
    """Two warps load the same 128 bytes and store 256: memory is read once."""
    body = "and.b32 %i, %i, 31; cvt.u64.u32 %il, %i;\n" + global_access("ld.global.b32 %r0, AT;", 4)
    body += "mov.u32 %i, %tid.x; cvt.u64.u32 %il, %i;\n" + global_access("st.global.b32 AT, %r0;", 4, 1024)
    found = counted(body, aligned(4096), threads=64)
    assert (found.loads.accesses, found.loads.bytes, found.loads.sectors, found.read) == (2, 256, 8, 4)
    assert (found.stores.accesses, found.stores.bytes, found.stores.sectors, found.written) == (2, 256, 8, 8)


def test_atomics_apart():
    found = counted(global_access("red.global.add.u32 AT, %i;", 0), aligned(64))
    assert (found.atomics.accesses, found.atomics.bytes, found.atomics.sectors) == (1, 4, 1)
    assert (found.loads.accesses, found.stores.accesses, found.read, found.written) == (0, 0, 1, 1)
    assert found.warps["atomic"] == 1


# --- shared memory


def shared_access(access: str, shift_of: str) -> str:
    """Memory is written first; then by each thread at %at, which the text `shift_of` makes of %i."""
    fill = "mov.u32 %at, rows; shl.b32 %r4, %i, 4; add.s32 %at, %at, %r4;\n"
    fill += "".join(f"st.shared.v4.b32 [%at+{512 * k}], {{%i, %i, %i, %i}};\n" for k in range(32)) + "bar.sync 0;\n"
    return f"{fill}{shift_of}\nmov.u32 %r5, rows; add.s32 %at, %r4, %r5;\n{access}\n"


def times(stride: int) -> str:
    return f"mul.lo.u32 %r4, %i, {stride};"


LDMATRIX = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%at];"
SWIZZLED = """shl.b32 %r4, %i, 7; and.b32 %r6, %i, 7; shl.b32 %r6, %r6, 4; add.s32 %r4, %r4, %r6;"""  # of 128-byte rows


@pytest.mark.parametrize(
    ("access", "shift_of", "transactions", "least"),
    [
        ("ld.shared.b32 %r0, [%at];", times(4), 1, 1),
        ("ld.shared.b32 %r0, [%at];", times(0), 1, 1),  # one word for all is no conflict
        ("ld.shared.b32 %r0, [%at];", times(8), 2, 1),  # every other word: two words in each of 16 banks
        ("ld.shared.b32 %r0, [%at];", times(32), 8, 1),
        ("ld.shared.b32 %r0, [%at];", times(128), 32, 1),  # a column of 32 words
        ("ld.shared.b32 %r0, [%at];", times(132), 1, 1),  # the same with a word of padding
        ("ld.shared.b16 %h0, [%at];", times(2), 1, 1),  # two lanes a word
        ("ld.shared.v2.b32 {%r0, %r1}, [%at];", times(8), 2, 2),  # a half of the warp at a time
        (f"ld.shared.v4.b32 {FOUR}, [%at];", times(16), 4, 4),  # a quarter at a time
        (f"ld.shared.v4.b32 {FOUR}, [%at];", times(32), 8, 4),  # 8 lanes meet in 16 banks
        (f"ld.shared.v4.b32 {FOUR}, [%at];", times(128), 32, 4),
        (f"ld.shared.v4.b32 {FOUR}, [%at];", times(0), 4, 4),
        (LDMATRIX, times(128), 32, 4),  # 8 rows of a matrix in the same 4 banks
        (LDMATRIX, SWIZZLED, 4, 4),
        (LDMATRIX, times(16), 4, 4),
        ("@%p0 ld.shared.b32 %r0, [%at];", times(128), 10, 1),  # 10 lanes
    ],
)
def test_banks(access, shift_of, transactions, least):
    found = counted("setp.lt.u32 %p0, %i, 10;\n" + shared_access(access, shift_of), aligned(64), declared=SHARED)
    loads = found.shared_loads
    assert (loads.accesses, loads.transactions, loads.least) == (1, transactions, least)
    assert loads.conflicts == transactions - least
    stores = found.shared_stores  # those that wrote it first
    assert (stores.accesses, stores.transactions, stores.least) == (32, 128, 128)


def test_warps_do_not_conflict_with_each_other():
    body = "mov.u32 %at, rows; shl.b32 %r4, %i, 2; add.s32 %at, %at, %r4;\n"
    found = counted(body + "st.shared.b32 [%at], %i;\nld.shared.b32 %r0, [%at];\n", declared=SHARED, threads=96)
    for banks in (found.shared_loads, found.shared_stores):
        assert (banks.accesses, banks.transactions) == (3, 3)


def test_a_copy_is_a_load_and_a_store():
    """16 bytes a lane; of lanes 16 to 31, which bring 4 bytes, the rest is zeros and moves nothing."""
    body = global_access("mov.u32 %at, rows; mul.lo.u32 %r4, %i, 16; add.s32 %at, %at, %r4;", 16)
    body += "setp.lt.u32 %p0, %i, 16; selp.b32 %r1, 16, {}, %p0;\ncp.async.cg.shared.global [%at], [%l0], 16, %r1;\n"
    body += "cp.async.commit_group;\ncp.async.wait_group 0;\n"
    for few, asked, sectors in ((4, 256 + 64, 16), (0, 256, 8), (16, 512, 16)):
        found = counted(body.format(few), aligned(512), declared=SHARED)
        assert (found.loads.accesses, found.loads.bytes, found.loads.sectors) == (1, asked, sectors)
        assert (found.shared_stores.accesses, found.shared_stores.transactions) == (1, 4)
        assert (found.warps["copy"], found.warps["asynchronous"]) == (1, 2)


# --- instructions, branches, operations


def test_a_branch_at_which_lanes_part():
    """Of two warps only the first parts: 8 of its lanes skip an addition."""
    body = "setp.lt.u32 %p0, %i, 8;\n@%p0 bra $skip;\nadd.s32 %r1, %i, 1;\n$skip:\nmov.b32 %r2, %i;\n"
    found = counted(body, threads=64)
    assert (found.branches, found.divergent) == (2, 1)
    assert (found.threads["integer"], found.warps["integer"]) == (56, 2)
    assert (found.threads["control"], found.warps["control"]) == (8 + 64, 4)  # the branch is taken by 8; ret
    assert (found.threads["move"], found.warps["move"]) == (128, 4)  # the warp is whole again
    assert found.lanes_at_work == found.threads.total() / (32 * found.warps.total())


def test_a_branch_that_all_take_or_none_parts_nobody():
    body = "setp.lt.u32 %p0, %i, {};\n@%p0 bra $skip;\nadd.s32 %r1, %i, 1;\n$skip:\nbra $end;\n$end:\n"
    for bound in (0, 32, 64):
        found = counted(body.format(bound), threads=64)
        assert (found.branches, found.divergent) == (2, 0)
        assert found.warps["integer"] == (64 - bound) // 32


def test_both_ways_of_a_branch_are_issued():
    low = "add.s32 %r1, %i, 1;\nbra $end;\n$low:\nadd.s32 %r1, %i, 2;\n$end:\n"
    found = counted(f"setp.lt.u32 %p0, %i, 8;\n@%p0 bra $low;\n{low}")
    assert (found.threads["integer"], found.warps["integer"]) == (32, 2)
    assert (found.branches, found.divergent) == (1, 1)


def test_a_predicate_that_holds_in_no_lane_is_issued_all_the_same():
    found = counted("setp.gt.u32 %p0, %i, 99;\n@%p0 add.s32 %r1, %i, 1;\n")
    assert (found.threads["integer"], found.warps["integer"]) == (0, 1)


def test_barriers_of_blocks_and_only_the_first_blocks():
    body = "bar.sync 0;\nbar.sync 0;\n"
    found = counted(body, threads=64, grid=5)
    assert (found.barriers, found.warps["barrier"], found.blocks) == (10, 20, 5)
    found = counted(body, threads=64, grid=5, blocks=2)
    assert (found.barriers, found.warps["barrier"], found.blocks) == (4, 8, 2)


MMA = "mma.sync.aligned.m16n8k{k}.row.col.f32.{of}.{of}.f32 {d}, {a}, {b}, {d};"
PARTS = {"d": "{%f0, %f1, %f2, %f3}", "a": "{%r0, %r1, %r2, %r3}", "b": "{%r4, %r5}"}


@pytest.mark.parametrize(
    ("instruction", "kind", "flop"),
    [
        ("fma.rn.f32 %f0, %f1, %f2, %f3;", "float", {"fp32": 64}),
        ("add.f32 %f0, %f1, %f2;", "float", {"fp32": 32}),
        ("mul.f32 %f0, %f1, %f2;", "float", {"fp32": 32}),
        ("max.f32 %f0, %f1, %f2;", "float", {}),
        ("fma.rn.f16x2 %r0, %r1, %r2, %r3;", "float", {"fp16": 128}),
        ("ex2.approx.ftz.f32 %f0, %f1;", "special", {"special": 32}),
        ("div.full.f32 %f0, %f1, %f2;", "special", {"special": 32}),
        ("mad.lo.s32 %r0, %r1, %r2, %r3;", "integer", {}),
        ("cvt.rn.f16.f32 %h0, %f0;", "conversion", {}),
        ("setp.lt.f32 %p0, %f0, %f1;", "compare", {}),
        ("shfl.sync.bfly.b32 %r0, %r1, 1, 31, -1;", "warp", {}),
        (MMA.format(k=16, of="bf16", **PARTS), "tensor core", {"tensor bf16": 2 * 16 * 8 * 16}),
        (MMA.format(k=8, of="tf32", **PARTS), "tensor core", {"tensor tf32": 2 * 16 * 8 * 8}),
    ],
)
def test_operations(instruction, kind, flop):
    none, found = counted(""), counted(f"{instruction}\n")
    assert found.flop == flop
    assert found.warps - none.warps == {kind: 1} and found.threads - none.threads == {kind: 32}


def test_a_run_that_is_watched_does_the_same():
    body = global_access("st.global.b32 AT, %i;", 4)
    watched, plain = aligned(128), aligned(128)
    counted(body, watched)
    run(module(HEAD + body, 1), plain)
    assert np.array_equal(watched, plain) and plain.any()
