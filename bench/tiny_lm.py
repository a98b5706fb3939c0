"""The small language model of examples/tiny_lm.py beside the same program in torch, on the CPU.

    python -m tilegrad.bench.tiny_lm [--steps N] [--json bench/results/tiny-lm-NAME.json] [--readme]

The rival is the example's own file with torch's names in its three imports, so net, loss, clipping and generation are
the same; its optimizer is torch's fused AdamW. Initial weights and batches are the same too. What is measured:

    the first losses   without dropout: how far the two are apart
    a step             milliseconds, all in turns: captured, torch, torch.compile (where it works)
    a training         N steps with the example's flags: seconds, and the loss on the held-out text
    generation         characters a second, with the cache

With the default of N it takes some ten minutes on two cores that are otherwise idle. --readme writes README.md's table
from what is in bench/results, alone or with --json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad.bench.bystanders import Bystanders
from tilegrad.bench.measure import Effort, interleaved
from tilegrad.bench.provenance import provenance
from tilegrad.bench.readme import ROOT, table_line, write_section
from tilegrad.bench.results import writable, write
from tilegrad.kernels.system.paths import user_path

EXAMPLE = ROOT / "examples" / "tiny_lm.py"
IMPORTS = {
    "import tilegrad as tg": "import torch as tg",
    "from tilegrad import Tensor, nn, optim": "from torch import Tensor, nn, optim",
    "from tilegrad.nn import functional as F": "from torch.nn import functional as F",
}
MARKERS = "<!-- tiny-lm:begin (python -m tilegrad.bench.tiny_lm --readme) -->", "<!-- tiny-lm:end -->"
STEPS, FIRST, WRITTEN = 2000, 50, 400
TOLERANCE = 1e-4  # of the first losses
CLOSE = 0.05  # nats between the losses of the two trainings, whose dropout draws other numbers
BUSY = 0.05  # of the cores' time; if others took more, the table says so
TURNS, LEAST = Effort(5, 1.5, 4), Effort(1, 0.0, 2)
Found = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 where losses differ or the rival is faster."""
    parser = argparse.ArgumentParser(prog="python -m tilegrad.bench.tiny_lm", description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the trainings ({STEPS})")
    parser.add_argument("--json", type=user_path, help="write the figures there")
    parser.add_argument("--readme", action="store_true", help="write README.md's table")
    parser.add_argument("--least", action="store_true", help="a tiny net and few steps, to see whether everything runs")
    flags = parser.parse_args(arguments)
    if flags.readme and flags.json is None:
        return write_table()
    if flags.steps < 1:
        parser.error(f"--steps: {flags.steps}; expected a number above 0")
    why = None if flags.json is None else writable(flags.json)
    if why is not None:
        parser.error(f"--json: {flags.json} {why}")
    if flags.least and flags.readme:
        parser.error("--least: a few steps say nothing of speed; expected no --readme")

    found = measured(["--layers", "1", "--width", "32", "--context", "16"] if flags.least else [], flags)
    print("\n".join(table(found)))
    if flags.json is not None:
        write(flags.json, json.dumps(found, indent=1) + "\n")
        print(f"written: {flags.json}")
    if flags.least:
        return 0
    missed = list(misses(found))
    print(*missed, sep="\n")
    if flags.readme:
        write_table()
    return 1 if missed else 0


# --- the two programs


class _Torch:
    """torch, with a `capture` that leaves a function as it is."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.torch, name)

    @staticmethod
    def capture(function: Callable[..., Any]) -> Callable[..., Any]:
        return function


def program(name: str) -> Any:
    """The example as a module: of tilegrad, or of torch."""
    source = EXAMPLE.read_text()
    if name == "torch":
        for ours, theirs in IMPORTS.items():
            if source.count(f"\n{ours}\n") != 1:
                raise ValueError(f"{EXAMPLE.name}: {ours!r} does not stand there once")
            source = source.replace(f"\n{ours}\n", f"\n{theirs}\n")
    module = ModuleType(f"tiny_lm_{name}")
    folder = str(EXAMPLE.parent)  # what it imports lies beside it
    sys.path.insert(0, folder)
    try:
        exec(compile(source, f"{EXAMPLE} ({name})", "exec"), module.__dict__)
    finally:
        sys.path.remove(folder)
    if name == "torch":
        module.__dict__["tg"] = _Torch(importlib.import_module("torch"))
    return module


class Contestant:
    """A net with the initial weights, and its training step.

    compiled  the net by torch.compile
    """

    def __init__(self, lm: Any, text: Any, flags: Any, weights: dict[str, np.ndarray], compiled: bool = False) -> None:
        self.lm, self.flags = lm, flags
        self.net = lm.Decoder(len(text.alphabet), flags.layers, flags.width, flags.heads, flags.context, flags.dropout)
        self.net.load_state_dict({name: lm.tg.tensor(value) for name, value in weights.items()})
        self.optimizer = lm.optimizer_of(self.net, flags.lr, flags.weight_decay)
        if isinstance(lm.tg, _Torch):
            groups = [{key: group[key] for key in ("params", "weight_decay")} for group in self.optimizer.param_groups]
            options = {key: self.optimizer.param_groups[0][key] for key in ("lr", "betas", "eps")}
            self.optimizer = lm.optim.AdamW(groups, **options, fused=True)
        self.tokens, self.held_out = (lm.tg.tensor(text.encode(part)) for part in (text.train, text.held_out))
        net = lm.tg.compile(self.net) if compiled else self.net
        self._step = lm.training_step(net, self.tokens, self.optimizer, flags.clip)

    def step(self, number: int, share: float) -> Any:
        """The loss of a step; share: how much of the training is over."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lm.rate(self.flags.lr, number, self.flags.warmup, share)
        most = len(self.tokens) - self.flags.context
        return self._step(self.lm.tg.tensor(self.lm.drawn(self.flags.seed, number, self.flags.batch_size, most)))

    def first_losses(self, count: int) -> list[float]:
        return [self.step(number, number / STEPS).item() for number in range(count)]

    def train(self, steps: int) -> Found:
        """Seconds of the steps, and the loss on the held-out text after them."""
        began = time.perf_counter()
        for number in range(steps):
            loss = self.step(number, number / steps)
        loss.item()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "validation_loss": self.lm.loss_meter(self.net, self.held_out)()}

    def write(self, count: int) -> float:
        """Characters a second of greedy generation."""
        prompt, pick = self.held_out[: self.flags.context // 4], self.lm.picker(0, None)
        began = time.perf_counter()
        self.lm.write(self.net, prompt, count, pick)[-1].item()
        return count / (time.perf_counter() - began)


# --- the figures


def measured(shape: list[str], flags: argparse.Namespace) -> Found:
    """All of them, and where they come from."""
    origin, bystanders = provenance(), Bystanders()
    ours, theirs = program("tilegrad"), program("torch")
    torch = theirs.tg.torch
    torch.set_num_threads(origin["threads"])
    arguments = sys.argv
    sys.argv = ["tiny_lm.py", *shape]
    try:
        options = ours.parse()
    finally:
        sys.argv = arguments
    text = ours.Text(ours.manual())
    tg.manual_seed(options.seed)
    torch.manual_seed(options.seed)
    net = ours.Decoder(len(text.alphabet), options.layers, options.width, options.heads, options.context)
    weights = {name: value.numpy().copy() for name, value in net.state_dict().items()}

    def contestant(lm: Any, compiled: bool = False, dropout: float = options.dropout) -> Contestant:
        chosen = argparse.Namespace(**vars(options) | {"dropout": dropout})
        return Contestant(lm, text, chosen, weights, compiled)

    steps, first = (3, 3) if flags.least else (flags.steps, FIRST)
    losses = [contestant(lm, dropout=0.0).first_losses(first) for lm in (ours, theirs)]
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    print(f"first {first} losses: at most {apart:.1e} apart", flush=True)

    rivals = {"tilegrad": contestant(ours), "torch": contestant(theirs)}
    why = "a compiler takes a minute" if flags.least else None
    if not flags.least:
        try:
            rivals["torch.compile"] = contestant(theirs, compiled=True)
            rivals["torch.compile"].step(0, 0.0).item()
        except Exception as error:  # a compiler that is missing, or fails with whatever it likes
            rivals.pop("torch.compile", None)
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"torch.compile does not work here: {why}")
    times = step_times(rivals, LEAST if flags.least else TURNS)
    print(", ".join(f"{name} {ms:.4g} ms a step" for name, ms in times.items()), flush=True)

    trainings, written = {}, {}
    for name, lm in {"tilegrad": ours, "torch": theirs}.items():
        one = contestant(lm)
        trainings[name] = one.train(steps)
        print(f"{name}: {trainings[name]}", flush=True)
        one.write(8)
        written[name] = statistics.median(one.write(8 if flags.least else WRITTEN) for _ in range(3))
    return {
        "provenance": origin | {"others": bystanders.share()},
        "text": {"characters": len(text.train) + len(text.held_out), "sha256": text.sha256},
        "net": {name: getattr(options, name) for name in ours.SETTINGS},
        "first": {"steps": first, "apart": apart},
        "step": times,
        "no_compile": why,
        "steps": steps,
        "training": trainings,
        "written": written,
    }


def step_times(rivals: dict[str, Contestant], effort: Effort) -> dict[str, float]:
    """Milliseconds of a step of each."""

    def call(rival: Contestant) -> Callable[[], Any]:
        return lambda: rival.step(10, 0.0).item()

    for rival in rivals.values():
        for _ in range(3):  # plain calls, then the capture
            call(rival)()
    found = interleaved({name: [call(rival)] for name, rival in rivals.items()}, effort)
    return {name: float(f"{each.median:.4g}") for name, each in found.items()}


def misses(found: Found) -> Iterator[str]:
    """What is not as it should be."""
    if found["first"]["apart"] > TOLERANCE:
        yield f"MISSED: the first losses are {found['first']['apart']:.1e} apart; expected {TOLERANCE:.0e} at most"
    ours, theirs = (found["training"][name]["validation_loss"] for name in ("tilegrad", "torch"))
    if ours > theirs + CLOSE:
        yield f"MISSED: validation loss {ours:.4f}, torch's {theirs:.4f}"
    for name, ms in found["step"].items():
        if ms < found["step"]["tilegrad"]:
            yield f"MISSED: a step of {name} is faster"
    if found["written"]["torch"] > found["written"]["tilegrad"]:
        yield "MISSED: torch writes faster"


# --- the table


def write_table(root: Path = ROOT) -> int:
    """Write README.md's section anew."""
    return write_section(section, MARKERS, root)


def section(folder: Path) -> str:
    """The tables of every result in the folder."""
    parts = []
    for path in sorted(folder.glob("tiny-lm-*.json")):
        found = json.loads(path.read_text())
        p, net, first = found["provenance"], found["net"], found["first"]
        versions = ", ".join(f"{name} {p['packages'][name]}" for name in ("numpy", "torch"))
        machine = f"{p['cpu']}, {p['cores']} cores, threads: {p['threads']}"
        parts.append(f"{machine}, {p['date']}, commit {p['commit']}, {versions}")
        parts.append(f"([all figures](bench/results/{path.name})): {net['layers']} layers of width {net['width']},")
        parts.append(f"windows of {net['context']} characters, {net['batch_size']} a batch,")
        parts.append(f"Python {p['python']}'s manual. From the same weights and batches, without dropout,")
        parts.append(f"the losses of the first {first['steps']} steps are within {first['apart']:.0e}.")
        if p["others"] is not None and p["others"] > BUSY:
            parts.append(f"Other programs took {100 * p['others']:.0f} % of the cores' time meanwhile.")
        parts.append("")
        parts.append("\n".join(table(found)))
    return "".join(f"{part}\n" for part in parts)


def table(found: Found) -> Iterator[str]:
    """A line for each figure."""
    names = list(found["step"])
    yield table_line("", *names, "times the fastest rival's speed")
    yield table_line(*("---" for _ in range(len(names) + 2)))
    ms = found["step"]
    ahead = min(ms[name] for name in names if name != "tilegrad") / ms["tilegrad"]
    yield table_line("a training step, ms", *(f"{float(f'{ms[name]:.3g}'):,g}" for name in names), f"{ahead:.2f}")
    trained = found["training"]
    seconds = {name: f"{one['seconds']:.0f}" for name, one in trained.items()}
    ahead = trained["torch"]["seconds"] / trained["tilegrad"]["seconds"]
    yield table_line(f"{found['steps']:,} steps, s", *(seconds.get(name, "") for name in names), f"{ahead:.2f}")
    nats = {name: one["validation_loss"] for name, one in trained.items()}
    losses = {name: f"{loss:.3f} ({loss / math.log(2):.3f})" for name, loss in nats.items()}
    label = "loss on the held-out text, nats (bits) a character"
    yield table_line(label, *(losses.get(name, "") for name in names), "")
    written = {name: f"{rate:,.0f}" for name, rate in found["written"].items()}
    ahead = found["written"]["tilegrad"] / found["written"]["torch"]
    yield table_line("characters a second, with the cache", *(written.get(name, "") for name in names), f"{ahead:.2f}")


if __name__ == "__main__":
    raise SystemExit(main())
