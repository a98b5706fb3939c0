"""Whether there is a GPU, what is missing where there is none, and which extra a driver wants."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.cuda_extra import extra_for

ROOT = Path(__file__).parents[3]
ASKING = (*gpu.SIMULATORS.values(), "TILEGRAD_SIMULATE")  # variables


@pytest.fixture
def machine(monkeypatch):
    """Makes this process see a machine with that CuPy (None: not installed) and no simulation."""
    for variable in ASKING:
        monkeypatch.delenv(variable, raising=False)

    def see(cupy):
        def import_module(name, *rest):
            if name == "cupy":
                if cupy is None:
                    raise ImportError("No module named 'cupy'")
                return cupy
            return real(name, *rest)

        real = importlib.import_module
        monkeypatch.setattr(importlib, "import_module", import_module)
        monkeypatch.setattr(gpu, "_found", None)
        gpu._missing.cache_clear()

    yield see
    monkeypatch.undo()
    gpu._missing.cache_clear()


def cupy(devices=1, driver=13000, runtime=13000):
    def count():
        if isinstance(devices, Exception):
            raise devices
        return devices

    versions = {"driverGetVersion": lambda: driver, "runtimeGetVersion": lambda: runtime}
    return SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count, **versions)))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, r'CuPy cannot be imported \(No module named .cupy.\); expected: pip install "tilegrad\[cuda13\]"'),
        (
            cupy(RuntimeError("driver not found")),
            r"no NVIDIA GPU can be reached \(driver not found\); expected a driver",
        ),
        (cupy(0), r"no NVIDIA GPU is visible; expected one \(CUDA_VISIBLE_DEVICES\)"),
        (cupy(driver=12080), r'the driver serves CUDA 12 but CuPy is built for CUDA 13; .*"tilegrad\[cuda12\]"'),
    ],
    ids=["no cupy", "no driver", "no device", "old driver"],
)
def test_what_is_missing_is_named(machine, found, message):
    machine(found)
    assert not gpu.is_available()
    with pytest.raises(RuntimeError, match=f'^device "cuda": {message}'):
        gpu.xp()
    with pytest.raises(RuntimeError, match='^device "cuda": '):
        kernels.load("triton")


def test_a_gpu_is_found(machine):
    found = cupy()
    machine(found)
    assert gpu.is_available() and not gpu.is_simulated()


def test_simulation_is_asked_for_by_the_environment(monkeypatch):
    for name in gpu.SIMULATORS.values():
        for each in ASKING:
            monkeypatch.delenv(each, raising=False)
        for value, simulated in (("0", False), ("", False), ("1", True)):
            monkeypatch.setenv(name, value)
            assert gpu.is_simulated() is simulated


def test_arrays_of_two_devices_are_refused():
    if not gpu.is_simulated():
        pytest.skip("a real GPU is in use")
    host, device = np.ones(2, np.float32), gpu.xp().ones(2, np.float32)
    assert kernels.of(host).__name__ == "tilegrad.kernels.backends.cpu"
    assert kernels.of(None, device).__name__ == "tilegrad.kernels.backends.triton"
    for arrays in ((host, device), (device, host), (device, None, host)):
        with pytest.raises(
            TypeError, match="expected arrays of one device.*numpy.ndarray|tilegrad.kernels.simulate.arrays.ndarray"
        ):
            kernels.of(*arrays)
    with pytest.raises(TypeError, match="got builtins.list"):
        kernels.of([1.0])


def test_a_choice_for_one_device_leaves_the_other():
    with kernels.use("reference"), kernels.use("triton"):
        assert kernels.name() == "reference" and kernels.name("cuda") == "triton"
    with kernels.use("auto"):
        assert kernels.name() == "cpu" and kernels.name("cuda") == "triton"


@pytest.mark.parametrize(
    ("version", "extra", "message"),
    [
        (None, "", "no NVIDIA driver here"),
        (11080, "", "the NVIDIA driver serves CUDA 11.8; expected 12.0 or newer"),
        (12040, "cuda12", "the NVIDIA driver serves CUDA 12.4: installing the extra [cuda12]"),
        (13000, "cuda13", "the NVIDIA driver serves CUDA 13.0: installing the extra [cuda13]"),
        (14020, "cuda13", "the NVIDIA driver serves CUDA 14.2: installing the extra [cuda13]"),
    ],
)
def test_the_extra_that_a_driver_wants(version, extra, message):
    got, said = extra_for(version)
    assert got == extra and message in said


def test_the_extras_exist():
    text = (ROOT / "pyproject.toml").read_text()
    for version in (12000, 13000):
        assert f"\n{extra_for(version)[0]} = [" in text


def test_the_makefile_asks_a_driver(tmp_path):
    """With a libcuda that answers 12.8, what `make test` would install has the extra."""
    source = tmp_path / "cuda.c"
    source.write_text("int cuDriverGetVersion(int *v) { *v = 12080; return 0; }\n")
    library = tmp_path / "libcuda.so.1"
    built = subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], capture_output=True)
    if built.returncode:
        pytest.skip("no C compiler to build a stand-in driver with")

    env = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    command = ["make", "-n", "test", f"VENV={tmp_path}/venv", f"BASE={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert '--editable ".[test,cuda12]"' in done.stdout, done.stdout + done.stderr
    assert done.stderr.count("installing the extra [cuda12]") == 1
