"""Branches that part and meet again, loops, barriers, blocks in chunks, special registers (PTX ISA 9.7.12, 10)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import lanewise, module, run
from tilegrad.kernels.simulate.ptx import execute
from tilegrad.kernels.simulate.ptx.faults import Fault

N = np.arange(40, dtype=np.uint32)


def test_both_sides_of_a_branch_meet_again():
    """Behind it all lanes of a warp shuffle together, which they could not do apart."""
    body = """
    setp.lt.u32 %p0, %a0, 7;
    @%p0 bra small;
    add.s32 %r0, %a0, 1000;
    bra.uni join;
    small: mul.lo.s32 %r0, %a0, 2;
    join: shfl.sync.idx.b32 %d, %r0, 3, 31, -1;
    add.s32 %d, %d, %r0;
    """
    want = [(2 * n if n < 7 else n + 1000) + (6 if n < 32 else 1035) for n in N.tolist()]
    assert lanewise(body, N).tolist() == want


def test_a_loop_of_another_length_in_each_lane():
    body = """
    mov.b32 %d, 0; mov.b32 %r0, 0;
    again: setp.ge.u32 %p0, %r0, %a0;
    @%p0 bra done;
    add.s32 %d, %d, %r0; add.s32 %r0, %r0, 1;
    bra again;
    done: add.s32 %d, %d, 5;
    """
    assert lanewise(body, N).tolist() == [n * (n - 1) // 2 + 5 for n in N.tolist()]


def test_guards_leave_other_lanes_alone():
    body = "mov.b32 %d, %a0; setp.gt.u32 %p0, %a0, 20; @!%p0 add.s32 %d, %d, 100; mov.b32 %r0, %d; @%p0 mov.b32 %r0, 1;"
    assert lanewise(body, N).tolist() == [n + 100 if n <= 20 else n for n in N.tolist()]


def test_a_copy_is_not_the_register_that_it_was_copied_from():
    body = "mov.b32 %r0, %a0; setp.gt.u32 %p0, %a0, 20; @%p0 mov.b32 %r0, 7; mov.b32 %d, %a0;"
    assert (lanewise(body, N) == N).all()


SPECIAL = """
mov.u32 %r0, %{0}; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %nctaid.x;
mad.lo.s32 %r1, %r2, %r3, %r1; mov.u32 %r4, %ntid.x; mov.u32 %r5, %ntid.y; mul.lo.s32 %r6, %r4, %r5;
mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.x; mad.lo.s32 %r2, %r2, %r4, %r3; mad.lo.s32 %r1, %r1, %r6, %r2;
ld.param.u64 %l0, [p0]; mul.wide.u32 %l1, %r1, 4; add.s64 %l0, %l0, %l1; st.global.b32 [%l0], %r0;
"""


@pytest.mark.parametrize("lanes", [48, 100, 8192])
def test_special_registers_and_chunks(monkeypatch, lanes):
    """A block of 16 x 3 threads, a grid of 3 x 5: one block at a time, two, all of them."""
    monkeypatch.setattr(execute, "LANES", lanes)
    block, thread = (each.ravel() for each in np.mgrid[0:15, 0:48])
    for name, want in {
        "tid.x": thread % 16, "tid.y": thread // 16, "tid.z": 0 * thread, "ctaid.x": block % 3, "ctaid.y": block // 3,
        "ntid.y": 0 * thread + 3, "nctaid.y": 0 * thread + 5, "laneid": thread % 32, "warpid": thread // 32,
    }.items():  # fmt: skip
        out = np.full(15 * 48, 99, np.uint32)
        counts = run(module(SPECIAL.format(name), 1), out, grid=(3, 5, 1), block=(16, 3, 1))
        assert (out == want).all() and counts.instructions == 15 * 48 * 17


REVERSED = """
.reg .b32 %i, %a, %b;
mov.u32 %i, %tid.x; shl.b32 %a, %i, 2; mov.b32 %r0, tile; add.s32 %a, %a, %r0; st.shared.b32 [%a], %i;
bar.sync 0;
sub.s32 %b, 63, %i; shl.b32 %b, %b, 2; add.s32 %b, %b, %r0; ld.shared.b32 %r1, [%b];
ld.param.u64 %l0, [p0]; mul.wide.u32 %l1, %i, 4; add.s64 %l0, %l0, %l1; st.global.b32 [%l0], %r1;
"""


@pytest.mark.parametrize("declared", [".shared .align 4 .b8 tile[256];", ".extern .shared .align 16 .b8 tile[];"])
def test_shared_memory_behind_a_barrier(declared):
    out = np.zeros(64, np.uint32)
    counts = run(module(REVERSED, 1, declared), out, block=(64, 1, 1), grid=(1, 1, 1), shared=256)
    assert (out == np.arange(63, -1, -1)).all() and counts.barriers == 1


def test_dynamic_shared_memory_lies_behind_the_static():
    declared = ".extern .shared .align 16 .b8 tile[];\n.shared .align 4 .b8 fixed[20];"
    body = "mov.b32 %r0, tile; ld.param.u64 %l0, [p0]; st.global.b32 [%l0], %r0;"
    out = np.zeros(1, np.uint32)
    run(module(body, 1, declared), out, block=(1, 1, 1))
    assert out[0] == 32


def test_threads_that_leave_a_barrier_at_different_places():
    """One barrier, reached by two instructions: PTX counts threads, not instructions."""
    body = "setp.lt.u32 %p0, %a0, 9; @%p0 bra low; bar.sync 0; mov.b32 %d, 1; bra end;"
    body += "low: bar.sync 0; mov.b32 %d, 2; end:"
    assert lanewise(body, N).tolist() == [2] * 9 + [1] * 31


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "setp.eq.s32 %p0, %a0, 5; @%p0 ret; bar.sync 0;",
            r"39 of 40 threads of the block wait here; thread 5 has ended",
        ),
        ("setp.lt.u32 %p0, %a0, 9; @%p0 bra x; bar.sync 0; bra y; x: bar.sync 1; y:", r"waits at another barrier"),
        ("setp.eq.s32 %p0, %a0, 5; @!%p0 bar.warp.sync -1;", "not all lanes of the warp execute this together"),
    ],
)
def test_a_barrier_that_not_all_threads_reach(body, message):
    with pytest.raises(Fault, match=rf"snippet, PTX line \d+, block \(0, 0, 0\), thread \(.*bar\..*{message}"):
        lanewise(body + " mov.b32 %d, 0;", N)


def test_a_program_that_runs_out():
    text = module("mov.b32 %r0, 1;").replace("ret;\n", "")
    with pytest.raises(Fault, match="runs beyond the end of the kernel"):
        run(text)
