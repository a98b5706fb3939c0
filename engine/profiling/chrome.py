"""Calls as a trace file: the Trace Event Format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Each call, kernel and launch of a captured step is a complete event ("ph": "X") with times in microseconds; what lies
within another one in time is shown below it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tilegrad.kernels.system.files import write_whole
from tilegrad.profiling.recorder import Part, Timed
from tilegrad.profiling.table import shapes_of

_ROWS = {"cpu": 1, "cuda": 2}  # of the picture, by device


def export(path: str | os.PathLike[str], timed: Sequence[Timed], begin: int) -> None:
    """Write the file; its name only ever shows the whole of it. Times begin at `begin`, in nanoseconds."""
    process = os.getpid()
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "thread_name", "pid": process, "tid": row, "args": {"name": device}}
        for device, row in _ROWS.items()
    ]
    events.insert(0, {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": "tilegrad"}})
    row = _ROWS["cpu"]

    def add(name: str, kind: str, of: Timed | Part, arguments: dict[str, Any]) -> None:
        when = {"ts": (of.begin - begin) / 1e3, "dur": (of.end - of.begin) / 1e3}
        events.append({"ph": "X", "name": name, "cat": kind, "pid": process, "tid": row, **when, "args": arguments})

    for each in timed:
        if each.of is None:
            add("captured step", "launch", each, {"nodes": each.nodes})
            continue
        group = each.of
        row = _ROWS[group.device]
        about: dict[str, Any] = {"arrays": shapes_of(group), "backend": group.backend}
        if group.dtype is not None:
            about["dtype"] = group.dtype.name
        if group.work is not None:
            about |= {"bytes": group.work.nbytes, "FLOP": group.work.flop}
        add(group.op, "captured call" if group.captured else "call", each, about)
        for part in each.parts:
            add(part.kernel, "kernel", part, {"config": part.config})
    write_whole(Path(path), json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}))
