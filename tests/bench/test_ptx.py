"""The time of the executor of PTX: what is told of a launch, and where nothing is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    env = os.environ | {"TRITON_INTERPRET": "0", "NUMBA_ENABLE_CUDASIM": "0"} | environment
    command = [sys.executable, "-m", "tilegrad.bench.ptx", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_a_launch_is_timed():
    """The executor's time is nearly all of it; of 64 rows of 1024 each element is loaded and stored by someone."""
    done = bench("softmax", TILEGRAD_SIMULATE="ptx")
    title, row = done.stdout.splitlines()
    assert title.split() == ["case", "seconds", "goal", "executor", "launches", "M", "instructions"]
    name, seconds, goal, executing, launches, instructions = row.split()
    assert (name, goal, launches) == ("softmax", "0.1", "1")
    assert 0 < float(executing) <= float(seconds) < 2 * float(executing) + 0.01
    assert 64 * 1024 / 4 < 1e6 * float(instructions) < 64 * 1024 * 100
    assert done.returncode == (float(seconds) > float(goal))


def test_what_is_not_executed_is_not_timed():
    done = bench("softmax")
    assert done.returncode == 2 and "expected TILEGRAD_SIMULATE=ptx" in done.stderr and not done.stdout
