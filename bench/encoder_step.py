"""Training steps of a sentence encoder, ours beside torch's, timed or weighed: a process of encoder.py's.

    python -m tilegrad.bench.encoder_step time CASE [--least]
    python -m tilegrad.bench.encoder_step memory CASE PROVIDER [--least]

A step is forward, cross-entropy, backward, clipping to norm 1 and AdamW. What is frozen runs without records in both
libraries. "memory" prints the most MiB that are resident while the process takes steps, beyond those that are after its
imports. What drawing the weights takes does not count. Before anything is timed, logits and losses are held against
each other. On one thread the time is that of the CPU, in which other programs have no part.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tilegrad as tg
from tilegrad import nn, optim
from tilegrad.bench import encoder_nets as nets
from tilegrad.bench.clock import wall
from tilegrad.bench.measure import Effort, interleaved
from tilegrad.bench.memory import peak
from tilegrad.kernels.cpu import threads
from tilegrad.nn import functional as F

TEXTS, LENGTH, KEPT = 32, 32, 10_000
STEPS = 5  # whose memory is counted
TURNS, LEAST = Effort(4, 0.0, 4), Effort(1, 0.0, 2)
TOLERANCE = 1e-3  # of losses; rounding grows as weights drift apart, by far less than this in a few steps
Step = Callable[[], float]
Weights = dict[str, np.ndarray] | None


class Case(NamedTuple):
    """What is trained, what dropout drops, whether the vectors of the texts are there already.

    compiled  whether torch.compile, which takes a minute, runs too
    """

    trained: str
    dropout: float = 0.1
    kept: bool = False
    compiled: bool = False


CASES = {
    "all": Case("all", compiled=True),
    "all, no dropout": Case("all", dropout=0.0),
    "2 layers": Case("2"),
    "head": Case("head", compiled=True),
    "head, vectors kept": Case("head", kept=True),
}
PROVIDERS = ("torch", "torch compiled", "tilegrad", "tilegrad captured")


def step_of(
    provider: str, case: Case, weights: Weights = None, least: bool = False
) -> tuple[Step, Callable[[], np.ndarray]]:
    """A training step that gives its loss, and a function that gives the logits in evaluation mode."""
    sizes = nets.config(case.dropout)
    given = nets.batch(sizes, *((2, 8) if least else (TEXTS, LENGTH)))
    if provider.startswith("torch"):
        return _torchs(provider, case, nets.torchs(sizes, weights), *given)
    return _ours(provider, case, nets.drawn(sizes), *given)


def _ours(
    provider: str, case: Case, model: nets.Classifier, tokens: np.ndarray, mask: np.ndarray, labels: np.ndarray
) -> tuple[Step, Callable[[], np.ndarray]]:
    nets.frozen(model, case.trained)
    optimizer = optim.AdamW(nets.groups(model.parameters()), lr=1e-4)
    trained = [p for p in model.parameters() if p.requires_grad]
    texts, t = (tg.tensor(tokens), tg.tensor(mask)), tg.tensor(labels)

    def logits() -> np.ndarray:
        model.eval()
        with tg.no_grad():
            found = model(*texts).numpy()
        nets.frozen(model, case.trained)
        return found

    def learn(given: tg.Tensor, t: tg.Tensor) -> tg.Tensor:
        loss = F.cross_entropy(given, t)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss

    def step(tokens: tg.Tensor, mask: tg.Tensor, t: tg.Tensor) -> tg.Tensor:
        return learn(model(tokens, mask), t)

    def step_of_kept(index: tg.Tensor, t: tg.Tensor) -> tg.Tensor:
        return learn(model.head(kept[index]), t)

    captured: Callable = tg.capture if provider.endswith(" captured") else lambda f: f
    if case.kept:
        kept, index = (tg.tensor(x) for x in _kept(labels))
        call = captured(step_of_kept)
        return lambda: call(index, t).item(), logits
    call = captured(step)
    return lambda: call(*texts, t).item(), logits


def _torchs(
    provider: str, case: Case, model: Any, tokens: np.ndarray, mask: np.ndarray, labels: np.ndarray
) -> tuple[Step, Callable[[], np.ndarray]]:
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads.num_threads())
    nets.frozen(model, case.trained)
    # Of 22 million parameters fused takes 10.8 ms on one thread, foreach 76.
    optimizer = torch.optim.AdamW(nets.groups(model.parameters()), lr=1e-4, fused=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    texts, t = (torch.tensor(tokens), torch.tensor(mask)), torch.tensor(labels)
    compiled: Callable = torch.compile if provider.endswith(" compiled") else lambda f: f
    vectors, whole = compiled(model.vectors), compiled(model)

    def logits() -> np.ndarray:
        model.eval()
        with torch.no_grad():
            found = model(*texts).numpy()
        nets.frozen(model, case.trained)
        return found

    def learn(given: Any) -> float:
        loss = torch.nn.functional.cross_entropy(given, t)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item()

    def step_of_head() -> float:
        with torch.no_grad():
            found = vectors(*texts)
        return learn(model.head(found))

    if case.kept:
        kept, index = (torch.tensor(x) for x in _kept(labels))
        return lambda: learn(model.head(kept[index])), logits
    if case.trained == "head":
        return step_of_head, logits
    return lambda: learn(whole(*texts)), logits


def _kept(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of texts, and the numbers of those of a batch."""
    rng = np.random.default_rng(1)
    kept = rng.standard_normal((KEPT, nets.config(0.0).hidden_size), dtype=np.float32)
    return kept, rng.integers(0, KEPT, len(labels))


def times(name: str, least: bool) -> dict[str, Any]:
    """Milliseconds of a step of each provider, in turns; why one is not there. Raises ValueError for a wrong result."""
    case, ready, absent = CASES[name], {}, {}
    weights = {key: x.numpy().copy() for key, x in nets.drawn(nets.config(case.dropout)).state_dict().items()}
    want: Any = None
    for provider in PROVIDERS:
        if provider == "torch compiled" and (least or not case.compiled):
            continue
        try:
            step, logits = step_of(provider, case, weights, least)
            first = logits()
            losses = [step() for _ in range(4)]  # plain calls, then the capture
        except Exception as e:
            if provider != "torch compiled":
                raise
            absent[provider] = f"{type(e).__name__}: {e}".splitlines()[0]  # such as of a compiler that is not there
            continue
        want = want or (first, losses)
        random = case.trained != "head" and case.dropout > 0
        if not np.allclose(first, want[0], atol=TOLERANCE) or not (
            random or np.allclose(losses, want[1], rtol=TOLERANCE)
        ):
            raise ValueError(f"{name}, {provider}: losses {losses}; torch's are {want[1]}")
        ready[provider] = [step]
    found = interleaved(ready, LEAST if least else TURNS, _of_cpu if threads.num_threads() == 1 else wall)
    ms = {p: [float(f"{x:.4g}") for x in (t.p20, t.median, t.p80)] for p, t in found.items()}
    return {"ms": ms, "absent": absent}


def _of_cpu(call: Callable[[], Any]) -> float:
    """Milliseconds of the CPU that a call takes, on all threads."""
    began = time.process_time()
    call()
    return 1e3 * (time.process_time() - began)


def memory(name: str, provider: str, least: bool) -> float:
    """MiB at most, of building the net and of some steps, beyond what the imports took."""
    importlib.import_module("torch") if provider.startswith("torch") else importlib.import_module("numba")
    before = _peak_from_now_on()
    step, _ = step_of(provider, CASES[name], None, least)
    _peak_from_now_on()
    for _ in range(STEPS):
        step()
    return peak() - before


def _peak_from_now_on() -> float:
    """Let the highest resident size be counted anew (Linux' proc(5)); what it is now, in MiB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def main(given: list[str]) -> int:
    """Print what was measured as a line of JSON."""
    what, name, *more = [each for each in given if each != "--least"]
    least = "--least" in given
    print(json.dumps(times(name, least) if what == "time" else memory(name, more[0], least)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
