"""Training, step for step: Keras' loop against the engine's own, captured steps against plain ones."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.nn import functional as F

STEPS, BATCH = 30, 16


def data(*shape, classes=4):
    rng = np.random.default_rng(0)
    return rng.standard_normal((STEPS * BATCH, *shape)).astype(np.float32), rng.integers(0, classes, STEPS * BATCH)


class Losses(keras.callbacks.Callback):
    """The loss of each batch: Keras' logs are means since the epoch's beginning."""

    def __init__(self):
        super().__init__()
        self.means = []

    def on_train_batch_end(self, batch, logs=None):
        self.means.append(logs["loss"])

    def each(self):
        totals = np.arange(1, len(self.means) + 1) * np.array(self.means)
        return np.diff(totals, prepend=0)


def mlp(activation="softmax"):
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(16, activation="tanh"),
            layers.Dense(4, activation=activation),
        ]
    )


def twin(model):
    """The engine's own net with the same weights."""
    kernels = [layer.get_weights() for layer in model.layers]
    linear = [nn.Linear(*kernel.shape) for kernel, _ in kernels]
    for layer, (kernel, bias) in zip(linear, kernels):
        layer.load_state_dict({"weight": tg.tensor(kernel.T.copy()), "bias": tg.tensor(bias)})
    return nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.Tanh(), linear[2])


def engine_losses(net, x, y, optimizer):
    losses = []
    for i in range(0, len(x), BATCH):
        loss = F.cross_entropy(net(tg.tensor(x[i : i + BATCH])), tg.tensor(y[i : i + BATCH]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def keras_losses(model, x, y, optimizer, loss="sparse_categorical_crossentropy"):
    model.compile(optimizer, loss)
    losses = Losses()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[losses])
    return losses.each()


@pytest.mark.parametrize("activation", ["softmax", None])
def test_30_steps_of_sgd_are_the_engines(activation):
    x, y = data(10)
    model = mlp(activation)
    net = twin(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
    got = keras_losses(model, x, y, keras.optimizers.SGD(0.1), loss)
    want = engine_losses(net, x, y, optim.SGD(net.parameters(), lr=0.1))
    np.testing.assert_allclose(got, want, rtol=3e-5)
    assert want[-1] < want[0]
    for layer, linear in zip(model.layers, [m for m in net if isinstance(m, nn.Linear)]):
        np.testing.assert_allclose(layer.kernel.numpy(), linear.weight.detach().numpy().T, rtol=1e-4, atol=1e-6)


def test_30_steps_of_adam_are_the_engines_but_for_epsilon(monkeypatch):
    """With Keras' epsilon in the engine's step the two are one; it is large here, so that it counts."""
    x, y = data(10)
    model = mlp()
    net = twin(model)
    got = keras_losses(model, x, y, keras.optimizers.Adam(0.01, epsilon=1e-2))
    step = tg.kernels.of().adam_step
    monkeypatch.setattr(tg.kernels.of(), "adam_step", lambda *a, **k: step(*a, **k, eps_hat=True))
    want = engine_losses(net, x, y, optim.Adam(net.parameters(), lr=0.01, eps=1e-2))
    np.testing.assert_allclose(got, want, rtol=3e-5)


MOMENTA = {"SGD": {}, "momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.8, "nesterov": True}}


@pytest.mark.parametrize("weight_decay", [None, 0.1])
@pytest.mark.parametrize("name", ["Adam", "AdamW", *MOMENTA])
def test_a_fused_step_is_kerass_own(name, weight_decay, monkeypatch):
    """30 steps, of which biases do not decay, against Keras' formulas op by op."""
    x, y = data(10)
    weights = []
    for is_fused in (True, False):
        keras.utils.set_random_seed(1)
        model = mlp()
        options = {} if name == "AdamW" and weight_decay is None else {"weight_decay": weight_decay}
        schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 10, 0.5)
        optimizer = getattr(keras.optimizers, "SGD" if name in MOMENTA else name)(
            schedule, **options, **MOMENTA.get(name, {})
        )
        if weight_decay:
            optimizer.exclude_from_weight_decay(var_names=["bias"])
        if not is_fused:
            monkeypatch.setattr("tilegrad.keras.backend.optimizer._fused", lambda optimizer: None)
        keras_losses(model, x, y, optimizer)
        assert int(optimizer.iterations) == STEPS
        weights.append([*model.get_weights(), *[v.numpy() for v in optimizer.variables[1:]]])
    assert len(weights[0]) == 6 + (0 if name == "SGD" else 6 if name in MOMENTA else 12)
    for fused, plain in zip(*weights):
        if name in MOMENTA:
            np.testing.assert_array_equal(fused, plain)
        else:
            np.testing.assert_allclose(fused, plain, rtol=2e-5, atol=2e-6)


def test_the_fused_step_is_what_runs():
    x, y = data(10)
    model = mlp()
    keras_losses(model, x, y, "adamw")
    assert "adam_kernel" in model.train_function.step.summary()
    model = mlp()
    keras_losses(model, x, y, keras.optimizers.Adam(amsgrad=True))
    assert "adam_kernel" not in model.train_function.step.summary()
    model = mlp()
    keras_losses(model, x, y, keras.optimizers.SGD(momentum=0.9))
    assert "sgd_step" in model.train_function.step.summary()


# --- captured steps


def cnn():
    return keras.Sequential(
        [
            keras.Input((12, 12, 2)),
            layers.Conv2D(6, 3, padding="same", use_bias=False, strides=2),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(4, activation="softmax"),
        ]
    )


def transformer():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8)(tokens)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x))
    x = layers.GlobalAveragePooling1D()(layers.Conv1D(8, 3, activation="gelu")(x))
    return keras.Model(tokens, layers.Dense(4, activation="softmax")(x))


def recurrent():
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.LSTM(6, return_sequences=True),
            layers.GRU(4),
            layers.Dense(4, activation="softmax"),
        ]
    )


NETS = {
    "mlp": (mlp, (10,), "adam"),
    "cnn": (cnn, (12, 12, 2), "adamw"),
    "rmsprop": (cnn, (12, 12, 2), "rmsprop"),
    "momentum": (mlp, (10,), keras.optimizers.SGD),
    "recurrent": (recurrent, (5, 3), "adam"),
    "transformer": (transformer, (6,), "adam"),
}


@pytest.mark.parametrize("name", NETS)
def test_captured_steps_give_the_bits_of_plain_ones(name):
    make, shape, optimizer = NETS[name]
    x, y = data(*shape)
    x = np.abs(x * 5).astype(np.int32) if name == "transformer" else x
    runs = []
    for eagerly in (False, True):
        keras.utils.set_random_seed(2)
        model = make()
        chosen = optimizer if isinstance(optimizer, str) else optimizer(0.01, momentum=0.9, nesterov=True, clipnorm=1.0)
        model.compile(chosen, "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=eagerly)
        history = model.fit(
            x[: 9 * BATCH + 5], y[: 9 * BATCH + 5], batch_size=BATCH, epochs=3, validation_split=0.2, verbose=0
        ).history
        evaluated = model.evaluate(x[:50], y[:50], verbose=0)
        summary = model.train_function.step.summary()
        assert ("nodes" in summary and "runs plainly" not in summary) is not eagerly
        state = [*model.get_weights(), *[v.numpy() for v in model.optimizer.variables]]
        runs.append((history, evaluated, model.predict(x[:50], verbose=0), state))
    captured, plain = runs
    assert captured[:2] == plain[:2]
    for a, b in zip([captured[2], *captured[3]], [plain[2], *plain[3]]):
        np.testing.assert_array_equal(a, b)


def test_what_cannot_be_captured_runs_plainly_and_says_so_once():
    class Reading(layers.Layer):
        def call(self, x):
            return x * 2 if float(keras.ops.sum(x)) > 0 else x * 3

    x, y = data(10)
    model = keras.Sequential([Reading(), layers.Dense(4, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.warns(RuntimeWarning, match=r"^train_step: float reads values, .*py:\d+\); it runs plainly") as told:
        model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0)
    assert len([w for w in told if w.category is RuntimeWarning]) == 1
    assert "runs plainly" in model.train_function.step.summary()


def test_a_learning_rate_that_a_callback_sets_is_that_of_the_next_step():
    x, y = data(10)
    model = mlp()
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    stop = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 if epoch < 2 else 0.0)
    kept = []
    model.fit(
        x, y, batch_size=BATCH, epochs=3, verbose=0,
        callbacks=[stop, keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: kept.append(model.get_weights()))],
    )  # fmt: skip
    assert any((a != b).any() for a, b in zip(kept[0], kept[1]))
    for a, b in zip(kept[1], kept[2]):
        np.testing.assert_array_equal(a, b)


def test_compile_makes_new_steps():
    """What is trainable is what it is at `compile`."""
    x, y = data(10)
    model = mlp()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=BATCH, verbose=0)
    model.layers[0].trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = model.get_weights()
    model.fit(x, y, batch_size=BATCH, verbose=0)
    changed = [(a != b).any() for a, b in zip(before, model.get_weights())]
    assert changed == [False, False, True, True, True, True]
