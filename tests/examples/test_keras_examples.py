"""The Keras examples as a user runs them: `python -m tilegrad.keras`, on a small data set in a folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.examples.programs import EXAMPLES

# What each prints last, and the least test accuracy in percent on ten classes of bars, of which there are 640 to learn.
SAYS = {
    "keras_callbacks.py": (r"checkpoint: test accuracy ([\d.]+) %, F1 [\d.]+ %", 30),
    "keras_cnn.py": (r"[\d.]+ s an epoch, test loss [\d.]+, test accuracy ([\d.]+) %", 90),
    "keras_frozen.py": (r"untrained body: [\d.]+ s an epoch, test accuracy ([\d.]+) %; the head alone has changed", 15),
    "keras_loop.py": (r"epoch 2: [\d.]+ s, training accuracy [\d.]+ %, test accuracy ([\d.]+) %", 90),
    "keras_mlp.py": (r"second fit: [\d.]+ s an epoch, test loss [\d.]+, test accuracy ([\d.]+) %", 95),
    "keras_uint8.py": (r"[\d.]+ s an epoch, test loss [\d.]+, test accuracy ([\d.]+) %", 90),
}


@pytest.mark.parametrize("example", SAYS)
def test_runs_and_says_its_figures(example, digits, tmp_path):
    environment = os.environ | {"TILEGRAD_DATA": str(digits), "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "tilegrad"}
    command = [sys.executable, "-m", "tilegrad.keras", EXAMPLES / example]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "runs plainly" not in done.stderr
    pattern, least = SAYS[example]
    found = re.fullmatch(pattern, done.stdout.splitlines()[-1])
    assert found and float(found[1]) >= least, done.stdout
