"""What the first training step of a net compiles, in lines of LLVM's IR: seconds depend on what else the machine does.

The two nets that compile most have 36 and 29 thousand lines. On one idle core with AVX-512 either takes 8 to 9 seconds
of CPU in all: lines cost LLVM half of them, and the rest is Numba's part of the work.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_MOST_LINES = {"residual CNN": 38_000, "transformer": 32_000}

_FIRST_STEPS = """
import json, sys
import numpy as np
from numba.core.codegen import CPUCodeLibrary
from numba.core.dispatcher import _FunctionCompiler

lines, of_numba = [], []
optimize = CPUCodeLibrary._optimize_final_module

def counted(library):
    lines.append(str(library._final_module).count("\\n"))
    optimize(library)

def named(compiler, args, return_type):
    module = compiler.py_func.__module__
    if not module.startswith("tilegrad."):
        of_numba.append(f"{module}.{compiler.py_func.__qualname__}")
    return compile(compiler, args, return_type)

CPUCodeLibrary._optimize_final_module = counted
compile, _FunctionCompiler._compile_core = _FunctionCompiler._compile_core, named

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
print(json.dumps([len(lines), sum(lines), of_numba]))
"""


@pytest.mark.parametrize("net", _MOST_LINES)
def test_first_use_compiles_little(net, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    run = subprocess.run([sys.executable, "-c", _FIRST_STEPS, net], capture_output=True, text=True, check=True)
    functions, lines, of_numba = json.loads(run.stdout)
    assert functions > 20  # they are compiled here, and are counted
    assert not of_numba  # such as its min and max, compiled anew for all options that a kernel may have
    assert lines <= _MOST_LINES[net], f"{functions} functions of {lines} lines"
