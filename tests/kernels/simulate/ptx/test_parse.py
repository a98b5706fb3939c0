"""PTX text becomes instructions, and what is not understood is an error that names its line."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.simulate.ptx.snippets import module, run
from tilegrad.kernels.simulate.ptx import execute, parse
from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.parse import Address, Float, Guard, Integer, Parameter, Register, Symbol, Vector

TEXT = """
.version 8.8
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.global .align 1 .b8 word[3] = {95, 0x41, 0};
.visible .entry k(
    .param .u64 .ptr .global .align 1 k_param_0,
    .param .u32 k_param_1,
    .param .f32 k_param_2,
    .param .u64 k_param_3
)
.reqntid 128
{
    .reg .pred     %p<3>;
    .reg .b32     %r<5>;
    .reg .b64     %rd<3>;
    .loc    1 131 7                         // a.py:131:7
$L__BB0_1:                              // a label; and more
    @!%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + -16 ];
    mov.b64 {_, %r1}, %rd2;
    setp.gt.f16x2 %p1|%p2, %r1,
        %r2;
    .loc    1 5 7, function_name $L__info, inlined_at 1 131 7
    add.f32     %r1, %r2, 0fBF800000;
    mov.b32 %r1, global_smem; bra.uni     $L__BB0_1;
$L__end:
}
    .file    1 "/a/a.py"
    .section    .debug_abbrev
    {
.b8 1                                   // no statement
    }
""".replace("    ", "\t")  # as compilers write it


def test_everything_of_a_kernel():
    made = parse.parse(TEXT)
    kernel = made.kernels["k"]
    assert made.target == "sm_90a" and kernel.files == {1: "/a/a.py"} and kernel.threads == (128,)
    assert kernel.parameters == (
        Parameter("k_param_0", "u64", 0, 8),
        Parameter("k_param_1", "u32", 8, 4),
        Parameter("k_param_2", "f32", 12, 4),
        Parameter("k_param_3", "u64", 16, 8),
    )
    assert kernel.registers["%p2"] == "pred" and kernel.registers["%rd0"] == "b64" and len(kernel.registers) == 11
    assert kernel.labels == {"$L__BB0_1": 0, "$L__end": 6}
    assert kernel.variables["global_smem"].size is None and kernel.variables["word"].initial == b"_A\0"
    load, unpack, pair, add, move, branch = kernel.instructions
    assert load.form == "ld.global.v4.b32" and load.guard == Guard("%p1", True)
    assert load.operands[1] == Address(Register("%rd1"), -16) and load.source == (1, 131)
    assert unpack.operands[0] == Vector((None, Register("%r1")))
    assert pair.operands[0] == Vector((Register("%p1"), Register("%p2"))) and pair.line == 22
    assert add.operands[2] == Float(0xBF800000, 32) and add.source == (1, 5)
    assert move.operands[1] == Symbol("global_smem") and branch.line == move.line == 26


def test_a_block_has_registers_of_its_own_kind():
    made = parse.parse(module("{ .reg .b32 t; mov.b32 %r0, -5; }"))
    assert made.kernels["snippet"].instructions[0].operands[1] == Integer(-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("mov.b32 %r0, 1;\nfrobnicate.b32 %r0, %r1;", "PTX line 8: frobnicate.b32: unknown instruction or modifier"),
        ("add.wrong.s32 %r0, %r1, %r2;", "PTX line 7: add.wrong.s32: unknown instruction or modifier"),
        ("add.sat.s32 %r0, %r1, %r2;", "PTX line 7: add.sat.s32: unknown"),
        ("ld.global.v3.b32 %r0, [%l0];", "PTX line 7: ld.global.v3.b32: unknown"),
        ("cvt.f32.f64.rn %f0, %l0;", "PTX line 7: cvt.f32.f64.rn: unknown"),
        ("shfl.sync.left.b32 %r0, %r1, 1, 31, -1;", "PTX line 7: shfl.sync.left.b32: unknown"),
        ("bar.arrive 0, 32;", "PTX line 7: bar.arrive: unknown"),
        ("add.s32 %r0, %r1, %unknown;", "PTX line 7: register %unknown is not declared"),
        ("add.s32 %r0, %r1;", "PTX line 7: add.s32 has 2 operands; expected 3"),
        ("add.s32 %l0, %r1, %r2;", "PTX line 7: register %l0 has 64 bits; expected 32"),
        ("add.s64 %l0, %r1, %l2;", "PTX line 7: register %r1 has 32 bits; expected 64"),
        ("add.f32 %f0, %f1, 1;", "PTX line 7: an operand is Integer"),
        ("mov.b32 %r0, 1;\nbra nowhere;", "PTX line 8: no label"),
        ("ld.param.u64 %l0, [p9];", "PTX line 7: p9 is no parameter of snippet"),
        ("mov.b32 %r0, nothing;", "PTX line 7: an operand is Symbol"),
        ("mov.b16 %h0, 70000;", None),
        ("add.s16 %h0, %h1, 0f3F800000;", "PTX line 7: an operand is Float"),
        ("ld.global.b32 %r0, [%l0+%l1];", "PTX line 7: an address is"),
        ("add.s32 %r0, %r1, %r2", "PTX line 7: an operand is '%r2 ret'"),
        ("bar.sync %r0;", "PTX line 7: barrier"),
    ],
)
def test_what_is_not_understood_names_its_line(body, message):
    if message is None:  # a number of 32 bits is cut off, as ptxas does
        execute.Program(module(body), "snippet")
        return
    with pytest.raises(PtxError, match=f"^({message})"):
        execute.Program(module(body), "snippet")


def test_another_kernel_than_there_is():
    with pytest.raises(PtxError, match="no kernel other; there are snippet"):
        execute.Program(module(""), "other")


@pytest.mark.parametrize("count", [0, 2])
def test_a_wrong_count_of_parameters(count):
    x = np.zeros(4, np.float32)
    with pytest.raises(PtxError, match=r"^PTX line 5: snippet: parameters of \[.*\] bytes; expected \[8\]"):
        run(module("", 1), *[x] * count)


def test_a_parameter_of_another_size():
    """Else its neighbours would be read from the wrong place."""
    with pytest.raises(PtxError, match=r"snippet: parameters of \[4\] bytes; expected \[8\]"):
        execute.run(module("", 1), "snippet", (1, 1, 1), (32, 1, 1), 0, [bytes(4)], [])


def test_a_block_of_another_size_than_the_kernel_was_compiled_for():
    text = module("").replace(".visible .entry snippet()\n{", ".visible .entry snippet()\n.reqntid 64\n{")
    with pytest.raises(PtxError, match=r"^PTX line 5: snippet: a block of \(32, 1, 1\) threads; expected \(64,\)"):
        run(text)
