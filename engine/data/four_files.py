"""Data sets in the four files of MNIST: two of images, two of labels, from a folder or from the user's cache."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tilegrad.data.idx import read_idx
from tilegrad.data.mnist_files import FILES
from tilegrad.kernels.system.paths import user_path

Bytes = bytes | memoryview


def load(
    name: str,
    root: str | os.PathLike[str] | None,
    split: str,
    variable: str,
    cached: Callable[[Sequence[str]], Mapping[str, Bytes]],
) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a split of the data set `name`, which errors begin with.

    root      the folder that holds the files; without it, the folder that the environment variable names; without that,
              the files that `cached` gives for their names

    Raises ValueError for another split and for files that are malformed or do not match, TypeError for a root that is
    no path, FileNotFoundError for files missing from a folder, and what `cached` raises.
    """
    if split not in tuple(FILES):
        raise ValueError(f'{name}: split is {split!r}; expected "train" or "test"')
    if root is not None and not isinstance(root, str | os.PathLike):
        raise TypeError(f"{name}: root is {type(root).__name__}; expected a path")
    root = root if root is not None else os.environ.get(variable) or None
    if root is not None:
        return _from_folder(name, user_path(root), split)
    files = cached(FILES[split])
    images, labels = (read_idx(files[file], name=file) for file in FILES[split])
    return images, labels


def advice(name: str, variable: str, error: Exception) -> str:
    """The text of an error of the sources, and what its reader can do."""
    names = ", ".join(file for files in FILES.values() for file in files)
    return (
        f"{name}: {error}\nPut the four files {names}, gzipped or not, in one folder, and "
        f"give it as root or set {variable} to it."
    )


def _from_folder(name: str, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    images_path, labels_path = (_find(name, folder, file) for file in FILES[split])
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, dimensions in (images_path, images, 3), (labels_path, labels, 1):
        if array.dtype != np.uint8 or array.ndim != dimensions:
            raise ValueError(
                f"{name}: {path} holds {array.dtype} {array.shape}; expected uint8 in {dimensions} dimensions"
            )
    if len(images) != len(labels):
        raise ValueError(
            f"{name}: {images_path} holds {len(images)} images but {labels_path} holds {len(labels)} labels; "
            "expected as many"
        )
    return images, labels


def _find(name: str, folder: Path, file: str) -> Path:
    plain = [file, file.replace("-idx", ".idx")]
    spellings = [*plain, *(f"{spelling}.gz" for spelling in plain)]
    for spelling in spellings:
        if (folder / spelling).is_file():
            return folder / spelling
    raise FileNotFoundError(f"{name}: {folder} holds no {file}; looked for {', '.join(spellings)}")
