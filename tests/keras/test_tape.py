"""GradientTape: its gradients are the engine's own, and a loop with it trains as `fit` does."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import tilegrad as tg
from tilegrad.keras import GradientTape
from tilegrad.keras.backend.core.recording import is_recording
from tilegrad.nn import functional as F

STEPS, BATCH = 30, 16


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((STEPS * BATCH, 10)).astype(np.float32), rng.integers(0, 4, STEPS * BATCH)


def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(32, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(4, activation="softmax"),
        ]
    )


loss_fn = keras.losses.SparseCategoricalCrossentropy()


def test_gradients_are_the_engines():
    x, y = data()
    kernel, bias = keras.Variable(x[:10, :4]), keras.Variable(x[0, :4])
    with GradientTape() as tape:
        loss = ops.mean(loss_fn(y, ops.softmax(ops.matmul(x, kernel) + bias)))
    found = tape.gradient(loss, {"weights": [kernel, (bias,)]})
    own = [tg.tensor(v.numpy(), requires_grad=True) for v in (kernel, bias)]
    want = tg.grad(F.cross_entropy(tg.tensor(x) @ own[0] + own[1], tg.tensor(y)), own)
    np.testing.assert_allclose(found["weights"][0].numpy(), want[0].numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["weights"][1][0].numpy(), want[1].numpy(), rtol=1e-5, atol=1e-7)
    assert not found["weights"][0].requires_grad and not (kernel * 1.0).requires_grad


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("is_inside", [False, True])
def test_30_steps_of_a_loop_are_those_of_fit(optimizer, is_inside):
    """Weights, moving averages and the optimizer's state, bit for bit; also where the update is in the block."""
    x, y = data()
    fitted = net()
    fitted.compile(optimizer, loss_fn)
    fitted.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    model, chosen = net(), keras.optimizers.get(optimizer)
    for i in range(0, len(x), BATCH):
        with GradientTape() as tape:
            loss = loss_fn(y[i : i + BATCH], model(x[i : i + BATCH], training=True))
            if is_inside:
                chosen.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
        if not is_inside:
            gradients = tape.gradient(loss, model.trainable_weights)
            chosen.apply_gradients(zip(gradients, model.trainable_weights))
    assert int(chosen.iterations) == STEPS
    for a, b in zip([*fitted.weights, *fitted.optimizer.variables], [*model.weights, *chosen.variables]):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_what_is_watched():
    x, frozen = ops.convert_to_tensor([1.0, 2.0]), keras.Variable([3.0, 4.0], trainable=False)
    with GradientTape() as tape:
        tape.watch([x, {"frozen": frozen}])
        y = ops.sum(x * x * frozen)
    assert not x.requires_grad and frozen._leaf is None  # as before the block
    of_x, of_frozen = tape.gradient(y, [x, frozen])
    np.testing.assert_array_equal(of_x.numpy(), [6, 16])
    np.testing.assert_array_equal(of_frozen.numpy(), [1, 4])
    assert not x.requires_grad
    with GradientTape() as tape:
        y = ops.sum(x * frozen)
    assert tape.gradient(y, [x, frozen]) == [None, None]


def test_a_result_can_be_a_source():
    v = keras.Variable([1.0, 2.0])
    with GradientTape(persistent=True) as tape:
        h = v * v
        y = ops.sum(h * h)
    np.testing.assert_array_equal(tape.gradient(y, h).numpy(), [2, 8])
    np.testing.assert_array_equal(tape.gradient(y, v).numpy(), [4, 32])
    np.testing.assert_array_equal(tape.gradient(h, v).numpy(), [2, 4])  # of the sum over all elements
    np.testing.assert_array_equal(
        tape.gradient([h, y], v, output_gradients=[np.float32([1, 0]), 2.0]).numpy(), [10, 64]
    )


def test_what_is_not_connected():
    v, w = keras.Variable([1.0, 2.0]), keras.Variable([[3.0]])
    count = keras.Variable(1, dtype="int32", trainable=False)
    with GradientTape(persistent=True) as tape:
        y = ops.sum(v) + count
    found = tape.gradient(y, (v, [w, count]))
    assert isinstance(found, tuple) and found[1] == [None, None]
    zeros = tape.gradient(y, w, unconnected_gradients="zero")
    assert zeros.shape == (1, 1) and float(zeros) == 0
    assert tape.gradient(ops.sum(ops.ones(3)), v) is None
    with pytest.raises(ValueError, match='unconnected_gradients is None; expected "none" or "zero"'):
        tape.gradient(y, v, unconnected_gradients=None)


@pytest.mark.parametrize("persistent", [False, True])
def test_tapes_in_tapes(persistent):
    v = keras.Variable(3.0)
    with GradientTape() as outer:
        with GradientTape(persistent) as inner:
            y = v * v * v
        first = inner.gradient(y, v)
    assert float(first) == 27 and float(outer.gradient(first, v)) == 18
    with GradientTape(persistent=True) as tape:
        first = tape.gradient(v * v * v, v)
    assert float(tape.gradient(first, v)) == 18


def test_a_step_of_a_models_own_under_fit_is_captured():
    """And is that of `fit`, bit for bit: its gradients are not recorded themselves."""
    x, y = data()

    class Model(keras.Sequential):
        def train_step(self, batch):
            x, y = batch
            with GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
            return {"loss": loss}

    weights = []
    for make in (keras.Sequential, Model):
        model = make(net().layers)
        model.compile("adam", loss_fn)
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        assert "nodes" in model.train_function.step.summary()
        weights.append(model.get_weights())
    for a, b in zip(*weights):
        np.testing.assert_array_equal(a, b)


def test_what_is_wrong_is_said():
    v = keras.Variable(3.0)
    with GradientTape() as tape:
        y = v * v
        with pytest.raises(ValueError, match="entered already"):
            tape.__enter__()
        with pytest.raises(TypeError, match="watch: expected tensors or variables; got float"):
            tape.watch(2.0)
        with pytest.raises(TypeError, match="watch: expected floating point; got int32"):
            tape.watch(ops.ones(2, dtype="int32"))
    with pytest.raises(RuntimeError, match="in the tape's block"):
        tape.watch(v)
    with pytest.raises(TypeError, match="expected variables or tensors as sources; got float"):
        tape.gradient(y, 3.0)
    with pytest.raises(ValueError, match="1 targets but 2 output_gradients"):
        tape.gradient(y, v, output_gradients=[1.0, 2.0])
    assert float(tape.gradient(y, v)) == 6
    with pytest.raises(RuntimeError, match=r"called before on this tape; expected GradientTape\(persistent=True\)"):
        tape.gradient(y, v)
    with pytest.raises(KeyError), GradientTape():
        raise KeyError
    assert not is_recording()
    with pytest.raises(AttributeError, match="has no attribute 'Tape'"):
        tg.keras.Tape  # noqa: B018
