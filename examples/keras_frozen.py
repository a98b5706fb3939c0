"""A pretrained transformer with a frozen body and a new head, in Keras.

    python -m tilegrad.keras examples/keras_frozen.py

The body is an encoder of Keras' layers that reads an image of MNIST as a sequence of its 28 rows. No weights are
downloaded: it is pretrained here on the digits 0 to 4, and saved to a file. A new model loads the file, freezes the
body, and learns the digits 5 to 9 with a head of its own. The example checks that the head's weights alone change, and
prints the accuracy on test images of 5 to 9, >= 88 %, and that of a head on a body that was never trained.
"""

import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers
from keras_mnist import load_data


class Positions(layers.Layer):
    """Adds a vector that is learned for each place in the sequence."""

    def build(self, input_shape):  # noqa: ANN001, ANN201
        self.table = self.add_weight(shape=input_shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02))

    def call(self, x):  # noqa: ANN001, ANN201
        return x + self.table


def encoder(width: int = 64, heads: int = 4, depth: int = 2) -> keras.Model:
    """Images (N, 28, 28) -> vectors (N, width)."""
    rows = keras.Input(shape=(28, 28))
    x = Positions()(layers.Dense(width)(rows))
    for _ in range(depth):
        h = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(h, h)
        h = layers.LayerNormalization()(x)
        x = x + layers.Dense(width)(layers.Dense(2 * width, activation="gelu")(h))
    return keras.Model(rows, layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x)), name="body")


def classifier(body: keras.Model) -> keras.Model:
    """The body under a new head of five classes, ready to train."""
    head = keras.Sequential(
        [layers.Dense(64, activation="relu"), layers.Dropout(0.1), layers.Dense(5, activation="softmax")], name="head"
    )
    images = keras.Input(shape=(28, 28))
    model = keras.Model(images, head(body(images)))
    model.compile(keras.optimizers.AdamW(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main(epochs: int = 3, images: int = 10_000) -> list[float]:
    """Pretrain, then train heads; the accuracies on pretrained and untrained body."""
    keras.utils.set_random_seed(0)
    (x_train, y_train), (x_test, y_test) = load_data()
    x_train, x_test = x_train.astype("float32") / 255, x_test.astype("float32") / 255
    first, second, second_test = y_train < 5, y_train >= 5, y_test >= 5
    task = x_train[second][:images], y_train[second][:images] - 5
    test = x_test[second_test], y_test[second_test] - 5

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body.weights.h5"
        pretrained = encoder()
        print("pretraining on 0 to 4")
        classifier(pretrained).fit(
            x_train[first][:images], y_train[first][:images], epochs=epochs, batch_size=64, verbose=2
        )
        pretrained.save_weights(path)
        body = encoder()
        body.load_weights(path)

    accuracies = []
    for name, frozen in {"pretrained": body, "untrained": encoder()}.items():
        frozen.trainable = False
        model = classifier(frozen)
        head = model.get_layer("head")
        before = [frozen.get_weights(), head.get_weights()]
        print(f"a head on a {name} body: {head.count_params():,} of {model.count_params():,} parameters are trained")
        start = time.perf_counter()
        model.fit(*task, epochs=epochs, batch_size=64, verbose=2)
        each = (time.perf_counter() - start) / epochs
        assert all(np.array_equal(a, b) for a, b in zip(before[0], frozen.get_weights())), "the body has changed"
        assert not any(np.array_equal(a, b) for a, b in zip(before[1], head.get_weights())), "the head has not"
        _, accuracy = model.evaluate(*test, verbose=0)
        print(f"{name} body: {each:.2f} s an epoch, test accuracy {100 * accuracy:.2f} %; the head alone has changed")
        accuracies.append(accuracy)
    return accuracies


if __name__ == "__main__":
    main()
