"""Keras on device "cuda", simulated where there is no GPU: what it trains is what the CPU does, in captured steps."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import tilegrad as tg
from tilegrad.keras import GradientTape
from tilegrad.kernels.device import gpu

pytestmark = [pytest.mark.gpu] if gpu.is_available() else []

SHAPE = 6, 6, 1


def trained(device, make, optimizer, run_eagerly=False, callbacks=(), **compiling):
    """(history, outputs, weights and the optimizer's state), what was warned of, and the model."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, *SHAPE)).astype(np.float32), rng.integers(0, 3, 16)
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    compiling = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **compiling}
    with keras.device(device), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = keras.Sequential([keras.Input(SHAPE), *make()])
        compiling["weighted_metrics"] = [make() for make in compiling.get("weighted_metrics", ())]
        model.compile(optimizer(), run_eagerly=run_eagerly, **compiling)
        history = model.fit(
            x, y, batch_size=4, shuffle=False, epochs=2, validation_split=0.25, verbose=0, callbacks=list(callbacks)
        ).history
        assert {v._value.device for v in model.variables + model.optimizer.variables} == {
            "cpu" if device == "cpu" else "cuda"
        }
        state = [*model.get_weights(), *[v.numpy() for v in model.optimizer.variables]]
        found = history, model.predict(x, batch_size=4, verbose=0), state
    return found, [str(w.message) for w in told if w.category is RuntimeWarning], model


def net(*inside):
    """A classifier with these layers, made anew each time, in its middle."""
    return lambda: [
        layers.Flatten(),
        layers.Dense(8, activation="relu"),
        *[make() for make in inside],
        layers.Dense(3, activation="softmax"),
    ]


def moved():
    return [
        layers.RandomTranslation(0.2, 0.2, interpolation="nearest"),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ]


def conv():
    return [
        layers.Conv2D(4, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ]


class Slower(keras.callbacks.Callback):
    """Sets the learning rate between epochs."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.01 / (1 + epoch)


def decaying():
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 4, warmup_target=0.04, warmup_steps=2))


CASES = {
    "mlp": (net(), lambda: keras.optimizers.Adam(0.01)),
    "dropout": (net(lambda: layers.Dropout(0.3)), lambda: keras.optimizers.Adam(0.01)),
    "batch norm": (net(layers.BatchNormalization), lambda: keras.optimizers.AdamW(0.01)),
    "momentum": (net(), lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)),
    "noise": (net(lambda: layers.GaussianNoise(0.5)), lambda: keras.optimizers.SGD(0.1)),
    "clipped": (net(), lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1)),
    "op by op": (net(), lambda: keras.optimizers.RMSprop(0.01)),
    "schedule": (net(), decaying),
    "moved images": (moved, lambda: keras.optimizers.SGD(0.1)),
    "conv": (conv, lambda: keras.optimizers.Adam(0.01)),
}


def captured_and_plain(*case, **options):
    """What captured steps give, which is what plain ones give bit for bit."""
    (got, told, model), (want, silent, _) = [
        trained("gpu", *case, run_eagerly=run_eagerly, **options) for run_eagerly in (False, True)
    ]
    assert not told and not silent
    for function in (model.train_function, model.test_function, model.predict_function):
        assert "nodes" in function.step.summary()
    assert got[0] == want[0]
    for a, b in zip([got[1], *got[2]], [want[1], *want[2]], strict=True):
        np.testing.assert_array_equal(a, b)
    return got


@pytest.mark.parametrize("case", CASES)
def test_fit_is_captured_and_the_cpus(case):
    """Step counts, learning rates and seeds are read where they are, on the GPU."""
    got = captured_and_plain(*CASES[case])
    want, _, _ = trained("cpu", *CASES[case])
    assert got[0].keys() == want[0].keys()
    for name, values in want[0].items():
        np.testing.assert_allclose(got[0][name], values, rtol=1e-5)
    for a, b in zip([got[1], *got[2]], [want[1], *want[2]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_changed_learning_rate_and_other_metrics():
    metrics = keras.metrics.SparseTopKCategoricalAccuracy, keras.metrics.SparseCategoricalCrossentropy
    captured_and_plain(*CASES["mlp"], callbacks=[Slower()], weighted_metrics=metrics)


def looped(device, capture):
    """The losses and weights of a loop of one's own."""
    rng = np.random.default_rng(0)
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    with keras.device(device):
        model = keras.Sequential([keras.Input(SHAPE), *CASES["dropout"][0]()])
        optimizer = keras.optimizers.Adam(0.01)

        def step(x, y):
            with GradientTape() as tape:
                loss = ops.mean(keras.losses.sparse_categorical_crossentropy(y, model(x, training=True)))
            optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
            return loss

        step = capture(step)
        losses = []
        for _ in range(5):
            x, y = rng.standard_normal((4, *SHAPE)).astype(np.float32), rng.integers(0, 3, 4)
            losses.append(float(step(ops.convert_to_tensor(x), ops.convert_to_tensor(y))))
        return step, losses, model.get_weights()


def test_a_loop_of_ones_own_is_captured():
    step, *got = looped("gpu", tg.capture)
    assert step.summary().count(" nodes, ") == 1
    for device, rtol in {"gpu": 0, "cpu": 1e-4}.items():
        _, losses, weights = looped(device, lambda step: step)
        np.testing.assert_allclose(got[0], losses, rtol=rtol)
        for a, b in zip(got[1], weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol / 100)


def drawn(device):
    random = keras.random
    with keras.device(device):
        seed = random.SeedGenerator(7)
        return [
            ops.convert_to_numpy(draw(seed))
            for draw in (
                lambda seed: random.uniform((50,), -1, 3, seed=seed),
                lambda seed: random.normal((50,), seed=seed),
                lambda seed: random.truncated_normal((50,), seed=3),
                lambda seed: random.randint((50,), 2, 9, seed=seed),
                lambda seed: random.shuffle(ops.arange(50), seed=seed),
                lambda seed: random.gamma((5,), 2.0, seed=seed),
                lambda seed: random.categorical(ops.ones((2, 3)), 20, seed=seed),
                lambda seed: random.dropout(ops.ones((5, 30)), 0.4, seed=seed),
                lambda seed: random.dropout(ops.ones((5, 30)), 0.4, noise_shape=(5, 1), seed=-2),
            )
        ]


def test_random_numbers_are_the_cpus():
    for got, want in zip(drawn("gpu"), drawn("cpu"), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_constant_is_the_callers_own():
    for _ in range(2):
        with keras.device("gpu"):
            x = ops.convert_to_tensor([1.0, 2.0])
            x += 1.0
            x.fill_(5.0)
            np.testing.assert_array_equal(ops.convert_to_numpy(ops.convert_to_tensor([1.0, 2.0])), [1, 2])


@pytest.mark.parametrize("scale", [lambda: [1.0, 2.0, 3.0], lambda: np.random.default_rng().random(3).tolist()])
def test_constants_are_those_of_the_call_before(scale):
    """Numbers that are others at each call are not frozen."""

    class Scaled(layers.Layer):
        def call(self, x):
            return x * ops.convert_to_tensor(scale())

    case = lambda: [layers.Flatten(), layers.Dense(3), Scaled(), layers.Softmax()], CASES["mlp"][1]
    _, told, _ = trained("gpu", *case)
    is_fixed = scale() == scale()
    assert is_fixed is not any("convert_to_tensor copies from the CPU" in each for each in told), told


def test_what_cannot_be_captured_runs_plainly_and_says_so_once():
    class Reading(layers.Layer):
        def call(self, x):
            return x * float(ops.max(x) > 0)

    case = net(Reading), CASES["mlp"][1]
    _, told, model = trained("gpu", *case)
    (text,) = [each for each in told if each.startswith("train_step")]
    assert "runs plainly" in text and "run_eagerly=True" in text
    assert model.train_function.step.summary() == text.partition("; run_eagerly")[0]
    _, told, model = trained("gpu", *case, run_eagerly=True)
    assert not told and model.train_function.step.summary() == "run_eagerly=True"
