"""How long the executor of PTX takes for three launches that are asked of it, on one core, without the compilers.

    TILEGRAD_SIMULATE=ptx python -m tilegrad.bench.ptx [softmax] [matmul] [cnn] [mlp]

Each is launched once, which compiles it, and then timed: the time within the executor, and the rest, which is the
host's. Nothing here says how fast a GPU is.

    softmax     64 x 1024 of float32, within 0.1 s
    matmul      256 x 256 x 256 of bfloat16, within 5 s
    cnn, mlp    an eager training step of the seed net at batch 8: forward, cross-entropy, backward, Adam; the CNN
                within 20 s
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import tilegrad as tg
from tilegrad import kernels, nn, optim
from tilegrad.bench.nets import NETS
from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.device import gpu
from tilegrad.kernels.system.modes import Block
from tilegrad.nn import functional as F

GOALS = {"softmax": 0.1, "matmul": 5.0, "cnn": 20.0, "mlp": None}  # seconds
BATCH = 8
ROUNDS = 5  # of which the median is told


class Measured(NamedTuple):
    """Of one call: seconds in all and within the executor, and what was executed there."""

    seconds: float
    executing: float
    launches: int
    instructions: int  # by a thread


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tilegrad.bench.ptx", description=str(__doc__).splitlines()[0])
    parser.add_argument("cases", nargs="*", choices=[*GOALS, []], help="which of them; all")
    flags = parser.parse_args(arguments)
    if not gpu.is_executed():
        parser.error("expected TILEGRAD_SIMULATE=ptx: kernels are executed from their PTX")
    missed = False
    print(f"{'case':<8} {'seconds':>8} {'goal':>6} {'executor':>9} {'launches':>9} {'M instructions':>15}")
    for case in flags.cases or GOALS:
        goal, m = GOALS[case], measured(case)
        missed |= goal is not None and m.seconds > goal
        print(
            f"{case:<8} {m.seconds:>8.3f} {'' if goal is None else goal:>6} {m.executing:>9.3f} {m.launches:>9} "
            f"{m.instructions / 1e6:>15.1f}",
            flush=True,
        )
    return int(missed)


def measured(case: str) -> Measured:
    """The median of a few calls, after one that compiles."""
    call = _call(case)
    call()
    return sorted(_once(call) for _ in range(ROUNDS))[ROUNDS // 2]


def _once(call: Callable[[], Any]) -> Measured:
    with _timed() as found:
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
    return Measured(seconds, sum(s for s, _ in found), len(found), sum(counts.instructions for _, counts in found))


def _call(case: str) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    triton = kernels.load("triton")
    if case in ("softmax", "matmul"):
        dtype, shape = (np.float32, (64, 1024)) if case == "softmax" else (bfloat16, (256, 256))
        x = gpu.xp().asarray(rng.standard_normal(shape).astype(dtype))
        return (lambda: triton.softmax(x, -1)) if case == "softmax" else (lambda: triton.matmul(x, x))
    model = NETS[case.upper()](nn).to("cuda")
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    images, labels = tg.randn(BATCH, 1, 28, 28).to("cuda"), (tg.arange(BATCH) % 10).to("cuda")

    def step() -> float:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _timed() -> Block:
    """A block that gives (seconds, counts) of each launch within it."""
    from tilegrad.kernels.simulate.ptx import execute

    found: list[tuple[float, Any]] = []
    run = execute.run_program

    def timed(*launch: Any) -> Any:
        start = time.perf_counter()
        counts = run(*launch)
        found.append((time.perf_counter() - start, counts))
        return counts

    return Block((execute, "run_program", timed), gives=found)


if __name__ == "__main__":
    raise SystemExit(main())
