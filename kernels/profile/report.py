"""Counters as text, and as what goes into JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from tilegrad.kernels.profile.cards import CARDS
from tilegrad.kernels.profile.launches import Launched
from tilegrad.kernels.simulate.ptx.counters.watch import Banks, Traffic


def text(launched: Launched, card: str) -> str:
    """A paragraph for a kernel."""
    return "\n".join([f"{launched.kernel}  {launched.config}", *(f"  {line}" for line in _lines(launched, card))])


def _lines(launched: Launched, card: str) -> Iterator[str]:
    c, made, at = launched.counters, launched.assembled(), CARDS[card]
    grid = " x ".join(map(str, launched.grid))
    several = f", {launched.launches} launches together" if launched.launches > 1 else ""
    is_part = c.blocks < launched.blocks * launched.launches
    yield f"grid           {grid} blocks of {launched.threads} threads{several}" + is_part * f"; {c.blocks} of them ran"
    issued, at_work = c.warps.total(), _share(c.lanes_at_work)
    yield f"instructions   {issued:,} of warps, {c.threads.total():,} of threads: {at_work} of the lanes at work"
    often = [(kind, n / issued) for kind, n in c.warps.most_common() if n / issued >= 0.005]
    yield f"               {', '.join(f'{kind} {100 * share:.0f} %' for kind, share in often)}"
    yield f"FLOP           {', '.join(f'{pipe} {flop:,}' for pipe, flop in c.flop.most_common()) or 'none'}"
    for name, traffic in (("loads", c.loads), ("stores", c.stores), ("atomics", c.atomics)):
        if traffic.accesses:
            yield f"global {name:<8}{_traffic(traffic)}"
    for name, banks in (("loads", c.shared_loads), ("stores", c.shared_stores)):
        if banks.accesses:
            yield f"shared {name:<8}{_banks(banks)}"
    branches = f"{c.branches:,} conditional branches of warps, {c.divergent:,} divergent"
    yield f"control        {branches}; {c.barriers:,} barriers"
    shared = f"shared memory {launched.static:,} B static, {launched.dynamic:,} B dynamic"
    yield f"needs          {made.registers} registers, {made.spilled} B spilled, {shared}"
    fit = launched.occupancy(at, made.registers)
    yield f"occupancy      {_share(fit.share)} of {card}'s warps, {fit.blocks} blocks a multiprocessor ({fit.limit})"
    (what, most), *others = launched.bounds(at).items()
    rest = "".join(f", {name} {_time(seconds)}" for name, seconds in others)
    yield f"bound          no faster than {_time(most)} on {card}, by {what}{rest}; a bound, not a time"


def row(launched: Launched, card: str) -> dict[str, Any]:
    """Everything, as JSON takes it."""
    made = launched.assembled()
    fit = launched.occupancy(CARDS[card], made.registers)
    return {
        "kernel": launched.kernel,
        "config": launched.config,
        "grid": list(launched.grid),
        "threads": launched.threads,
        "launches": launched.launches,
        "counters": _plain(vars(launched.counters)),
        "coalescing": {"loads": launched.counters.loads.coalescing, "stores": launched.counters.stores.coalescing},
        "lanes_at_work": launched.counters.lanes_at_work,
        "registers": made.registers,
        "spill_bytes": made.spilled,
        "static_shared_bytes": launched.static,
        "dynamic_shared_bytes": launched.dynamic,
        "card": card,
        "occupancy": fit.share,
        "occupancy_limit": fit.limit,
        "bound_seconds": launched.bounds(CARDS[card]),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """With dicts in place of dataclasses and of Counter, which dataclasses.asdict does not copy."""
    return {
        name: _plain(vars(value)) if is_dataclass(value) else dict(value) if type(value) is Counter else value
        for name, value in values.items()
    }


def _traffic(t: Traffic) -> str:
    asked, sectors = f"{t.bytes:,} B asked for", f"{t.sectors:,} sectors moved"
    return f"{t.accesses:,} of warps, {asked}, {sectors}: {_share(t.coalescing)} coalesced"


def _banks(b: Banks) -> str:
    ways = f"{b.transactions / b.least:.2f} times the least"
    return (
        f"{b.accesses:,} of warps, {b.transactions:,} transactions, {b.conflicts:,} of them by bank conflicts: {ways}"
    )


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3g} %"


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.3g} us"
