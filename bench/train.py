"""Step time of the two seed nets against torch: forward, cross-entropy, backward, Adam.

    python -m bench.train [--nets cnn,mlp] [--batch-sizes 32,128,512] [--steps 30] [--json PATH]

One process, the same initial weights and the same data for all; torch runs with fused Adam, for the CNN in both of its
memory formats. Rivals take turns of a tenth of a second or more, so that what else the machine does hits all of them;
the first steps of a turn are not counted, because the other library's threads may still be spinning. The losses are
compared before any time is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import engine
import kernels
from bench.provenance import provenance
from engine import nn, optim
from engine.nn import functional as F
from kernels import buffers

TURN_SECONDS = 0.1
LEAST_TURN = 5  # steps
WARM_UP = 0.2  # the part of a turn that is not counted

Step = Callable[[], float]


def cnn(lib: Any) -> Any:
    """conv32-pool-conv64-pool-conv64-dense64-dense10, from engine.nn or torch.nn."""
    return lib.Sequential(
        lib.Conv2d(1, 32, 3), lib.ReLU(), lib.MaxPool2d(2),
        lib.Conv2d(32, 64, 3), lib.ReLU(), lib.MaxPool2d(2),
        lib.Conv2d(64, 64, 3), lib.ReLU(),
        lib.Flatten(), lib.Linear(576, 64), lib.ReLU(), lib.Linear(64, 10),
    )  # fmt: skip


def mlp(lib: Any) -> Any:
    """784-128-64-10, from engine.nn or torch.nn."""
    return lib.Sequential(
        lib.Flatten(), lib.Linear(784, 128), lib.ReLU(), lib.Linear(128, 64), lib.ReLU(), lib.Linear(64, 10)
    )


NETS = {"cnn": cnn, "mlp": mlp}


def ours(net: Callable, weights: dict[str, np.ndarray], x: np.ndarray, t: np.ndarray) -> Step:
    """One training step of the engine."""
    model = net(nn)
    model.load_state_dict(weights)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    images, labels = engine.tensor(x), engine.tensor(t)

    def step() -> float:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torchs(net: Callable, weights: dict[str, np.ndarray], x: np.ndarray, t: np.ndarray, channels_last: bool) -> Step:
    """The same step of torch."""
    model = net(torch.nn)
    model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    images, labels = torch.tensor(x), torch.tensor(t)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def measure(name: str, batch_size: int, steps: int) -> list[dict[str, Any]]:
    """One row a provider: median, p20 and p80 of the step in milliseconds, images/s, ratio to the best of torch."""
    net = NETS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch_size, 1, 28, 28), dtype=np.float32)
    t = rng.integers(0, 10, batch_size)
    torch.manual_seed(0)
    weights = {k: v.numpy().copy() for k, v in net(torch.nn).state_dict().items()}
    rivals = {
        f"tilegrad {kernels.name()}": ours(net, weights, x, t),
        "torch": torchs(net, weights, x, t, channels_last=False),
    }
    if name == "cnn":
        rivals["torch channels_last"] = torchs(net, weights, x, t, channels_last=True)

    losses: dict[str, list[float]] = {rival: [] for rival in rivals}
    seconds: dict[str, list[float]] = {rival: [] for rival in rivals}
    for rival, step in rivals.items():
        losses[rival] += [step() for _ in range(LEAST_TURN)]  # compiles, and fills caches
    while len(seconds["torch"]) < steps:
        for rival, step in rivals.items():
            turn: list[float] = []
            while len(turn) < LEAST_TURN or sum(turn) < TURN_SECONDS:
                start = time.perf_counter()
                losses[rival].append(step())
                turn.append(time.perf_counter() - start)
            seconds[rival] += turn[max(1, int(WARM_UP * len(turn))) :]
    for rival, values in losses.items():
        # Rounding grows as the weights drift apart; the first steps must agree closely.
        np.testing.assert_allclose(values[:5], losses["torch"][:5], rtol=1e-3, err_msg=f"{name}: {rival} against torch")

    medians = {rival: statistics.median(values) for rival, values in seconds.items()}
    best = min(m for rival, m in medians.items() if rival.startswith("torch"))
    return [
        {
            "net": name,
            "batch_size": batch_size,
            "provider": rival,
            "step_ms": 1e3 * medians[rival],
            "p20_ms": 1e3 * float(np.percentile(values, 20)),
            "p80_ms": 1e3 * float(np.percentile(values, 80)),
            "images_per_second": batch_size / medians[rival],
            "times_torch": best / medians[rival],
        }
        for rival, values in seconds.items()
    ]


def peak_bytes(name: str, batch_size: int) -> int:
    """The most memory that arrays held at once during forward and backward of one step, by tracemalloc."""
    model = NETS[name](nn)
    images = engine.randn(batch_size, 1, 28, 28)
    labels = engine.randint(10, (batch_size,))
    buffers.free()
    tracemalloc.start()
    F.cross_entropy(model(images), labels).backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> None:
    """Measure, print a line a row, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default="cnn,mlp")
    parser.add_argument("--batch-sizes", default="32,128,512")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    nets = flags.nets.split(",")
    if unknown := [net for net in nets if net not in NETS]:
        parser.error(f"--nets: {', '.join(unknown)} unknown; expected some of {', '.join(NETS)}")
    if flags.json and not os.access(flags.json.parent, os.W_OK):
        parser.error(f"--json: cannot write to the folder {flags.json.parent}")

    rows = []
    print(
        f"{'net':4} {'batch':>5}  {'provider':20} {'step ms':>8} {'p20':>7} {'p80':>7} {'images/s':>9} {'x torch':>8}"
    )
    for net in nets:
        for batch_size in map(int, flags.batch_sizes.split(",")):
            for row in measure(net, batch_size, flags.steps):
                rows.append(row)
                print(
                    f"{row['net']:4} {row['batch_size']:5}  {row['provider']:20} {row['step_ms']:8.2f} "
                    f"{row['p20_ms']:7.2f} {row['p80_ms']:7.2f} {row['images_per_second']:9,.0f} "
                    f"{row['times_torch']:8.2f}",
                    flush=True,
                )
    memory = {net: {n: peak_bytes(net, n) for n in map(int, flags.batch_sizes.split(","))} for net in nets}
    for net, peaks in memory.items():
        for batch_size, peak in peaks.items():
            print(f"{net:4} {batch_size:5}  peak of forward and backward {peak / 1e6:.1f} MB")
    if flags.json:
        result = {
            "provenance": provenance(),
            "torch_threads": torch.get_num_threads(),
            "rows": rows,
            "peak_bytes": memory,
        }
        part = flags.json.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1))
        part.replace(flags.json)


if __name__ == "__main__":
    main()
