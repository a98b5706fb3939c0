"""A convolutional net on augmented MNIST, in Keras: early stopping, a checkpoint of the best epoch, F1 score.

    python -m tilegrad.keras examples/keras_callbacks.py

It trains on 10,000 images, each turned and moved anew in every epoch, until the loss on 2,000 others has not sunk for 2
epochs, 12 at most. It prints accuracy and F1 on the test images, >= 97.5 %: of the model, which has the weights of its
best epoch again, and of the checkpoint, which are the same.
"""

import tempfile
import time
from pathlib import Path

import keras
from keras import layers
from keras_mnist import load_data


def main(epochs: int = 12) -> list[float]:
    """Train; loss, accuracy and F1 on the test images."""
    keras.utils.set_random_seed(0)
    (x_train, y_train), (x_test, y_test) = load_data()
    x_train, y_train = x_train[:12_000, ..., None].astype("float32") / 255, y_train[:12_000]
    x_test = x_test[..., None].astype("float32") / 255
    y_train, y_test = keras.utils.to_categorical(y_train, 10), keras.utils.to_categorical(y_test, 10)

    model = keras.Sequential(
        [
            keras.Input(shape=(28, 28, 1)),
            layers.RandomRotation(0.03, fill_mode="constant"),
            layers.RandomTranslation(0.08, 0.08, fill_mode="constant"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss="categorical_crossentropy",
        metrics=["accuracy", keras.metrics.F1Score(average="macro", name="f1")],
    )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.keras"
        callbacks = [
            keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True),
            keras.callbacks.ModelCheckpoint(path, monitor="val_loss", save_best_only=True),
        ]
        start = time.perf_counter()
        history = model.fit(
            x_train,
            y_train,
            batch_size=64,
            epochs=epochs,
            validation_split=1 / 6,
            callbacks=callbacks,
            verbose=2,
        )
        each = (time.perf_counter() - start) / len(history.epoch)
        best = keras.models.load_model(path)

    found = model.evaluate(x_test, y_test, verbose=0)
    loaded = best.evaluate(x_test, y_test, verbose=0)
    print(f"{len(history.epoch)} epochs of {each:.2f} s")
    assert found == loaded, "the checkpoint is another model"
    for name, (_, accuracy, f1) in {"model": found, "checkpoint": loaded}.items():
        print(f"{name}: test accuracy {100 * accuracy:.2f} %, F1 {100 * f1:.2f} %")
    return found


if __name__ == "__main__":
    main()
