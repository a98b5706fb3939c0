"""Two threads that meet in a byte of global memory, or in a word of shared memory by atomic operations."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import module, run
from tilegrad.kernels.simulate.ptx import execute
from tilegrad.kernels.simulate.ptx.faults import Fault, PtxError
from tilegrad.kernels.simulate.ptx.parse import parse
from tilegrad.kernels.simulate.ptx.written import parameters_written

# %l0: this thread's word of array 0 within its block; %l2: this block's; %l4: the first.
START = """.reg .b32 %i, %block, %old; .reg .pred %first, %last, %even;
mov.u32 %i, %tid.x; mov.u32 %block, %ctaid.x; ld.param.u64 %l4, [p0]; ld.param.u64 %l5, [p1];
mul.wide.u32 %l1, %i, 4; add.s64 %l0, %l4, %l1; mul.wide.u32 %l3, %block, 4; add.s64 %l2, %l4, %l3;
setp.eq.s32 %first, %i, 0; mov.b32 %r5, 5; and.b32 %r6, %i, 1; setp.eq.s32 %even, %r6, 0;
xor.b32 %r7, %i, 1; mul.wide.u32 %l6, %r7, 4; add.s64 %l6, %l4, %l6;
xor.b32 %r7, %i, 32; mul.wide.u32 %l7, %r7, 4; add.s64 %l7, %l4, %l7;
"""


def launched(body: str, blocks: int = 1, threads: int = 64) -> tuple[np.ndarray, np.ndarray]:
    memory, other = np.zeros(64, np.uint32), np.zeros(64, np.uint32)
    run(module(START + body, 2), memory, other, grid=(blocks, 1, 1), block=(threads, 1, 1))
    return memory, other


MINE, NEIGHBOURS, OTHER_WARPS = "[%l0]", "[%l6]", "[%l7]"
WRITE, READ = "st.global.b32 {}, %i;\n", "ld.global.b32 %r1, {};\n"
SAME = "st.global.b32 [%l4], %r5;\n"  # one value at one place
ADD = "atom.global.add.u32 %old, [%l4], 1;\n"
BARRIER, WARPS_BARRIER = "bar.sync 0;\n", "bar.warp.sync -1;\n"


APART = "which (wrote|read|changed) it.*; nothing orders two blocks"  # which, depends on the order of the blocks


@pytest.mark.parametrize(
    ("body", "blocks", "message"),
    [
        (WRITE.format(MINE) + READ.format(NEIGHBOURS), 1, r"thread \(1, 0, 0\), which wrote it; no barrier between"),
        (READ.format(NEIGHBOURS) + WRITE.format(MINE), 1, r"thread \(1, 0, 0\), which read it; no barrier between"),
        (
            WRITE.format(MINE) + WARPS_BARRIER + READ.format(OTHER_WARPS),
            1,
            r"thread \(32, 0, 0\), which wrote it; no barrier",
        ),
        (WRITE.format("[%l4]"), 1, "which wrote it in the same instruction"),
        (SAME, 1, r"0, 0, 0\), thread \(\d+, 0, 0\), which wrote it in the same instruction"),
        (
            "setp.lt.s32 %p1, %i, 1;\n@%p1 " + SAME + "@!%p1 " + SAME,
            1,
            r"thread \(0, 0, 0\), which wrote it; no barrier",
        ),
        (WRITE.format(MINE), 2, "which wrote it"),
        (BARRIER + "@%first st.global.b32 [%l2+4], %i;\n" + BARRIER + "@%first ld.global.b32 %r1, [%l2];\n", 2, APART),
        (READ.format("[%l4]") + BARRIER + "@%first " + SAME, 2, APART),
        ("@%first " + ADD + READ.format("[%l4]"), 1, "which changed it atomically; no barrier between"),
        (READ.format("[%l4]") + ADD, 1, "which read it; no barrier between"),
        (ADD + READ.format("[%l4]"), 1, "which changed it atomically"),
        (ADD + BARRIER + READ.format("[%l4]"), 2, APART),
        ("@%first " + SAME + ADD, 1, r"thread \(0, 0, 0\), which wrote it; no barrier between"),
        (ADD.replace("add", "cta.add"), 2, "changed it atomically, one of them with the scope of its block"),
        (
            "setp.eq.s32 %p1, %block, 0;\n@%p1 " + ADD + "@!%p1 " + ADD.replace("add", "cta.add"),
            2,
            "one of them with the scope of its block",
        ),
        (READ.format("[%l4]").replace("global", "volatile.global") + SAME, 1, "which read it"),
        (SAME.replace("global", "volatile.global") + READ.format("[%l4]"), 1, "which changed it atomically"),
        ("st.b32 [%l0], %i; ld.b32 %r1, [%l6];\n", 1, "which wrote it; no barrier between"),
    ],
)
def test_a_race_in_global_memory(body, blocks, message, monkeypatch):
    for lanes in (64, 8192):  # the blocks one after another, and together
        monkeypatch.setattr(execute, "LANES", lanes)
        with pytest.raises(Fault, match=rf"of array 0 \(256 bytes\): a race with block \(.*{message}"):
            launched(body, blocks)


@pytest.mark.parametrize(
    ("body", "blocks"),
    [
        (WRITE.format(MINE) + BARRIER + READ.format(OTHER_WARPS) + BARRIER + WRITE.format(MINE), 1),
        (WRITE.format(MINE) + WARPS_BARRIER + READ.format(NEIGHBOURS) + WARPS_BARRIER + WRITE.format(MINE), 1),
        (WRITE.format(MINE) + READ.format(MINE) + WRITE.format(MINE), 1),
        ("setp.lt.s32 %p1, %i, 32;\n@%p1 " + SAME, 1),
        (READ.format("[%l4]"), 3),
        ("@%first " + WRITE.format("[%l2]") + "@%first " + READ.format("[%l2]"), 3),
        (ADD + "red.global.max.u32 [%l4], %i;\n" + ADD.replace("add", "gpu.relaxed.add"), 3),
        (ADD.replace("add", "cta.add"), 1),
        (READ.format("[%l4]") + BARRIER + "@%first " + SAME, 1),
        (ADD + READ.format("[%l4]").replace("global", "volatile.global"), 3),
        (READ.format("[%l4]") + READ.format("[%l4]").replace("global", "volatile.global"), 3),
    ],
)
def test_what_is_no_race_in_global_memory(body, blocks):
    launched(body, blocks)


def test_bytes_are_told_apart():
    """Two threads write the halves of a word; a third thread reads the word."""
    halves = "mul.wide.u32 %l1, %i, 2; add.s64 %l0, %l4, %l1; cvt.u16.u32 %h0, %i; st.global.b16 [%l0], %h0;\n"
    launched(halves)
    with pytest.raises(Fault, match="byte 2 of array 0 .*: a race"):
        launched(halves + "@%first ld.global.b32 %r1, [%l4];\n")


def test_what_touched_a_wide_cell_touched_all_of_its_parts():
    """A vector of four words, then words: its own thread may, another may not; beside it another may."""
    memory = np.zeros(20, np.uint32)
    known = memory[-memory.__array_interface__["data"][0] % 16 // 4 :][:16]
    body = START + "@%first st.global.v4.b32 [%l4], {{%i, %i, %i, %i}}; ld.global.b32 %r1, [%l4+{}];"
    run(module(body.format(16), 2), known, known, block=(64, 1, 1))
    run(module(body.format(12), 2), known, known, block=(1, 1, 1))
    with pytest.raises(Fault, match="byte 12 of array .*: a race .*, which wrote it"):
        run(module(body.format(12), 2), known, known, block=(64, 1, 1))


@pytest.mark.parametrize("lanes", [64, 8192])
def test_of_many_readers_none_is_forgotten(lanes, monkeypatch):
    """All threads of all blocks read a word, and one of them writes to it: it races with another, whichever it is."""
    monkeypatch.setattr(execute, "LANES", lanes)
    read = "@%first ld.global.b32 %r1, [%l4];\n@!%first ld.global.b32 %r1, [%l4];\n" + BARRIER
    body = read + "setp.eq.s32 %last, %block, {0}; and.pred %last, %last, %first;\n"
    for writer in (0, 1, 2):
        with pytest.raises(Fault, match="which (read|wrote) it; nothing orders two blocks"):
            launched(body.format(writer) + "@%last " + SAME, blocks=3)


# --- releases and acquires: each block writes a word, the last one to count itself adds all of them up

COUNTED = """
@%first st.global.b32 [%l2], %r5;
{behind_the_store}
@%first atom.global.{order}add.u32 %old, [%l5], 1;
{behind_the_count}
setp.eq.s32 %last, %old, 2; and.pred %last, %last, %first;
@!%last bra end;
ld.global.b32 %r1, [%l4]; ld.global.b32 %r2, [%l4+4]; ld.global.b32 %r3, [%l4+8];
add.s32 %r1, %r1, %r2; add.s32 %r1, %r1, %r3; st.global.b32 [%l5+4], %r1;
end:
"""
GPU = "fence.acq_rel.gpu;"


@pytest.mark.parametrize(
    ("order", "behind_the_store", "behind_the_count", "is_ordered"),
    [
        ("", "membar.gl;", "membar.gl;", True),
        ("gpu.relaxed.", GPU, "fence.sc.sys;", True),
        ("gpu.acq_rel.", "", "", True),
        ("gpu.acquire.", GPU, "", True),
        ("gpu.release.", "", GPU, True),
        ("", "", "", False),
        ("gpu.relaxed.", "", GPU, False),
        ("gpu.relaxed.", GPU, "", False),
        ("gpu.release.", "", "", False),
        ("gpu.acquire.", "", "", False),
        ("gpu.relaxed.", "fence.acq_rel.cta;", GPU, False),
        ("gpu.relaxed.", "membar.cta;", "membar.gl;", False),
    ],
)
def test_the_last_block_reads_what_the_others_released(order, behind_the_store, behind_the_count, is_ordered):
    names = {"order": order, "behind_the_store": behind_the_store, "behind_the_count": behind_the_count}
    body = COUNTED.format(**names)
    if is_ordered:
        memory, result = launched(body, blocks=3)
        assert result[:2].tolist() == [3, 15] and memory[:3].tolist() == [5, 5, 5]
    else:
        with pytest.raises(Fault, match=r"array 0 .*which wrote it; nothing orders two blocks"):
            launched(body, blocks=3)


def test_what_a_block_did_before_its_barrier_is_released_by_one_thread():
    """All threads write, one counts for them; all threads of the last block read, behind a barrier."""
    body = """.shared .align 4 .b8 told[4];
    mul.wide.u32 %l3, %block, 128; add.s64 %l2, %l4, %l3; add.s64 %l2, %l2, %l1; st.global.b32 [%l2], %r5;
    {}
    @%first atom.global.gpu.acq_rel.add.u32 %old, [%l5], 1;
    @%first st.shared.b32 [told], %old;
    {}
    ld.shared.b32 %old, [told]; setp.eq.s32 %last, %old, 1;
    @%last ld.global.b32 %r1, [%l6]; @%last ld.global.b32 %r2, [%l6+128];
    """
    launched(body.format(BARRIER, BARRIER), 2, 32)
    with pytest.raises(Fault, match=r"thread \(1, 0, 0\), which wrote it; nothing orders two blocks"):
        launched(body.format("", BARRIER), 2, 32)
    with pytest.raises(Fault, match="of shared memory"):
        launched(body.format(BARRIER, ""), 2, 32)


# --- atomic operations on shared memory

TOLD = ".shared .align 8 .b8 told[16];\n@%first st.shared.b32 [told], %r5;\n" + BARRIER
SHARED_ADD = "atom.shared.add.u32 %old, [told], 2;\n"


@pytest.mark.parametrize("operation", [SHARED_ADD, "red.shared::cta.gpu.relaxed.add.u32 [told], 2;\n"])
def test_atomic_operations_on_shared_memory(operation):
    """Each block has its own."""
    body = TOLD + operation + BARRIER + "ld.shared.b32 %r1, [told]; @%first st.global.b32 [%l2], %r1;\n"
    assert launched(body, blocks=3)[0][:3].tolist() == [5 + 2 * 64] * 3


def test_atomic_operations_on_generic_addresses():
    """Even threads count in global memory, the others in shared memory; each is told what was there."""
    body = (
        TOLD
        + """.reg .b64 %g; mov.u64 %g, told; cvta.shared.u64 %g, %g; selp.b64 %g, %l5, %g, %even;
    atom.add.u32 %old, [%g], 2; bar.sync 0; st.global.b32 [%l0], %old; bar.sync 0;
    ld.shared.b32 %r1, [told]; @%first st.global.b32 [%l5+4], %r1;"""
    )
    memory, other = launched(body)
    assert other[:2].tolist() == [64, 5 + 64]
    assert memory.tolist() == [2 * (i // 2) + 5 * (i % 2) for i in range(64)]
    with pytest.raises(Fault, match="an atomic operation on local memory"):
        launched(".local .align 4 .b8 own[4]; mov.u64 %l1, own; cvta.local.u64 %l1, %l1; red.add.u32 [%l1], 1;")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (SHARED_ADD, "byte 0 of shared memory: read before it was written"),
        (TOLD.replace(BARRIER, "") + SHARED_ADD, "a race with thread 0, which wrote it"),
        (TOLD + SHARED_ADD + "ld.shared.b32 %r1, [told];\n", "which changed it atomically"),
        (TOLD + "ld.shared.b32 %r1, [told];\n" + SHARED_ADD, "which read it"),
        (TOLD + SHARED_ADD + "@%first st.shared.b32 [told], %r5;\n", "which changed it atomically"),
        (TOLD + SHARED_ADD.replace("told", "told+16"), "outside of shared memory"),
        (TOLD + SHARED_ADD.replace("told", "told+2"), "is no multiple of 4 bytes"),
    ],
    ids=["unwritten", "after a write", "then a read", "after a read", "then a write", "outside", "misaligned"],
)
def test_what_may_not_be_done_with_atomic_operations_on_shared_memory(body, message):
    if ".shared .align" not in body:
        body = TOLD.split("@")[0] + body
    with pytest.raises(Fault, match=message):
        launched(body)


@pytest.mark.parametrize(
    "instruction",
    [
        "atom.global.shared.add.u32 %old, [%l4], 1;", "atom.local.add.u32 %old, [%l4], 1;",
        "atom.global.acq_rel.relaxed.add.u32 %old, [%l4], 1;", "red.global.exch.b32 [%l4], 1;", "atom.add;",
        "fence.acq_rel;", "membar.gpu;",
    ],
)  # fmt: skip
def test_other_forms_are_not_known(instruction):
    with pytest.raises(PtxError, match=r"PTX line \d+: .*unknown instruction or modifier"):
        launched(instruction)


# --- where races are looked for


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ("ld.global.b32 %r1, [%l0]; add.s64 %l1, %l5, 8; st.global.b32 [%l1], %r1;", {1}),
        ("selp.b64 %l1, %l4, %l5, %even; red.global.add.u32 [%l1], %r1;", {0, 1}),
        ("ld.global.b64 %l1, [%l4]; st.global.b32 [%l1], %r1;", None),
        ("ld.global.b32 %r1, [%l4]; mul.wide.u32 %l1, %r1, 4; add.s64 %l1, %l1, %l5; st.global.b32 [%l1], %r1;", {1}),
        ("mov.b64 {%r1, %r2}, %l4; mov.b64 %l1, {%r1, %r2}; st.b32 [%l1], %r1;", {0}),
        (".local .align 8 .b8 own[8]; st.local.b64 [own], %l4; ld.local.b64 %l1, [own]; st.b32 [%l1], %r1;", None),
        ("st.global.b32 [4096], %r1;", None),
        ("ld.global.b32 %r1, [%l4];", set()),
        (
            "mov.b64 %l1, %l5; again: st.global.b32 [%l1], %r1; mov.b64 %l1, %l2; mov.b64 %l2, %l4; @%even bra again;",
            {0, 1},
        ),
    ],
)
def test_which_parameters_are_written_to(body, written):
    found = parameters_written(parse(module(START + body, 2)).kernels["snippet"])
    assert found == written and (written is None or found is not None)


def test_what_is_written_against_expectation_is_watched_from_then_on():
    """An address that leads from one array to another."""
    body = "ld.param.u64 %l1, [p1]; sub.s64 %l1, %l1, %l4; mov.b64 %l2, %l4;\n"
    with pytest.raises(Fault, match="array 1 .*which wrote it"):
        launched(body + "add.s64 %l2, %l2, %l1; @%first st.global.b32 [%l2], %i; ld.global.b32 %r1, [%l2];")
