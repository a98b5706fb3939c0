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

ROOT = Path(__file__).parents[2]
TENSOR_CORES = {80: "mma", 90: "wgmma"}


@pytest.fixture
def run(tmp_path):
    """Runs python with these arguments, torch blocked and Triton's interpreter off."""
    blocked = tmp_path / "torch"
    blocked.mkdir()
    (blocked / "__init__.py").write_text('raise ImportError("torch is blocked")\n')

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        env = os.environ | {"PYTHONPATH": path, "TRITON_INTERPRET": "0"} | environment
        return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)

    return run


def test_launching(run):
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", "tests/compiled/launch_cases.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("arch", [80, 90])
def test_every_kernel_compiles(run, tmp_path, arch):
    """No spills in defaults, shared memory within the limit (the command's status), tensor cores where they belong."""
    done = run(
        "-m", "kernels.compile", "--arch", str(arch), "--defaults", "--jobs", "1", "--json", str(tmp_path / "t.json")
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    rows = json.loads((tmp_path / "t.json").read_text())
    assert {row["arch"] for row in rows} == {arch}
    assert all(0 < row["registers"] <= 255 and row["cubin_bytes"] > 0 and not row["spill_bytes"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "75"], "--arch: got 75; expected a list of 80, 86"),
        (["--arch", "ninety"], "--arch: got ninety; expected a list of 80, 86"),
        (["--kernels", "cpu"], "invalid choice: 'cpu'"),
    ],
)
def test_wrong_flags(run, arguments, message):
    done = run("-m", "kernels.compile", *arguments)
    assert done.returncode == 2 and message in done.stderr


def test_the_interpreter_cannot_compile(run):
    done = run("-m", "kernels.compile", TRITON_INTERPRET="1")
    assert done.returncode == 2 and "expected it to be unset" in done.stderr
