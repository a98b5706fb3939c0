"""A multi-layer perceptron on MNIST, in Keras: fit, evaluate, and a second fit that goes on from there.

    python -m tilegrad.keras examples/keras_mlp.py

It prints the accuracy on the test images after 5 epochs, >= 97.5 %, and after 5 more.
"""

import time

import keras
from keras import layers
from keras_mnist import load_data


def main(epochs: int = 5) -> list[float]:
    """Train twice; the accuracies on the test images."""
    keras.utils.set_random_seed(0)
    (x_train, y_train), (x_test, y_test) = load_data()
    x_train = x_train.reshape(-1, 784).astype("float32") / 255
    x_test = x_test.reshape(-1, 784).astype("float32") / 255

    model = keras.Sequential(
        [
            keras.Input(shape=(784,)),
            layers.Dense(512, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.summary()

    accuracies = []
    for run in ("first", "second"):
        start = time.perf_counter()
        model.fit(x_train, y_train, epochs=epochs, batch_size=128, verbose=2)
        each = (time.perf_counter() - start) / epochs
        loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
        print(f"{run} fit: {each:.2f} s an epoch, test loss {loss:.4f}, test accuracy {100 * accuracy:.2f} %")
        accuracies.append(accuracy)
    return accuracies


if __name__ == "__main__":
    main()
