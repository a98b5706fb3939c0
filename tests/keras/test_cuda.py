"""Keras on device "cuda", simulated where there is no GPU: what it trains is what the CPU does."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

from tilegrad.kernels.device import gpu

pytestmark = [pytest.mark.gpu] if gpu.is_available() else []


def trained(device, make, optimizer, run_eagerly=False):
    """(history, outputs, weights and the optimizer's state), and what was warned of."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 6)).astype(np.float32), rng.integers(0, 3, 16)
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    with keras.device(device), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = keras.Sequential([keras.Input((6,)), *make()])
        model.compile(optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=run_eagerly)
        history = model.fit(x, y, batch_size=4, shuffle=False, epochs=2, validation_split=0.25, verbose=0).history
        assert {v._value.device for v in model.variables + model.optimizer.variables} == {
            "cpu" if device == "cpu" else "cuda"
        }
        state = [*model.get_weights(), *[v.numpy() for v in model.optimizer.variables]]
        found = history, model.predict(x, verbose=0), state
    return found, [str(w.message) for w in told if w.category is RuntimeWarning], model


def mlp():
    return [layers.Dense(8, activation="relu"), layers.Dense(3, activation="softmax")]


def with_dropout():
    return [layers.Dense(8, activation="relu"), layers.Dropout(0.3), layers.Dense(3, activation="softmax")]


CASES = {
    "mlp": (mlp, lambda: keras.optimizers.Adam(0.01)),
    "dropout": (with_dropout, lambda: keras.optimizers.Adam(0.01)),
    "momentum": (mlp, lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_fit_is_the_cpus(case):
    want, _, _ = trained("cpu", *CASES[case])
    got, _, _ = trained("gpu", *CASES[case])
    assert got[0].keys() == want[0].keys()
    for name, values in want[0].items():
        np.testing.assert_allclose(got[0][name], values, rtol=1e-5)
    for a, b in zip([got[1], *got[2]], [want[1], *want[2]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_captured_runs_plainly_and_says_so_once():
    _, told, model = trained("gpu", *CASES["dropout"])
    (text,) = [each for each in told if each.startswith("train_step")]
    assert "runs plainly" in text and "run_eagerly=True" in text
    assert model.train_function.step.summary() == text.partition("; run_eagerly")[0]
    _, told, model = trained("gpu", *CASES["mlp"], run_eagerly=True)
    assert not told and model.train_function.step.summary() == "run_eagerly=True"
