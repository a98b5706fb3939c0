"""Epochs of `fit` with one backend of Keras', timed: what keras_fit.py runs in a process of its own for each backend.

It runs as a file, so that tilegrad is imported by its own process alone. KERAS_BACKEND names the backend.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

EPOCHS = 3  # that are timed, after one that compiles
CASES = (("MLP", 32, 800), ("CNN", 32, 150), ("CNN", 128, 60))  # net, batch, steps of an epoch
PACKAGES = ("keras", "numpy", "tensorflow-cpu", "tensorflow", "jax", "torch", "numba")


def mlp(keras: Any) -> Any:
    """784-512-10."""
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((784,)), dense(512, activation="relu"), dense(10, activation="softmax")])


def cnn(keras: Any) -> Any:
    """conv32-pool-conv64-pool-conv64-dense64-dense10."""
    conv, pool, dense = keras.layers.Conv2D, keras.layers.MaxPooling2D, keras.layers.Dense
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            conv(32, 3, activation="relu"), pool(2),
            conv(64, 3, activation="relu"), pool(2),
            conv(64, 3, activation="relu"), keras.layers.Flatten(),
            dense(64, activation="relu"), dense(10, activation="softmax"),
        ]
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {"MLP": (mlp, (784,)), "CNN": (cnn, (28, 28, 1))}


def compiled(keras: Any, net: str) -> Any:
    """The net with Adam, cross-entropy and accuracy."""
    model = NETS[net][0](keras)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def drawn(net: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images and classes."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, *NETS[net][1]), dtype=np.float32), rng.integers(0, 10, count)


def epochs(keras: Any, net: str, batch: int, steps: int) -> list[float]:
    """Milliseconds a step of each epoch that is timed."""
    model = compiled(keras, net)
    x, y = drawn(net, batch * steps)
    found = []
    for _ in range(1 + EPOCHS):
        began = time.perf_counter()
        history = model.fit(x, y, batch_size=batch, epochs=1, verbose=0).history
        float(history["loss"][0])  # waits for what a backend has put off
        found.append(1e3 * (time.perf_counter() - began) / steps)
    return found[1:]


def main(least: bool) -> None:
    """Print versions and times as a line of JSON. least: a few steps, which say nothing of speed."""
    if os.environ["KERAS_BACKEND"] == "tilegrad":
        importlib.import_module("tilegrad.keras")
    keras = importlib.import_module("keras")
    rows = [
        {"net": net, "batch": batch, "epochs": epochs(keras, net, batch, 2 if least else steps)}
        for net, batch, steps in CASES
    ]
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    print(json.dumps({"backend": keras.config.backend(), "versions": versions, "rows": rows}))


if __name__ == "__main__":
    main("--least" in sys.argv[1:])
