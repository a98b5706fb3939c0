"""The training program that the MNIST examples share: flags, the loop, the evaluation, the report."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tilegrad as tg
from tilegrad import Tensor, kernels, nn, optim
from tilegrad.data import image_batch, mnist
from tilegrad.kernels.system.files import write_whole
from tilegrad.kernels.system.paths import user_path
from tilegrad.nn import functional as F

MEAN, STD = 0.13066, 0.30811  # of the training images, pixels / 255
SECONDS_SHOWN = 0.5  # that a loss stays on the progress bar


def main(net: Callable[[], nn.Module], description: str | None) -> None:
    """Read the flags, train net(), print the accuracy on the test images."""
    begin = time.perf_counter()
    flags = parse(description)
    report = Report(flags.json)
    tg.manual_seed(flags.seed)
    train_set = Images("train", flags.data, flags.device, flags.limit)
    test_set = Images("test", flags.data, flags.device)
    model = net().to(flags.device)

    run = train(model, train_set, flags, begin)
    accuracy = evaluate(model, test_set)

    train_seconds = sum(run.epoch_seconds)
    images_per_second = flags.epochs * len(train_set) / train_seconds
    print(f"trained {flags.epochs} epochs in {train_seconds:.1f} s ({images_per_second:,.0f} images/s)")
    print(f"test accuracy {100 * accuracy:.2f} %")
    report.write(
        device=flags.device,
        kernels=kernels.name(flags.device),
        epochs=flags.epochs,
        batch_size=flags.batch_size,
        seed=flags.seed,
        first_step_seconds=run.first_step_seconds,
        epoch_seconds=run.epoch_seconds,
        train_seconds=train_seconds,
        images_per_second=images_per_second,
        losses=run.losses,
        test_accuracy=accuracy,
    )


class Images:
    """A split of MNIST on the device: images (N, 1, 28, 28) as uint8 and labels (N,) as int64, the first `limit`."""

    def __init__(self, split: str, root: Path | None, device: str, limit: int | None = None) -> None:
        try:
            images, labels = mnist(root, split=split)
        except (OSError, ValueError, RuntimeError) as error:
            raise SystemExit(f"{error}") from None
        if limit is not None and limit > len(images):
            raise SystemExit(f"--limit: {limit} images wanted; the {split} set has {len(images)}")
        self.images = tg.tensor(images[:limit, None], device=device)
        self.labels = tg.tensor(labels[:limit], dtype=tg.int64, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images of these numbers as float32 of mean 0 and standard deviation 1, and their labels."""
        return image_batch(self.images, index, MEAN, STD), self.labels[index]


class Run(NamedTuple):
    """What a training took: the loss of every step, seconds to the end of the first one and of every epoch."""

    losses: list[float]
    first_step_seconds: float
    epoch_seconds: list[float]


def train(model: nn.Module, data: Images, flags: argparse.Namespace, begin: float) -> Run:
    """Adam under a one-cycle schedule. On a GPU a step is one CUDA graph (tilegrad.capture)."""
    steps = math.ceil(len(data) / flags.batch_size)
    optimizer = optim.Adam(model.parameters(), lr=flags.lr)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=flags.lr, total_steps=flags.epochs * steps)

    @tg.capture
    def step(index: Tensor) -> Tensor:
        images, labels = data.batch(index)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss

    losses: list[float] = []
    first_step_seconds, epoch_seconds = 0.0, []
    model.train()
    for epoch in range(1, flags.epochs + 1):
        start = time.perf_counter()
        order = tg.randperm(len(data), device=flags.device)
        latest: list[Tensor] = []  # not their numbers: a GPU would have to be waited for
        for index in progress(order.split(flags.batch_size), f"epoch {epoch}/{flags.epochs}", len(data), latest):
            latest.append(step(index))
            if not losses and len(latest) == 1:
                latest[0].item()
                first_step_seconds = time.perf_counter() - begin
                print(f"first step done {first_step_seconds:.1f} s after the start", flush=True)
        losses += tg.stack(latest).tolist()
        epoch_seconds.append(time.perf_counter() - start)
        mean_loss = statistics.fmean(losses[-steps:])
        print(f"epoch {epoch}/{flags.epochs}  loss {mean_loss:.4f}  {epoch_seconds[-1]:.1f} s", flush=True)
    if flags.device == "cuda":
        print("\n".join(line for line in step.summary().splitlines() if not line.startswith(" ")))
    return Run(losses, first_step_seconds, epoch_seconds)


@tg.no_grad()
def evaluate(model: nn.Module, data: Images) -> float:
    """The share of images whose largest logit is the label's."""
    model.eval()

    def right(index: Tensor) -> Tensor:
        images, labels = data.batch(index)
        return (model(images).argmax(1) == labels).sum()

    if data.labels.is_cuda:  # on the CPU NumPy finds the largest, and no program would have that
        right = tg.capture(right)
    numbers = tg.arange(len(data), device=data.labels.device)
    count: int = sum(tg.stack([right(index) for index in numbers.split(500)]).tolist())
    return count / len(data)


def progress(batches: Sequence[Tensor], title: str, images: int, losses: list[Tensor]) -> Iterator[Tensor]:
    """The batches under a bar with loss and images/s; just the batches where nobody watches."""
    if not sys.stderr.isatty():
        yield from batches
        return
    from tqdm import tqdm

    with tqdm(total=images, desc=title, unit=" images", leave=False) as bar:
        shown = time.perf_counter()
        for batch in batches:
            yield batch
            bar.update(len(batch))
            if time.perf_counter() - shown > SECONDS_SHOWN:  # reading the loss waits for the GPU
                bar.set_postfix(loss=f"{losses[-1].item():.4f}")
                shown = time.perf_counter()


class Report:
    """The JSON file of --json: its place is checked before the training, and it appears whole or not at all."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise SystemExit(f"--json: cannot write to the folder {path.parent}")

    def write(self, **fields: Any) -> None:
        """Write the fields, if there is a path."""
        if self.path is not None:
            write_whole(self.path, json.dumps(fields, indent=1))


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
    parser.add_argument("--data", type=user_path, metavar="DIR", help="folder with the four IDX files")
    parser.add_argument("--json", type=user_path, metavar="PATH", help="write the figures there")
    flags = parser.parse_args()
    try:
        flags.device = tg.device.as_device(flags.device)
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
