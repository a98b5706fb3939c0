"""What the first training step of a net compiles, in lines of LLVM's IR: seconds depend on what else the machine does.

On one idle core with AVX-512 the transformer's 57 thousand lines take 11 seconds of CPU in all, Numba's part of the
work included. The nets are the two that compile most.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_MOST_LINES = {"residual CNN": 64_000, "transformer": 64_000}

_FIRST_STEPS = """
import json, sys
import numpy as np
from numba.core.codegen import CPUCodeLibrary

lines = []
optimize = CPUCodeLibrary._optimize_final_module

def counted(library):
    lines.append(str(library._final_module).count("\\n"))
    optimize(library)

CPUCodeLibrary._optimize_final_module = counted

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.bench.nets import TRAINED

net = TRAINED[sys.argv[1]]
model = net.make(nn)
optimizer = optim.Adam(model.parameters())
x, t = net.draw(np.random.default_rng(0), 8)
x, t = tg.tensor(x), tg.tensor(t.reshape(-1))

@tg.capture
def step(x, t):
    loss = nn.functional.cross_entropy(model(x), t)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss

for _ in range(3):
    step(x, t)
print(json.dumps([len(lines), sum(lines)]))
"""


@pytest.mark.parametrize("net", _MOST_LINES)
def test_first_use_compiles_little(net, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    run = subprocess.run([sys.executable, "-c", _FIRST_STEPS, net], capture_output=True, text=True, check=True)
    functions, lines = json.loads(run.stdout)
    assert functions > 20  # they are compiled here, and are counted
    assert lines <= _MOST_LINES[net], f"{functions} functions of {lines} lines"
