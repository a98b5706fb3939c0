"""The table as text: a line that names the case, then a line for each provider."""

from __future__ import annotations

from tilegrad.bench.results import Row, known


def heading(row: Row) -> str:
    """What all rows of a case have in common."""
    batch = f"batch {shape(row.shape)}"
    where = {"train": batch, "memory": batch, "overhead": ""}.get(row.op, shape(row.shape))
    parts = [f"{row.variant}, {row.mode}", where, kind(row)]
    if row.bytes is not None:
        parts.append(f"{_scaled(row.bytes, 'B')}, {_scaled(known(row.flops), 'FLOP')}")
    return "  ".join(filter(None, parts))


def line(row: Row) -> str:
    """What one provider reached, or why it did not."""
    name = f"  {row.provider:20}"
    if row.status == "ok":
        of = f"{100 * row.of_ceiling:5.1f} %" if row.of_ceiling is not None else "       "
        gpu = "".join(
            f"  {column} {milliseconds(value)}"
            for column, value in (("graph", row.graph_ms), ("host", row.host_ms))
            if row.host_ms is not None
        )
        times = f"{milliseconds(row.ms)} ms  ({milliseconds(row.p20).strip()} to {milliseconds(row.p80).strip()})"
        times = times if row.ms is not None else ""  # of memory
        why = f"  ({row.reason})" if row.reason else ""
        return f"{name} {times:36}{gpu} {rate(row):>16} {of}  {against(row)}{why}".rstrip()
    if row.status == "unmeasured":
        return f"{name} right; simulated, not measured"
    word = {"wrong": "WRONG", "failed": "FAILED", "skipped": "skipped"}[row.status]
    return f"{name} {word}: {row.reason}"


def shape(numbers: list[int]) -> str:
    return " x ".join(map(str, numbers))


def kind(row: Row) -> str:
    """Dtype, with the precision where it is not the dtype's own."""
    return row.dtype if row.precision == "ieee" else f"{row.dtype} {row.precision}"


def milliseconds(value: float | None) -> str:
    """With four digits, right-aligned to 8."""
    if value is None:
        return "       -"
    digits = max(0, 3 - len(str(int(value)))) if value >= 1 else 4
    return f"{value:8.{digits}f}"


def rate(row: Row) -> str:
    """Rate with its unit, in the next larger unit from 10,000 on."""
    if row.rate is None:
        return ""
    if row.unit == "GFLOP/s" and row.rate >= 10_000:
        return f"{row.rate / 1000:.1f} TFLOP/s"
    return f"{row.rate:,.0f} {row.unit}" if row.rate >= 100 else f"{row.rate:.3g} {row.unit}"


def against(row: Row) -> str:
    """How many times as fast as the best rival."""
    if row.times_rival is None or row.provider == row.best_rival:
        return ""
    return f"{row.times_rival:.2f} x {row.best_rival}"


def _scaled(value: int, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value} {unit}"
