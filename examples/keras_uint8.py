"""A net on the raw bytes of MNIST's images, in Keras: Flatten, Dense, and a part of the training set for validation.

    python -m tilegrad.keras examples/keras_uint8.py

The images stay uint8, 0 to 255, without any scaling. It prints the accuracy on the test images after 5 epochs, >= 93 %.
"""

import time

import keras
from keras import layers
from keras_mnist import load_data


def main(epochs: int = 5) -> float:
    """Train; the accuracy on the test images."""
    keras.utils.set_random_seed(0)
    (x_train, y_train), (x_test, y_test) = load_data()

    model = keras.Sequential(
        [
            keras.Input(shape=(28, 28)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])

    start = time.perf_counter()
    model.fit(x_train, y_train, epochs=epochs, validation_split=0.2, verbose=2)
    each = (time.perf_counter() - start) / epochs
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"{each:.2f} s an epoch, test loss {loss:.4f}, test accuracy {100 * accuracy:.2f} %")
    return accuracy


if __name__ == "__main__":
    main()
