"""The training program that the MNIST examples share: flags, the loop, the evaluation, the report."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import engine
import kernels
from engine import Tensor, nn, optim
from engine.data import DataLoader, TensorDataset, mnist
from engine.nn import functional as F

MEAN, STD = 0.13066, 0.30811  # of the training images, pixels / 255


def main(net: Callable[[], nn.Module], description: str | None) -> None:
    """Read the flags, train net(), print the accuracy on the test images."""
    flags = parse(description)
    report = Report(flags.json)
    engine.manual_seed(flags.seed)
    train_set = dataset("train", flags.data, flags.device, flags.limit)
    test_set = dataset("test", flags.data, flags.device)
    model = net().to(flags.device)

    losses, epoch_seconds = train(model, train_set, flags)
    accuracy = evaluate(model, test_set)

    train_seconds = sum(epoch_seconds)
    images_per_second = flags.epochs * len(train_set) / train_seconds
    print(f"trained {flags.epochs} epochs in {train_seconds:.1f} s ({images_per_second:,.0f} images/s)")
    print(f"test accuracy {100 * accuracy:.2f} %")
    report.write(
        device=flags.device,
        kernels=kernels.name(flags.device),
        epochs=flags.epochs,
        batch_size=flags.batch_size,
        seed=flags.seed,
        epoch_seconds=epoch_seconds,
        train_seconds=train_seconds,
        images_per_second=images_per_second,
        losses=losses,
        test_accuracy=accuracy,
    )


def dataset(split: str, root: Path | None, device: str, limit: int | None = None) -> TensorDataset:
    """Images (N, 1, 28, 28) as uint8 and labels (N,) as int64, the first `limit` of them, moved to the device once."""
    try:
        images, labels = mnist(root, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"{error}") from None
    if limit is not None and limit > len(images):
        raise SystemExit(f"--limit: {limit} images wanted; the {split} set has {len(images)}")
    return TensorDataset(
        engine.tensor(images[:limit, None], device=device),
        engine.tensor(labels[:limit], dtype=engine.int64, device=device),
    )


def normalised(images: Tensor) -> Tensor:
    """uint8 pixels as float32 of mean 0 and standard deviation 1."""
    return (images.float() - 255 * MEAN) / (255 * STD)


def train(model: nn.Module, data: TensorDataset, flags: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Adam under a one-cycle schedule. Returns the loss of every step and the seconds of every epoch."""
    loader = DataLoader(data, batch_size=flags.batch_size, shuffle=True)
    optimizer = optim.Adam(model.parameters(), lr=flags.lr)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=flags.lr, total_steps=flags.epochs * len(loader))
    losses: list[Any] = []
    epoch_seconds: list[float] = []
    model.train()
    for epoch in range(1, flags.epochs + 1):
        start = time.perf_counter()
        for images, labels in progress(loader, f"epoch {epoch}/{flags.epochs}", flags.batch_size, losses):
            loss = F.cross_entropy(model(normalised(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())  # not its number: a GPU would have to be waited for
        losses[-len(loader) :] = engine.stack(losses[-len(loader) :]).tolist()
        epoch_seconds.append(time.perf_counter() - start)
        mean_loss = statistics.fmean(losses[-len(loader) :])
        print(f"epoch {epoch}/{flags.epochs}  loss {mean_loss:.4f}  {epoch_seconds[-1]:.1f} s", flush=True)
    return losses, epoch_seconds


@engine.no_grad()
def evaluate(model: nn.Module, data: TensorDataset) -> float:
    """The share of images whose largest logit is the label's."""
    model.eval()
    right: Any = 0
    for images, labels in DataLoader(data, batch_size=500):
        right += (model(normalised(images)).argmax(1) == labels).sum()
    return int(right) / len(data)


def progress(loader: DataLoader, title: str, batch_size: int, losses: list[Tensor]) -> Iterable[Any]:
    """The loader under a bar with loss and images/s; just the loader where nobody watches."""
    if not sys.stderr.isatty():
        yield from loader
        return
    from tqdm import tqdm

    with tqdm(total=len(loader) * batch_size, desc=title, unit=" images", leave=False) as bar:
        for batch in loader:
            yield batch
            bar.set_postfix(loss=f"{losses[-1].item():.4f}", refresh=False)
            bar.update(batch_size)


class Report:
    """The JSON file of --json: its place is checked before the training, and it appears whole or not at all."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise SystemExit(f"--json: cannot write to the folder {path.parent}")

    def write(self, **fields: Any) -> None:
        """Write the fields to a temporary name beside the path and rename it."""
        if self.path is None:
            return
        with tempfile.NamedTemporaryFile("w", dir=self.path.parent, suffix=".part", delete=False) as file:
            json.dump(fields, file, indent=1)
        os.replace(file.name, self.path)


def parse(description: str | None) -> argparse.Namespace:
    """The flags, checked: an unknown or unbuilt device or backend ends the program with one clear line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:0")
    parser.add_argument("--kernels", choices=("auto", "reference", "cpu", "triton", "numba"), default="auto")
    parser.add_argument("--epochs", type=positive(int), default=5)
    parser.add_argument("--batch-size", type=positive(int), default=64)
    parser.add_argument("--lr", type=positive(float), default=1e-3, help="peak of the one-cycle schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=positive(int), metavar="N", help="train on the first N images only")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the four IDX files")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there")
    flags = parser.parse_args()
    try:
        flags.device = engine.device.as_device(flags.device)
        if flags.kernels != "auto":  # otherwise TILEGRAD_KERNELS decides
            kernels.use(flags.kernels)
        if kernels.name(flags.device) != flags.kernels != "auto":
            raise ValueError(f"--kernels: {flags.kernels} does not serve device {flags.device}")
    except (NotImplementedError, ValueError, ImportError, RuntimeError) as error:
        parser.error(str(error))
    return flags


def positive(kind: type) -> Callable[[str], Any]:
    """An argparse type: a number above zero."""

    def convert(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"expected a number above 0; got {text}")
        return value

    convert.__name__ = f"positive {kind.__name__}"
    return convert
