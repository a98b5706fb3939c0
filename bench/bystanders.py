"""What else the machine did during a run. It slows libraries whose threads wait by spinning several times."""

from __future__ import annotations

import os
from pathlib import Path

_STAT = Path("/proc/stat")


class Bystanders:
    """The share of the cores' time that other processes took since this was made; None if the system does not say."""

    def __init__(self) -> None:
        self._before = _seconds()

    def share(self) -> float | None:
        now = _seconds()
        if now is None or self._before is None:
            return None
        total, busy, own = (b - a for a, b in zip(self._before, now, strict=True))
        return round(min(1.0, max(0.0, busy - own) / total), 3) if total > 0 else None


def _seconds() -> tuple[float, float, float] | None:
    """Seconds so far: of all cores, of these the used ones, of those the ones of this process and its children."""
    try:
        fields = [int(field) for field in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    tick = os.sysconf("SC_CLK_TCK")
    total, idle = sum(fields) / tick, (fields[3] + fields[4]) / tick  # idle, and waiting for a disk
    return total, total - idle, sum(os.times()[:4])
