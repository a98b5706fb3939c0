"""Measured configurations, kept on disk: one JSON file, shared by all processes.

    {"version": 1, "entries": {key: {"config": {...}, "measured": date}}}

An entry's key names all that a measurement depends on: card, driver, CUDA and Triton versions, the source of the
kernels, bucket and dtype. Whatever cannot be read (a corrupt file, a file of another version, a folder that cannot be
written) counts as nothing measured: the cache saves time and is never a reason to fail.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import triton

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import triton_kernel as launch
from tilegrad.kernels.system.files import write_whole
from tilegrad.kernels.system.paths import user_path

VERSION = 1


def path() -> Path:
    """The file: in TILEGRAD_CACHE, or in the user's cache folder."""
    folder = os.environ.get("TILEGRAD_CACHE")
    if folder:
        return user_path(folder) / "autotune.json"
    try:
        from platformdirs import user_cache_path

        return user_cache_path("tilegrad", appauthor=False) / "autotune.json"
    except ImportError:  # used from a checkout, with nothing installed
        return Path.home() / ".cache" / "tilegrad" / "autotune.json"


def key(name: str, kernels: Sequence[launch.Kernel], bucket: tuple[Any, ...], dtype: np.dtype) -> str:
    """What a measurement depends on, as one line."""
    sources = hashlib.sha256("".join(k.jit.cache_key for k in kernels).encode()).hexdigest()[:16]
    parts = (name, *_machine(), f"source {sources}", *bucket, str(dtype))
    return " | ".join(map(str, parts))


def load(key: str) -> dict[str, Any] | None:
    """The configuration kept under that key, if there is one."""
    try:
        entry = _read().get(key)
    except OSError:
        return None
    config = entry.get("config") if isinstance(entry, dict) else None
    return config if isinstance(config, dict) else None


def store(key: str, config: dict[str, Any]) -> None:
    """Keep it, beside what other processes have kept in the meantime."""
    with contextlib.suppress(OSError, ImportError):
        from filelock import FileLock, Timeout

        target = path()
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout), FileLock(f"{target}.lock", timeout=10):
            entries = _read()
            entries[key] = {"config": config, "measured": datetime.date.today().isoformat()}
            write_whole(target, json.dumps({"version": VERSION, "entries": entries}, indent=1, sort_keys=True))


def _read() -> dict[str, Any]:
    """All entries; none of a file that is not there, or is not ours. Raises OSError where one cannot be read."""
    try:
        content = json.loads(path().read_text())
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(content, dict) or content.get("version") != VERSION:
        return {}
    entries = content.get("entries")
    return entries if isinstance(entries, dict) else {}


@cache
def _machine() -> tuple[str, ...]:
    cuda = gpu.xp().cuda
    card = cuda.runtime.getDeviceProperties(cuda.runtime.getDevice())["name"].decode()
    driver, runtime = cuda.runtime.driverGetVersion(), cuda.runtime.runtimeGetVersion()
    return card, f"driver {driver}", f"cuda {runtime}", f"triton {triton.__version__}"
