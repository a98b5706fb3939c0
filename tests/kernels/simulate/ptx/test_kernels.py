"""The project's own kernels, compiled and executed, in a process where no simulator takes the compiler's place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
COMPILED = {"TRITON_INTERPRET": "0", "NUMBA_ENABLE_CUDASIM": "0"}


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    env = os.environ | COMPILED | environment
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("simulate", "which"),
    [
        pytest.param("ptx", "", id="sm_80"),
        # Those whose code differs in kind: warpgroups' products.
        pytest.param("ptx:90", "matmul or conv2d or (attention and triton)", id="sm_90"),
        pytest.param("ptx:90", "not matmul and not conv2d", id="sm_90, the others", marks=pytest.mark.exhaustive),
    ],
)
def test_kernels_executed(simulate, which):
    cases_pass("kernel_cases.py", simulate, which)


def cases_pass(file: str, simulate: str = "ptx", which: str = "") -> None:
    """The tests in that file beside this one, or `which` (-k) of them, pass where PTX is executed; none is skipped."""
    flags = ("-q", "-p", "no:cacheprovider", "--noconftest", "-k", which)
    cases = Path(__file__).with_name(file).relative_to(ROOT)
    done = python("-m", "pytest", *flags, str(cases), TILEGRAD_SIMULATE=simulate)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert re.fullmatch(r"\d+ passed(, \d+ deselected)? in .*", done.stdout.splitlines()[-1]), done.stdout[-6000:]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TILEGRAD_SIMULATE": "gpu"}, "TILEGRAD_SIMULATE is 'gpu'; expected one of ptx, ptx:80, ptx:90, or nothing"),
        ({"TILEGRAD_SIMULATE": "ptx:70"}, "TILEGRAD_SIMULATE is 'ptx:70'; expected one of ptx, ptx:80, ptx:90"),
        ({"TILEGRAD_SIMULATE": "ptx", "TRITON_INTERPRET": "1"}, "TILEGRAD_SIMULATE=ptx beside TRITON_INTERPRET=1"),
        (
            {"TILEGRAD_SIMULATE": "ptx:90", "NUMBA_ENABLE_CUDASIM": "1"},
            "TILEGRAD_SIMULATE=ptx:90 beside NUMBA_ENABLE_CUDASIM=1",
        ),
    ],
)
def test_wrong_ways_to_ask(environment, message):
    done = python("-c", "import tilegrad as tg; tg.zeros(3, device='cuda')", **environment)
    assert done.returncode == 1 and f"ValueError: {message}" in done.stderr


EVERY_DEFAULT = """
from tilegrad.kernels.compile import report_{language} as report
from tilegrad.kernels.simulate.ptx import execute, parse
for _, spec in report.launches({arch}, True):
    made = spec.compile({arch})
    text = made[0] if type(made) is tuple else made.asm["ptx"]
    for name in parse.parse(text).kernels:
        execute.Program(text, name)
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("language", ["triton", "numba"])
@pytest.mark.parametrize("arch", [80, 90])
def test_every_default_is_understood(language, arch):
    """All of its text, and all of its instructions."""
    done = python("-c", EVERY_DEFAULT.format(language=language, arch=arch))
    assert done.returncode == 0, done.stderr
