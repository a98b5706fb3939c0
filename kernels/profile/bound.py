"""The time that a launch cannot be faster than on a card: a bound, not a time.

Each unit of the card needs what it has to do over its peak; the longest of these is the bound. Memory moves each sector
that is touched at least once. What a block does is done by one multiprocessor, so a grid of few blocks has only as many
of them. PTX instructions stand for the machine's, of which there may be more or fewer. Latencies, the start of a kernel
and the reach of caches are not in it.
"""

from __future__ import annotations

from tilegrad.kernels.profile.cards import Card
from tilegrad.kernels.simulate.ptx.counters.access import BANKS, SECTOR, WORD
from tilegrad.kernels.simulate.ptx.counters.watch import Counters


def bounds(counters: Counters, blocks: int, card: Card) -> dict[str, float]:
    """Seconds by what takes them, the longest first, of one launch of so many blocks; of several launches the mean.

    Where only the first blocks were run, the others are taken to be like them; memory then moves at most what the
    arrays hold.
    """
    whole = blocks / counters.blocks
    busy = min(blocks, card.multiprocessors) / card.multiprocessors
    needs: dict[str, float] = {
        "memory": SECTOR * _sectors(counters, whole) / card.bandwidth,
        "issue": whole * counters.warps.total() / card.rate(card.schedulers) / busy,
    }
    shared = counters.shared_loads.transactions + counters.shared_stores.transactions
    needs["shared memory"] = whole * shared * BANKS * WORD / card.rate(card.shared_bytes) / busy
    for pipe, flop in counters.flop.items():
        needs[pipe] = whole * flop / _peak(pipe, card) / busy
    return {name: needs[name] for name in sorted(needs, key=lambda name: -needs[name]) if needs[name]}


def _sectors(counters: Counters, whole: float) -> float:
    if whole <= 1:
        return whole * (counters.read + counters.written)
    return min(whole * counters.read, counters.held) + min(whole * counters.written, counters.held)


def _peak(pipe: str, card: Card) -> float:
    """Operations a second."""
    if pipe == "fp32":
        return card.fp32
    if pipe.startswith("tensor "):
        return card.tensor[pipe.removeprefix("tensor ")]
    lanes = {"special": card.special_lanes, "fp16": card.fp16_operations, "fp64": 2 * card.fp64_lanes}
    return card.rate(lanes[pipe])
