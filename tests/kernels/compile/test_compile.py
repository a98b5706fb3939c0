"""What a GPU would run, without one: the launch route on a stand-in driver, and every kernel compiled ahead of time.

In processes of their own, where Triton's interpreter does not replace its compiler, and where torch cannot be imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilegrad import kernels

ROOT = Path(__file__).parents[3]
TENSOR_CORES = {80: "mma", 90: "wgmma"}


@pytest.fixture
def run(tmp_path):
    """Runs python with these arguments, torch blocked and Triton's interpreter off."""
    blocked = tmp_path / "torch"
    blocked.mkdir()
    (blocked / "__init__.py").write_text('raise ImportError("torch is blocked")\n')

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"PYTHONPATH": path, "TRITON_INTERPRET": "0", "NUMBA_ENABLE_CUDASIM": "0"} | environment
        return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("cases", ["launch_cases.py", "launch_numba_cases.py", "pipeline_cases.py"])
def test_launching(run, cases):
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", f"tests/kernels/compile/{cases}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("language", ["triton", "numba"])
def test_every_kernel_compiles(run, tmp_path, language, arch):
    """No spills in defaults, shared memory within the limit (the command's status), tensor cores where they belong."""
    table = tmp_path / "table.json"
    flags = ("--kernels", language, "--arch", str(arch), "--defaults", "--jobs", "1", "--json", str(table))
    done = run("-m", "tilegrad.kernels.compile", *flags)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    rows = json.loads(table.read_text())
    assert {(row["backend"], row["arch"]) for row in rows} == {(language, arch)}
    assert all(0 < row["registers"] <= 255 and row["cubin_bytes"] > 0 and not row["spill_bytes"] for row in rows)
    if language == "triton":
        products = [row for row in rows if row["kernel"] in ("matmul", "conv2d", "conv2d_grad_input")]
        assert {row["dtype"] for row in products} == {"float32", "float16", "bfloat16"}
        for row in products:
            on_float32_pipes = row["dtype"] == "float32" and "PRECISION=ieee" in row["config"]
            assert row["tensor_core"] == ("none" if on_float32_pipes else TENSOR_CORES[arch]), row


@pytest.mark.parametrize("language", ["triton", "numba"])
def test_every_primitive_is_among_what_is_compiled(run, language):
    code = f"""
from tilegrad.kernels import PRIMITIVES
from tilegrad.kernels.compile import launches_{language} as launches, report_{language} as report
backend, called = launches.backend, set()
class Noted:
    def __getattr__(self, name):
        called.add(name)
        return getattr(backend, name)
launches.backend, report.DTYPES = Noted(), report.DTYPES[:1]
report.launches(90, True)
print(sorted(PRIMITIVES.keys() - called), len(called))
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"[] {len(kernels.PRIMITIVES)}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "75"], "--arch: got 75; expected a list of 80, 86"),
        (["--arch", "ninety"], "--arch: got ninety; expected a list of 80, 86"),
        (["--kernels", "cpu"], "invalid choice: 'cpu'"),
    ],
)
def test_wrong_flags(run, arguments, message):
    done = run("-m", "tilegrad.kernels.compile", *arguments)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize(("language", "variable"), [("triton", "TRITON_INTERPRET"), ("numba", "NUMBA_ENABLE_CUDASIM")])
def test_what_is_simulated_cannot_be_compiled(run, language, variable):
    done = run("-m", "tilegrad.kernels.compile", "--kernels", language, **{variable: "1"})
    assert done.returncode == 2 and f"{variable} is set" in done.stderr


def test_what_numba_says_of_numpy_is_no_error(run):
    """Under NumPy 2.5 importing numba.cuda warns, which `-W error` (as these tests are run) makes fatal."""
    code = """
import sys, warnings
class Warns:
    def find_spec(self, name, path=None, target=None):
        if name != "numba.cuda":
            return None
        spec = next(filter(None, (f.find_spec(name, path) for f in sys.meta_path if f is not self)))
        execute = spec.loader.exec_module
        def exec_module(module):
            warnings.warn("a name that NumPy will drop", DeprecationWarning)
            told.append(name)
            execute(module)
        spec.loader.exec_module = exec_module
        return spec
told = []
sys.meta_path.insert(0, Warns())
from tilegrad.kernels.launch import numba_target as simt
print(set(told), callable(simt.cuda.jit))
"""
    done = run("-W", "error", "-c", code)
    assert done.stdout == "{'numba.cuda'} True\n", done.stderr


def test_numba_compiles_beside_a_numpy_that_has_dropped_a_name(run):
    """NumPy 2.5 has no row_stack, which numba-cuda asks for when it is imported."""
    code = """
import numpy as np
vars(np).pop("row_stack", None)
known = np.__getattr__
def __getattr__(name):
    if name == "row_stack":
        raise AttributeError(name)
    return known(name)
np.__getattr__ = __getattr__
from tilegrad.kernels.launch import numba_target
print(callable(numba_target.make_array), hasattr(np, "row_stack"))
"""
    done = run("-c", code)
    assert done.stdout == "True False\n", done.stderr
