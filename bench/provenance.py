"""Where a figure comes from: machine, versions, commit, date; for a GPU also driver and clocks."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tilegrad.kernels.cpu import threads
from tilegrad.kernels.device import gpu

PACKAGES = ("numpy", "torch", "numba", "numba-cuda", "triton", "cupy-cuda12x", "cupy-cuda13x")
_CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")


def provenance(device: str = "cpu") -> dict[str, Any]:
    """What one must know to measure a figure again."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads.num_threads(),
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
    } | (_card() if device == "cuda" else {})


def _card() -> dict[str, Any]:
    if gpu.is_simulated():
        return {"card": "simulated: no figure is a GPU's"}
    runtime = gpu.xp().cuda.runtime
    name = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
    return {"card": name, "driver": _driver(), "cuda": runtime.driverGetVersion(), "clocks": _clocks()}


def _driver() -> str:
    """The driver's own version."""
    return _nvidia_smi(("driver_version",)).get("driver_version", "unknown")


def _clocks() -> dict[str, str]:
    """In MHz, and the power limit in W, as far as they can be read."""
    return _nvidia_smi(_CLOCKS)


def _nvidia_smi(fields: tuple[str, ...]) -> dict[str, str]:
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, map(str.strip, done.stdout.strip().split(",")), strict=False))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit of the checkout, with "+" behind it if files differ from it."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _cpu() -> str:
    """The processor's name and its widest vector unit, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wide = next((f for f in ("avx512f", "avx2", "avx") if f in fields.get("flags", "").split()), "")
    return " ".join(filter(None, (fields.get("model name", platform.machine()), wide)))
