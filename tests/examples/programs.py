"""Running the examples: as a user does, in a process of their own, or here with a net that takes no time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import mnist_training
import pytest

from tilegrad import nn

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example, *flags, **variables):
    """A program of examples/ with these flags, in a process of its own."""
    command = [sys.executable, EXAMPLES / example, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | variables)


def tiny() -> nn.Module:
    """A net that draws random numbers in every step."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10))


def train(*flags, net=tiny):
    """The training program with the net and these flags, in this process; the figures of --json."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "figures.json"
        patch.setattr(sys, "argv", ["tiny.py", *map(str, flags), "--json", str(path)])
        mnist_training.main(net, "")
        return json.loads(path.read_text())
