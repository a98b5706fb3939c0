"""An environment with Keras and the backends that it brings: our rivals, and what Keras' own tests need.

`tilegrad.bench.keras_fit` and `tests.keras.upstream` use one such environment. tilegrad is not installed there: it is
the checkout's, by PYTHONPATH.
"""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the checkout
FOLDER = ROOT / ".cache" / "keras-tests"
KERAS = "3.15.1"
NEEDED = (
    *("tensorflow-cpu", "jax", "torch==2.13.0"),
    *("pytest>=8", "pytest-xdist>=3.5"),
    *("grain", "orbax-checkpoint", "pandas", "pillow", "scikit-learn", "tensorboard"),
)


def environment(folder: Path = FOLDER, keras: str = KERAS) -> Path:
    """The Python of the environment in that folder, which is made, or made anew, where it is of another Keras."""
    python = folder / "bin" / "python"
    ready = folder / f"keras-{keras}-ready"
    if not ready.exists():
        print(f"{folder}: installing keras {keras}, {', '.join(NEEDED)}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", f"keras=={keras}", *NEEDED, f"{ROOT}[cpu]"], check=True)
        subprocess.run([*pip, "uninstall", "--yes", "tilegrad"], check=True)
        ready.touch()
    return python


def variables(*folders: Path, **more: str) -> dict[str, str]:
    """The variables of a process there. It finds the checkout's tilegrad, and what is in these folders."""
    links = ROOT / ".links"
    if not (links / "tilegrad").exists():
        raise FileNotFoundError(f"{links} is not there: run `make links`")
    path = os.pathsep.join(map(str, (links, *folders)))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    return os.environ | quiet | {"PYTHONPATH": path} | more
