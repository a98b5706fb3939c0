"""The losses of 30 steps of the MLP and the CNN with Keras' other backends, kept in trajectories.json.

    python -m tests.keras.trajectory [--venv DIR]

measures them anew, in the environment of `tests.keras.upstream`. Weights and batches are drawn by NumPy, so they are
the same for every backend.

The seed is one whose losses stay where they are, to 3e-6, when the weights change by 5e-7 of their size. Of other seeds
most move by 1e-2: a ReLU that comes alive for the first time has a gradient of any size, and Adam moves its weights by
the whole learning rate.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from tilegrad.bench.keras_epochs import NETS, compiled
from tilegrad.bench.keras_venv import FOLDER, ROOT, environment, variables
from tilegrad.bench.provenance import provenance

PATH = Path(__file__).with_name("trajectories.json")
PACKAGES = {"tensorflow": "tensorflow-cpu", "jax": "jax", "torch": "torch"}
STEPS, BATCH, CLASSES, SEED, NOISE = 30, 32, 10, 3, np.float32(0.3)


def losses(keras: Any, net: str) -> list[float]:
    """The loss of each step, before its update."""
    rng = np.random.default_rng(SEED)
    model = compiled(keras, net)
    model.set_weights([_drawn(rng, w.shape) for w in model.get_weights()])
    shown = rng.random((CLASSES, *NETS[net][1]), np.float32)  # a picture of each class, seen through noise
    found = []
    for _ in range(STEPS):
        y = rng.integers(0, CLASSES, BATCH)
        x = shown[y] + NOISE * (rng.random((BATCH, *NETS[net][1]), np.float32) - np.float32(0.5))
        found += model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0).history["loss"]
    return [float(f"{loss:.7g}") for loss in found]


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Weights with He et al.'s variance, biases of 0."""
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    return (rng.random(shape, np.float32) - np.float32(0.5)) * np.float32(np.sqrt(24 / np.prod(shape[:-1])))


def told(python: str | Path, backend: str) -> dict[str, Any]:
    """The versions and the losses with that backend, from a process of its own."""
    done = subprocess.run(
        [python, "-m", "tests.keras.trajectory", "--here"],
        env=variables(ROOT, KERAS_BACKEND=backend), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.keras.trajectory", description=__doc__)
    parser.add_argument("--venv", type=Path, default=FOLDER, help="made if it is not there")
    parser.add_argument("--here", action="store_true", help="print those of this process, as JSON")
    args = parser.parse_args()
    if args.here:
        keras = importlib.import_module("keras")
        versions = {name: importlib.metadata.version(name) for name in ("keras", PACKAGES[keras.config.backend()])}
        print(json.dumps({"versions": versions, "losses": {net: losses(keras, net) for net in NETS}}))
        return
    python = environment(args.venv)
    origin = {name: value for name, value in provenance().items() if name in ("date", "commit", "cpu")}
    found = {backend: told(python, backend) for backend in PACKAGES}
    PATH.write_text(json.dumps({"provenance": origin} | found, indent=1) + "\n")
    print(f"written: {os.path.relpath(PATH)}")


if __name__ == "__main__":
    main()
