"""A user's file, compiled ahead of time: what is collected of it, and what is a fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tilegrad.kernels.compile import run

BOTH = """
from numba import cuda
import triton.language as tl
from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import numba_kernel, triton_kernel

@triton_kernel.kernel
def _of_triton(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x_ptr + i, 2 * tl.load(x_ptr + i, i < n), i < n)

@numba_kernel.kernel
def _of_numba(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] * 0.1 + x[i] * i

def launches(empty):
    if kernels.name("cuda") == "triton":
        _of_triton((1,), empty(100), 100, BLOCK=128)
    _of_numba((4,), (32,), empty(100), empty(100))  # of both languages' turns

if __name__ == "__main__":
    raise SystemExit("it is imported, not run")
"""


def compiled(tmp_path, text, *flags):
    (tmp_path / "mine.py").write_text(text)
    command = [sys.executable, "-m", "tilegrad.kernels.compile", "mine.py", "--arch", "90", "--json", "a.json", *flags]
    env = os.environ | {"TRITON_INTERPRET": "0", "NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    there = tmp_path / "a.json"
    return done, json.loads(there.read_text()) if there.exists() else None


def test_both_languages_are_collected_and_float64_arithmetic_is_a_fault(tmp_path):
    """x[i] * i is float64, as an int64 beside a float32 is."""
    done, rows = compiled(tmp_path, BOTH)
    assert [(row["backend"], row["kernel"], row["float64"]) for row in rows] == [
        ("triton", "of_triton", False), ("numba", "of_numba", True),
    ]  # fmt: skip
    assert done.returncode == 1 and "of_numba float32 sm_90 threads=32: computes in float64" in done.stderr
    assert done.stderr.count("computes in float64") == 1


def test_what_launches_nothing_is_an_error(tmp_path):
    done, rows = compiled(tmp_path, "def launches(empty):\n    empty(3)\n", "--kernels", "triton")
    assert done.returncode == 1 and rows is None
    assert "mine.py: launches(empty) launched no kernel of tilegrad.kernels.launch" in done.stderr


@pytest.mark.parametrize(
    "flags, text",
    [
        (["--dtype", "float32"], "--dtype is of a file; what is shipped is compiled for every dtype"),
        ([__file__, "--dtype", "float8"], "--dtype: got 'float8'; expected some of float16"),
        (["nowhere.py"], "there is no file nowhere.py"),
    ],
)
def test_what_it_refuses(flags, text, capsys):
    with pytest.raises(SystemExit) as refused:
        run.main(flags)
    assert refused.value.code == 2 and text in capsys.readouterr().err
