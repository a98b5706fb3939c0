"""fit, evaluate, predict and what belongs to them: data, weights, callbacks, files."""

from __future__ import annotations

from contextlib import nullcontext

import keras
import numpy as np
import pytest
from keras import layers, ops

import tilegrad as tg


def blobs(n=240, seed=0):
    """Three classes of points around three centres."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    centres = np.array([[0, 2], [2, -1], [-2, -1]], np.float32)
    return (centres[y] + rng.standard_normal((n, 2)).astype(np.float32) * 0.5), y


def net():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(16),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.1),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_it_learns():
    x, y = blobs()
    model = net()
    history = model.fit(x, y, epochs=12, batch_size=32, validation_data=blobs(seed=1), verbose=0).history
    assert sorted(history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert history["val_accuracy"][-1] > 0.95 and history["loss"][-1] < history["loss"][0] / 2
    loss, accuracy = model.evaluate(*blobs(seed=1), verbose=0)
    assert (loss, accuracy) == (history["val_loss"][-1], history["val_accuracy"][-1])
    assert model.evaluate(*blobs(seed=1), verbose=0, return_dict=True) == {"accuracy": accuracy, "loss": loss}
    p = model.predict(blobs(seed=1)[0], batch_size=50, verbose=0)
    assert p.shape == (240, 3) and (p.argmax(1) == blobs(seed=1)[1]).mean() == pytest.approx(accuracy)
    moving_mean, moving_variance = model.layers[1].moving_mean.numpy(), model.layers[1].moving_variance.numpy()
    hidden = model.layers[0](x).numpy()
    np.testing.assert_allclose(moving_mean, hidden.mean(0), atol=0.6)
    assert (moving_variance != 1).all()


def test_losses_of_fit_are_means_over_samples():
    """Of an epoch without an update: as evaluate has it, also where the last batch is smaller."""
    x, y = blobs(100)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, y, batch_size=32, epochs=4, verbose=0).history
    p = np.take_along_axis(model.predict(x, verbose=0), y[:, None], 1)
    np.testing.assert_allclose(history["loss"], np.full(4, -np.log(p).mean()), rtol=1e-5)


def test_weights_of_samples_and_classes():
    x, y = blobs(90)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    each = -np.log(np.take_along_axis(model.predict(x, verbose=0), y[:, None], 1))[:, 0]
    weights = np.arange(90, dtype=np.float32) / 45
    want = (each * weights).reshape(3, 30).mean()
    assert model.evaluate(x, y, batch_size=30, sample_weight=weights, verbose=0)[0] == pytest.approx(want, rel=1e-5)
    history = model.fit(x, y, batch_size=30, class_weight={0: 1.0, 1: 2.0, 2: 0.5}, verbose=0).history
    assert history["loss"][0] == pytest.approx((each * np.array([1, 2, 0.5])[y]).mean(), rel=1e-5)


def test_early_stopping_and_checkpoints(tmp_path):
    x, y = blobs()
    path = tmp_path / "best.keras"
    model = net()
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    best = keras.callbacks.ModelCheckpoint(path, "val_loss", save_best_only=True)
    rates = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1)
    history = model.fit(
        x, y, epochs=60, validation_data=blobs(seed=1), verbose=0, callbacks=[stop, best, rates]
    ).history["val_loss"]
    assert len(history) < 60 and float(model.optimizer.learning_rate) < 0.02
    loaded = keras.models.load_model(path)
    for each in (model, loaded):
        assert each.evaluate(*blobs(seed=1), verbose=0)[0] == pytest.approx(min(history))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert int(loaded.optimizer.iterations) > 0
    loaded.fit(x, y, verbose=0)


def test_a_model_that_is_saved_goes_on_as_it_would_have(tmp_path):
    x, y = blobs(64)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(8, activation="relu"), layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=3, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    histories = [m.fit(x, y, epochs=3, shuffle=False, verbose=0).history["loss"] for m in (model, loaded)]
    assert histories[0] == histories[1]
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_batches_are_told_of_where_a_callback_listens(monkeypatch):
    """By any of its four methods, also where it got one as an attribute. Otherwise logs are not made into numbers."""
    x, y = blobs(64)
    model = net()
    told = []
    for name in ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end"):
        method = lambda self, *_, name=name, **__: told.append(name)  # noqa: E731
        listening = type("Listening", (keras.callbacks.Callback,), {name: method})
        model.fit(x, y, batch_size=32, callbacks=[listening()], verbose=0)
        assert told == [name] * 2
        told.clear()
    kept = []
    listening = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: kept.append(logs))
    model.fit(x, y, batch_size=32, verbose=0, callbacks=[listening])
    assert [sorted(each) for each in kept] == [["accuracy", "loss"]] * 2 and type(kept[0]["loss"]) is float
    silent = keras.callbacks.CallbackList([], add_history=True, model=model)
    monkeypatch.setattr(silent, "on_train_batch_end", lambda *_: told.append("nobody"))
    history = model.fit(x, y, batch_size=32, verbose=0, callbacks=silent).history
    assert not told and sorted(history) == ["accuracy", "loss"]


def test_data_that_come_from_elsewhere():
    x, y = blobs(96)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return x[i * 32 : i * 32 + 32], y[i * 32 : i * 32 + 32]

    def generator():
        while True:
            yield x[:32], y[:32]

    model = net()
    model.fit(Batches(), epochs=2, verbose=0)
    model.fit(generator(), steps_per_epoch=3, epochs=2, shuffle=False, verbose=0)
    model.fit(ops.convert_to_tensor(x), ops.convert_to_tensor(y), validation_split=0.25, verbose=0)
    assert model.predict(Batches(), verbose=0).shape == (96, 3)
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(((x[:32], y[:32]) for _ in range(2)), steps_per_epoch=3, shuffle=False, verbose=0)


def test_raw_bytes_are_cast_in_the_step():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (64, 4, 4), dtype=np.uint8), rng.integers(0, 3, 64)
    model = keras.Sequential([keras.Input((4, 4)), layers.Flatten(), layers.Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, validation_split=0.25, epochs=4, verbose=0)
    assert "uint8[32, 4, 4]" in model.train_function.step.summary()
    found = model.predict(x, batch_size=64, verbose=0)  # products of other sizes are rounded otherwise
    np.testing.assert_allclose(found, model(x.astype(np.float32)).numpy(), rtol=1e-6)


def test_several_inputs_and_outputs():
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    h = layers.Concatenate()([a, b])
    outputs = {"number": layers.Dense(1, name="number")(h), "kind": layers.Dense(3, name="kind")(h)}
    model = keras.Model({"a": a, "b": b}, outputs)
    losses = {"number": "mse", "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    model.compile("adam", losses, loss_weights={"number": 0.5, "kind": 2.0}, metrics={"kind": ["accuracy"]})
    x, y = blobs(64)
    inputs = {"a": x, "b": np.ones((64, 3), np.float32)}
    logs = model.fit(inputs, {"number": x[:, :1], "kind": y}, epochs=2, verbose=0).history
    assert sorted(logs) == ["kind_accuracy", "kind_loss", "loss", "number_loss"]
    np.testing.assert_allclose(logs["loss"][1], 0.5 * logs["number_loss"][1] + 2 * logs["kind_loss"][1], rtol=1e-5)
    found = model.predict(inputs, verbose=0)
    assert found["number"].shape == (64, 1) and found["kind"].shape == (64, 3)


def test_single_batches():
    x, y = blobs(32)
    model = net()
    first = model.train_on_batch(x, y, return_dict=True)
    for _ in range(20):
        last = model.train_on_batch(x, y, return_dict=True)
    assert sorted(first) == ["accuracy", "loss"] and last["loss"] < first["loss"]
    assert model.test_on_batch(x, y, return_dict=True)["loss"] == pytest.approx(model.evaluate(x, y, verbose=0)[0])
    want = model.predict(x, verbose=0)
    for dtype in ("float64", "float32", "float64"):  # captured apart
        np.testing.assert_allclose(model.predict_on_batch(x.astype(dtype)), want, rtol=1e-5)


def test_python_code_of_a_step_runs_once_plainly_and_once_to_be_captured():
    calls = []

    class Counted(keras.Model):
        def train_step(self, data):
            calls.append(1)
            return super().train_step(data)

    x, y = blobs(40)
    inputs = keras.Input((2,))
    model = Counted(inputs, layers.Dense(3, activation="softmax")(inputs))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert len(calls) == 2


def test_a_train_step_of_the_programs_own():
    """As Keras' documents have it for a framework whose tensors have backward()."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)
            self.seen = keras.metrics.Mean(name="mean_loss")

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            x, y = data
            loss = ops.mean(keras.losses.sparse_categorical_crossentropy(y, self(x, training=True), from_logits=True))
            loss.backward()
            gradients = [v.value.grad for v in self.trainable_weights]
            self.optimizer.apply(gradients, self.trainable_weights)
            for v in self.trainable_weights:
                v.value.grad = None
            self.seen.update_state(loss)
            return {"mean_loss": self.seen.result()}

    x, y = blobs()
    model = Model()
    model.compile(keras.optimizers.SGD(0.5))
    history = model.fit(x, y, epochs=4, verbose=0).history["mean_loss"]
    assert history[-1] < history[0] / 2


def test_a_branch_is_captured_where_it_gives_a_value():
    """The warm-up of a schedule is one; where a branch writes, the step runs plainly."""
    x, y = blobs(96)

    class Counting(keras.Sequential):
        def train_step(self, data):
            logs = super().train_step(data)
            if self.counts is not None:
                ops.cond(logs["loss"] > 0.5, lambda: self.counts.assign_add(1), lambda: self.counts.assign_add(10))
            return logs

    for writes in (False, True):
        found = []
        for run_eagerly in (False, True):
            keras.utils.set_random_seed(3)
            model = Counting([keras.Input((2,)), layers.Dense(3, activation="softmax")])
            model.counts = keras.Variable(0, dtype="int32", trainable=False) if writes else None
            rate = keras.optimizers.schedules.CosineDecay(0.1, 9, warmup_target=0.5, warmup_steps=4)
            model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", run_eagerly=run_eagerly)
            told = pytest.warns(RuntimeWarning, match="reads values") if writes and not run_eagerly else nullcontext()
            with told:
                history = model.fit(x, y, batch_size=8, shuffle=False, epochs=1, verbose=0).history
            assert ("nodes" in model.train_function.step.summary()) is not (run_eagerly or writes)
            found.append((history, [w.tolist() for w in model.get_weights()], writes and int(model.counts)))
        assert found[0] == found[1]


@pytest.mark.parametrize("count", [0, 2])
def test_a_side_of_a_branch_that_would_raise_is_not_taken(count):
    """An integer division is checked, so the step of such a branch runs plainly."""
    n = keras.Variable(count, dtype="int32", trainable=False)
    x = ops.convert_to_tensor(np.array([4, 8], np.int32))
    step = tg.capture(lambda x: ops.cond(n > 0, lambda: x // n, lambda: x * 0), warmup=1)
    with pytest.warns(RuntimeWarning, match="on a side of a branch|reads values"):
        found = [step(x).tolist() for _ in range(3)]
    assert found == [[2, 4] if count else [0, 0]] * 3
    n.assign(2 - count)
    assert step(x).tolist() == ([0, 0] if count else [2, 4])


READING = {
    "float": float,
    "item": lambda x: x.item(),
    "convert_to_numpy": lambda x: float(ops.convert_to_numpy(x)),
    "detach": lambda x: float(x.detach().numpy()),
    "numpy": lambda x: float(x.numpy()),
    "asarray": lambda x: float(np.asarray(x)),
}


@pytest.mark.parametrize("how", READING)
def test_a_train_step_that_reads_its_loss(how):
    """It has the values of a plain step, or is told what to do: the loss knows its gradients."""

    class Model(keras.Sequential):
        def train_step(self, data):
            x, y = data
            loss = ops.mean(keras.losses.sparse_categorical_crossentropy(y, self(x, training=True)))
            read.append(READING[how](loss))
            loss.backward()
            weights = self.trainable_weights
            self.optimizer.apply([v.value.grad for v in weights], weights)
            for v in weights:
                v.value.grad = None
            return {"now": loss}

    x, y = blobs(96)
    read = []
    model = Model([keras.Input((2,)), layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.1))
    if how in ("numpy", "asarray"):
        with pytest.raises(RuntimeError, match=r"the tensor requires grad; expected tensor.detach\(\).numpy\(\)"):
            model.fit(x, y, epochs=2, verbose=0)
        return
    with pytest.warns(RuntimeWarning, match="train_step: .* reads values.*; it runs plainly"):
        history = model.fit(x, y, epochs=2, verbose=0, shuffle=False).history["now"]
    assert len(set(read)) == 6 and history == [read[2], read[5]]


def test_several_batches_an_execution():
    x, y = blobs(96)
    runs = []
    for steps in (1, 3):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((2,)), layers.Dense(3, activation="softmax")])
        model.compile("adam", "sparse_categorical_crossentropy", steps_per_execution=steps)
        history = model.fit(x, y, shuffle=False, epochs=2, verbose=0).history
        runs.append((history, model.predict(x, verbose=0).tolist()))
    assert runs[0] == runs[1]


def test_mixed_bfloat16_trains():
    x, y = blobs()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = net()
        history = model.fit(x, y, epochs=6, verbose=0).history["loss"]
        assert history[-1] < history[0] / 2
        assert model.layers[0].kernel.dtype == "float32" and str(model.layers[0](x).dtype) == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_what_is_wrong_is_said():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="compile"):
        model.fit(*blobs(10))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="at the same time"):
        model.train_on_batch(*blobs(10), sample_weight=np.ones(10), class_weight={0: 1.0})
    with pytest.raises(NotImplementedError, match="in the tilegrad backend|only compatible with TensorFlow"):
        keras.export.ExportArchive().track(model)
    with pytest.raises(NotImplementedError, match="only currently supports|only compatible with TensorFlow"):
        model.export("exported", format="tf_saved_model")
