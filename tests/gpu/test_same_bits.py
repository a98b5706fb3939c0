"""The same PTX on a GPU and in the executor: the same bits.

Without `.approx` instructions, whose last bits are a GPU's own, and with matrix products of small integers, whose sums
are exact in any order. Without a GPU the executor's half runs alone, so that the snippets are valid when one is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.simulate.ptx import test_warpgroups as warpgroups
from tests.kernels.simulate.ptx.snippets import lanewise_module, module, run
from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.driver import Function

ROOT = Path(__file__).parents[2]
on_a_gpu = pytest.mark.skipif(not gpu.is_available(), reason="there is no GPU here")

RNG = np.random.default_rng(0)
BITS = RNG.integers(0, 1 << 32, 128, dtype=np.uint32)
MORE, THIRD = RNG.permutation(BITS), RNG.permutation(BITS)
BITS[:8] = 0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 1, 0x80000001, 0x00800000  # zeros, infinities, NaN, tiny
ROUND = ".reg .b16 %n; mov.b32 %f0, %a0; cvt.{}.f32 %n, %f0; cvt.u32.u16 %d, %n;"
FLOATS = "mov.b32 %f0, %a0; mov.b32 %f1, %a1; mov.b32 %f2, %a2; {} mov.b32 %d, %f3;"
SNIPPETS = {
    "mul.hi": "mul.hi.s32 %d, %a0, %a1;",
    "mad.lo": "mad.lo.s32 %d, %a0, %a1, %a2;",
    "shr": "and.b32 %r0, %a1, 63; shr.s32 %d, %a0, %r0;",
    "bfe": "bfe.s32 %d, %a0, %a1, %a2;",
    "prmt": "and.b32 %r0, %a2, 0xFFFF; prmt.b32 %d, %a0, %a1, %r0;",
    "div": "or.b32 %r0, %a1, 1; div.u32 %d, %a0, %r0;",
    "rem": "or.b32 %r0, %a1, 1; rem.u32 %d, %a0, %r0;",
    "fma": FLOATS.format("fma.rn.f32 %f3, %f0, %f1, %f2;"),
    "fma.ftz": FLOATS.format("fma.rn.ftz.f32 %f3, %f0, %f1, %f2;"),
    "add": FLOATS.format("add.f32 %f3, %f0, %f1;"),
    "div.rn": FLOATS.format("div.rn.f32 %f3, %f0, %f1;"),
    "sqrt.rn": FLOATS.format("sqrt.rn.f32 %f3, %f0;"),
    "min": FLOATS.format("min.f32 %f3, %f0, %f1;"),
    "max.NaN": FLOATS.format("max.NaN.f32 %f3, %f0, %f1;"),
    "cvt.f16": ROUND.format("rn.f16"),
    "cvt.bf16": ROUND.format("rn.bf16"),
    "cvt.s32": "mov.b32 %f0, %a0; cvt.rzi.s32.f32 %d, %f0;",
    "shfl.bfly": "shfl.sync.bfly.b32 %d, %a0, 5, 31, -1;",
    "shfl.up": "shfl.sync.up.b32 %d, %a0, 3, 0, -1;",
    "redux": "redux.sync.add.s32 %d, %a0, -1;",
}
PRODUCT = """.reg .b32 %i; .reg .b64 %il; .reg .f32 %c<4>;
mov.u32 %i, %tid.x; cvt.u64.u32 %il, %i; shl.b64 %il, %il, 4;
ld.param.u64 %l0, [p0]; add.s64 %l0, %l0, %il; ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%l0];
mov.b32 %c0, 0f3F800000; mov.b32 %c1, %c0; mov.b32 %c2, %c0; mov.b32 %c3, %c0;
mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%c0, %c1, %c2, %c3}, {%r0, %r1, %r2, %r3}, {%r3, %r1},
    {%c0, %c1, %c2, %c3};
ld.param.u64 %l1, [p1]; add.s64 %l1, %l1, %il; st.global.v4.b32 [%l1], {%c0, %c1, %c2, %c3};
"""


def cases() -> dict[str, tuple[str, list[np.ndarray], int, int]]:
    """name: (module, its arrays, threads, compute capability that it needs)."""
    found = {}
    for name, body in SNIPPETS.items():
        found[name] = *lanewise_module(body, BITS, MORE, THIRD), 128, 80
    halves = warpgroups.aligned(32, 8)
    halves[...] = np.random.default_rng(1).integers(-8, 9, halves.shape)
    found["mma"] = module(PRODUCT, 2), [halves, warpgroups.aligned(32, 4, dtype=np.float32)], 32, 80
    whole = warpgroups.READY + 2 * warpgroups.PRODUCT + warpgroups.COMMIT + warpgroups.WAIT + warpgroups.KEEP
    arrays = [*warpgroups.operands(), warpgroups.aligned(256, 4, dtype=np.float32)]
    found["wgmma"] = module(whole, 3, warpgroups.SHARED, "sm_90a"), arrays, 128, 90
    return found


CASES = cases()


def executed(name: str) -> list[np.ndarray]:
    text, arrays, threads, _ = CASES[name]
    mine = [warpgroups.aligned(*a.shape, dtype=a.dtype) for a in arrays]
    for copy, array in zip(mine, arrays, strict=True):
        copy[...] = array
    run(text, *mine, block=(threads, 1, 1))
    return mine


@pytest.mark.parametrize("name", CASES)
def test_what_is_compared_does_something(name):
    *_, result = executed(name)
    assert result.any() and (result.reshape(-1) != result.reshape(-1)[0]).any()


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("name", CASES)
def test_snippets(name):
    text, arrays, threads, needs = CASES[name]
    if needs != 80 and gpu.capability() != needs:
        pytest.skip(f"{name} is sm_{needs}'s alone; this GPU is sm_{gpu.capability()}")
    there = [gpu.xp().asarray(a) for a in arrays]
    text = text.replace(".version 8.8", ".version 8.0")  # what drivers of CUDA 12 take
    Function(text.encode(), "snippet", "P" * len(there), 0).launch((1,), (threads, 1, 1), *(a.data.ptr for a in there))
    for mine, theirs in zip(executed(name), there, strict=True):
        assert np.array_equal(mine.view(np.uint8), theirs.get().view(np.uint8))


RESULTS = """
import sys
import numpy as np
from tests.gpu.test_same_bits import results
np.savez(sys.argv[1], **results())
"""


def results() -> dict[str, np.ndarray]:
    """Of kernels without approximations, and whose launches do not depend on the GPU's number of cores."""
    backend, rng = kernels.load("triton"), np.random.default_rng(0)

    def on_device(*shape: int) -> object:
        return gpu.xp().asarray(rng.standard_normal(shape, dtype=np.float32))

    y, tap = backend.max_pool2d(on_device(2, 3, 8, 9), (2, 2), (2, 2))
    total = backend.sum(on_device(33, 257), (1,))
    return {name: each.get() for name, each in (("y", y), ("tap", tap), ("total", total))}


def executed_results(path: Path, simulate: str) -> dict[str, np.ndarray]:
    """The same of a process that executes PTX."""
    other = {"TILEGRAD_SIMULATE": simulate, "TRITON_INTERPRET": "0", "NUMBA_ENABLE_CUDASIM": "0"}
    command = [sys.executable, "-c", RESULTS, str(path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | other, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(path) as found:
        return dict(found)


def test_kernels_can_be_compared(tmp_path):
    """By whatever stands in for the GPU here."""
    here = results()
    for name, each in executed_results(tmp_path / "executed.npz", "ptx").items():
        np.testing.assert_allclose(each, here[name], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@on_a_gpu
def test_kernels(tmp_path):
    if gpu.capability() not in gpu.EXECUTED.values():
        pytest.skip(f"PTX is executed for {', '.join(gpu.EXECUTED)}; this GPU is sm_{gpu.capability()}")
    here = results()
    for name, each in executed_results(tmp_path / "executed.npz", f"ptx:{gpu.capability()}").items():
        assert np.array_equal(each.view(np.uint8), here[name].view(np.uint8)), name
