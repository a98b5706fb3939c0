"""A loop of one's own under tilegrad.capture: each step is the plain one, whatever the program changes in between."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import tilegrad as tg
from tilegrad.keras import GradientTape

STEPS, BATCH = 10, 16


class Scaled(layers.Layer):
    """A layer of a program's own, with a hyperparameter and what is no layer's."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = 2.0
        self.options = {"shift": 0.5}

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.gain * self.scale + self.options["shift"] + SHIFT


SHIFT = 0.0


class Loop:
    """A model with what trains it, and the step."""

    def __init__(self, is_captured, optimizer="adam", loss=None):
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential(
            [
                keras.Input((10,)),
                layers.Dense(32, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
                layers.BatchNormalization(),
                Scaled(),
                layers.Dropout(0.2),
                layers.Dense(4),
            ]
        )
        self.optimizer = keras.optimizers.get(optimizer() if callable(optimizer) else optimizer)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy()
        model, optimizer, accuracy = self.model, self.optimizer, self.accuracy
        loss_fn = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        def train_step(x, y):
            with GradientTape() as tape:
                logits = model(x, training=True)
                loss = loss_fn(y, logits) + sum(model.losses)
            gradients = tape.gradient(loss, model.trainable_weights)
            optimizer.apply_gradients(zip(gradients, model.trainable_weights))
            accuracy.update_state(y, logits)
            return loss

        self.step = tg.capture(train_step) if is_captured else train_step

    def run(self, change=None, sizes=(BATCH,)):
        """The losses, and everything's state at the end; change(loop) comes in the middle."""
        rng = np.random.default_rng(0)
        losses = []
        for i in range(2 * STEPS):
            if i == STEPS and change is not None:
                change(self)
            n = sizes[i % len(sizes)]
            x, y = rng.standard_normal((n, 10)).astype(np.float32), rng.integers(0, 4, n)
            losses.append(float(self.step(ops.convert_to_tensor(x), ops.convert_to_tensor(y))))
        state = [*self.model.variables, *self.optimizer.variables, *self.accuracy.variables]
        return losses, [v.numpy() for v in state]


def assert_alike(graphs, change=None, sizes=(BATCH,), before=lambda: None, **options):
    """Captured steps do what plain ones do, bit for bit, in so many graphs."""
    before()
    captured = Loop(True, **options)
    got = captured.run(change, sizes)
    before()
    want = Loop(False, **options).run(change, sizes)
    assert got[0] == want[0]
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_array_equal(a, b)
    summary = captured.step.summary()
    assert summary.count(" nodes, ") == graphs and "plainly" not in summary, summary


def decaying():
    return keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5), momentum=0.9)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop", decaying])
def test_steps_are_plain_ones(optimizer):
    assert_alike(1, optimizer=optimizer)


def test_new_shapes_are_captured_apart():
    assert_alike(2, sizes=(BATCH, BATCH, BATCH // 2))


def set_global(loop):
    globals()["SHIFT"] += 0.25


READ_AT_EACH_LAUNCH = {
    "learning rate": lambda loop: setattr(loop.optimizer, "learning_rate", 0.1),
    "weights": lambda loop: loop.model.set_weights([0.5 * w for w in loop.model.get_weights()]),
    "step count": lambda loop: loop.optimizer.iterations.assign(1000),
    "metric": lambda loop: loop.accuracy.reset_state(),
    "seed": lambda loop: loop.model.layers[3].seed_generator.state.assign([5, 0]),
}
CAPTURED_ANEW = {
    "frozen layer": lambda loop: setattr(loop.model.layers[0], "trainable", False),
    "frozen variable": lambda loop: setattr(loop.model.layers[0].bias, "trainable", False),
    "frozen normalization": lambda loop: setattr(loop.model.layers[1], "trainable", False),
    "rate": lambda loop: setattr(loop.model.layers[3], "rate", 0.5),
    "regularizer": lambda loop: setattr(loop.model.layers[0].kernel_regularizer, "l2", 0.1),
    "activation": lambda loop: setattr(loop.model.layers[0], "activation", keras.activations.tanh),
    "attribute of an own layer": lambda loop: setattr(loop.model.layers[2], "scale", 3.0),
    "dict of an own layer": lambda loop: loop.model.layers[2].options.update({"shift": 1.0}),
    "global of an own layer": set_global,
    "optimizer's option": lambda loop: setattr(loop.optimizer, "beta_1", 0.5),
    "schedule": lambda loop: setattr(loop.optimizer, "learning_rate", decaying()._learning_rate),
}


@pytest.fixture
def shift(monkeypatch):
    """A change of the global begins from the same value."""
    return lambda: monkeypatch.setitem(globals(), "SHIFT", 0.0)


@pytest.mark.parametrize("what", READ_AT_EACH_LAUNCH)
def test_what_is_read_at_each_launch(what):
    assert_alike(1, READ_AT_EACH_LAUNCH[what])


@pytest.mark.parametrize("what", CAPTURED_ANEW)
def test_what_is_captured_anew(what, shift):
    assert_alike(2, CAPTURED_ANEW[what], before=shift)


def test_functions_of_the_programs_own_are_read():
    factor = {"loss": 1.0}

    def loss(y, logits):
        each = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        return factor["loss"] * ops.mean(each)

    def before():
        factor["loss"] = 1.0

    assert_alike(2, lambda loop: factor.update(loss=2.0), loss=loss, before=before)


def test_what_no_launch_would_do_runs_plainly():
    """A layer that counts its calls in a number of Python's."""

    class Counting(layers.Layer):
        calls = 0

        def call(self, x):
            self.calls += 1
            return x + 0.0

    model = keras.Sequential([keras.Input((3,)), Counting()])
    model.layers[0].calls = 0
    step = tg.capture(lambda x: model(x))
    with pytest.warns(RuntimeWarning, match=r"calls is changed by the function that reads it.*it runs plainly"):
        found = [float(ops.sum(step(ops.ones((1, 3))))) for _ in range(6)]
    assert found == [3.0] * 6 and model.layers[0].calls == 6
