"""Every kind of wrong access is planted once, is found and named: kernel, PTX and source line, block, thread, array."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import lanewise, module, named, run
from tilegrad.kernels.simulate.ptx.faults import Fault
from tilegrad.kernels.simulate.ptx.memory import array_of, arrays_of

ADDRESS = ".reg .b32 %i; mov.u32 %i, %tid.x; ld.param.u64 %l0, [p0]; mul.wide.u32 %l1, %i, {}; add.s64 %l0, %l0, %l1;\n"


def floats(n: int) -> np.ndarray:
    """At a multiple of 16 bytes."""
    memory = np.zeros(n + 64, np.float32)
    start = -memory.__array_interface__["data"][0] % 64 // 4
    return memory[start : start + n]


def fault(body: str, *arrays, declared: str = "", **launch) -> str:
    with pytest.raises(Fault) as found:
        run(module(body, len(arrays), declared), *arrays, **launch)
    return str(found.value)


# --- global memory


def test_the_message_names_everything():
    x = floats(32)
    text = module(ADDRESS.format(4) + ".loc 1 77 5\nst.global.b32 [%l0+8], %r0;", 1) + '.file 1 "/a/kernel.py"\n'
    with pytest.raises(Fault) as found:
        run(text, x, block=(16, 2, 1), grid=(3, 1, 1), known=[array_of("y_ptr", x[:10])])
    assert str(found.value) == (
        "snippet, PTX line 9 (/a/kernel.py:77), block (0, 0, 0), thread (8, 0, 0): st.global.b32: "
        f"4 bytes at {x.__array_interface__['data'][0] + 40:#x}, 0 bytes behind the end of y_ptr (40 bytes): "
        "outside of every array of the launch"
    )


@pytest.mark.parametrize("access", ["ld.global.b32 %r0, [%l0+{}];", "st.global.b32 [%l0+{}], %r0;"])
@pytest.mark.parametrize(
    ("offset", "where"),
    [
        (4, "thread (31, 0, 0): .*: 4 bytes at 0x[0-9a-f]*, 0 bytes behind the end of array 0"),
        (-8, "8 bytes before array 0"),
    ],
)
def test_outside_of_an_array(access, offset, where):
    x = floats(34)[1:33]
    with pytest.raises(Fault, match=where.replace("(", r"\(").replace(")", r"\)")):
        run(module(ADDRESS.format(4) + access.format(offset), 1), x)


def test_a_neighbour_that_is_no_array_of_the_launch():
    memory = floats(64)
    assert "outside of every array" in fault(ADDRESS.format(8) + "ld.global.b32 %r0, [%l0];", memory[:32])


def test_holes_of_a_strided_array():
    memory = floats(64)
    text = ADDRESS.format(4) + "ld.global.b32 %r0, [%l0];"
    assert "thread (1, 0, 0)" in fault(text, memory[::2]) and "between the elements" in fault(text, memory[::2])
    run(module(ADDRESS.format(8) + "ld.global.b32 %r0, [%l0];", 1), memory[::2])


def test_elements_far_apart_are_arrays_of_their_own():
    """To watch the holes would take as much memory as they would."""
    memory = np.zeros((4, 1 << 22), np.float32)
    x = memory[::-1, 5:7]
    parts = list(arrays_of("x", x))
    assert [(part.size, part.owner.shape) for part in parts] == [(8, (1, 2))] * 4
    text = ADDRESS.format(1 << 24) + "st.global.b32 [%l0+{}], %i;"
    run(module(text.format(24), 1), memory, block=(4, 1, 1), known=parts)
    assert x[:, 1].view(np.uint32).tolist() == [3, 2, 1, 0]
    with pytest.raises(Fault, match="0 bytes behind the end of x"):
        run(module(text.format(28), 1), memory, block=(4, 1, 1), known=parts)
    assert [part.size for part in arrays_of("x", memory[:, ::2])] == [memory.nbytes - 4]


def test_a_vector_is_aligned_to_all_of_itself():
    x = floats(132)
    text = ADDRESS.format(16) + "ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%l0];"
    run(module(text, 1), x[:128])
    assert "is no multiple of 16 bytes" in fault(text, x[1:129])
    assert "is no multiple of 4 bytes" in fault(ADDRESS.format(4) + "st.global.b32 [%l0+2], %r0;", x)


def test_an_array_that_may_only_be_read():
    x = floats(32)
    x.flags.writeable = False
    message = fault(ADDRESS.format(4) + "st.global.b32 [%l0], %r0;", x)
    assert "of array 0 (128 bytes): a write to an array that may only be read" in message
    run(module(ADDRESS.format(4) + "ld.global.b32 %r0, [%l0];", 1), x)


def test_one_array_that_is_given_twice_is_one():
    """As input and as output: what one of them may, goes."""
    x = floats(32)
    known = [named(0, x[:20]), named(1, x), array_of("view", x[16:], False)]
    run(module(ADDRESS.format(4) + "st.global.b32 [%l0], %i;", 1), x, known=known)
    assert (x.view(np.uint32) == np.arange(32)).all()


def test_several_arrays_in_one_instruction():
    """Odd lanes read from one, even ones from the other."""
    x, y, out = floats(32), floats(32), floats(32)
    x[:], y[:] = np.arange(32), np.arange(32) + 100
    body = (
        ADDRESS.format(4)
        + """ld.param.u64 %l2, [p1]; add.s64 %l2, %l2, %l1; and.b32 %r0, %i, 1; setp.eq.s32 %p0, %r0, 1;
    selp.b64 %l3, %l0, %l2, %p0; ld.global.b32 %r1, [%l3]; ld.param.u64 %l4, [p2]; add.s64 %l4, %l4, %l1;
    st.global.b32 [%l4], %r1;"""
    )
    run(module(body, 3), x, y, out)
    assert out.tolist() == [n if n % 2 else n + 100 for n in range(32)]


def test_bytes_of_the_text():
    declared = ".global .align 4 .b32 numbers[3] = {7, -1, 0x10};\n.const .align 1 .b8 fixed[2] = {5, 6};"
    body = "mov.u64 %l0, numbers; ld.global.b32 %d, [%l0+8]; ld.const.u8 %h0, [fixed+1];"
    body += "cvt.u32.u16 %r0, %h0; add.s32 %d, %d, %r0;"
    text = module(".reg .b32 %d; " + body + "ld.param.u64 %l1, [p0]; st.global.b32 [%l1], %d;", 1, declared)
    out = np.zeros(1, np.uint32)
    run(text, out, block=(1, 1, 1))
    assert out[0] == 22
    message = fault("mov.u64 %l0, fixed; st.global.b8 [%l0], %h0;", declared=declared, block=(1, 1, 1))
    assert "fixed (2 bytes): a write to an array that may only be read" in message


# --- shared memory

SHARED = ".reg .b32 %i, %s; mov.u32 %i, %tid.x; shl.b32 %s, %i, 2;\n"
TILE = ".shared .align 16 .b8 tile[256];"


def shared_fault(body: str, threads: int = 64, **launch) -> str:
    return fault(SHARED + body, declared=TILE, block=(threads, 1, 1), **launch)


def test_shared_memory_read_before_it_was_written():
    body = "setp.ne.s32 %p0, %i, 3; @%p0 st.shared.b32 [%s], %i; bar.sync 0; ld.shared.b32 %r0, [%s];"
    message = shared_fault(body)
    assert "thread (3, 0, 0): ld.shared.b32: byte 12 of shared memory: read before it was written" in message


def test_shared_memory_of_another_block_is_another():
    """What the first block wrote is not there for the second."""
    body = "mov.u32 %r1, %ctaid.x; setp.eq.s32 %p0, %r1, 0; @%p0 st.shared.b32 [%s], %i; bar.sync 0;"
    body += "ld.shared.b32 %r0, [%s];"
    assert "block (1, 0, 0)" in shared_fault(body, grid=(2, 1, 1))


def test_outside_of_shared_memory_and_misaligned():
    assert "4 bytes at 256: outside of shared memory (256 bytes)" in shared_fault("st.shared.b32 [%s+4], %i;")
    assert "2 in shared memory is no multiple of 4" in shared_fault("st.shared.b32 [%s+2], %i;", 32)
    assert "is no multiple of 16" in shared_fault("st.shared.v4.b32 [%s], {%i, %i, %i, %i};", 32)


def test_a_write_and_a_read_without_a_barrier_race():
    body = "st.shared.b32 [%s], %i; xor.b32 %s, %s, 4; {}; ld.shared.b32 %r0, [%s];"
    message = shared_fault(body.format(""))
    assert "thread (0, 0, 0): ld.shared.b32: byte 4 of shared memory: a race with thread 1, which wrote it" in message
    run(module(SHARED + body.format("bar.sync 0"), 0, TILE), block=(64, 1, 1))
    run(module(SHARED + body.format("bar.warp.sync -1"), 0, TILE), block=(64, 1, 1))


def test_a_barrier_of_the_warp_does_not_order_warps():
    body = "st.shared.b32 [%s], %i; xor.b32 %s, %s, 128; bar.warp.sync -1; ld.shared.b32 %r0, [%s];"
    assert "a race with thread 32, which wrote it" in shared_fault(body)


def test_a_read_and_a_write_without_a_barrier_race():
    """The loop that forgets its second barrier."""
    body = (
        "st.shared.b32 [%s], %i; bar.sync 0; xor.b32 %r1, %s, 4; ld.shared.b32 %r0, [%r1]; {}; st.shared.b32 [%s], %i;"
    )
    assert "a race with thread 1, which read it" in shared_fault(body.format(""))
    run(module(SHARED + body.format("bar.sync 0"), 0, TILE), block=(64, 1, 1))


def test_of_many_readers_none_is_forgotten():
    """All read a word, and then the last reader itself writes it: the others still race with it."""
    body = """setp.eq.s32 %p0, %i, {0}; @%p0 st.shared.b32 [tile], %i; bar.sync 0; ld.shared.b32 %r0, [tile];
    @%p0 st.shared.b32 [tile], %i;"""
    for writer in (0, 63):
        assert "which read it" in shared_fault(body.format(writer))


def test_two_writers_race_unless_they_write_the_same():
    assert "a race with thread" in shared_fault("st.shared.b32 [tile], %i;")
    run(module(SHARED + "mov.b32 %r0, 5; st.shared.b32 [tile], %r0;", 0, TILE), block=(64, 1, 1))
    apart = "setp.eq.s32 %p0, %i, 1; mov.b32 %r0, 5; @%p0 st.shared.b32 [tile], %r0; @!%p0 st.shared.b32 [tile], %r0;"
    assert "a race with thread 1, which wrote it" in shared_fault(apart)


def test_bytes_are_told_apart():
    """Two threads write the halves of a word: no race. A third reads the word."""
    halves = "cvt.u16.u32 %h0, %i; shl.b32 %s, %i, 1; st.shared.b16 [%s], %h0;"
    run(module(SHARED + halves, 0, TILE), block=(64, 1, 1))
    message = shared_fault(halves + "shl.b32 %s, %s, 1; setp.lt.u32 %p0, %i, 32; @%p0 ld.shared.b32 %r0, [%s];")
    assert "thread (0, 0, 0): ld.shared.b32: byte 2 of shared memory: a race with thread 1" in message


# --- generic addresses and local memory


def test_generic_addresses_find_their_space():
    body = """
    .reg .b64 %g, %s; .local .align 4 .b8 mine[8];
    mov.u64 %s, tile; cvta.shared.u64 %g, %s; mul.lo.s64 %l1, %il, 4; add.s64 %g, %g, %l1; st.b32 [%g], %a0;
    mov.u64 %s, mine; cvta.local.u64 %l2, %s; add.s32 %r0, %a0, 1000; st.b32 [%l2+4], %r0;
    setp.gt.u32 %p0, %a0, 2; selp.b64 %l3, %g, %l2, %p0; setp.gt.u32 %p1, %a0, 1; selp.b64 %l3, %l3, %ptr0, %p1;
    add.s64 %l3, %l3, 4; setp.gt.u32 %p2, %a0, 2; @%p2 add.s64 %l3, %l3, -4; ld.u32 %d, [%l3];
    """.replace("%ptr0", "%l4")
    body = ".shared .align 4 .b8 tile[64]; ld.param.u64 %l4, [p0];" + body
    got = lanewise(body, np.arange(5, dtype=np.uint32))
    assert got.tolist() == [1, 1, 1002, 3, 4]  # of global memory, of global memory, of local memory, of shared memory


def test_local_memory_is_a_threads_own():
    body = (
        ".local .align 4 .b8 mine[4]; mov.u64 %l0, mine; st.local.b32 [%l0], %a0; bar.sync 0; ld.local.b32 %d, [mine];"
    )
    assert lanewise(body, np.arange(40, dtype=np.uint32)).tolist() == list(range(40))
    with pytest.raises(Fault, match="of local memory: read before it was written"):
        lanewise(".local .align 4 .b8 mine[4]; ld.local.b32 %d, [mine];", np.uint32([0]))


# --- asynchronous copies

COPY = (
    ADDRESS.format(16)
    + """.reg .b32 %s; shl.b32 %s, %i, 4;
cp.async.cg.shared.global [%s], [%l0], 16, {size};
cp.async.commit_group;
{wait}
ld.shared.b32 %r0, [%s+12]; ld.param.u64 %l2, [p1]; mul.wide.u32 %l1, %i, 4; add.s64 %l2, %l2, %l1;
st.global.b32 [%l2], %r0;
"""
)
ROWS = ".shared .align 16 .b8 tile[512];"


def copied(size: str = "16", wait: str = "cp.async.wait_group 0;", body: str = COPY) -> np.ndarray:
    x, out = floats(128), floats(32)
    x[:] = np.arange(128)
    run(module(body.format(size=size, wait=wait), 2, ROWS), x, out)
    return out


def test_what_is_copied_is_there_after_the_wait():
    assert copied().tolist() == list(range(3, 128, 4))
    assert copied("0").tolist() == [0] * 32  # nothing is read: zeros
    with pytest.raises(Fault, match="byte 12 of shared memory: read before cp.async.wait_group"):
        copied(wait="")
    with pytest.raises(Fault, match=r"ld.shared.b32: .*read before cp.async.wait_group"):
        copied(wait="cp.async.wait_group 1;")


def test_a_part_that_is_not_read_is_zeros_and_may_be_nowhere():
    """12 of 16 bytes of the last row: the array ends there."""
    x, out = floats(128)[:127], floats(32)
    x[:] = np.arange(127)
    size = "%r1"
    body = COPY.replace("cp.async.cg", "setp.eq.s32 %p0, %i, 31; selp.b32 %r1, 12, 16, %p0;\ncp.async.cg", 1)
    run(module(body.format(size=size, wait="cp.async.wait_group 0;"), 2, ROWS), x, out)
    assert out.tolist() == [*range(3, 127, 4), 0]


def test_older_groups_are_waited_for_first():
    """Of two groups the first has come, the second not."""
    twice = COPY.replace("{wait}", "cp.async.cg.shared.global [%s+512], [%l0], 16;\ncp.async.commit_group;\n{wait}")
    declared = ".shared .align 16 .b8 tile[1024];"
    x, out = floats(128), floats(32)
    x[:] = np.arange(128)
    text = twice.format(size=16, wait="cp.async.wait_group 1;")
    run(module(text, 2, declared), x, out)
    assert out.tolist() == list(range(3, 128, 4))
    with pytest.raises(Fault, match="byte 524 of shared memory: read before cp.async.wait_group"):
        run(module(text.replace("[%s+12]", "[%s+524]"), 2, declared), x, out)


def test_another_threads_copy_needs_a_barrier():
    body = COPY.replace("ld.shared", "xor.b32 %s, %s, 16; {barrier} ld.shared")
    with pytest.raises(Fault, match="a race with thread 1, which wrote it"):
        copied(body=body.replace("{barrier}", ""))
    assert copied(body=body.replace("{barrier}", "bar.sync 0;"))[:2].tolist() == [7, 3]


def test_a_copy_over_what_another_thread_still_reads():
    body = COPY.replace(
        "cp.async.cg",
        "st.shared.b32 [%s], %i; bar.sync 0; xor.b32 %r2, %s, 16; ld.shared.b32 %r3, [%r2];\ncp.async.cg",
        1,
    )
    with pytest.raises(
        Fault, match="cp.async.cg.shared.global: byte 0 of shared memory: a race with thread 1, which read"
    ):
        copied(body=body)


# --- atomics

ATOMIC = "ld.param.u64 %l0, [p0]; {} "


def test_atomics_add_up_and_tell_what_was_there():
    total = np.zeros(2, np.int32)
    body = ".reg .b32 %i; mov.u32 %i, %tid.x; and.b32 %r1, %i, 1; mul.wide.u32 %l1, %r1, 4; ld.param.u64 %l0, [p0];"
    body += (
        "add.s64 %l0, %l0, %l1; atom.global.add.s32 %r0, [%l0], %i; ld.param.u64 %l2, [p1]; mul.wide.u32 %l1, %i, 4;"
    )
    before = np.zeros(32, np.int32)
    run(module(body + "add.s64 %l2, %l2, %l1; st.global.b32 [%l2], %r0;", 2), total, before)
    assert total.tolist() == [240, 256] and before[:6].tolist() == [0, 0, 0, 1, 2, 4]


@pytest.mark.parametrize(
    ("form", "start", "want"),
    [("min.s64", 5, -16), ("max.s64", 5, 15), ("max.u64", 5, 2**64 - 1), ("exch.b64", 3, 15)],
)
def test_red_and_atom(form, start, want):
    x = np.array([start], np.int64)
    body = ".reg .b32 %i; mov.u32 %i, %tid.x; add.s32 %i, %i, -16; cvt.s64.s32 %l1, %i; ld.param.u64 %l0, [p0];"
    instruction = (
        f"atom.global.{form} %l2, [%l0], %l1;" if "exch" in form else f"red.global.gpu.relaxed.{form} [%l0], %l1;"
    )
    run(module(body + instruction, 1), x)
    assert x[0] == np.uint64(want % 2**64).astype(np.int64)


def test_compare_and_swap():
    x = np.array([7], np.uint32)
    body = ".reg .b32 %i; mov.u32 %i, %tid.x; add.s32 %i, %i, 7; ld.param.u64 %l0, [p0];"
    run(module(body + "add.s32 %r1, %i, 1; atom.global.cas.b32 %r0, [%l0], %i, %r1;", 1), x)
    assert x[0] == 7 + 32


def test_atomics_are_held_to_the_arrays():
    x = np.zeros(1, np.int64)
    assert "outside of every array" in fault("ld.param.u64 %l0, [p0]; red.global.add.u64 [%l0+8], %l1;", x)
