"""The command `tilegrad`: what it hands on to, and what `info` tells."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tilegrad as tg
from tilegrad import info
from tilegrad.__main__ import MODULES, main

ROOT = Path(__file__).parents[1]


def command(*arguments, options=(), **environment):
    return subprocess.run(
        [sys.executable, *options, "-m", "tilegrad", *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


KERNEL = """
import numpy as np, triton.language as tl, tilegrad as tg
from tilegrad.kernels.launch.triton_kernel import kernel

@kernel
def _twice(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x_ptr + i, 2 * tl.load(x_ptr + i, i < n), i < n)

def launches(empty):
    _twice((1,), empty(100), 100, BLOCK=128)

if __name__ == "__main__":
    _twice((1,), tg.ones(100, device="cuda").data, 100, BLOCK=128)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "mine.py").write_text(KERNEL)
    return str(tmp_path / "mine.py")


PLAIN = {"TRITON_INTERPRET": "0", "NUMBA_ENABLE_CUDASIM": "0"}


def test_bench():
    done = command("bench", "--list")
    assert done.returncode == 0 and "softmax(x): forward, backward" in done.stdout, done.stderr


def test_compile(program):
    done = command("compile", program, "--arch", "90", "--dtype", "float32,float16", **PLAIN)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:3]] == [["twice", "float16"], ["twice", "float32"]]
    assert "2 compilations of 1 kernels, 0 faults" in done.stdout


def test_profile(program):
    done = command("profile", program, **PLAIN)
    assert done.returncode == 0 and "1 launches of 1 kernels" in done.stdout, done.stderr


def test_check(program):
    done = command("check", program, **PLAIN)
    assert done.returncode == 0 and "1 launches of 1 kernels checked, no fault: _twice 1" in done.stdout, done.stderr


def test_exit_statuses_are_those_of_what_it_hands_on_to(tmp_path):
    (tmp_path / "none.py").write_text("print('no kernel')")
    assert command("check", str(tmp_path / "none.py"), **PLAIN).returncode == 1
    done = command("compile", str(tmp_path / "none.py"), **PLAIN)
    assert done.returncode == 2 and "has no function launches(empty)" in done.stderr
    done = command("bench", "nothing")
    assert done.returncode == 2 and "OP: got 'nothing'" in done.stderr


def test_what_it_is_not(capsys):
    assert main(["nothing"]) == 2
    assert "tilegrad: got 'nothing'; expected one of bench, compile, profile, check, info" in capsys.readouterr().err
    assert main([]) == main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"tilegrad {name} " in told for name in (*MODULES, "info"))
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"tilegrad {tg.__version__}\n"


# --- info


def test_info_tells_versions_devices_backends_caches_and_variables(monkeypatch, tmp_path, capsys):
    import numpy as np

    (tmp_path / "autotune.json").write_text("12345")
    monkeypatch.setenv("TILEGRAD_CACHE", str(tmp_path))
    monkeypatch.setenv("TILEGRAD_KERNELS", "cpu")
    monkeypatch.setenv("SECRET_TOKEN", "not to be told")
    assert main(["info", "--json"]) == 0
    told = capsys.readouterr().out
    found = json.loads(told)
    assert found == json.loads(json.dumps(info.collected()))
    assert found["versions"]["numpy"] == np.__version__ and found["versions"]["tilegrad"].startswith(tg.__version__)
    assert f"{tg.get_num_threads()} threads used" in found["devices"]["cpu"]
    assert set(found["backends"]) == {"reference", "cpu", "triton", "numba"}
    assert found["backends"]["cpu"].startswith("serves cpu")
    assert found["caches"]["autotuning"] == f"{tmp_path}/autotune.json, 5 B in 1 files"
    assert found["environment"]["TILEGRAD_KERNELS"] == "cpu" and "SECRET" not in told
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert all(line in text for line in ("versions\n", "devices\n", "backends\n", "caches\n", "environment\n"))


@pytest.mark.parametrize("variable, language", [("TRITON_INTERPRET", "triton"), ("TILEGRAD_SIMULATE", "numba")])
def test_info_says_what_is_simulated(variable, language):
    value = "ptx" if variable == "TILEGRAD_SIMULATE" else "1"
    found = json.loads(command("info", "--json", **PLAIN | {variable: value}).stdout)
    assert found["devices"]["cuda"] == f"simulated: {variable}={value}"
    assert found["backends"][language].startswith("serves cuda")


def test_info_works_with_nothing_but_numpy(tmp_path):
    """And what `import tilegrad` needs beside it: NumPy's bfloat16, and files."""
    for name in ("numpy", "ml_dtypes", "safetensors", "filelock"):
        (tmp_path / name).symlink_to(Path(importlib.util.find_spec(name).origin).parent)
        libraries = Path(importlib.util.find_spec(name).origin).parents[1] / f"{name}.libs"
        if libraries.exists():
            (tmp_path / libraries.name).symlink_to(libraries)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1] / ".links")])
    done = command("info", options=["-S", "-W", "ignore"], PYTHONPATH=path, TILEGRAD_KERNELS="", **PLAIN)
    assert done.returncode == 0, done.stderr
    assert "reference  serves cpu, and is chosen" in done.stdout
    assert "cannot serve cpu: kernels: the backend 'cpu' needs Numba, which is not installed" in done.stdout
    assert 'none (device "cuda": CuPy cannot be imported' in done.stdout
    assert "kernels of the CPU  unknown (No module named 'numba')" in done.stdout
    assert "numba         not installed" in done.stdout
