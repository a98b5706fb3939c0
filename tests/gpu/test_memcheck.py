"""compute-sanitizer's memcheck over the small contract tests: no kernel reads or writes beyond its arrays.

Without CuPy's pool, so that every array is an allocation of its own, whose end the tool knows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tilegrad.kernels.device import gpu

ROOT = Path(__file__).parents[2]
TOOL = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


@pytest.mark.gpu
@pytest.mark.skipif(not gpu.is_available(), reason="there is no GPU here")
@pytest.mark.skipif(TOOL is None, reason="compute-sanitizer is not installed")
def test_no_kernel_leaves_its_arrays():
    command = [TOOL, "--tool", "memcheck", "--error-exitcode", "9", "--launch-timeout", "60", sys.executable]
    which = ["-m", "gpu", "-k", "triton and float32 and (layout or 10)", "tests/kernels"]
    env = os.environ | {"TILEGRAD_TEST_RAW_MEMORY": "1", "TILEGRAD_AUTOTUNE": "0"}
    command += ["-m", "pytest", "-q", "-x", *which]  # once for all files: starting it takes longer than most of them
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
