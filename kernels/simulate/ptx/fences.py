"""fence and membar: PTX ISA 9.7.13 (membar, fence).

The executor does what threads do in one order, so a fence changes no value. It changes what is ordered: among threads
(releases.py), or between the ways to shared memory (async_proxy.py).
"""

from __future__ import annotations

from tilegrad.kernels.simulate.ptx.machine import Machine
from tilegrad.kernels.simulate.ptx.operands import Scope, expect, unknown
from tilegrad.kernels.simulate.ptx.parse import Instruction
from tilegrad.kernels.simulate.ptx.pure import Step


def fence(instruction: Instruction, scope: Scope) -> Step:
    expect(instruction, 0)
    match [instruction.opcode, *instruction.modifiers]:
        case ["fence", "proxy", "async"] | ["fence", "proxy", "async", "shared::cta"]:
            return _to_the_async_proxy
        case ["fence", "sc" | "acq_rel", "cta" | "gpu" | "sys" as scope_name]:
            return lambda m: _among_threads(m, scope_name != "cta")
        case ["membar", "cta" | "gl" | "sys" as scope_name]:
            return lambda m: _among_threads(m, scope_name != "cta")
    raise unknown(instruction)


def _to_the_async_proxy(m: Machine) -> None:
    if m.shared.proxy is not None:
        m.shared.proxy.fence(m)


def _among_threads(m: Machine, wide: bool) -> None:
    assert m.memory.releases is not None
    m.memory.releases.fence(m, wide)
