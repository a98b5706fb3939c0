"""What moved between two runs: a row whose median moved by more than the spread (p80 - p20) of either run."""

from __future__ import annotations

from typing import NamedTuple

from tilegrad.bench import table
from tilegrad.bench.results import Results, Row, known


class Move(NamedTuple):
    """One row in both runs."""

    name: str
    before: float  # milliseconds
    after: float
    spread: float  # the larger of the two runs'

    @property
    def percent(self) -> float:
        """How much longer it takes; negative where it became faster."""
        return 100 * (self.after / self.before - 1)

    @property
    def beyond_spread(self) -> bool:
        return abs(self.after - self.before) > self.spread


class Report(NamedTuple):
    """What moved, what did not, and what only one of the runs has."""

    moved: list[Move]
    steady: int
    only_before: list[str]
    only_after: list[str]
    differences: list[str]  # between the machines

    def slower_than(self, percent: float) -> list[Move]:
        """The moves to a time that is longer by more than this, and by more than the spread."""
        return [move for move in self.moved if move.percent > percent]

    def text(self) -> str:
        lines = ["", f"compared: {len(self.moved)} rows moved beyond the spread, {self.steady} did not"]
        lines += [f"  not the same machine: {difference}" for difference in self.differences]
        for move in sorted(self.moved, key=lambda move: -move.percent):
            word = "slower" if move.percent > 0 else "faster"
            lines.append(
                f"  {move.percent:+7.1f} %  {word}  {move.before:.4g} ms -> {move.after:.4g} ms "
                f"(spread {move.spread:.2g})  {move.name}"
            )
        for word, names in (("before", self.only_before), ("now", self.only_after)):
            if names:
                lines.append(f"  only {word}: {len(names)} rows, such as {names[0]}")
        return "\n".join(lines)


def against(old: Results, new: Results) -> Report:
    """Compare the rows that both runs measured, by op, variant, mode, shape, dtype, precision and provider."""
    before = {row.key: row for row in old.rows if row.ms is not None}
    after = {row.key: row for row in new.rows if row.ms is not None}
    moves = [_move(before[key], row) for key, row in after.items() if key in before]
    names = ("device", "cpu", "cores", "card", "driver")
    found = [(name, _told(old, name), _told(new, name)) for name in names]
    return Report(
        moved=[move for move in moves if move.beyond_spread],
        steady=sum(not move.beyond_spread for move in moves),
        only_before=[_name(row) for key, row in before.items() if key not in after],
        only_after=[_name(row) for key, row in after.items() if key not in before],
        differences=[f"{name} was {a}, is {b}" for name, a, b in found if a != b],
    )


def _told(results: Results, name: str) -> object:
    return results.device if name == "device" else results.provenance.get(name)


def _move(before: Row, after: Row) -> Move:
    spread = max(known(row.p80) - known(row.p20) for row in (before, after))
    return Move(_name(after), known(before.ms), known(after.ms), spread)


def _name(row: Row) -> str:
    return f"{row.variant}, {row.mode}  {table.shape(row.shape)}  {table.kind(row)}  {row.provider}"
