"""A convolutional net on MNIST, in Keras: fit with validation_data, then evaluate.

    python -m tilegrad.keras examples/keras_cnn.py

It prints the accuracy on the test images after 5 epochs, >= 98.8 %.
"""

import time

import keras
from keras import layers
from keras_mnist import load_data


def main(epochs: int = 5) -> float:
    """Train; the accuracy on the test images."""
    keras.utils.set_random_seed(0)
    (x_train, y_train), (x_test, y_test) = load_data()
    x_train = x_train.reshape(-1, 28, 28, 1).astype("float32") / 255
    x_test = x_test.reshape(-1, 28, 28, 1).astype("float32") / 255

    model = keras.Sequential(
        [
            keras.Input(shape=(28, 28, 1)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.summary()

    start = time.perf_counter()
    model.fit(x_train, y_train, epochs=epochs, batch_size=32, validation_data=(x_test, y_test), verbose=2)
    each = (time.perf_counter() - start) / epochs
    loss, accuracy = model.evaluate(x_test, y_test, verbose=2)
    print(f"{each:.2f} s an epoch, test loss {loss:.4f}, test accuracy {100 * accuracy:.2f} %")
    return accuracy


if __name__ == "__main__":
    main()
