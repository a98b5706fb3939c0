"""examples/my_rms_norm.py: in every language and simulation that there is without a GPU, unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "my_rms_norm.py"
SIMULATIONS = {
    "Triton's interpreter": {"TRITON_INTERPRET": "1"},
    "Numba's simulator": {"NUMBA_ENABLE_CUDASIM": "1", "TILEGRAD_KERNELS": "numba"},
    "Triton's PTX": {"TILEGRAD_SIMULATE": "ptx"},
    "Numba's PTX": {"TILEGRAD_SIMULATE": "ptx", "TILEGRAD_KERNELS": "numba"},
}
CLEAN = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "NUMBA_ENABLE_CUDASIM")}


def run(*command, **environment):
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=CLEAN | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_at_most_150_lines():
    assert len(EXAMPLE.read_text().splitlines()) <= 150


@pytest.mark.parametrize("how", SIMULATIONS)
def test_it_runs_simulated_and_its_rows_are_right(how, tmp_path):
    run(str(EXAMPLE), "--json", str(tmp_path / "a.json"), **SIMULATIONS[how])
    found = json.loads((tmp_path / "a.json").read_text())
    mine = [row for row in found["rows"] if row["provider"] == "mine"]
    narrow = "float16" if "Numba" in how else "bfloat16"
    assert found["simulated"] and {(row["mode"], row["dtype"], row["status"]) for row in mine} == {
        (mode, dtype, "unmeasured") for mode in ("forward", "backward") for dtype in ("float32", narrow)
    }


def test_on_the_cpu_it_has_ceilings_rivals_and_times(tmp_path):
    flags = ("--quick", "--shapes", "64,32", "--dtype", "float32", "--providers", "reference,torch,triton")
    told = run(str(EXAMPLE), *flags, "--json", str(tmp_path / "a.json"))
    found = json.loads((tmp_path / "a.json").read_text())
    rows = {(row["mode"], row["provider"]): row for row in found["rows"]}
    assert set(rows) == {(mode, name) for mode in ("forward", "backward") for name in ("reference", "torch")}
    assert all(row["status"] == "ok" and row["ms"] > 0 and row["of_ceiling"] > 0 for row in rows.values())
    own = rows["backward", "reference"]
    assert own["bytes"] == (3 * 64 + 2) * 32 * 4 and own["flops"] == 9 * 64 * 32 and own["best_rival"] == "torch"
    assert "my_rms_norm, forward  64 x 32  float32" in told


def test_its_test_runs_under_pytest():
    told = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", str(EXAMPLE), TRITON_INTERPRET="1")
    assert "1 passed" in told


def test_its_kernels_compile_ahead_of_time_without_spills(tmp_path):
    run("-m", "tilegrad.kernels.compile", str(EXAMPLE), "--arch", "90", "--json", str(tmp_path / "a.json"))
    rows = json.loads((tmp_path / "a.json").read_text())
    own = {(row["backend"], row["kernel"]) for row in rows if not row["kernel"].startswith("sum")}
    assert own == {(name, f"{which}_{name}") for name in ("triton", "numba") for which in ("forward", "gradient")}
    assert all(row["registers"] > 0 and not row["spill_bytes"] for row in rows)


def test_its_kernels_are_checked_and_counted():
    told = run("-m", "tilegrad.kernels.check", str(EXAMPLE))
    assert "checked, no fault" in told and "_forward_triton" in told and "_gradient_triton" in told
    told = run("-m", "tilegrad.kernels.profile", "--kernels", "numba", str(EXAMPLE))
    assert "forward_numba" in told and "no faster than" in told


@pytest.mark.parametrize("wrong", ["xhat * mean", "x * rstd *"])
def test_a_mistake_in_a_kernel_is_found(wrong, tmp_path):
    """By the gradient check, or by the specification: the example is worth what it would notice."""
    text = EXAMPLE.read_text()
    assert text.count(wrong) >= 1
    (tmp_path / "wrong.py").write_text(text.replace(wrong, f"1.01 * {wrong}"))
    done = subprocess.run(
        [sys.executable, "wrong.py"],
        cwd=tmp_path,
        env=CLEAN | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and ("GradcheckError" in done.stderr or "Not equal to tolerance" in done.stderr)


def test_the_op_is_captured_on_the_cpu():
    sys.path.insert(0, str(EXAMPLE.parent))
    try:
        import my_rms_norm
    finally:
        sys.path.pop(0)
    import tilegrad as tg
    from tilegrad.bench.ops import OPS
    from tilegrad.bench.providers import PROVIDERS

    OPS.pop("my_rms_norm")
    PROVIDERS.pop("mine")
    w = tg.rand(8, requires_grad=True)

    def step(x):
        w.grad = None
        my_rms_norm.rms_norm(x, w).square().sum().backward()
        return w.grad

    captured = tg.capture(step, warmup=1)
    for seed in range(4):
        x = tg.tensor(np.random.default_rng(seed).standard_normal((5, 8)).astype(np.float32))
        assert (captured(x).numpy() == step(x).numpy()).all()
    assert "runs plainly" not in captured.summary()
