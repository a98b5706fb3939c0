"""Whole trainings on MNIST, in one process: the captured step against the plain one and against torch.

    python -m tilegrad.bench.mnist [--net cnn|mlp] [--device cuda|cpu] [--epochs 5] [--runs 5] [--batch-size 64]
    [--limit N]
        [--data DIR] [--json PATH]

For each contestant: seconds of the training loop (median of the runs after the first, which compiles and is reported
separately), milliseconds per step, the host's microseconds per step (before anything waits), and the accuracy on the
test images. All have the same initial weights, orders of the images and learning rate (Adam, 1e-3). The images lie as
bytes on the device, and are gathered and normalised in the step. Contestants take turns, run by run.

    plain               the engine, an op at a time
    captured            tilegrad.capture: a step is one CUDA graph, or a program of the CPU's kernels
    captured x 8        eight steps in one graph
    torch               eager, fused Adam
    torch-compile       torch.compile(mode="reduce-overhead"), which captures forward and backward as CUDA graphs
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.bench.nets import NETS
from tilegrad.bench.provenance import provenance
from tilegrad.bench.results import writable, write
from tilegrad.data import image_batch, mnist
from tilegrad.device import as_device
from tilegrad.kernels.system.paths import user_path
from tilegrad.nn import functional as F

MEAN, STD = 0.13066, 0.30811  # of the training images, pixels / 255
STEPS = 8  # of the contestant with several in one graph


@dataclass
class Task:
    """What every contestant does: images as bytes, labels, and the order of the images in each epoch."""

    net: str
    device: str
    batch: int
    weights: dict[str, np.ndarray]
    images: np.ndarray
    labels: np.ndarray
    orders: list[np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclass
class Times:
    """One contestant's runs: seconds of the training loop, the host's share of it, and the accuracy at the end."""

    seconds: list[float] = field(default_factory=list)
    host_seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # of the last step of each run
    accuracy: float = 0.0


Train = Callable[[], Iterator[Any]]  # from the first weights; yields when the last step is launched, then its loss
Made = tuple[Train, Callable[[], float]]  # ..., the accuracy


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tilegrad.bench.mnist", description=str(__doc__).splitlines()[0])
    parser.add_argument("--net", choices=[name.lower() for name in NETS], default="cnn")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5, help="after the first, which compiles")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--limit", type=int, help="the first N images only")
    parser.add_argument("--only", help=f"some of {', '.join(CONTESTANTS)}")
    parser.add_argument("--data", type=user_path, help="folder with the four IDX files")
    parser.add_argument("--json", type=user_path, help="write the figures there")
    flags = parser.parse_args(arguments)
    names = flags.only.split(",") if flags.only else list(CONTESTANTS)
    unknown = [name for name in names if name not in CONTESTANTS]
    if unknown:
        parser.error(f"--only: got {unknown[0]}; expected some of {', '.join(CONTESTANTS)}")
    why = None if flags.json is None else writable(flags.json)
    if why is not None:
        parser.error(f"--json: {flags.json} {why}")
    try:
        device = as_device(flags.device)
        task = _task(flags, device)
    except (OSError, ValueError, RuntimeError) as e:
        parser.error(str(e))

    found: dict[str, Times] = {}
    made: dict[str, Made] = {}  # once, so that no contestant compiles in every run
    for run in range(flags.runs + 1):
        for name in names:
            if "torch" in name and importlib.util.find_spec("torch") is None:
                print(f"{name}: skipped, torch is not installed")
            else:
                if name not in made:
                    made[name] = CONTESTANTS[name](task)
                with warnings.catch_warnings(record=True) as told:  # such as of a step that runs plainly
                    warnings.simplefilter("always")
                    _run(made[name], found.setdefault(name, Times()))
                for warning in told:
                    print(f"{name}: {warning.message}")
                print(f"run {run}  {name:<16} {found[name].seconds[-1]:8.3f} s", flush=True)
                if flags.json is not None:  # after each run, as the time may end in the next
                    _write(flags, device, found)
    _print(found, task)
    return 0


def _write(flags: argparse.Namespace, device: str, found: dict[str, Times]) -> None:
    arguments = {k: v for k, v in vars(flags).items() if k not in ("json", "data")}
    rows = {name: asdict(times) for name, times in found.items()}
    result = {"provenance": provenance(device), "arguments": arguments, "contestants": rows}
    write(flags.json, json.dumps(result, indent=1) + "\n")


def _task(flags: argparse.Namespace, device: str) -> Task:
    images, labels = mnist(flags.data, split="train")
    images, labels = images[: flags.limit, None], labels[: flags.limit].astype(np.int64)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(images)) for _ in range(flags.epochs)]
    tg.manual_seed(0)
    net = flags.net.upper()
    weights = {k: v.numpy().copy() for k, v in NETS[net](nn).state_dict().items()}
    test = mnist(flags.data, split="test")
    test = test[0][: flags.limit, None], test[1][: flags.limit].astype(np.int64)
    return Task(net, device, flags.batch_size, weights, images, labels, orders, test)


def _run(made: Made, times: Times) -> None:
    train, accuracy = made
    start = time.perf_counter()
    running = train()
    next(running)
    told = time.perf_counter()
    loss = next(running)
    times.seconds.append(time.perf_counter() - start)
    times.host_seconds.append(told - start)
    times.losses.append(loss)
    times.accuracy = accuracy()


def _print(found: dict[str, Times], task: Task) -> None:
    steps = sum(-(-len(order) // task.batch) for order in task.orders)
    print(f"\n{task.net} on {task.device}, {len(task.orders)} epochs of {len(task.images)} images, batch {task.batch}")
    print(f"{'':<16} {'first run':>10} {'median':>10} {'a step':>10} {'host':>10}  test accuracy")
    for name, times in found.items():
        warm = times.seconds[1:] or times.seconds
        median, host = statistics.median(warm), statistics.median(times.host_seconds[1:] or times.host_seconds)
        print(
            f"{name:<16} {times.seconds[0]:8.3f} s {median:8.3f} s {median / steps * 1e3:7.3f} ms "
            f"{host / steps * 1e6:7.1f} us  {100 * times.accuracy:.2f} %"
        )


def _engine(task: Task, captured: bool, steps: int = 1) -> Made:
    model = NETS[task.net](nn).to(task.device)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    images, labels = (tg.tensor(x).to(task.device) for x in (task.images, task.labels))

    def plain(index: tg.Tensor) -> tg.Tensor:
        loss = F.cross_entropy(model(image_batch(images, index, MEAN, STD)), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    step = tg.capture(plain) if captured else plain
    several = tg.capture(plain, steps=steps) if steps > 1 else None

    def train() -> Iterator[Any]:
        model.load_state_dict(task.weights)
        optimizer.state.clear()
        for order in task.orders:
            on_device = tg.tensor(order).to(task.device)
            whole = len(order) // (task.batch * steps) * task.batch * steps if several is not None else 0
            if several is not None and whole:
                for index in on_device[:whole].reshape(-1, steps, task.batch):
                    loss = several(index)
            for index in on_device[whole:].split(task.batch) if whole < len(order) else ():
                loss = step(index)
        yield
        yield loss.reshape(-1)[-1].item()

    def accuracy() -> float:
        with tg.no_grad():
            test_images, truth = (tg.tensor(x).to(task.device) for x in task.test)
            numbers = tg.arange(len(truth), device=task.device)
            parts = [
                (model(image_batch(test_images, i, MEAN, STD)).argmax(1) == truth[i]).sum() for i in numbers.split(500)
            ]
            return sum(part.item() for part in parts) / len(truth)

    return train, accuracy


def _torch(task: Task, compiled: bool) -> Made:
    torch = importlib.import_module("torch")
    model = NETS[task.net](torch.nn).to(task.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    images, labels = (torch.tensor(x).to(task.device) for x in (task.images, task.labels))

    def loss_of(index: Any) -> Any:
        x = (images[index].float() - 255 * MEAN) / (255 * STD)
        return torch.nn.functional.cross_entropy(model(x), labels[index])

    if compiled:
        loss_of = torch.compile(loss_of, mode="reduce-overhead")

    def train() -> Iterator[Any]:
        model.load_state_dict({k: torch.tensor(v) for k, v in task.weights.items()})
        optimizer.state.clear()
        for order in task.orders:
            for index in torch.tensor(order).to(task.device).split(task.batch):
                loss = loss_of(index)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        yield
        yield loss.item()

    def accuracy() -> float:
        with torch.no_grad():
            test_images, truth = (torch.tensor(x).to(task.device) for x in task.test)
            parts = zip(test_images.split(500), truth.split(500), strict=True)
            right = [(model((x.float() - 255 * MEAN) / (255 * STD)).argmax(1) == t).sum() for x, t in parts]
            return sum(part.item() for part in right) / len(truth)

    return train, accuracy


CONTESTANTS: dict[str, Callable[[Task], Made]] = {
    "plain": lambda task: _engine(task, captured=False),
    "captured": lambda task: _engine(task, captured=True),
    f"captured x {STEPS}": lambda task: _engine(task, captured=True, steps=STEPS),
    "torch": lambda task: _torch(task, compiled=False),
    "torch-compile": lambda task: _torch(task, compiled=True),
}

if __name__ == "__main__":
    raise SystemExit(main())
