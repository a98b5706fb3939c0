"""README's workflow for a machine without a GPU: what it runs, runs here, on the program beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tilegrad.kernels.device import gpu

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().partition("## On a machine without a GPU")[2].partition("\n## ")[0]
(WORKFLOW,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
(PROGRAM,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
COMMANDS = re.findall(r"- run: (.*)", WORKFLOW)
INSTALL, *RUNS = COMMANDS
SIMULATIONS = ("TRITON_INTERPRET", "NUMBA_ENABLE_CUDASIM", "TILEGRAD_SIMULATE", "TILEGRAD_KERNELS")


def shell(command, folder):
    """As a step of the workflow would, with this Python, in which `tilegrad` may not be installed."""
    own = f"'{sys.executable}'"
    command = re.sub(r"(^|\s)tilegrad check ", rf"\1{own} -m tilegrad check ", command)
    command = re.sub(r"(^|\s)python ", rf"\1{own} ", command)
    env = {name: value for name, value in os.environ.items() if name not in SIMULATIONS}
    return subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_the_workflow_is_ten_lines_and_installs_what_there_is():
    assert len(WORKFLOW.splitlines()) == 10 and len(RUNS) == 3
    (extras,) = re.findall(r'pip install "tilegrad\[(.*)\]"', INSTALL)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)


@pytest.mark.skipif(not gpu.is_simulated(), reason="the first run would be on the GPU that there is")
def test_its_commands_run_and_agree(tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM)
    told = []
    for command in RUNS:
        done = shell(command, tmp_path)
        assert done.returncode == 0, command + done.stdout + done.stderr
        told.append(done.stdout.splitlines())
    (cpu,), (simulated,), (executed, checked) = told
    assert cpu.split()[0] == "cpu" and simulated.split()[0] == executed.split()[0] == "cuda"
    assert abs(float(cpu.split()[1]) - float(simulated.split()[1])) < 1e-3
    assert abs(float(cpu.split()[1]) - float(executed.split()[1])) < 1e-3
    assert re.match(r"\d+ launches of \d+ kernels checked, no fault: ", checked)


FAULT = """
import triton.language as tl
from tilegrad.kernels.launch.triton_kernel import kernel

@kernel
def _beyond(x_ptr, BLOCK: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, BLOCK), 1.0)

if device == "cuda":
    _beyond((1,), tg.ones(64, device=device).data, BLOCK=128)
"""


def test_a_kernel_that_leaves_its_array_fails_the_check(tmp_path):
    (tmp_path / "train.py").write_text(PROGRAM + FAULT)
    done = shell(RUNS[-1], tmp_path)
    assert done.returncode == 1 and "_beyond" in done.stderr, done.stdout + done.stderr


@pytest.mark.skipif(not gpu.is_simulated(), reason="there is a GPU")
@pytest.mark.parametrize("variable", ["", "TRITON_INTERPRET=1", "NUMBA_ENABLE_CUDASIM=1", "TILEGRAD_SIMULATE=ptx"])
def test_is_available_and_is_simulated_are_what_it_says(variable, tmp_path):
    (tmp_path / "ask.py").write_text(
        "import tilegrad as tg\n"
        "print(tg.cuda.is_available(), tg.cuda.is_simulated(), tg.cuda.device_count())\n"
        "print(tg.ones(1, device='auto').device)"
    )
    done = shell(f"{variable} python ask.py", tmp_path)
    assert done.stdout.split() == ["False", str(bool(variable)), str(int(bool(variable))), "cpu"], done.stderr
