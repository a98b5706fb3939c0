"""Keras' tests in a process of their own, with the plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tilegrad.bench.keras_venv import ROOT, variables


def outcomes(python: str | Path, parts: Sequence[str], jobs: int | None, only: str, path: Path) -> dict[str, str]:
    """The outcome of every test in these files and folders of keras/src, by name; also kept at the path.

    jobs   how many processes share the tests; None: they run in the first
    only   as pytest's -k
    """
    source = subprocess.run(
        [python, "-c", "import importlib.util as u; print(u.find_spec('keras').submodule_search_locations[0])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    env = variables(ROOT, OMP_NUM_THREADS="1")
    env["PYTHONHASHSEED"] = "0"  # sets of dtypes make names of tests, which all workers need in one order
    workers = [] if jobs is None else ["-n", str(jobs), "--dist", "worksteal"]
    plugins = ["-p", "tests.keras.upstream.plugin", "-p", "no:cacheprovider"]
    options = ["-q", *workers, "--rootdir", str(Path(source).parent), "-c", os.devnull]
    warnings = ["-W", "ignore"]  # Keras' tests are not held to have none
    paths = [str(Path(source, "src", part)) for part in parts]
    done = subprocess.run(
        [python, "-m", "pytest", *plugins, *options, *warnings, "-k", only, f"--outcomes={path}", *paths],
        cwd=path.parent, env=env, capture_output=True, text=True,
    )  # fmt: skip
    path.with_suffix(".log").write_text(done.stdout + done.stderr)
    if not path.exists():
        sys.exit(f"{path.stem}: pytest could not run\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return json.loads(path.read_text())
