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


def test_kernels_executed():
    cases_pass("kernel_cases.py")


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
        ({"TILEGRAD_SIMULATE": "gpu"}, "TILEGRAD_SIMULATE is 'gpu'; expected ptx, or nothing"),
        ({"TILEGRAD_SIMULATE": "ptx", "TRITON_INTERPRET": "1"}, "TILEGRAD_SIMULATE=ptx beside TRITON_INTERPRET=1"),
    ],
)
def test_wrong_ways_to_ask(environment, message):
    done = python("-c", "import tilegrad as tg; tg.zeros(3, device='cuda')", **environment)
    assert done.returncode == 1 and f"ValueError: {message}" in done.stderr


EVERY_DEFAULT = """
import sys
from tilegrad.kernels.compile import report_{language} as report
from tilegrad.kernels.simulate.ptx import control, operands, parse
from tilegrad.kernels.simulate.ptx.faults import PtxError
unknown = set()
for _, spec in report.launches({arch}, True):
    made = spec.compile({arch})
    for kernel in parse.parse(made[0] if type(made) is tuple else made.asm["ptx"]).kernels.values():
        scope = operands.Scope(kernel, dict.fromkeys(kernel.variables, 0))
        for instruction in kernel.instructions:
            try:
                control.op(instruction, scope, kernel)
            except PtxError as error:
                assert str(error).endswith("unknown instruction or modifier"), error
                unknown.add(instruction.opcode)
print(*sorted(unknown))
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("language", ["triton", "numba"])
@pytest.mark.parametrize(("arch", "unknown"), [(80, set()), (90, {"wgmma", "fence"})])
def test_every_default_is_understood(language, arch, unknown):
    """All of its text, and all of its instructions but those of a warpgroup."""
    done = python("-c", EVERY_DEFAULT.format(language=language, arch=arch))
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= (unknown if language == "triton" else set())
