"""A machine without a GPU and without a simulation: what still works, and what the errors name."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tilegrad.kernels.device import gpu

pytestmark = pytest.mark.skipif(gpu.is_available(), reason="there is a GPU")


def python(code, simulated="0"):
    environment = os.environ | {"TRITON_INTERPRET": simulated, "NUMBA_ENABLE_CUDASIM": "0"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_what_asks_for_nothing():
    done = python(
        "from tilegrad import cuda, device; import tilegrad, sys\n"
        "print(cuda.is_available(), cuda.is_simulated(), cuda.device_count(), device.as_device('auto'), "
        "tilegrad.zeros(1, device='auto').device, 'triton' in sys.modules)"
    )
    assert done.stdout.split() == ["False", "False", "0", "cpu", "cpu", "False"], done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "tilegrad.zeros(2, device='cuda')",
        "tilegrad.ones(2).cuda()",
        "tilegrad.ones(2).to('cuda:0')",
        "tilegrad.nn.Linear(2, 2).cuda()",
        "tilegrad.cuda.synchronize()",
        "tilegrad.cuda.memory_allocated()",
        "tilegrad.cuda.memory_reserved()",
        "tilegrad.cuda.memory_summary()",
        "tilegrad.cuda.empty_cache()",
    ],
)
def test_what_needs_one_says_what_is_missing(code):
    done = python(f"import tilegrad, tilegrad.nn\n{code}")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('RuntimeError: device "cuda": ') and "expected" in last, done.stderr
    assert "pip install" in last or "TRITON_INTERPRET=1" in last


def test_a_pickle_from_a_gpu_says_it_needs_one():
    made = python("import tilegrad, pickle; print(pickle.dumps(tilegrad.ones(2, device='cuda')))", simulated="1")
    done = python(f"import pickle; pickle.loads({made.stdout.strip()})")
    assert 'RuntimeError: device "cuda": ' in done.stderr.strip().splitlines()[-1], done.stderr
