"""Results: rows with their provenance, as JSON and CSV. Files are written beside their place and renamed."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

SCHEMA = 1
T = TypeVar("T")
STATUSES = ("ok", "wrong", "failed", "skipped", "unmeasured")  # unmeasured: right, on the simulated device


@dataclass
class Row:
    """One line of the table.

    op, variant, mode, shape, dtype, precision, provider   who computed what; together they are the row's key
    rival           whether ours are compared with this provider
    status, reason  one of STATUSES, and why if not "ok"
    ms, p20, p80    median, 20th and 80th percentile of one call in milliseconds; of `samples` calls
    graph_ms, host_ms   on a GPU: one call's share of a replayed CUDA graph, and the host's time for one launch
    bytes, flops    the least that one call has to move and to compute
    rate, unit      what was reached, in GB/s where memory bounds and GFLOP/s where arithmetic does; images/s, ...
    ceiling         the most that this machine reached in that unit; of_ceiling: rate / ceiling
    times_rival     the fastest rival's median / this one's: above 1 is faster; best_rival: who that was
    """

    op: str
    variant: str
    mode: str
    shape: list[int]
    dtype: str
    precision: str
    provider: str
    rival: bool = False
    status: str = "ok"
    reason: str | None = None
    ms: float | None = None
    p20: float | None = None
    p80: float | None = None
    samples: int = 0
    graph_ms: float | None = None
    host_ms: float | None = None
    bytes: int | None = None
    flops: int | None = None
    rate: float | None = None
    unit: str | None = None
    ceiling: float | None = None
    of_ceiling: float | None = None
    times_rival: float | None = None
    best_rival: str | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        return self.op, self.variant, self.mode, tuple(self.shape), self.dtype, self.precision, self.provider


def known(figure: T | None) -> T:
    """A figure of a row that is known to have it: `ms` where it was measured, `times_rival` where there was a rival."""
    assert figure is not None
    return figure


@dataclass
class Results:
    """One run.

    device     "cpu" or "cuda"; simulated: nothing was measured
    provenance machine, versions, commit, date; "others": the share of the cores' time that other processes took
    arguments  the command's, without the paths of its files
    complete   False where Ctrl-C ended it
    ceilings   by name ("copy", "float32", "float32 tf32"): value, unit, and how it was measured
    providers  by name: None, or why it was left out of every row
    notes      what is not in the rows, and why
    """

    device: str
    simulated: bool
    provenance: dict[str, Any]
    arguments: list[str] = field(default_factory=list)
    ceilings: dict[str, dict[str, Any]] = field(default_factory=dict)
    providers: dict[str, str | None] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    complete: bool = True
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA} | _rounded(asdict(self)), indent=1) + "\n"

    def to_csv(self) -> str:
        out = io.StringIO()
        names = list(Row.__dataclass_fields__)
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow(_rounded(asdict(row)) | {"shape": "x".join(map(str, row.shape))})
        return out.getvalue()


def read(path: Path) -> Results:
    """The results in a JSON file. Raises ValueError saying what is wrong with it, OSError where it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: not JSON ({e})") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path}: schema is {schema}; expected {SCHEMA}, as python -m tilegrad.bench --json writes it")
    del found["schema"]
    try:
        rows = [Row(**row) for row in found.pop("rows")]
        return Results(rows=rows, **found)
    except (TypeError, KeyError) as e:
        raise ValueError(f"{path}: not what python -m tilegrad.bench --json writes: {e}") from None


def write(path: Path, text: str) -> None:
    """Write the whole text, or nothing."""
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def writable(path: Path) -> str | None:
    """Why a file cannot be written there; None if it can. Makes its folder."""
    if path.is_dir():
        return "is a folder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.part")
        probe.touch()
        probe.unlink()
    except OSError as e:
        return e.strerror or str(e)
    if path.exists() and not os.access(path, os.W_OK):
        return "is write-protected"
    return None


def _rounded(value: Any) -> Any:
    """Floats with six digits, more than were measured."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value
