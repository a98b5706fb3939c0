"""A small data set for the examples, and Ctrl-C as in a terminal."""

import signal

import numpy as np
import pytest

from tilegrad.data.idx import write_idx


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Ten classes that a net can learn in a few steps: a bright bar at a height that tells the class, in noise."""
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    for part, n in (("train", 640), ("t10k", 200)):
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels):
            image[4 + 2 * label : 6 + 2 * label] += 150
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Also where the tests themselves run in the background of a script, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
