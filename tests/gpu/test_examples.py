"""The examples on a GPU: MNIST from start to end, as a user runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tilegrad.kernels.device import gpu

ROOT = Path(__file__).parents[2]


@pytest.mark.gpu
@pytest.mark.skipif(not gpu.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize(("example", "least"), [("mnist_mlp.py", 94.0), ("mnist_cnn.py", 97.0)])
def test_an_epoch_learns(example, least):
    command = [sys.executable, str(ROOT / "examples" / example), "--device", "cuda", "--epochs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    accuracies = [float(found) for found in re.findall(r"(\d+\.\d+) ?%", done.stdout)]
    assert accuracies and max(accuracies) >= least, done.stdout
