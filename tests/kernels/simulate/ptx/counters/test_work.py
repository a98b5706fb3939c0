"""Every instruction that is executed has a class, and those of a warpgroup are known by their text."""

from __future__ import annotations

import pytest

from tilegrad.kernels.simulate.ptx import table
from tilegrad.kernels.simulate.ptx.counters.work import Work, work
from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.parse import Instruction


def of(form: str) -> Work:
    opcode, *modifiers = form.split(".")
    return work(Instruction(opcode, tuple(modifiers), (), None, 7, None))


@pytest.mark.parametrize("opcode", [*table.PURE, *table.STEPS, "bra", "ret", "exit", "bar", "barrier"])
def test_every_executed_instruction_has_a_class(opcode):
    assert of(f"{opcode}.m16n8k16.f32.f16.f16.f32" if opcode == "mma" else f"{opcode}.f32").kind


def test_one_without_a_class_is_named():
    with pytest.raises(PtxError, match="PTX line 7: tcgen05.mma: an instruction that counters have no class for"):
        of("tcgen05.mma")


@pytest.mark.parametrize(
    ("form", "want"),
    [
        ("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16", Work("tensor core", "tensor bf16", 256 * 16)),
        ("wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32", Work("tensor core", "tensor tf32", 64 * 8)),
        ("wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e5m2", Work("tensor core", "tensor e4m3", 8 * 32)),
        ("wgmma.mma_async.sync.aligned.m64n16k32.s32.u8.s8", Work("tensor core", "tensor u8", 16 * 32)),
        ("wgmma.wait_group.sync.aligned", Work("asynchronous")),
        ("wgmma.fence.sync.aligned", Work("asynchronous")),
        ("fence.proxy.async.shared::cta", Work("barrier")),
        ("ld.shared::cta.b32", Work("load shared")),
        ("ld.b32", Work("load generic")),
        ("st.volatile.global.v4.b32", Work("store global")),
        ("min.NaN.f32", Work("float")),
        ("min.s32", Work("integer")),
        ("mul.wide.u32", Work("integer")),
    ],
)
def test_classes(form, want):
    """m x n x k multiply-adds of a warpgroup are shared by its 128 threads."""
    assert of(form) == want
