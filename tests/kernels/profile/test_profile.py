"""The commands `python -m tilegrad.kernels.profile` and `... .check`, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMPILED = {"TRITON_INTERPRET": "0", "NUMBA_ENABLE_CUDASIM": "0", "TILEGRAD_SIMULATE": "0", "TILEGRAD_KERNELS": ""}

KERNEL = """
import sys
import numpy as np
import triton.language as tl
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.triton_kernel import kernel

@kernel
def _twice_kernel(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + i, 2 * tl.load(x_ptr + i, mask=i < {bound}), mask=i < n)

x = gpu.xp().ones(1000, np.float32)
_twice_kernel((8,), x, 1000, BLOCK=128, num_warps=4)
_twice_kernel((8,), x, 1000, BLOCK=128, num_warps=4)
print(sys.argv[1:], float(x.sum()))
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    env = os.environ | COMPILED | environment
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


def command(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return python("-m", f"tilegrad.kernels.{name}", *arguments, **environment)


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("programs")
    written = {"right": KERNEL.format(bound="n"), "wrong": KERNEL.format(bound="1024"), "none": "print(1 + 1)\n"}
    written["fails"] = "raise SystemExit('no data')\n"
    for name, source in written.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    return {name: str(folder / f"{name}.py") for name in written}


def test_cases_that_need_compilers():
    cases = "tests/kernels/profile/profile_cases.py"
    flags = ("-q", "-p", "no:cacheprovider", "--noconftest")
    done = python("-m", "pytest", *flags, cases, TILEGRAD_SIMULATE="ptx")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert " passed" in done.stdout


def test_check_counts_what_was_launched(programs):
    done = command("check", programs["right"], "a", "--flag")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("['a', '--flag'] 4000.0\n2 launches of 1 kernels checked, no fault: _twice_kernel 2\n")


def test_check_names_the_fault(programs):
    done = command("check", programs["wrong"])
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("_twice_kernel, PTX line ") and len(done.stderr.splitlines()) == 1
    assert "wrong.py:11), block (7, 0, 0), thread (104, 0, 0): ld.global.b32: 4 bytes at" in done.stderr
    assert "0 bytes behind the end of x_ptr (4000 bytes): outside of every array" in done.stderr


def test_check_of_a_program_that_launches_nothing(programs):
    done = command("check", programs["none"])
    assert done.returncode == 1 and done.stdout == "2\n"
    assert "none.py: launched no kernel on device cuda, so nothing was checked" in done.stderr


def test_a_program_s_own_exit_is_kept(programs):
    done = command("check", programs["fails"])
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "no data\n")


def test_profile_of_a_program(programs, tmp_path):
    """1000 floats, 7 blocks of 128 and one of 104: 125 sectors read, 125 written, each launch."""
    path = tmp_path / "counters.json"
    done = command("profile", programs["right"], "--card", "A100", "--json", str(path), "--", "b")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['b'] 4000.0\n_twice_kernel  BLOCK=128 num_warps=4 num_stages=3\n")
    assert done.stdout.endswith("\n2 launches of 1 kernels\n") and "on A100, by " in done.stdout
    (row,) = json.loads(path.read_text())
    counters = row["counters"]
    assert (row["launches"], counters["blocks"], counters["read"], counters["written"]) == (2, 16, 250, 250)
    assert counters["loads"] == counters["stores"] == {"accesses": 2 * 32, "bytes": 8000, "sectors": 250}


def test_profile_of_a_primitive_by_numba():
    done = command("profile", "take_rows", "--shape", "50x33x7", "--kernels", "numba", "--dtype", "float16")
    assert done.returncode == 0, done.stderr
    assert "_rows_kernel" in done.stdout and "grid " in done.stdout and "coalesced" in done.stdout


WRONG = [
    (("profile", "nothing"), "nothing is no primitive; expected a program, or one of matmul, "),
    (("profile", "matmul", "--shape", "3x4"), "--shape 3x4; expected M x N x K, as 256x256x256"),
    (("profile", "matmul", "--shape", "axb"), "--shape axb: expected M x N x K, as 256x256x256"),
    (("profile", "conv2d", "--shape", "1x1x2x1x5x0"), "conv2d: a kernel of 5 on images of 2 + 2 x 0"),
    (("profile", "matmul", "--arch", "70"), "the PTX of sm_70 is not executed; expected 80"),
    (("profile", "matmul", "--kernels", "numba", "--dtype", "bfloat16"), "the kernels of numba take no bfloat16"),
    (("profile", "matmul", "--card", "X9"), "argument --card: invalid choice: 'X9'"),
    (("profile", "matmul", "--", "x"), "matmul is a primitive, which takes no arguments: x"),
    (("profile", "missing.py"), "there is no file missing.py; expected a Python program"),
    (("check", "missing.py"), "there is no file missing.py; expected a Python program"),
    (("check", "--arch", "70", __file__), "the PTX of sm_70 is not executed; expected 80"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), WRONG, ids=lambda each: " ".join(each)[:40] if type(each) is tuple else ""
)
def test_what_cannot_be_run(arguments, message):
    done = command(*arguments)
    assert done.returncode == 2 and message in done.stderr and done.stdout == "", done.stderr


def test_another_simulation_is_refused(programs):
    done = command("check", programs["right"], TRITON_INTERPRET="1")
    assert done.returncode == 2 and "TILEGRAD_SIMULATE=ptx beside TRITON_INTERPRET=1" in done.stderr
