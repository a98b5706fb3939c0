"""Machine code that is older than any source of the CPU kernels goes; all else stays."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kernels

SUM = """
import numpy as np
from kernels.sum_cpu import sum, sum_rows
sum(np.ones((3, 4), np.float32), (0,))
print(len(sum_rows.stats.cache_hits))
"""


def test_a_source_that_others_are_made_of_is_changed(tmp_path):
    copy = tmp_path / "kernels"
    shutil.copytree(Path(kernels.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def hits():
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-c", SUM]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert hits() == 0
    assert hits() == 1
    others = [tmp_path / "cache" / "mine.nbi", copy / "gpu.py"]
    others[0].touch()
    others[1].touch()  # no source of these
    assert hits() == 1
    os.utime(copy / "share_cpu.py", (1, 1))
    assert hits() == 0
    assert hits() == 1
    assert others[0].exists()
