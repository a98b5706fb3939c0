"""The data set on the device, and its batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import tilegrad as tg
from tilegrad import Tensor, data
from tilegrad.data import image_batch
from tilegrad.random import Generator
from training.augment import Augment


class Dataset(NamedTuple):
    """Where images come from, the mean and standard deviation of its training pixels / 255, its classes' names."""

    read: Callable[[Path | None, str], tuple[np.ndarray, np.ndarray]]
    mean: float
    std: float
    classes: tuple[str, ...]


CLOTHES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
DATASETS = {
    "mnist": Dataset(data.mnist, 0.13066, 0.30811, tuple("0123456789")),
    "fashion": Dataset(data.fashion_mnist, 0.28604, 0.35302, CLOTHES),
}


class Images:
    """Images (N, 1, 28, 28) as uint8 and labels (N,) as int64 on a device, and what turns and shifts them."""

    def __init__(self, images: Tensor, labels: Tensor, dataset: Dataset, augment: Augment | None = None) -> None:
        self.images, self.labels, self.dataset, self.augment = images, labels, dataset, augment

    @classmethod
    def read(cls, name: str, split: str, root: Path | None, device: str, limit: int | None = None) -> Images:
        """The first `limit` of a split of a data set. Ends the program with a clear line where it cannot be had."""
        dataset = DATASETS[name]
        try:
            images, labels = dataset.read(root, split)
        except (OSError, ValueError, RuntimeError) as error:
            raise SystemExit(f"{error}") from None
        if limit is not None and limit > len(images):
            raise SystemExit(f"--limit: {limit} images wanted; the {split} set has {len(images)}")
        on_device = tg.tensor(images[:limit, None], device=device)
        return cls(on_device, tg.tensor(labels[:limit], dtype=tg.int64, device=device), dataset)

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, share: float, seed: int) -> tuple[Images, Images]:
        """The images to train on, and a share that is held out: drawn by the seed, without touching other draws."""
        n = round(share * len(self))
        if not 0 < n < len(self):
            raise SystemExit(f"--validation: {share} of {len(self)} images are {n}; expected some, and not all")
        order = tg.randperm(len(self), generator=Generator(seed), device=self.labels.device)
        kept, held_out = order[n:], order[:n]
        return self._part(kept), self._part(held_out)

    def _part(self, index: Tensor) -> Images:
        return Images(self.images[index], self.labels[index], self.dataset, self.augment)

    def epoch(self, batch_size: int) -> list[tuple[Tensor, ...]]:
        """All images in random order: arguments of `batch`, for each batch."""
        drawn = [tg.randperm(len(self), device=self.labels.device)]
        if self.augment is not None:
            drawn.append(self.augment.draw(len(self)))
        return list(zip(*(x.split(batch_size) for x in drawn)))

    def batch(self, index: Tensor, amounts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The images of these numbers as float32 of mean 0 and standard deviation 1, and their labels.

        amounts   how far each one is turned and shifted (Augment.draw); None: they are shown as they are
        """
        labels, (_, mean, std, _) = self.labels[index], self.dataset
        if self.augment is None or amounts is None:
            return image_batch(self.images, index, mean, std), labels
        return (self.augment(self.images[index], amounts) / 255 - mean) / std, labels
