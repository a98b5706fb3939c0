"""A warpgroup's products within a kernel: what they give, and what may not be done while they run."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import module, run
from tests.kernels.simulate.ptx.tensor_cores.helpers import d_places
from tilegrad.kernels.simulate.ptx.faults import Fault, PtxError

# A (64 x 16) and B (16 x 8) of float16, k major, without swizzle: row r of A has its halves at 16 r and 1024 + 16 r,
# column c of B at 2048 + 16 c and 2176 + 16 c.
SHARED = ".shared .align 128 .b8 tile[4096];"
A, B = 1024 >> 4 << 16 | 128 >> 4 << 32, 2048 >> 4 | 128 >> 4 << 16 | 128 >> 4 << 32
FORM = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16"
# Threads 0 to 127 write a half row of A each, threads 0 to 15 one of B; of the second warpgroup none.
FILL = f"""
.reg .b32 %i, %block; .reg .b64 %il, %a, %b; .reg .b32 %at; .reg .b32 %e<4>; .reg .f32 %d<4>; .reg .f32 %x<4>;
.reg .pred %one, %first, %low;
mov.u32 %i, %tid.x; mov.u32 %block, %ctaid.x; setp.lt.u32 %one, %i, 128; setp.lt.u32 %low, %i, 16; shl.b32 %at, %i, 4;
mov.b64 %a, {A}; mov.b64 %b, {B};
setp.eq.u32 %first, 0, 0;
mov.b32 %d0, 0f40000000; mov.b32 %d1, %d0; mov.b32 %d2, %d0; mov.b32 %d3, %d0;
ld.param.u64 %l0, [p0]; ld.param.u64 %l1, [p1]; ld.param.u64 %l2, [p2]; cvt.u64.u32 %il, %at;
add.s64 %l0, %l0, %il; add.s64 %l1, %l1, %il;
mul.wide.u32 %l3, %block, 4096; add.s64 %l2, %l2, %l3; add.s64 %l2, %l2, %il;
@%one ld.global.v4.b32 {{%e0, %e1, %e2, %e3}}, [%l0];
@%one st.shared.v4.b32 [%at], {{%e0, %e1, %e2, %e3}};
@%low ld.global.v4.b32 {{%e0, %e1, %e2, %e3}}, [%l1];
@%low st.shared.v4.b32 [%at+2048], {{%e0, %e1, %e2, %e3}};
"""
BARRIER, PROXY, ORDER = "bar.sync 0;\n", "fence.proxy.async.shared::cta;\n", "wgmma.fence.sync.aligned;\n"
PRODUCT = FORM + " {%d0, %d1, %d2, %d3}, %a, %b, %first, 1, 1, 0, 0;\n"
COMMIT, WAIT = "wgmma.commit_group.sync.aligned;\n", "wgmma.wait_group.sync.aligned 0;\n"
KEEP = "st.global.v4.b32 [%l2], {%d0, %d1, %d2, %d3};\n"
READY = FILL + BARRIER + PROXY + ORDER


def aligned(*shape: int, dtype=np.float16) -> np.ndarray:
    memory = np.zeros(int(np.prod(shape)) * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + memory.size - 64].view(dtype).reshape(shape)


def operands() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = aligned(2, 64, 8), aligned(2, 8, 8)
    a[...], b[...] = rng.integers(-8, 9, a.shape), rng.integers(-8, 9, b.shape)
    return a, b


def given(body: str, threads: int = 128, blocks: int = 1) -> np.ndarray:
    """D (blocks, warpgroups, 64, 8) of what the body keeps."""
    a, b = operands()
    out = aligned(blocks, 256, 4, dtype=np.float32)
    run(module(body, 3, SHARED, "sm_90a"), a, b, out, block=(threads, 1, 1), grid=(blocks, 1, 1))
    d = np.zeros((blocks, 8, 16, 8), np.float32)
    for lane in range(32):
        for register, (row, column) in enumerate(d_places(lane, 8)):
            d[:, :, row, column] = out.reshape(blocks, 8, 32, 4)[:, :, lane, register]
    return d.reshape(blocks, 2, 64, 8)[:, : threads // 128]


def wanted(times: int = 1, start: float | np.ndarray = 2.0) -> np.ndarray:
    a, b = (np.concatenate(list(x.astype(np.float32)), axis=1) for x in operands())
    return times * (a @ b.T) + start


def faulted(body: str, threads: int = 128) -> str:
    with pytest.raises(Fault) as found:
        given(body, threads)
    return str(found.value)


def test_a_product_is_added_to_what_its_registers_hold():
    assert np.array_equal(given(READY + PRODUCT + COMMIT + WAIT + KEEP)[0, 0], wanted())
    alone = READY + "setp.ne.u32 %first, 0, 0;\n" + PRODUCT + COMMIT + WAIT + KEEP
    assert np.array_equal(given(alone)[0, 0], wanted(start=0.0))


def test_products_of_one_group_add_up_in_order():
    assert np.array_equal(given(READY + 3 * PRODUCT + COMMIT + WAIT + KEEP)[0, 0], wanted(3))


def test_two_warpgroups_of_one_block_share_what_is_in_shared_memory():
    got = given(READY + PRODUCT + COMMIT + WAIT + KEEP, threads=256)
    assert np.array_equal(got[0, 0], wanted()) and np.array_equal(got[0, 1], wanted())


def test_a_in_registers():
    """Each thread's four registers are of ones: a row of A is 16 ones."""
    a = "mov.b32 %r0, 0x3C003C00;\n"
    product = FORM + " {%d0, %d1, %d2, %d3}, {%r0, %r0, %r0, %r0}, %b, %first, 1, 1, 0;\n"
    _, b = operands()
    want = np.broadcast_to(b.astype(np.float32).sum((0, 2)) + 2, (64, 8))
    assert np.array_equal(given(FILL + a + BARRIER + PROXY + ORDER + product + COMMIT + WAIT + KEEP)[0, 0], want)


LOOP = "mov.b32 %r1, 0;\nagain:\n" + ORDER + PRODUCT + COMMIT + WAIT
LOOP += "add.s32 %r1, %r1, 1; setp.le.u32 %p1, %r1, %block; @%p1 bra again;\n"


def test_blocks_that_make_different_numbers_of_products():
    got = given(FILL + BARRIER + PROXY + LOOP + KEEP, threads=256, blocks=3)
    for block in range(3):
        assert np.array_equal(got[block, 0], wanted(block + 1)) and np.array_equal(got[block, 1], wanted(block + 1))


def test_warpgroups_of_a_block_that_make_different_numbers_of_products():
    loop = LOOP.replace("setp.le.u32 %p1, %r1, %block;", "shr.u32 %r2, %i, 7; setp.le.u32 %p1, %r1, %r2;")
    got = given(FILL + BARRIER + PROXY + loop + KEEP, threads=256)
    assert np.array_equal(got[0, 0], wanted(1)) and np.array_equal(got[0, 1], wanted(2))


# --- shared memory


@pytest.mark.parametrize(
    "between",
    [
        BARRIER + PROXY,
        PROXY + BARRIER,
        BARRIER + "setp.ge.u32 %p1, %i, 128;\n@%p1 " + PROXY + BARRIER,  # another warpgroup's
    ],
    ids=["the reader's behind the barrier", "the writer's before the barrier", "a third thread's between two barriers"],
)
def test_a_fence_between_write_and_product(between):
    got = given(FILL + between + ORDER + PRODUCT + COMMIT + WAIT + KEEP, threads=256)
    assert np.array_equal(got[0, 0], wanted())


END = COMMIT + WAIT + KEEP
STORE = "st.shared.b32 [%at], %i;\n"
LATE = "setp.ge.u32 %p1, %i, 128; add.s32 %at, %at, -2048;\n@%p1 "  # by the second warpgroup


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (FILL + BARRIER + ORDER + PRODUCT, "byte 2048 of shared memory: thread 0 wrote it, with no fence.proxy.async"),
        (PROXY + FILL + BARRIER + ORDER + PRODUCT, "with no fence.proxy.async between"),
        (FILL + BARRIER + PROXY + STORE + BARRIER + ORDER + PRODUCT, ": thread 128 wrote it, with no fence.proxy"),
        (FILL + BARRIER + "setp.ge.u32 %p1, %i, 128;\n@%p1 " + PROXY + ORDER + PRODUCT, "with no fence.proxy.async"),
        (FILL + PROXY + ORDER + PRODUCT, "a race with thread 0, which wrote it; no barrier between"),
        (READY + "add.s64 %b, %b, 1;\n" + PRODUCT, "byte 2304 of shared memory: read before it was written"),
        (READY + PRODUCT + COMMIT + STORE, "written while a wgmma.mma_async that was not waited for reads it"),
        (READY + PRODUCT + COMMIT + BARRIER + LATE + STORE, "thread .*while a wgmma.mma_async that was not waited for"),
        (
            READY + PRODUCT + COMMIT + ORDER + PRODUCT + COMMIT + WAIT.replace("0", "1") + BARRIER + STORE,
            "while a wgmma.mma_async that was not waited for reads it",
        ),
        (READY + PRODUCT + COMMIT + WAIT + STORE, "a race with a wgmma.mma_async, which read it; no barrier since"),
        (READY + "add.s64 %b, %b, 256;\n" + PRODUCT, "wgmma: B: out of bounds; the block has 4096 bytes"),
        (READY + "or.b64 %a, %a, 0x8000;\n" + PRODUCT, "bits 14-15, 30-31, 46-48 and 52-61 must be 0"),
        (READY + "add.s64 %b, %b, %il;\n" + PRODUCT, "wgmma: B differs among the lanes of warpgroup 0"),
        (READY + "setp.lt.u32 %first, %i, 5;\n" + PRODUCT, "wgmma: scale-d differs among the lanes"),
    ],
    ids=[
        "no proxy fence", "a proxy fence before the write", "a write behind the proxy fence",
        "another warpgroup's proxy fence", "no barrier", "unwritten", "written while it runs",
        "written by others while it runs", "the newest was not waited for", "no barrier behind the wait",
        "outside", "a descriptor's other bits", "two descriptors", "two scales",
    ],
)  # fmt: skip
def test_what_may_not_be_done_with_shared_memory(body, message):
    with pytest.raises(Fault, match=message):
        given(body + END, threads=256)


def test_what_a_product_read_may_be_written_behind_a_barrier():
    given(READY + PRODUCT + COMMIT + WAIT + BARRIER + STORE + KEEP, threads=256)


def test_what_is_still_being_copied_is_no_products():
    copy = FILL.replace("@%low st.shared.v4.b32 [%at+2048], {%e0, %e1, %e2, %e3};", "{copy}")
    copy = copy.replace("{copy}", "@%low cp.async.cg.shared.global [%at+2048], [%l1], 16;\ncp.async.commit_group;\n")
    behind = BARRIER + PROXY + ORDER + PRODUCT + END
    assert "read before cp.async.wait_group" in faulted(copy + behind)
    assert np.array_equal(given(copy + "cp.async.wait_group 0;\n" + behind)[0, 0], wanted())
    early = PROXY + "cp.async.wait_group 0;\n" + behind.replace(PROXY, "")
    assert "with no fence.proxy.async between" in faulted(copy + early)


# --- registers


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (FILL + BARRIER + PROXY + PRODUCT, "wgmma.mma_async without a wgmma.fence before it"),
        (READY + PRODUCT + COMMIT + KEEP, "st.global.v4.b32: %d. is a wgmma.mma_async's until a wgmma.wait_group"),
        (READY + PRODUCT + WAIT + KEEP, "is a wgmma.mma_async's until"),
        (READY + PRODUCT + COMMIT + "mov.b32 %d1, 0f00000000;\n" + WAIT, "mov.b32: %d1 is a wgmma.mma_async's"),
        (READY + "@%low add.f32 %d1, %d1, %d1;\n" + PRODUCT, "%d1 was used since the last wgmma.fence"),
        (
            READY + "setp.lt.u32 %p1, %i, 96;\n@%p1 " + PRODUCT,
            "executed by 96 lanes of the warpgroup; expected all 128",
        ),
        (READY + PRODUCT + COMMIT + "@%low " + WAIT, "executed by 16 lanes of the warpgroup"),
    ],
    ids=["no fence", "read early", "not committed", "written early", "used behind the fence", "a part", "a part waits"],
)
def test_what_may_not_be_done_with_registers(body, message):
    with pytest.raises(Fault, match=message):
        given(body + KEEP)


def test_a_copy_behind_the_fence():
    """As compilers place them: ptxas adds a fence there."""
    body = READY + "mov.b32 %d0, 0f00000000; mov.b32 %d2, %d0;\n" + PRODUCT + COMMIT + WAIT + KEEP
    assert np.array_equal(given(body)[0, 0], wanted(start=np.array([0.0, 2.0] * 4)))


def test_a_warpgroup_waits_for_itself_alone():
    """The first one waits, the second one does not."""
    body = READY + PRODUCT + COMMIT + "setp.lt.u32 %p1, %i, 128;\n@%p1 " + WAIT
    message = faulted(body + KEEP, threads=256)
    assert "thread (128, 0, 0): st.global.v4.b32" in message and "is a wgmma.mma_async's until" in message
    later = "@%p1 " + KEEP + "@!%p1 " + WAIT
    assert np.array_equal(given(body + later, threads=256)[0, 0], wanted())


@pytest.mark.parametrize(
    ("body", "thread"),
    [
        (PRODUCT, 0),
        (PRODUCT + COMMIT, 0),
        (PRODUCT + COMMIT + "setp.lt.u32 %p1, %i, 128;\n@%p1 " + WAIT, 128),
        (PRODUCT + COMMIT + "@!%low ret;\n" + WAIT, 0),
    ],
    ids=["not committed", "not waited for", "one warpgroup of two has waited", "some of its threads end"],
)
def test_a_thread_that_ends_before_its_product(body, thread):
    message = faulted(READY + body, threads=256)
    assert f"thread ({thread}, 0, 0): ret: the thread ends while its wgmma.mma_async runs" in message


def test_the_message_names_block_and_thread():
    message = faulted(READY + PRODUCT + COMMIT + KEEP)
    assert message.startswith("snippet, PTX line ") and "block (0, 0, 0), thread (0, 0, 0): st.global.v4.b32" in message


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (PRODUCT.replace("m64", "m32"), "unknown instruction or modifier"),
        (PRODUCT.replace(", %d3", ""), r"of \(3, 1\) registers; expected \(4, 1\)"),
        (PRODUCT.replace("1, 1, 0, 0", "1, 1, 0"), "got 3 immediates after scale-d; expected 4"),
        (PRODUCT.replace("1, 1, 0, 0", "1, 2, 0, 0"), "expected scales of 1 or -1"),
        (FORM + " %a, %b;", "has 2 operands; expected 6"),
        ("wgmma.fence.sync;", "unknown instruction or modifier"),
        ("wgmma.wait_group.sync.aligned %i;", "expected a number of groups"),
        ("fence.proxy.alias;", "unknown instruction or modifier"),
    ],
)
def test_what_is_not_understood(instruction, message):
    with pytest.raises(PtxError, match=rf"PTX line 21: .*{message}"):
        given(FILL + instruction)
