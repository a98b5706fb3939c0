"""Code for another architecture, instructions that its own does not have, missing symbols: errors with their lines."""

from __future__ import annotations

import pytest

from tests.kernels.simulate.ptx.snippets import module
from tilegrad.kernels.simulate.ptx import execute
from tilegrad.kernels.simulate.ptx.faults import PtxError
from tilegrad.kernels.simulate.ptx.target import target_of


@pytest.mark.parametrize("target", ["gfx90a", "sm_75", "sm_", "sm_90b", "compute_80"])
def test_a_target_that_is_not_known(target):
    with pytest.raises(PtxError, match=f"^PTX line 2: target '{target}'; expected sm_80 or a later one"):
        execute.Program(module("", target=target), "snippet")


def test_no_target_at_all():
    with pytest.raises(PtxError, match="^PTX line 1: target ''; expected sm_80"):
        execute.Program(module("").replace(".target sm_80\n", ""), "snippet")


@pytest.mark.parametrize(
    ("target", "instruction", "message"),
    [
        ("sm_80", "wgmma.fence.sync.aligned;", "wgmma.fence.sync.aligned: needs sm_90a; the target is sm_80"),
        ("sm_90", "wgmma.fence.sync.aligned;", "needs sm_90a; the target is sm_90"),
        ("sm_100", "wgmma.fence.sync.aligned;", "needs sm_90a; the target is sm_100"),
        ("sm_80", "fence.proxy.async;", "fence.proxy.async: needs sm_90; the target is sm_80"),
        ("sm_86", "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r0], {%r1};", "needs sm_90; the target is sm_86"),
    ],
)
def test_an_instruction_that_the_target_does_not_have(target, instruction, message):
    with pytest.raises(PtxError, match=f"^PTX line 8: .*{message}$"):
        execute.Program(module("mov.b32 %r0, 1;\n" + instruction, target=target), "snippet")


@pytest.mark.parametrize(
    ("target", "instruction"),
    [
        ("sm_90a", "wgmma.fence.sync.aligned;"),
        ("sm_90", "fence.proxy.async;"),
        ("sm_100", "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r0], {%r1};"),
        ("sm_80", "fence.acq_rel.gpu;"),
    ],
)
def test_an_instruction_that_the_target_has(target, instruction):
    execute.Program(module(instruction, target=target), "snippet")


@pytest.mark.parametrize(
    ("target", "device", "runs"),
    [
        ("sm_80", 80, True), ("sm_80", 90, True), ("sm_90", 90, True), ("sm_90a", 90, True),
        ("sm_90", 80, False), ("sm_90a", 80, False), ("sm_90a", 100, False), ("sm_89", 86, False),
    ],
)  # fmt: skip
def test_a_device_that_can_run_it(target, device, runs):
    found = target_of(module("", target=target), target)
    if runs:
        found.check_device(device)
        return
    with pytest.raises(PtxError, match=f"^PTX line 2: target {target}; the device that executes it is sm_{device}"):
        found.check_device(device)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("mov.u64 %l0, nothing;", "PTX line 7: an operand is Symbol.name='nothing'"),
        ("ld.shared.b32 %r0, [nothing];", "PTX line 7: an operand is Symbol.name='nothing'"),
        ("call.uni vprintf;", "PTX line 7: call.uni: unknown instruction"),
        ("ld.acquire.gpu.global.b32 %r0, [%l0];", "PTX line 7: ld.acquire.gpu.global.b32: unknown instruction or mod"),
        ("st.release.gpu.global.b32 [%l0], %r0;", "PTX line 7: st.release.gpu.global.b32: unknown instruction or mod"),
    ],
)
def test_a_symbol_or_an_instruction_that_is_missing(body, message):
    with pytest.raises(PtxError, match=f"^{message}"):
        execute.Program(module(body), "snippet")
