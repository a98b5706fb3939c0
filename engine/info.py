"""What a bug report needs: versions, devices, backends, caches, variables. Works with NumPy alone.

tilegrad info [--json]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tilegrad
from tilegrad import kernels
from tilegrad.kernels.contract import BACKENDS, DEVICES
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.device import gpu
from tilegrad.kernels.device.memory import amount

PACKAGES = (
    "numpy", "ml_dtypes", "numba", "llvmlite", "numba-cuda", "triton", "cupy-cuda12x", "cupy-cuda13x", "keras", "torch",
)  # fmt: skip
FEATURES = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve")
VARIABLES = ("TILEGRAD_", "TRITON_", "NUMBA_", "CUPY_", "CUDA_", "OMP_", "OPENBLAS_", "MKL_", "KERAS_BACKEND")


def main(given: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="tilegrad info", description="What a bug report needs.")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--version", action="store_true", help="the version alone")
    flags = parser.parse_args(given)
    if flags.version:
        print(f"tilegrad {tilegrad.__version__}")
        return 0
    found = collected()
    print(json.dumps(found, indent=1) if flags.json else text(found))
    return 0


def collected() -> dict[str, dict[str, Any]]:
    """All of it, by section and name."""
    return {
        "versions": _versions(),
        "devices": _devices(),
        "backends": {name: _backend(name) for name in BACKENDS},
        "caches": _caches(),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(VARIABLES)},
    }


def text(found: dict[str, dict[str, Any]]) -> str:
    """What was collected, for people."""
    lines = []
    for section, entries in found.items():
        lines.append(section)
        width = max([len(name) for name in entries], default=0)
        lines += [f"  {name:<{width}}  {value}" for name, value in entries.items()] or ["  none"]
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    own = f"{tilegrad.__version__} in {Path(tilegrad.__file__).resolve().parent}"
    system = f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}"
    return {"tilegrad": own, "python": system} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model, features = _processor()
    cpu = f"{model}, {cores} cores, {threads.num_threads()} threads used; {' '.join(features) or 'features unknown'}"
    return {"cpu": cpu, "cuda": _gpu()}


def _processor() -> tuple[str, list[str]]:
    """Its name, and of FEATURES those that it has, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    has = (fields.get("flags") or fields.get("Features") or "").split()
    return fields.get("model name", platform.machine()), [each for each in FEATURES if each in has]


def _gpu() -> str:
    try:
        xp = gpu.xp()
        if gpu.is_simulated():
            return f"simulated: {_simulation()}"
        runtime = xp.cuda.runtime
        properties = runtime.getDeviceProperties(runtime.getDevice())
        cuda = f"CUDA {runtime.driverGetVersion()} by the driver {_driver()}, {runtime.runtimeGetVersion()} by CuPy"
        memory = f"{properties['totalGlobalMem'] >> 20} MiB"
        return (
            f"{properties['name'].decode()}, sm_{gpu.capability()}, {memory}, one of {runtime.getDeviceCount()}; {cuda}"
        )
    except Exception as error:  # the reason is what is asked for, whatever a broken installation raises
        return f"none ({error}); driver {_driver()}"


def _simulation() -> str:
    asked = [(name, os.environ.get(name, "0")) for name in (*gpu.SIMULATORS.values(), "TILEGRAD_SIMULATE")]
    return ", ".join([f"{name}={value}" for name, value in asked if value not in ("", "0")])


def _driver() -> str:
    """NVIDIA's, as its kernel module says it."""
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0].strip()
    except (OSError, IndexError):
        return "not found"


def _backend(name: str) -> str:
    """Which device it serves, whether it does where nothing is chosen, or why it cannot."""
    device = DEVICES[name]
    try:
        kernels.load(name)
        return f"serves {device}" + (", and is chosen" if kernels.name(device) == name else "")
    except Exception as error:  # as above
        return f"cannot serve {device}: {error}"


def _caches() -> dict[str, str]:
    """Where they are, and how large."""
    home = Path.home()
    return {
        "kernels of the CPU": _sized(_compiled),
        "autotuning": _sized(lambda: Path(os.environ.get("TILEGRAD_CACHE") or _user_cache()) / "autotune.json"),
        "data": _sized(lambda: Path(os.environ.get("TILEGRAD_DATA") or _user_cache())),
        "Triton": _sized(lambda: Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")),
        "CuPy": _sized(lambda: Path(os.environ.get("CUPY_CACHE_DIR") or home / ".cupy" / "kernel_cache")),
    }


def _compiled() -> Path | None:
    return importlib.import_module("tilegrad.kernels.cpu.code").place()


def _user_cache() -> Path:
    return importlib.import_module("platformdirs").user_cache_path("tilegrad", appauthor=False)


def _sized(find: Callable[[], Path | None]) -> str:
    try:
        path = find()
    except ImportError as error:
        return f"unknown ({error})"
    if path is None:
        return "nowhere: no folder can be written"
    if not path.exists():
        return f"{path}, not there yet"
    sizes = [file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file()]
    return f"{path}, {amount(sum(sizes))} in {len(sizes)} files"
