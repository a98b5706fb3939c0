"""ldmatrix, stmatrix and mma within a kernel: what goes where, and what may not be done (values: tensor_cores/)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import module, run
from tilegrad.kernels.simulate.ptx.faults import Fault, PtxError

SHARED = ".extern .shared .align 16 .b8 rows[];"
# A row of 16 bytes for each of 64 threads: its number, four times.
FILL = """.reg .b32 %i, %at; .reg .b64 %il;
mov.u32 %i, %tid.x; mov.u32 %r0, rows; shl.b32 %at, %i, 4; add.s32 %at, %at, %r0;
st.shared.v4.b32 [%at], {%i, %i, %i, %i};
"""
KEEP = """cvt.u64.u32 %il, %i; shl.b64 %il, %il, 4; ld.param.u64 %l0, [p0]; add.s64 %l0, %l0, %il;
st.global.v4.b32 [%l0], {%r1, %r2, %r3, %r4};
"""
LOAD = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%at];\n"


def kept(body: str, declared: str = SHARED, threads: int = 64) -> np.ndarray:
    memory = np.zeros(4 * threads + 16, np.uint32)
    out = memory[-memory.__array_interface__["data"][0] % 64 // 4 :][: 4 * threads]
    run(module(body, 1, declared, "sm_90"), out, block=(threads, 1, 1), shared=16 * (threads + 1))
    return out.reshape(threads, 4)


def test_each_lane_gets_its_part_of_each_row_from_its_own_warps_addresses():
    """Lane l has of matrix i what row 8 i + l / 4 holds (PTX ISA, ldmatrix); each warp reads its own 32 rows."""
    thread, matrix = np.arange(64)[:, None], np.arange(4)
    assert np.array_equal(kept(FILL + "bar.sync 0;\n" + LOAD + KEEP), thread // 32 * 32 + 8 * matrix + thread % 32 // 4)


def test_lanes_that_parted_load_together_again():
    """The odd ones took another way there, and a warp has ended."""
    parted = "setp.ge.u32 %p1, %i, 64; @%p1 ret; and.b32 %r0, %i, 1; setp.eq.u32 %p0, %r0, 0; @%p0 bra even;\n"
    body = FILL + "bar.sync 0;\n" + parted + "add.s32 %r5, %i, 1;\neven: " + LOAD + KEEP
    assert np.array_equal(kept(body, threads=96)[:64], kept(FILL + "bar.sync 0;\n" + LOAD + KEEP))


def test_what_is_stored_is_loaded_again():
    body = FILL + "bar.sync 0;\n" + LOAD + "bar.sync 0;\nadd.s32 %r1, %r1, 100;\n"
    body += "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%at], {%r1, %r2, %r3, %r4};\nbar.sync 0;\n" + LOAD + KEEP
    thread, matrix = np.arange(64)[:, None], np.arange(4)
    want = thread // 32 * 32 + 8 * matrix + thread % 32 // 4 + np.where(matrix == 0, 100, 0)
    assert np.array_equal(kept(body), want)


def test_a_product_of_ones():
    """16 x 16 times 16 x 8: each element 16, plus c."""
    one, c = "mov.b32 %r0, 0x3C003C00;\n", "".join(f"mov.b32 %f{i}, 0f40000000;\n" for i in range(4))
    names = "{%f0, %f1, %f2, %f3}"
    product = (
        f"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {names}, {{%r0, %r0, %r0, %r0}}, {{%r0, %r0}}, {names};\n"
    )
    moves = "".join(f"mov.b32 %r{i + 1}, %f{i};\n" for i in range(4))
    body = ".reg .b32 %i; .reg .b64 %il; mov.u32 %i, %tid.x;\n" + one + c + product + moves + KEEP
    assert np.array_equal(kept(body).view(np.float32), np.full((64, 4), 18, np.float32))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (FILL + "bar.sync 0;\nadd.s32 %at, %at, 8;\n" + LOAD, "is no multiple of 16 bytes"),
        (FILL + "bar.sync 0;\nadd.s32 %at, %at, 32;\n" + LOAD, r"thread \(63, 0, 0\).*outside of shared memory"),
        (FILL.replace("st.shared", "@%p0 st.shared") + "bar.sync 0;\n" + LOAD, "read before it was written"),
        (FILL + "xor.b32 %at, %at, 512;\n" + LOAD, "a race with thread"),
        (
            FILL + "bar.sync 0;\nsetp.lt.u32 %p1, %i, 40;\n@%p1 " + LOAD,
            "executed by 8 lanes of the warp; expected all 32",
        ),
    ],
    ids=["misaligned", "outside", "unwritten", "race", "half a warp"],
)
def test_what_may_not_be_done(body, message):
    with pytest.raises(Fault, match=message):
        kept(".reg .pred %none; setp.ne.u32 %p0, 0, 0;\n" + body + KEEP)


def test_lanes_that_store_one_row():
    """The rows of a warp go to one place: equal ones may, others are a fault that names the lane."""
    stored = "mov.b32 %at, %r0;\nstmatrix.sync.aligned.m8n8.x1.shared.b16 [%at], {{{}}};\n"
    body = FILL + "bar.sync 0;\nsetp.lt.u32 %p1, %i, 32;\n@!%p1 bra end;\n"
    kept(body + "mov.b32 %r1, 7;\n" + stored.format("%r1") + "end:\n")
    with pytest.raises(Fault, match=r"thread \(0, 0, 0\): stmatrix.*another lane writes another value to this row"):
        kept(body + stored.format("%i") + "end:\n")


def test_another_form_is_no_known_instruction():
    with pytest.raises(PtxError, match="unknown instruction or modifier"):
        kept(FILL + LOAD.replace("m8n8", "m8n16"))
