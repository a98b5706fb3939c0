"""The most memory that a process takes which trains one net: ours against torch's, each in a process of its own.

    python -m tilegrad.bench memory                      all nets, as rows
    python -m tilegrad.bench.memory NET BATCH PROVIDER   one process: its MiB at most after steps at batch 1, and in all

Resident memory, as the system counts it: of the process with all its libraries, and what the batch adds to batch 1.
Kernels are compiled before, in a process that is not counted: their compiler takes more than many a net.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tilegrad.bench.nets import TRAINED, Net
from tilegrad.bench.ops.op import Shape
from tilegrad.bench.results import Row
from tilegrad.bench.session import Session
from tilegrad.bench.train import engine_step, initial_weights, torch_step

STEPS = 5  # after those of first_losses
PROVIDERS = ("cpu", "cpu captured", "torch")
MODES = ("process", "beyond batch 1")


def rows(session: Session, shapes: list[Shape], asked: bool) -> Iterator[Callable[[], list[Row]]]:
    """A case for each net, at its largest batch or at those that are asked for; a GPU's memory is not counted."""
    if session.device != "cpu":
        return
    for name, net in TRAINED.items():
        for batch in [batch for (batch,) in shapes] if asked else [max(net.batches)]:
            yield partial(net_rows, session, name, batch)


def net_rows(session: Session, name: str, batch: int) -> list[Row]:
    """Two rows per provider: MiB of the process, and those that the batch adds to batch 1."""
    _, t = TRAINED[name].draw(np.random.default_rng(0), batch)
    found: dict[str, list[Row]] = {mode: [] for mode in MODES}
    for provider in PROVIDERS:
        row = partial(Row, "memory", name, shape=[*t.shape], dtype="float32", precision="ieee", provider=provider)
        is_rival = provider == "torch"
        made = [found[mode].append(each) or each for mode in MODES for each in [row(mode=mode, rival=is_rival)]]
        if provider.removesuffix(" captured") not in session.providers:
            for each in made:
                each.status, each.reason = "skipped", "it is not among the providers"
            continue
        if provider == "cpu":
            measured(name, batch, "cpu captured")
        try:
            least, most = measured(name, batch, provider)
        except RuntimeError as e:
            for each in made:
                each.status, each.reason = "failed", str(e)
            continue
        for each, value in zip(made, (most, most - least), strict=True):
            each.rate, each.unit = value, "MiB"
    return [row for each in found.values() for row in _compared(each)]


def _compared(rows: list[Row]) -> list[Row]:
    """How many times as much torch takes: above 1 is less."""
    rival = next((row for row in rows if row.rival and row.rate), None)
    for row in rows:
        if rival is not None and rival.rate and row.rate:
            row.times_rival, row.best_rival = rival.rate / row.rate, rival.provider
    return rows


def measured(name: str, batch: int, provider: str) -> tuple[float, float]:
    """(MiB at batch 1, MiB at most) of a new process. Raises RuntimeError where it fails."""
    command = [sys.executable, "-m", "tilegrad.bench.memory", name, str(batch), provider]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"memory of {name}, {provider}: {told[-1]}")
    least, most = json.loads(done.stdout.splitlines()[-1])
    return least, most


def peak() -> float:
    """MiB that this process has taken at most.

    Linux' VmHWM: its ru_maxrss begins with what the process that started this one had taken (getrusage(2)).
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main(given: list[str]) -> int:
    """Train for some steps at batch 1, and then at the batch that is given."""
    name, batch, provider = given
    found = []
    for n in (1, int(batch)):
        _train(TRAINED[name], n, provider)
        found.append(peak())
    print(json.dumps(found))
    return 0


def _train(net: Net, batch: int, provider: str) -> None:
    x, t = net.draw(np.random.default_rng(0), batch)
    weights = initial_weights(net)
    if provider == "torch":
        contestant = torch_step("cpu", net, weights, x, t)
    else:
        contestant = engine_step("cpu", "cpu", net, weights, x, t, captured=provider.endswith(" captured"))
    contestant.first_losses()
    for _ in range(STEPS):
        contestant.step()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
