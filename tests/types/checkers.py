"""mypy and pyright, run on files as a user runs them: without network, and without the settings of this repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
OLDEST = "3.11"  # Python that pyproject.toml admits


class Finding(NamedTuple):
    """One line of a checker's output; `rule` is empty for a note."""

    file: str
    line: int
    rule: str
    message: str


def installed(folder: Path) -> Path:
    """The package as an installation has it, in a folder for the search path."""
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "engine", folder / "tilegrad", ignore=without)
    for part in ("kernels", "bench"):
        shutil.copytree(ROOT / part, folder / "tilegrad" / part, ignore=without)
    return folder


def mypy(files: Sequence[Path], packages: Path) -> list[Finding]:
    """What `mypy --strict` says about these files. Of the package it reads the types and says nothing."""
    pytest.importorskip("mypy")
    settings = packages / "mypy.ini"
    settings.write_text(f"[mypy]\nmypy_path = {packages}\n[mypy-tilegrad.*]\nfollow_imports = silent\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", settings, "--cache-dir", packages / "cache",
         "--python-version", OLDEST, "--output", "json", *files],
        cwd=packages, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1) and not done.stderr, done.stdout + done.stderr
    found = map(json.loads, done.stdout.splitlines())
    return [Finding(Path(f["file"]).name, f["line"], f["code"] or "", f["message"]) for f in found]


def pyright(files: Sequence[Path], packages: Path) -> list[Finding]:
    """What pyright's basic mode says, as basedpyright's wheel has it: it brings its own Node and fetches nothing."""
    pytest.importorskip("basedpyright")
    settings = packages / "pyrightconfig.json"
    paths = [str(packages), str(ROOT / "examples")]  # a program finds what lies beside it
    options = {
        "include": [str(file) for file in files],
        "extraPaths": paths,
        "typeCheckingMode": "basic",
        "pythonVersion": OLDEST,
    }
    settings.write_text(json.dumps(options))
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--project", settings, "--pythonpath", sys.executable, "--outputjson"],
        cwd=packages, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] > 0
    return [
        Finding(f["file"], f["range"]["start"]["line"] + 1, f.get("rule", ""), f["message"])
        for f in found["generalDiagnostics"]
        if f["severity"] == "error"
    ]
