"""Fashion-MNIST: 70,000 pictures of clothes, bags and shoes as NumPy arrays, in MNIST's form.

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms", arXiv:1708.07747 (2017). Copyright 2017 Zalando SE, MIT license.
"""

import os
from collections.abc import Sequence

import numpy as np

from tilegrad.data import four_files


def fashion_mnist(root: str | os.PathLike[str] | None = None, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST's images and labels, read-only.

    root    the folder that holds the files; without it, the folder that the environment variable TILEGRAD_FASHION_DATA
            names; without that, the user's cache folder, filled on first use from public mirrors
    split   "train" (60,000) or "test" (10,000)
    ->      images (N, 28, 28) uint8, 0 is background; labels (N,) uint8: 0 T-shirt or top, 1 trouser, 2 pullover,
            3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot

    Names of files, checks and errors are those of `mnist`.
    """
    return four_files.load("fashion_mnist", root, split, "TILEGRAD_FASHION_DATA", _cached)


def _cached(wanted: Sequence[str]) -> dict[str, memoryview]:
    from tilegrad.data import fashion_mnist_sources  # here: only a download needs it

    return fashion_mnist_sources.cached(wanted)
