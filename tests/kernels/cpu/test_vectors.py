"""The tile on other processors than this one: run with the vectors of x86 that this one also has, compiled for Arm."""

import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from tilegrad.kernels.cpu.vectors import vector_unit

ROOT = Path(__file__).parents[3]
PRODUCTS = ["tests/kernels/cpu/test_tile.py", "tests/kernels/matmul/test_cpu_blocks.py"]
COMPILED_FOR_ARM = """
import platform, re
import llvmlite.binding as llvm
from numba import njit, types

platform.machine = lambda: "aarch64"
from tilegrad.kernels.cpu.tile import LANES, ROWS, register_tile

assert LANES == 4
floats, places, index = types.Array(types.float32, 1, "C"), types.Array(types.intp, 1, "C"), types.intp
signature = (floats, places, index, index, index, floats, places, index, places, index, index,
             floats, index, index, index, floats, index, index, index)
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
arm = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="neoverse-n1", opt=3)
for vectors, rows in ROWS.items():
    @njit(_nrt=False)  # whose counts of references are instructions of x86
    def tile(y, y_at, y_base, first, last, x, x_at, x_base, run_at, run, x_step, w, w_base, w_step, ahead, bias, at, start, relu):
        register_tile(rows, vectors, y, y_at, y_base, first, last, x, x_at, x_base, run_at, run, x_step,
                      w, w_base, w_step, ahead, bias, at, start, relu)

    tile.compile(signature)
    code = re.sub('target (triple|datalayout) = ".*"', "", tile.inspect_llvm(tile.signatures[0]))
    code = re.sub('"target-(cpu|features)"="[^"]*"', "", code)
    module = llvm.parse_assembly(code)
    module.triple = "aarch64-unknown-linux-gnu"
    print("TILE", vectors, rows)
    print(arm.emit_assembly(module))
"""  # noqa: E501


def run(arguments, features):
    env = os.environ | {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": features, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


def test_this_processor_has_registers_of_whole_vectors():
    unit = vector_unit()
    assert (unit.nbytes, unit.registers) in [(64, 32), (32, 16), (16, 32), (16, 16)]


@pytest.mark.parametrize("nbytes, features", [(32, "+avx2,+fma,+avx"), (16, "+sse4.2,+fma,+avx")])
def test_products_with_narrower_vectors(nbytes, features):
    if not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("needs a processor of x86 with AVX2")
    code = "from tilegrad.kernels.cpu.vectors import vector_unit; print(vector_unit().nbytes)"
    assert run(["-c", code], features).stdout.strip() == str(nbytes)
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *PRODUCTS], features)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_on_arm_every_sum_of_a_tile_stays_in_a_register():
    done = run(["-c", COMPILED_FOR_ARM], "")
    assert done.returncode == 0, done.stderr[-4000:]
    tiles = done.stdout.split("TILE ")[1:]
    assert len(tiles) == 3
    for text in tiles:
        vectors, rows = map(int, text.split("\n", 1)[0].split())
        loops = [block for block in re.split(r"(?m)^(?=\.L\w+:)", text) if "fmla" in block]
        sums = sorted(block.count("fmla") for block in loops)
        assert sums == [vectors * rows // 2, vectors * rows]  # a term of each height's loop, and nowhere else
        for loop in loops:
            assert not re.search(r"\bq\d+, .*\[sp", loop), loop
