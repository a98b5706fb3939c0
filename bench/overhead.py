"""What an eager op costs before it computes anything, and what one launch of a kernel does.

chain    1,000 additions of a scalar tensor that requires a gradient, one after the other; forward, backward, both
call     one kernel through the contract, on 16 numbers: on the CPU all of it is overhead
launch   what the host pays for a launch on a GPU, for a primitive, and for the replay of a captured step; without a GPU
         the driver is replaced by a function that does nothing (bench/launch.py)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import kernels
from tilegrad.bench import launch
from tilegrad.bench.measure import Measured
from tilegrad.bench.ops.op import MODES, Shape
from tilegrad.bench.providers import Kernels
from tilegrad.bench.results import Row
from tilegrad.bench.session import Session, compared, filled

LINKS, TOY_LINKS = 1000, 10
CALLS = 100  # in one measurement, so that the clock's own cost vanishes


def rows(session: Session, shapes: list[Shape], asked: bool) -> Iterator[Callable[[], list[Row]]]:
    """The chain in each mode, the call, the launch."""
    for mode in MODES:
        yield partial(chain_rows, session, mode)
    yield partial(call_rows, session)
    yield partial(launch_rows, session)


def chain_rows(session: Session, mode: str) -> list[Row]:
    """Milliseconds of 1,000 additions; the rate is microseconds an op."""
    links = TOY_LINKS if session.simulated else LINKS
    calls = {name: _chain(grad, one, start, links, mode, session) for name, grad, one, start in _libraries(session)}
    rows = [_row(f"{links} scalar additions", mode, [links], name) for name in calls]
    for row in rows:
        result, want = calls[row.provider](), float(links) if mode == "forward" else 1.0
        if result != want:
            row.status, row.reason = "wrong", f"got {result}; expected {want}"
    right = {row.provider: calls[row.provider] for row in rows if row.status == "ok"}
    return _timed(rows, session.programs(right, {}), links)


def _libraries(session: Session) -> Iterator[tuple[str, Callable, Any, Any]]:
    """(name, its grad, a one, a zero that requires a gradient), all on the session's device."""
    if any(isinstance(p, Kernels) for p in session.providers.values()):
        # An addition is the array library's own: which of our backends is chosen makes no difference to it.
        one, start = (make(()).to(session.device) for make in (tg.ones, tg.zeros))
        yield "engine", tg.grad, one, start.requires_grad_()
    if "torch" in session.providers:
        torch = importlib.import_module("torch")
        one, start = (make((), device=session.device) for make in (torch.ones, torch.zeros))
        yield "torch", torch.autograd.grad, one, start.requires_grad_()


def _chain(grad: Callable, one: Any, start: Any, links: int, mode: str, session: Session) -> Callable[[], float]:
    def forward() -> Any:
        y = start
        for _ in range(links):
            y = y + one
        return y

    if mode == "forward":
        return lambda: forward().item()
    if mode == "both":
        return lambda: grad(forward(), [start])[0].item()
    y = forward()
    session.synchronize()
    return lambda: grad(y, [start], retain_graph=True)[0].item()


def call_rows(session: Session) -> list[Row]:
    """Milliseconds of CALLS calls of relu on 16 numbers; the rate is microseconds a call."""
    host = np.linspace(-1, 1, 16, dtype=np.float32)
    calls: dict[str, Callable[[], Any]] = {}
    for name, provider in session.providers.items():
        x = provider.own(host, session.device)
        if isinstance(provider, Kernels):
            calls[name] = _repeated(kernels.load(name).relu, x)
        elif name == "torch":
            calls[name] = _repeated(importlib.import_module("torch").relu, x)
    rows = [_row("relu of 16 numbers", "forward", [CALLS], name) for name in calls]
    for row in rows:
        got = session.providers[row.provider].host(calls[row.provider]())
        if not np.array_equal(got, np.maximum(host, 0)):
            row.status, row.reason = "wrong", f"got {got}"
    right = {row.provider: calls[row.provider] for row in rows if row.status == "ok"}
    return _timed(rows, session.programs(right, {}), CALLS)


def _repeated(function: Callable, x: Any) -> Callable[[], Any]:
    def call() -> Any:
        for _ in range(CALLS):
            y = function(x)
        return y

    return call


def launch_rows(session: Session) -> list[Row]:
    """Microseconds of host time for a launch, for a primitive, and for the replay of a captured step."""
    name = launch.NAME if session.events else launch.NAME_WITHOUT_GPU
    found = {name: launch.times, launch.RELU: launch.relu_times, launch.REPLAY: launch.replay_times}
    rows = [_row(name, "forward", [1], "triton") for name in found]
    reason = launch.missing()
    for row in rows:
        if reason:
            row.status, row.reason = "skipped", reason
            continue
        times = found[row.variant]()
        row.ms, row.p20, row.p80, row.samples = times
        row.rate, row.unit = times.median * 1e3, "us a launch"
    return rows


def _timed(rows: list[Row], found: dict[str, Measured], ops: int) -> list[Row]:
    for row in rows:
        if row.provider in found and (ms := filled(row, found[row.provider]).ms):
            row.rate, row.unit = ms * 1e3 / ops, "us an op"
    return compared(rows)


def _row(variant: str, mode: str, shape: list[int], provider: str) -> Row:
    return Row("overhead", variant, mode, shape, "float32", "ieee", provider, rival=provider == "torch")
